package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// k3sPodNet is k3s' default of all pods.
var k3sPodNet = netip.MustParsePrefix("10.42.0.0/16")

// moveToK3s gives the cluster the addresses of k3s: its first node has the first range, nobody was there before, and
// no Docker is beside it.
func (c *cluster) moveToK3s() {
	c.absent = nil
	for i := range c.nodes {
		c.nodes[i].staleFDB = nil
	}
	c.renumber(k3sPodNet)
}

// renumber moves all ranges and pods into another pod network, one /24 down, so that node1 has the first.
func (c *cluster) renumber(to netip.Prefix) {
	move := func(ip netip.Addr) netip.Addr {
		b, first := ip.As4(), to.Addr().As4()
		return netip.AddrFrom4([4]byte{first[0], first[1], b[2] - 1, b[3]})
	}
	c.podNet = to
	for i := range c.nodes {
		n := &c.nodes[i]
		n.podCIDRs = []netip.Prefix{netip.PrefixFrom(move(n.podCIDR().Addr()), n.podCIDR().Bits())}
	}
	for i := range c.pods {
		c.pods[i].ips = []netip.Addr{move(c.pods[i].ip())}
	}
}

// kubeRouter is the network policy controller that k3s has in it, on one node.
type kubeRouter struct {
	serviceNet netip.Prefix
	pods       []pod // of the node
	// isolated are pods by name that a policy selects and lets nobody reach.
	isolated map[string]bool
}

func (c *cluster) k3sPolicies(n node) *kubeRouter {
	return &kubeRouter{serviceNet: c.serviceNet(false), pods: c.podsOn(n), isolated: map[string]bool{}}
}

// Chains of kube-router, with the marks that they speak by: 0x10000 is what a policy allows, 0x20000 what all of a pod's
// policies do.
const kubeRouterHead = `*filter
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-ROUTER-OUTPUT - [0:0]
:KUBE-NWPLCY-DEFAULT - [0:0]
-I INPUT -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV" -j KUBE-ROUTER-INPUT
-I FORWARD -m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD
-I OUTPUT -m comment --comment "kube-router netpol - VEAAIY32XVBHCSCY" -j KUBE-ROUTER-OUTPUT
-A KUBE-NWPLCY-DEFAULT -m comment --comment "rule to mark traffic matching a network policy" -j MARK --set-xmark 0x10000/0x10000
-A KUBE-ROUTER-INPUT -d %s -m comment --comment "allow traffic to primary/secondary cluster IP range - TZZOAXOCHPHEHX7M" -j RETURN
-A KUBE-ROUTER-INPUT -p tcp -m comment --comment "allow LOCAL TCP traffic to node ports - LR7XO7NXDBGQJD2M" -m addrtype --dst-type LOCAL -m multiport --dports 30000:32767 -j RETURN
-A KUBE-ROUTER-INPUT -p udp -m comment --comment "allow LOCAL UDP traffic to node ports - 76UCBPIZNGJNWNUZ" -m addrtype --dst-type LOCAL -m multiport --dports 30000:32767 -j RETURN
`

// iptables gives the rules as kube-router writes them, for iptables-restore --noflush.
func (k *kubeRouter) iptables() string {
	var w strings.Builder
	fmt.Fprintf(&w, kubeRouterHead, k.serviceNet)
	for _, p := range k.pods {
		k.writePod(&w, p)
	}
	for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		fmt.Fprintf(&w, `-A KUBE-ROUTER-%s -m comment --comment "rule to explicitly ACCEPT traffic that comply to network policies" -m mark --mark 0x20000/0x20000 -j ACCEPT`+"\n", chain)
	}
	w.WriteString("COMMIT\n")
	return w.String()
}

// writePod writes the chain of a pod and all ways into it.
func (k *kubeRouter) writePod(w *strings.Builder, p pod) {
	fw, ip := "KUBE-POD-FW-"+hash32("default/" + p.name)[:16], p.ip()
	fmt.Fprintf(w, ":%s - [0:0]\n", fw)
	of := fmt.Sprintf("POD name:%s namespace: default", p.name)
	jump := func(chain, match, what string) {
		fmt.Fprintf(w, "-A KUBE-ROUTER-%s %s -m comment --comment \"rule to jump traffic %s %s to chain %s\" -j %s\n", chain, match, what, of, fw, fw)
	}
	from, to := fmt.Sprintf("-s %s/32", ip), fmt.Sprintf("-d %s/32", ip)
	jump("FORWARD", to, "destined to")
	jump("OUTPUT", to, "destined to")
	jump("FORWARD", to+" -m physdev --physdev-is-bridged", "destined to")
	for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		jump(chain, from, "from")
	}
	jump("FORWARD", from+" -m physdev --physdev-is-bridged", "from")
	rule := func(match, comment, target string) {
		fmt.Fprintf(w, "-A %s %s-m comment --comment %q %s\n", fw, match, comment, target)
	}
	rule("", "rule for stateful firewall for pod", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	rule("", "rule to drop invalid state for pod", "-m conntrack --ctstate INVALID -j DROP")
	rule(to+" ", "rule to permit the traffic traffic to pods when source is the pod's local node", "-m addrtype --src-type LOCAL -j ACCEPT")
	if k.isolated[p.name] {
		policy := "KUBE-NWPLCY-" + hash32("default/deny-all")[:16] // no peer is allowed: it has no rule
		fmt.Fprintf(w, ":%s - [0:0]\n", policy)
		rule(to+" ", "run through nw policy deny-all", "-j "+policy)
	} else {
		rule(to+" ", "run through default ingress network policy  chain", "-j KUBE-NWPLCY-DEFAULT")
	}
	rule(from+" ", "run through default egress network policy  chain", "-j KUBE-NWPLCY-DEFAULT")
	rule("", "rule to log dropped traffic "+of, "-m mark ! --mark 0x10000/0x10000 -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100")
	rule("", "rule to REJECT traffic destined for "+of, "-m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable")
	fmt.Fprintf(w, "-A %s -j MARK --set-xmark 0x0/0x10000\n", fw)
	rule("", "set mark to ACCEPT traffic that comply to network policies", "-j MARK --set-xmark 0x20000/0x20000")
}
