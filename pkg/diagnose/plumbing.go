package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// plumbing looks for the reason of a drop in how a pod is attached: its interface, the veth on the node,
// the bridge and its port. A neighbour that does not answer is a symptom; what it is attached by is the
// cause.
func (c *leg) plumbing(d *forward.Drop) (Finding, bool) {
	if c.intent == nil {
		return Finding{}, false
	}
	switch d.Reason {
	case forward.ReasonNeigh, forward.ReasonNoPort, forward.ReasonOtherHost, forward.ReasonNoPeer,
		forward.ReasonLinkDown, forward.ReasonNoCarrier, forward.ReasonPortState, forward.ReasonNoRoute:
	default:
		return Finding{}, false
	}
	for _, e := range []verify.End{c.intent.Src, c.intent.Dst} {
		if e.Pod && (d.Netns == e.Netns || d.Netns == e.Host && c.nearEnd(d, e) || d.Reason == forward.ReasonNeigh && d.Step.Target == e.IP) {
			if f, ok := c.attachment(e); ok {
				return f, true
			}
		}
	}
	return Finding{}, false
}

// nearEnd reports whether a drop on a node concerns the pod: on its veth or bridge, or on the way to it.
func (c *leg) nearEnd(d *forward.Drop, e verify.End) bool {
	i := d.Step.Ifindex
	return d.Step.Target == e.IP || i != 0 && (i == e.Veth || i == e.Bridge) || c.isBridge(e.Host, i)
}

func (c *leg) isBridge(host tables.NetnsID, i tables.Ifindex) bool {
	ns := c.intent.Snapshot.ByID(host)
	if ns == nil {
		return false
	}
	l := ns.Link(i)
	return l != nil && (l.Kind == "bridge" || l.Port != nil)
}

// attachment finds the first defect on the way from the pod's interface to its bridge.
func (c *leg) attachment(e verify.End) (Finding, bool) {
	pod, host := c.intent.Snapshot.ByID(e.Netns), c.intent.Snapshot.ByID(e.Host)
	if pod == nil || host == nil {
		return Finding{}, false
	}
	inside, veth := pod.Link(e.Interface), host.Link(e.Veth)
	at := func(ns *tables.Netns, l *tables.Link, cause, words, remedy string) (Finding, bool) {
		f := Finding{Cause: cause, Node: host.Node, Interface: l.Name, Remedy: remedy}
		f.Summary = fmt.Sprintf("%s %s: %s", host.Node, l.Name, words)
		if ns == pod {
			f.Summary = fmt.Sprintf("%s %s on %s: %s", pod.Name, l.Name, host.Node, words)
		}
		f.Evidence = []string{"link entry: " + ns.FormatLink(*l), "see: " + command(ns, "ip -d link show dev "+l.Name)}
		return f, true
	}
	if inside != nil && !inside.Up {
		return at(pod, inside, "pod-link-down", "the pod's interface is set down", command(pod, "ip link set "+inside.Name+" up"))
	}
	if inside != nil && e.IP.IsValid() && !pod.HasAddr(e.IP) {
		return at(pod, inside, "pod-address-missing", fmt.Sprintf("the pod does not have its address %s", e.IP),
			command(pod, fmt.Sprintf("ip addr add %s/%d dev %s", e.IP, c.podBits(host, e), inside.Name))+"; restart the pod, so that the CNI plugin sets it up anew")
	}
	if veth == nil {
		return Finding{}, false
	}
	if !veth.Up {
		return at(host, veth, "pod-link-down", "the pod's veth is set down", command(host, "ip link set "+veth.Name+" up"))
	}
	br := host.Link(veth.Master)
	if br == nil {
		if f, ok := c.proxied(host, veth, pod, at); ok {
			return f, true
		}
		want := c.podBridge(host, e)
		if want == nil {
			return Finding{}, false
		}
		return at(host, veth, "veth-no-master", "the pod's veth is in no bridge, expected master "+want.Name,
			command(host, "ip link set "+veth.Name+" master "+want.Name)+"; mark veth* unmanaged in NetworkManager or systemd-networkd")
	}
	if !br.Up {
		return at(host, br, "cni0-down", "the pods' bridge is down", command(host, "ip link set "+br.Name+" up"))
	}
	if veth.Port != nil && veth.Port.State != "forwarding" {
		return at(host, veth, "bridge-port-blocked", "the bridge port is in state "+veth.Port.State+", expected forwarding",
			command(host, "bridge link set dev "+veth.Name+" state 3"))
	}
	return c.gatewayAddress(host, br, pod, at)
}

