package realcni

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// config is one cluster: what flanneld reads from etcd, and what is around it.
type config struct {
	backend string // flannel's "Backend", in JSON
	extra   string // further fields of the network configuration, ", "Name": value"
	dual    bool
	// third adds node3 behind a router, in a subnet of its own.
	third bool
	// bare turns IPv6 off on the machines, as the lab has it where pods have none. Else they have
	// link-local addresses and all the noise that goes with them.
	bare bool
	// others are leases of members that are not run; etcd's value by subnet.
	others map[string]string
}

// node is a machine that runs flanneld.
type node struct {
	name, ns     string
	uplink       string
	ip, ip6      string
	lan, gateway string // prefix length goes with the address: all are /24
	hub          string // namespace that the uplink leads to
	subnet       string // that it asks for; flanneld takes it over from the subnet file of an earlier run
	subnet6      string
	dir          string
	lease        lease // what etcd has
	flanneld     *exec.Cmd
}

// pod is a namespace that the CNI plugins filled.
type pod struct {
	name, ns string
	node     *node
	ip, ip6  string // that it asks for
	veth     string // the host's end
}

// The machines are those of document 000, and the lab's: names, addresses, uplinks.
const (
	switchNS  = "real-switch"
	routerNS  = "real-router"
	controlNS = "real-control" // etcd's machine
	controlIP = "10.1.11.90"
)

// world is a cluster that is up.
type world struct {
	t     *testing.T
	cfg   config
	dir   string
	nodes []*node
	pods  []*pod
	etcd  etcd
	inv   string // path of the inventory file
}

