package realcni

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// difference is one between the lab and real flannel that is none: lines of the facts that match, and why. Each has to
// occur in some cluster, so that the list holds nothing that is over.
type difference struct{ lines, why string }

// noDifferences are sorted by what they are about.
var noDifferences = []difference{
	{`link .*_timer = `, "counts down"},
	{`link docker0: (flags|operstate) =|route: dev=docker0`, "a bridge without ports: the kernel notices after a second that nothing is plugged in"},
	{`lab: fdb: .* mac=(36:36:40:76:1c:9f|06:ee:53:fd:1a:a9) `, "rows of VTEPs that are gone, as document 000 lists them: no flanneld would write them now"},
	{`address of flannel\.\d+: .*local=10\.244\.|lab: route: dev=flannel\.\d+ dst=10\.244\.\d+\.0 .*type=broadcast`,
		"the VTEP's broadcast address: documents 000 and 001 are of a flanneld that set one"},
	{`sysctl bridge/bridge-nf-call-arptables`, "the machine's: no plugin sets it, and nothing filters ARP"},
	{`sysctl ipv6/conf/[^/]+/(autoconf|router_solicitations):`, "the machine's: the lab asks for no router"},
	{`sysctl ipv6/conf/(all|default|lo|docker0|ens192|eno16780032|eth0)/accept_ra:`, "the same; of flannel's devices it is compared"},
	{`sysctl ipv6/conf/(all|default|lo|docker0|ens192|eno16780032|cni0|flannel.*|veth.*)/accept_dad:`,
		"the lab does without duplicate address detection, to be up at once; what the plugin sets in pods is compared"},
	{`fdb: .*mac=33:33:ff:`, "multicast groups, which follow from the random MACs"},
	{`link flannel0: (linkinfo.info_data.persist|operstate) =`, "the lab's TUN device outlives its proxy, so that a fault can take the proxy away"},
}

// dropped are attributes that say nothing about how packets go.
var dropped = map[string]string{
	"ifindex": "given in the order of making", "link_index": "the same", "link_netnsid": "the same", "ifi_index": "the same",
	"address": "random; who has it is compared as the link's name instead",
}

// TestLabIsRealFlannel brings up real flannel and the lab with the same configuration and lays side by side what the
// kernels hold.
func TestLabIsRealFlannel(t *testing.T) {
	// What document 000 has in its cluster beside the machines, as their flanneld wrote it.
	control := `{"PublicIP":"10.1.11.90","PublicIPv6":null,"BackendType":"%s","BackendData":{"VNI":%d,"VtepMAC":"5a:1c:17:98:e6:eb"}}`
	bigIP := `{"PublicIP":"10.1.11.89","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":%d,"VtepMAC":"00:50:56:ab:9e:f8"}}`
	vxlan := func(vni int) map[string]string {
		return map[string]string{"10.244.0.0-24": fmt.Sprintf(control, "vxlan", vni), "10.244.3.0-24": fmt.Sprintf(bigIP, vni)}
	}
	used := make([]bool, len(noDifferences))
	for _, c := range []struct {
		lab string
		cfg config
	}{
		{"", config{backend: `{"Type": "vxlan"}`, others: vxlan(1)}},
		{"--vni 42 --port 4789 --gbp --learning", config{backend: `{"Type": "vxlan", "VNI": 42, "Port": 4789, "GBP": true, "Learning": true}`, others: vxlan(42)}},
		{"--datapath flannel-host-gw", config{backend: `{"Type": "host-gw"}`, others: map[string]string{"10.244.0.0-24": fmt.Sprintf(control, "host-gw", 1)}}},
		{"--datapath flannel-directrouting", config{backend: `{"Type": "vxlan", "DirectRouting": true}`, others: vxlan(1), third: true}},
		{"--datapath flannel-udp", config{backend: `{"Type": "udp"}`}},
		{"--datapath flannel-dual", config{backend: `{"Type": "vxlan"}`, dual: true, others: vxlan(1)}},
		{"--datapath flannel-v6", config{backend: `{"Type": "vxlan"}`, only6: true, kube: true}},
		{"--datapath flannel-nat", config{backend: `{"Type": "vxlan"}`, nat: true, kube: true, others: map[string]string{
			"10.244.4.0-24": `{"PublicIP":"121.37.246.218","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:8a:3b:81:2f:d1"}}`,
		}}},
	} {
		t.Run("lab "+c.lab, func(t *testing.T) {
			c.cfg.bare = !c.cfg.v6()
			w := up(t, c.cfg)
			w.labUp(c.lab)
			for _, place := range w.places() {
				w.compare(place, w.facts("real-"+place), w.facts("podtrace-"+place), used)
			}
		})
	}
	for i, d := range noDifferences {
		if !used[i] && !t.Failed() {
			t.Errorf("no such difference any more: %s", d.lines)
		}
	}
}