// podBits is the length of the pods' subnet, by the address of the bridge in it.
func (c *leg) podBits(host *tables.Netns, e verify.End) int {
	for _, a := range host.Addrs {
		if a.Index == e.Bridge && a.Prefix.Masked().Contains(e.IP) {
			return a.Prefix.Bits()
		}
	}
	return e.IP.BitLen()
}

// proxied looks at a pod whose gateway is on no interface: its host end answers for it by proxy ARP, which takes the
// switch itself, forwarding, and a route by which the node would reach the gateway (arp_fwd_proxy).
func (c *leg) proxied(host *tables.Netns, veth *tables.Link, pod *tables.Netns,
	at func(*tables.Netns, *tables.Link, string, string, string) (Finding, bool)) (Finding, bool) {
	gw := podGateway(pod)
	if !gw.Is4() || host.HasAddr(gw) || slices.ContainsFunc(pod.Neighs, func(n tables.Neigh) bool { return n.IP == gw && n.State&tables.NUDPermanent != 0 }) {
		return Finding{}, false
	}
	conf := func(name, dev string) string {
		v, _ := host.Sysctl("ipv4.conf." + dev + "." + name)
		return v
	}
	sysctl := func(name string) string { return "net/ipv4/conf/" + veth.Name + "/" + name }
	switch {
	case conf("proxy_arp", veth.Name) == "0" && conf("proxy_arp", "all") == "0":
		return at(host, veth, "proxy-arp-off", fmt.Sprintf("it answers no ARP for %s, the pod's gateway: proxy_arp is 0", gw),
			command(host, "sysctl -w "+sysctl("proxy_arp")+"=1"))
	case conf("forwarding", veth.Name) == "0":
		return at(host, veth, "ip-forward-off", fmt.Sprintf("forwarding is off (%s = 0): nothing is forwarded, and %s, the pod's gateway, is not answered for", sysctl("forwarding"), gw),
			command(host, "sysctl -w net.ipv4.ip_forward=1")+"; then: "+keep["ip-forward-off"])
	case !slices.ContainsFunc(host.Routes, func(r tables.Route) bool {
		return r.Type == tables.RouteUnicast && r.Dst.Contains(gw) && !slices.ContainsFunc(r.NextHops, func(h tables.NextHop) bool { return h.Index == veth.Index })
	}):
		return at(host, veth, "underlay-route-missing", fmt.Sprintf("the node has no route to %s, the pod's gateway, so it does not answer for it: its default route is gone", gw), "")
	default:
		return Finding{}, false
	}
}

// podGateway is the next hop of the pod's default route, invalid when it has none.
func podGateway(pod *tables.Netns) (gw netip.Addr) {
	for _, r := range pod.Routes {
		if r.Table == tables.TableMain && r.Dst.Bits() == 0 && len(r.NextHops) > 0 {
			return r.NextHops[0].Gateway
		}
	}
	return netip.Addr{}
}

// gatewayAddress: the bridge must have the address that the pod's default route goes through.
func (c *leg) gatewayAddress(host *tables.Netns, br *tables.Link, pod *tables.Netns,
	at func(*tables.Netns, *tables.Link, string, string, string) (Finding, bool)) (Finding, bool) {
	for _, r := range pod.Routes {
		if r.Table != tables.TableMain || r.Dst.Bits() != 0 || len(r.NextHops) == 0 || !r.NextHops[0].Gateway.IsValid() {
			continue
		}
		gw := r.NextHops[0].Gateway
		if gw.IsLinkLocalUnicast() || host.HasAddr(gw) {
			continue
		}
		return at(host, br, "cni0-wrong-address", fmt.Sprintf("the bridge does not have %s, the pod's gateway", gw),
			"delete "+br.Name+" and restart the pods of the node, so that the CNI plugin makes it anew")
	}
	return Finding{}, false
}

// podBridge is the bridge that the node's route for the pod leads to.
func (c *leg) podBridge(host *tables.Netns, e verify.End) *tables.Link {
	var best *tables.Link
	bits := -1
	for _, r := range host.Routes {
		if r.Table != tables.TableMain || !r.Dst.Contains(e.IP) || r.Dst.Bits() <= bits || len(r.NextHops) == 0 {
			continue
		}
		if l := host.Link(r.NextHops[0].Index); l != nil && l.Kind == "bridge" {
			best, bits = l, r.Dst.Bits()
		}
	}
	return best
}

// command puts a command into the namespace.
func command(ns *tables.Netns, c string) string {
	if ns.Exec == "" {
		return c
	}
	return ns.Exec + " " + c
}
