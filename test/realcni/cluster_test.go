package realcni

import (
	"encoding/json"
	"fmt"
	"net"
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
	only6   bool // pods and machines have IPv6 alone. flanneld with etcd can't: it knows its peers by IPv4 address
	// nat has the machines of document 001, each behind a translation of its own, of which only a router knows.
	nat bool
	// kube has flanneld ask Kubernetes for nodes, instead of etcd for leases.
	kube bool
	// third adds node3 behind a router, in a subnet of its own.
	third bool
	// bare turns IPv6 off on the machines, as the lab has it where pods have none. Else they have
	// link-local addresses and all the noise that goes with them.
	bare bool
	// others are leases of members that are not run; etcd's value by subnet.
	others map[string]string
}

// v4 and v6 are the families of the pods.
func (c config) v4() bool { return !c.only6 }
func (c config) v6() bool { return c.only6 || c.dual }

// control is the address of the control plane's machine.
func (c config) control() string {
	if c.only6 {
		return controlIP6
	}
	return controlIP
}

// node is a machine that runs flanneld.
type node struct {
	name, ns     string
	uplink       string
	ip, ip6      string
	public       string // that a router translates to ip; empty: none
	lan, gateway string
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

	controlIP6 = "fd00:10:1:11::90"
)

// world is a cluster that is up.
type world struct {
	t     *testing.T
	cfg   config
	dir   string
	nodes []*node
	pods  []*pod
	etcd  etcd
	api   *api   // of config.kube
	inv   string // path of the inventory file
}