func (w *world) places() (names []string) {
	for _, n := range w.nodes {
		names = append(names, n.name)
	}
	for _, p := range w.pods {
		names = append(names, p.name)
	}
	return names
}

func (w *world) labUp(flags string) {
	podtrace := os.Getenv(envPodtrace)
	args := append([]string{"lab", "up"}, strings.Fields(flags)...)
	if out, err := exec.Command(podtrace, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("podtrace %v: %v\n%s", args, err, out)
	}
	w.t.Cleanup(func() { _ = exec.Command(podtrace, "lab", "down").Run() })
}

func (w *world) compare(place string, real, lab []string, used []bool) {
	w.t.Helper()
	report := func(who string, have, other []string) {
		for _, line := range have {
			if slices.Contains(other, line) || allowed(place+": "+who+": "+line, used) {
				continue
			}
			w.t.Errorf("%s: only %s: %s", place, who, line)
		}
	}
	report("real", real, lab)
	report("lab", lab, real)
}

func allowed(line string, used []bool) bool {
	for i, d := range noDifferences {
		if regexp.MustCompile(d.lines).MatchString(line) {
			used[i] = true
			return true
		}
	}
	return false
}

// facts are what the kernel holds in a namespace, a line each, with names for what is random.
func (w *world) facts(ns string) []string {
	var facts []string
	links := w.links(ns)
	facts = append(facts, links...)
	for _, q := range []struct{ what, command string }{
		{"address", "ip -n %s -j addr"},
		{"route", "ip -4 -n %s -d -j route show table all"},
		{"route6", "ip -6 -n %s -d -j route show table all"},
		{"rule", "ip -4 -n %s -j rule"},
		{"rule6", "ip -6 -n %s -j rule"},
		{"neighbour", "ip -n %s -j neigh show nud permanent"},
		{"fdb", "bridge -n %s -j fdb show"},
	} {
		var rows []map[string]any
		w.decode(fmt.Sprintf(q.command, ns), &rows)
		for _, row := range rows {
			facts = append(facts, w.rows(q.what, row)...)
		}
	}
	facts = append(facts, w.sysctls(ns)...)
	facts = append(facts, w.rules(ns)...)
	names := w.names(ns)
	for i := range facts {
		facts[i] = names.Replace(facts[i])
	}
	slices.Sort(facts)
	return facts
}

func (w *world) decode(command string, to any) {
	w.t.Helper()
	out := w.sh("%s", command)
	if strings.TrimSpace(out) == "" {
		return // what ip prints of nothing
	}
	w.must(json.Unmarshal([]byte(out), to))
}

// links has a line for each attribute of each device.
func (w *world) links(ns string) (facts []string) {
	var rows []map[string]any
	w.decode(fmt.Sprintf("ip -n %s -d -j link", ns), &rows)
	for _, row := range rows {
		name := fmt.Sprint(row["ifname"])
		for path, v := range flat("", row) {
			if _, no := dropped[path]; !no {
				facts = append(facts, fmt.Sprintf("link %s: %s = %v", name, path, v))
			}
		}
	}
	return facts
}

// flat gives every leaf of a value with the way there.
func flat(path string, v any) map[string]any {
	out := map[string]any{}
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			maps.Copy(out, flat(strings.TrimPrefix(path+"."+key, "."), value))
		}
	case []any:
		words := make([]string, len(v))
		for i, e := range v {
			words[i] = fmt.Sprint(e)
		}
		slices.Sort(words)
		out[path] = strings.Join(words, " ")
	default:
		out[path] = v
	}
	return out
}

// rows makes lines of a row of a table; an address list has several.
func (w *world) rows(what string, row map[string]any) []string {
	if what == "address" {
		list, _ := row["addr_info"].([]any)
		var facts []string
		for _, a := range list {
			if fields, ok := a.(map[string]any); ok {
				delete(fields, "nodad") // the lab does without duplicate address detection, to be up at once
				facts = append(facts, fmt.Sprintf("address of %v: %s", row["ifname"], line(fields)))
			}
		}
		return facts
	}
	if state, _ := row["state"].(string); what == "fdb" && state != "permanent" && row["dst"] == nil {
		return nil // learnt from what passed by
	}
	return []string{what + ": " + line(row)}
}