// up builds a cluster; the test's end removes it.
func up(t *testing.T, cfg config) *world {
	t.Helper()
	w := &world{t: t, cfg: cfg, dir: t.TempDir()}
	w.nodes = []*node{
		{
			name: "node1", uplink: "ens192", ip: "10.1.11.91", ip6: "fd00:10:1:11::91", lan: "10.1.11.0/24", gateway: "10.1.11.1",
			hub: switchNS, subnet: "10.244.1", subnet6: "fd44:0:0:1",
		},
		{
			name: "node2", uplink: "eno16780032", ip: "10.1.11.92", ip6: "fd00:10:1:11::92", lan: "10.1.11.0/24", gateway: "10.1.11.1",
			hub: switchNS, subnet: "10.244.2", subnet6: "fd44:0:0:2",
		},
	}
	w.pods = []*pod{
		{name: "coffee-1", node: w.nodes[0], ip: "10.244.1.32", ip6: "fd44:0:0:1::20"},
		{name: "tea-1", node: w.nodes[0], ip: "10.244.1.33", ip6: "fd44:0:0:1::21"},
		{name: "coffee-2", node: w.nodes[1], ip: "10.244.2.40", ip6: "fd44:0:0:2::28"},
	}
	if cfg.third {
		n := &node{
			name: "node3", uplink: "ens192", ip: "10.1.12.93", lan: "10.1.12.0/24", gateway: "10.1.12.1", hub: routerNS, subnet: "10.244.4",
		}
		w.nodes = append(w.nodes, n)
		w.pods = append(w.pods, &pod{name: "coffee-3", node: n, ip: "10.244.4.50"})
	}
	for _, n := range w.nodes {
		n.ns, n.dir = "real-"+n.name, filepath.Join(w.dir, n.name)
		w.must(os.Mkdir(n.dir, 0o755))
	}
	for _, p := range w.pods {
		p.ns = "real-" + p.name
	}
	w.layCables()
	w.startEtcd()
	for _, n := range w.nodes {
		w.startFlanneld(n)
	}
	for _, n := range w.nodes {
		w.awaitFlannel(n)
	}
	for _, p := range w.pods {
		w.addPod(p)
	}
	if cfg.dual {
		for _, name := range w.places() {
			w.await("duplicate address detection on "+name, func() bool {
				out, err := sh(fmt.Sprintf("ip -n real-%s -6 addr show tentative", name))
				return err == nil && out == ""
			})
		}
	}
	w.writeInventory()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// sh runs a script and fails the test where it fails.
func (w *world) sh(format string, args ...any) string {
	w.t.Helper()
	out, err := sh(fmt.Sprintf(format, args...))
	w.must(err)
	return out
}

// addNS makes a namespace that goes with the test.
func (w *world) addNS(name string) {
	w.t.Helper()
	ipv6 := ""
	if w.cfg.bare {
		ipv6 = fmt.Sprintf("; ip netns exec %[1]s sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1", name)
	}
	w.sh("ip netns add %[1]s%[2]s; ip -n %[1]s link set lo up", name, ipv6)
	w.t.Cleanup(func() { _, _ = sh("ip netns del " + name) })
}

// layCables makes the machines and the network between them, as an administrator would: uplinks as NetworkManager
// configures them, and Docker's bridge.
func (w *world) layCables() {
	w.addNS(switchNS)
	w.sh(`ip -n %[1]s link add underlay address 00:50:56:ab:00:01 type bridge
	      ip netns exec %[1]s sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
	      ip -n %[1]s link set underlay up`, switchNS)
	w.addNS(controlNS)
	w.plug(controlNS, "eth0", switchNS, "port-control")
	w.sh("ip -n %s addr add %s/24 dev eth0", controlNS, controlIP)
	if w.cfg.third {
		w.addNS(routerNS)
		w.sh("ip netns exec %s sysctl -qw net.ipv4.ip_forward=1", routerNS)
		w.plug(routerNS, "port-switch", switchNS, "port-router")
		w.sh("ip -n %s addr add 10.1.11.1/24 dev port-switch", routerNS)
		w.sh("ip -n %s route add default via 10.1.11.1", controlNS)
	} else {
		w.sh("ip -n %s addr add 10.1.11.1/24 dev underlay", switchNS)
	}
	if w.cfg.dual {
		w.sh("ip -n %s addr add fd00:10:1:11::1/64 dev underlay nodad", switchNS)
	}
	for _, n := range w.nodes {
		w.addMachine(n)
	}
}

func (w *world) addMachine(n *node) {
	w.addNS(n.ns)
	w.plug(n.ns, n.uplink, n.hub, "port-"+n.name)
	if n.hub == routerNS {
		w.sh("ip -n %s addr add %s/24 dev port-%s", routerNS, n.gateway, n.name)
	}
	w.sh(`ip -n %[1]s addr add %[2]s/24 brd + noprefixroute dev %[3]s
	      ip -n %[1]s route add %[4]s dev %[3]s proto kernel scope link src %[2]s metric 100
	      ip -n %[1]s route add default via %[5]s dev %[3]s proto static metric 100
	      ip -n %[1]s link add docker0 address %[6]s type bridge
	      ip -n %[1]s addr add 172.17.0.1/16 brd + dev docker0
	      ip -n %[1]s link set docker0 up
	      ip netns exec %[1]s iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE`,
		n.ns, n.ip, n.uplink, n.lan, n.gateway, "02:42:ac:11:00:0"+n.name[len("node"):])
	if w.cfg.dual {
		w.sh("ip -n %[1]s addr add %[2]s/64 dev %[3]s nodad; ip -n %[1]s route add default via fd00:10:1:11::1 dev %[3]s", n.ns, n.ip6, n.uplink)
	}
}

// plug connects two namespaces; the far end is a port of the switch if the switch has it.
func (w *world) plug(ns, dev, hub, port string) {
	w.sh(`ip -n %[1]s link add %[2]s type veth peer name %[4]s netns %[3]s
	      ip -n %[1]s link set %[2]s up
	      ip -n %[3]s link set %[4]s up`, ns, dev, hub, port)
	if hub == switchNS {
		w.sh("ip -n %s link set %s master underlay", hub, port)
	}
}

// start runs a program in a namespace until the test ends. Its output is shown if the test fails.
func (w *world) start(ns, name string, env []string, args ...string) *exec.Cmd {
	w.t.Helper()
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	w.must(err)
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); w.t.Failed() && err == nil {
			w.t.Logf("%s:\n%s", name, last(string(text), 3000))
		}
	})
	return cmd
}

// last is the end of a text.
func last(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return "…" + text[len(text)-n:]
}

// await waits for something that comes by itself.
func (w *world) await(what string, ready func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ready() {
			return
		}
	}
	w.t.Fatalf("waited 20 s for %s", what)
}

// subnetFile is /run/flannel/subnet.env of a node.
func (n *node) subnetFile() string { return filepath.Join(n.dir, "subnet.env") }

func (w *world) startFlanneld(n *node) {
	earlier := fmt.Sprintf("FLANNEL_SUBNET=%s.1/24\n", n.subnet)
	if w.cfg.dual {
		earlier += fmt.Sprintf("FLANNEL_IPV6_SUBNET=%s::1/64\n", n.subnet6)
	}
	w.must(os.WriteFile(n.subnetFile(), []byte(earlier), 0o644))
	args := []string{
		os.Getenv(envFlanneld), "-etcd-endpoints=http://" + controlIP + ":2379", "-subnet-file=" + n.subnetFile(),
		"-iface=" + n.uplink, "-ip-masq",
	}
	n.flanneld = w.start(n.ns, "flanneld-"+n.name, nil, args...)
}