// up builds a cluster; the test's end removes it.
func up(t *testing.T, cfg config) *world {
	t.Helper()
	w := &world{t: t, cfg: cfg, dir: t.TempDir()}
	w.nodes, w.pods = cfg.machines()
	for _, n := range w.nodes {
		n.ns, n.dir = "real-"+n.name, filepath.Join(w.dir, n.name)
		w.must(os.Mkdir(n.dir, 0o755))
	}
	for _, p := range w.pods {
		p.ns = "real-" + p.name
	}
	w.layCables()
	if cfg.kube {
		w.startAPI()
	} else {
		w.startEtcd()
	}
	for _, n := range w.nodes {
		w.startFlanneld(n)
	}
	for _, n := range w.nodes {
		w.awaitFlannel(n)
	}
	for _, p := range w.pods {
		w.addPod(p)
	}
	if cfg.v6() {
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

// machines are those of document 000, or of document 001, and their pods.
func (c config) machines() (nodes []*node, pods []*pod) {
	nodes = []*node{
		{
			name: "node1", uplink: "ens192", ip: "10.1.11.91", ip6: "fd00:10:1:11::91", lan: "10.1.11.0/24", gateway: "10.1.11.1",
			hub: switchNS, subnet: "10.244.1", subnet6: "fd44:0:0:1",
		},
		{
			name: "node2", uplink: "eno16780032", ip: "10.1.11.92", ip6: "fd00:10:1:11::92", lan: "10.1.11.0/24", gateway: "10.1.11.1",
			hub: switchNS, subnet: "10.244.2", subnet6: "fd44:0:0:2",
		},
	}
	pods = []*pod{
		{name: "coffee-1", node: nodes[0], ip: "10.244.1.32", ip6: "fd44:0:0:1::20"},
		{name: "tea-1", node: nodes[0], ip: "10.244.1.33", ip6: "fd44:0:0:1::21"},
		{name: "coffee-2", node: nodes[1], ip: "10.244.2.40", ip6: "fd44:0:0:2::28"},
	}
	if c.nat {
		*nodes[0] = node{
			name: "node1", uplink: "eth0", ip: "172.17.16.14", public: "121.4.190.84", lan: "172.17.16.0/20", gateway: "172.17.16.1",
			hub: routerNS, subnet: "10.244.0",
		}
		*nodes[1] = node{
			name: "node2", uplink: "eth0", ip: "10.0.4.7", public: "106.55.227.160", lan: "10.0.4.0/22", gateway: "10.0.4.1",
			hub: routerNS, subnet: "10.244.1",
		}
		pods[0].ip, pods[1].ip, pods[2].ip = "10.244.0.5", "10.244.0.6", "10.244.1.8"
	}
	if c.third {
		n := &node{
			name: "node3", uplink: "ens192", ip: "10.1.12.93", lan: "10.1.12.0/24", gateway: "10.1.12.1", hub: routerNS, subnet: "10.244.4",
		}
		nodes = append(nodes, n)
		pods = append(pods, &pod{name: "coffee-3", node: n, ip: "10.244.4.50"})
	}
	return nodes, pods
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
	if w.cfg.v4() {
		w.sh("ip -n %s addr add %s/24 dev eth0", controlNS, controlIP)
	}
	switch {
	case w.cfg.third, w.cfg.nat:
		w.addNS(routerNS)
		w.sh("ip netns exec %s sysctl -qw net.ipv4.ip_forward=1", routerNS)
		w.plug(routerNS, "port-switch", switchNS, "port-router")
		w.sh("ip -n %s addr add 10.1.11.1/24 dev port-switch", routerNS)
		w.sh("ip -n %s route add default via 10.1.11.1", controlNS)
	case w.cfg.v4():
		w.sh("ip -n %s addr add 10.1.11.1/24 dev underlay", switchNS)
	}
	if w.cfg.v6() {
		w.sh("ip -n %s addr add fd00:10:1:11::1/64 dev underlay nodad; ip -n %s addr add %s/64 dev eth0 nodad", switchNS, controlNS, controlIP6)
	}
	for _, n := range w.nodes {
		w.addMachine(n)
	}
}

func (w *world) addMachine(n *node) {
	w.addNS(n.ns)
	w.plug(n.ns, n.uplink, n.hub, "port-"+n.name)
	_, bits, _ := strings.Cut(n.lan, "/")
	if n.hub == routerNS {
		w.sh("ip -n %s addr add %s/%s dev port-%s", routerNS, n.gateway, bits, n.name)
	}
	if n.public != "" { // translated one to one, both ways
		w.sh(`ip netns exec %[1]s nft '
		      add table ip provider
		      add chain ip provider pre { type nat hook prerouting priority -100; }
		      add chain ip provider post { type nat hook postrouting priority 100; }
		      add rule ip provider pre ip daddr %[2]s dnat to %[3]s
		      add rule ip provider post ip saddr %[3]s oifname != "port-%[4]s" snat to %[2]s'`, routerNS, n.public, n.ip, n.name)
	}
	if w.cfg.v4() {
		w.sh(`ip -n %[1]s addr add %[2]s/%[6]s brd + noprefixroute dev %[3]s
		      ip -n %[1]s route add %[4]s dev %[3]s proto kernel scope link src %[2]s metric 100
		      ip -n %[1]s route add default via %[5]s dev %[3]s proto static metric 100`, n.ns, n.ip, n.uplink, n.lan, n.gateway, bits)
	}
	if w.cfg.v6() {
		w.sh("ip -n %[1]s addr add %[2]s/64 dev %[3]s nodad; ip -n %[1]s route add default via fd00:10:1:11::1 dev %[3]s", n.ns, n.ip6, n.uplink)
	}
	docker := "172.17"
	if w.cfg.nat { // the machines' own
		docker = "172.18"
	}
	w.sh(`ip -n %[1]s link add docker0 address %[3]s type bridge
	      ip -n %[1]s addr add %[2]s.0.1/16 brd + dev docker0
	      ip -n %[1]s link set docker0 up
	      ip netns exec %[1]s sysctl -qw net.ipv4.ip_forward=1
	      ip netns exec %[1]s iptables -t nat -A POSTROUTING -s %[2]s.0.0/16 ! -o docker0 -j MASQUERADE`,
		n.ns, docker, "02:42:ac:11:00:0"+n.name[len("node"):])
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
	args := []string{os.Getenv(envFlanneld), "-subnet-file=" + n.subnetFile(), "-iface=" + n.uplink, "-ip-masq"}
	if w.cfg.kube {
		conf := filepath.Join(n.dir, "net-conf.json")
		w.must(os.WriteFile(conf, []byte(w.cfg.network()), 0o644))
		args = append(args, "-kube-subnet-mgr", "-kube-api-url=http://"+net.JoinHostPort(w.cfg.control(), "8080"), "-net-config-path="+conf)
		n.flanneld = w.start(n.ns, "flanneld-"+n.name, []string{"NODE_NAME=" + n.name}, args...)
		return
	}
	earlier := fmt.Sprintf("FLANNEL_SUBNET=%s.1/24\n", n.subnet)
	if w.cfg.dual {
		earlier += fmt.Sprintf("FLANNEL_IPV6_SUBNET=%s::1/64\n", n.subnet6)
	}
	w.must(os.WriteFile(n.subnetFile(), []byte(earlier), 0o644))
	args = append(args, "-etcd-endpoints=http://"+controlIP+":2379")
	if n.public != "" {
		args = append(args, "-public-ip="+n.public)
	}
	n.flanneld = w.start(n.ns, "flanneld-"+n.name, nil, args...)
}

// awaitFlannel waits until the node's flanneld has written all that it is going to write.
func (w *world) awaitFlannel(n *node) {
	w.await("the subnet file of "+n.name, func() bool {
		text, err := os.ReadFile(n.subnetFile())
		return err == nil && strings.Contains(string(text), "FLANNEL_MTU")
	})
	if !w.cfg.kube {
		w.await("all leases", func() bool { return len(w.etcd.leases(w)) == len(w.nodes)+len(w.cfg.others) })
	}
	if w.cfg.v4() && !strings.Contains(w.cfg.backend, `"udp"`) { // which has one route for all; the rest is in the proxy
		w.await("routes of "+n.name, func() bool { return w.hasRoutes(n, "") })
	}
	if w.cfg.v6() {
		w.await("IPv6 routes of "+n.name, func() bool { return w.hasRoutes(n, "-6") })
	}
	all, masquerades := "daddr 10.244.0.0/16", 3
	if w.cfg.only6 { // Docker's alone: what ip6tables writes as an xtables target is not shown
		all, masquerades = "saddr != fd44::/48 ip6 daddr fd44::/48", 1
	}
	w.await("rules of "+n.name, func() bool {
		// The last of both chains, by either way of writing them.
		out, err := sh(fmt.Sprintf("ip netns exec %s nft list ruleset", n.ns))
		return err == nil && strings.Count(out, "masquerade") >= masquerades && strings.Contains(out, all) && strings.Contains(out, "accept")
	})
	n.lease = w.leaseOf(n)
	if n.announced(w.cfg) != n.lease.address(w.cfg) {
		w.t.Fatalf("lease of %s: %+v", n.name, n.lease)
	}
}

// leaseOf is what the node's flanneld made known of itself.
func (w *world) leaseOf(n *node) lease {
	if w.cfg.kube {
		return leaseFrom(w.api.annotations(n.name))
	}
	return w.etcd.leases(w)[n.leaseKey(w.cfg.dual)]
}

// announced is the address by which other nodes reach this one.
func (n *node) announced(c config) string {
	switch {
	case c.only6:
		return n.ip6
	case n.public != "":
		return n.public
	}
	return n.ip
}

func (l lease) address(c config) string {
	if c.only6 {
		return l.PublicIPv6
	}
	return l.PublicIP
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

// cidrs are the ranges of a node's pods.
func (w *world) cidrs(n *node) (cidrs []string) {
	if w.cfg.v4() {
		cidrs = append(cidrs, n.subnet+".0/24")
	}
	if w.cfg.v6() {
		cidrs = append(cidrs, n.subnet6+"::/64")
	}
	return cidrs
}

// ips are a pod's addresses.
func (w *world) ips(p *pod) (ips []string) {
	if w.cfg.v4() {
		ips = append(ips, p.ip)
	}
	if w.cfg.v6() {
		ips = append(ips, p.ip6)
	}
	return ips
}

// cniConf is the network list of kube-flannel's cni-conf.json, for a plugin that is run by itself. portmap, which the list
// has too, does nothing for pods without host ports.
func (w *world) cniConf(p *pod) []byte {
	conf := map[string]any{
		"cniVersion": "0.3.1", "name": "cbr0", "type": "flannel",
		"subnetFile": p.node.subnetFile(), "dataDir": filepath.Join(p.node.dir, "cni"),
		"ipam": map[string]any{"dataDir": filepath.Join(p.node.dir, "networks")},
		"delegate": map[string]any{
			"hairpinMode": true, "isDefaultGateway": true,
			// So that pods have the addresses that the lab's have.
			"args": map[string]any{"cni": map[string]any{"ips": w.ips(p)}},
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