// line writes fields in order.
func line(fields map[string]any) string {
	all := flat("", fields)
	var words []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		words = append(words, fmt.Sprintf("%s=%v", key, all[key]))
	}
	return strings.Join(words, " ")
}

// sysctls are those of devices and families, all of them.
func (w *world) sysctls(ns string) (facts []string) {
	out := w.sh("ip netns exec %s bash -c 'cd /proc/sys/net; grep -rs . ipv4/conf ipv6/conf ipv4/ip_forward bridge || true'", ns)
	for fact := range strings.Lines(out) {
		facts = append(facts, "sysctl "+strings.TrimSpace(fact))
	}
	return facts
}

// rules are those that iptables sees: flanneld's, and what is beside them.
func (w *world) rules(ns string) (facts []string) {
	for _, command := range []string{"iptables", "ip6tables"} {
		table, n := "", 0
		for rule := range strings.Lines(w.sh("ip netns exec %s %s-save", ns, command)) {
			rule = strings.TrimSpace(rule)
			switch {
			case strings.HasPrefix(rule, "#"), rule == "COMMIT":
				continue
			case strings.HasPrefix(rule, "*"):
				table, n = rule, 0
			case strings.HasPrefix(rule, ":"):
				rule, _, _ = strings.Cut(rule, " [")
			default: // the order counts, within a chain; table by table it does as well
				n++
				rule = fmt.Sprintf("%d %s", n, rule)
			}
			facts = append(facts, fmt.Sprintf("%s %s %s", command, table, rule))
		}
	}
	return facts
}

// names gives what has another name or number every time the name of what it is.
func (w *world) names(ns string) *strings.Replacer {
	prefix, _, _ := strings.Cut(ns, "-")
	var pairs []string
	for _, place := range append(w.places(), "switch", "router") {
		if _, err := os.Stat(filepath.Join("/run/netns", prefix+"-"+place)); err != nil {
			continue
		}
		var rows []struct {
			Ifname, Address string
			Link            string `json:"link"`
			LinkIndex       int    `json:"link_index"`
		}
		w.decode(fmt.Sprintf("ip -n %s-%s -j link", prefix, place), &rows)
		for _, l := range rows {
			if l.Ifname == "lo" {
				continue
			}
			name := l.Ifname
			if pod := w.podBehind(prefix, place, l.Ifname, l.Address); pod != "" {
				name = "veth-of-" + pod
				pairs = append(pairs, l.Ifname, name)
			}
			if l.Address != "" {
				mac := fmt.Sprintf("MAC(%s %s)", place, name)
				pairs = append(pairs, l.Address, mac, shortMAC(l.Address), mac, linkLocal(l.Address), "LL("+place+" "+name+")")
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

// podBehind is the pod whose eth0 is the other end of a node's device.
func (w *world) podBehind(prefix, place, dev, _ string) string {
	for _, p := range w.pods {
		if p.node.name != place {
			continue
		}
		var eth0 []struct {
			LinkIndex int `json:"link_index"`
		}
		var here []struct {
			Ifindex int
			Master  string
		}
		w.decode(fmt.Sprintf("ip -n %s-%s -j link show dev eth0", prefix, p.name), &eth0)
		w.decode(fmt.Sprintf("ip -n %s-%s -j link show dev %s", prefix, place, dev), &here)
		if here[0].Master == "cni0" && eth0[0].LinkIndex == here[0].Ifindex {
			return p.name
		}
	}
	return ""
}

// shortMAC is how ip prints a bridge's id: without leading zeros.
func shortMAC(mac string) string {
	parts := strings.Split(mac, ":")
	for i := range parts {
		if len(parts[i]) == 2 && parts[i][0] == '0' {
			parts[i] = parts[i][1:]
		}
	}
	return strings.Join(parts, ":")
}

// linkLocal is the address that the kernel makes of a MAC: RFC 4291, appendix A.
func linkLocal(mac string) string {
	var b [6]byte
	if n, _ := fmt.Sscanf(mac, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]); n != 6 {
		return "no link-local address of " + mac
	}
	return fmt.Sprintf("fe80::%x:%x:%x:%x", uint16(b[0]^2)<<8|uint16(b[1]), uint16(b[2])<<8|0xff, 0xfe00|uint16(b[3]), uint16(b[4])<<8|uint16(b[5]))
}