// awaitFlannel waits until the node's flanneld has written all that it is going to write.
func (w *world) awaitFlannel(n *node) {
	w.await("the subnet file of "+n.name, func() bool {
		text, err := os.ReadFile(n.subnetFile())
		return err == nil && strings.Contains(string(text), "FLANNEL_MTU")
	})
	w.await("all leases", func() bool { return len(w.etcd.leases(w)) == len(w.nodes)+len(w.cfg.others) })
	w.await("routes of "+n.name, func() bool {
		if strings.Contains(w.cfg.backend, `"udp"`) {
			return true // one route for all; the rest is in the proxy
		}
		return w.hasRoutes(n, "")
	})
	if w.cfg.dual {
		w.await("IPv6 routes of "+n.name, func() bool { return w.hasRoutes(n, "-6") })
	}
	w.await("rules of "+n.name, func() bool {
		// The last of both chains, by either way of writing them.
		out, err := sh(fmt.Sprintf("ip netns exec %s nft list ruleset", n.ns))
		return err == nil && strings.Count(out, "masquerade") >= 3 && strings.Contains(out, "daddr 10.244.0.0/16") && strings.Contains(out, "accept")
	})
	n.lease = w.etcd.leases(w)[n.leaseKey(w.cfg.dual)]
	if n.lease.PublicIP != n.ip {
		w.t.Fatalf("lease of %s: %+v", n.name, n.lease)
	}
}

func (w *world) hasRoutes(n *node, family string) bool {
	out, err := sh(fmt.Sprintf("ip %s -n %s route", family, n.ns))
	if err != nil {
		return false
	}
	for _, m := range w.nodes {
		want := m.subnet + ".0/24 via"
		if family != "" {
			want = m.subnet6 + "::/64 via"
		}
		if m != n && !strings.Contains(out, want) {
			return false
		}
	}
	return true
}

// leaseKey is the name of the node's lease in etcd.
func (n *node) leaseKey(dual bool) string {
	key := n.subnet + ".0-24"
	if dual {
		key += "&" + n.subnet6 + "::-64"
	}
	return key
}

// cniConf is the network list of kube-flannel's cni-conf.json, for a plugin that is run by itself. portmap, which the list
// has too, does nothing for pods without host ports.
func (w *world) cniConf(p *pod) []byte {
	ips := []string{p.ip}
	if w.cfg.dual {
		ips = append(ips, p.ip6)
	}
	conf := map[string]any{
		"cniVersion": "0.3.1", "name": "cbr0", "type": "flannel",
		"subnetFile": p.node.subnetFile(), "dataDir": filepath.Join(p.node.dir, "cni"),
		"ipam": map[string]any{"dataDir": filepath.Join(p.node.dir, "networks")},
		"delegate": map[string]any{
			"hairpinMode": true, "isDefaultGateway": true,
			// So that pods have the addresses that the lab's have.
			"args": map[string]any{"cni": map[string]any{"ips": ips}},
		},
	}
	text, err := json.Marshal(conf)
	w.must(err)
	return text
}

// addPod makes a pod as a container runtime does: a namespace, the plugins loopback and flannel, and a process in it.
func (w *world) addPod(p *pod) {
	w.addNS(p.ns)
	env := []string{
		"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + p.name, "CNI_NETNS=/run/netns/" + p.ns, "CNI_IFNAME=eth0", "CNI_PATH=" + pluginDir,
	}
	for _, run := range []struct {
		plugin string
		conf   []byte
	}{
		{filepath.Join(pluginDir, "loopback"), []byte(`{"cniVersion":"0.3.1","name":"lo","type":"loopback"}`)},
		{os.Getenv(envPlugin), w.cniConf(p)},
	} {
		cmd := exec.Command("ip", "netns", "exec", p.node.ns, run.plugin)
		cmd.Env, cmd.Stdin = append(os.Environ(), env...), strings.NewReader(string(run.conf))
		if strings.HasSuffix(run.plugin, "loopback") {
			cmd.Env = append(cmd.Env, "CNI_IFNAME=lo")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			w.t.Fatalf("%s for %s: %v\n%s", run.plugin, p.name, err, out)
		}
	}
	index := strings.TrimSpace(w.sh(`ip -n %s -j link show dev eth0 | grep -o '"link_index":[0-9]*' | cut -d: -f2`, p.ns))
	p.veth = strings.TrimSpace(w.sh(`ip -n %s -o link | sed -n 's/^%s: \([^@:]*\)@.*/\1/p'`, p.node.ns, index))
	self, err := os.Executable()
	w.must(err)
	w.start(p.ns, "server-"+p.name, []string{envServe + "=1"}, self)
}
