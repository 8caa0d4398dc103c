package verify

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
)

// macCheck: a rule that puts another destination MAC in sends the frame to nobody, unless somebody has it.
func (in *Intent) macCheck(s *forward.Step) (Check, bool) {
	if !slices.Contains(s.Fields, "ethDst") || s.MAC.IsZero() || s.MAC.IsMulticast() || in.macOwner(s.MAC) != "" {
		return Check{}, false
	}
	return Check{Name: CheckMAC, Source: FromIntent, Expected: "the next hop's", Observed: s.MAC.String()}, true
}

// routeCheck: the route for the far end must lead to the node that the far end is on, and there to its
// interface.
func (in *Intent) routeCheck(s *forward.Step) (Check, bool) {
	ns := in.Snapshot.ByID(s.Netns)
	if ns != nil && s.Netns == in.Src.Netns && in.Src.Pod && (s.Target == in.Dst.IP || s.Target == in.Asked) && s.Route != nil {
		return in.gatewayCheck(ns, s)
	}
	if ns == nil || ns.Name != tables.HostName || s.Target != in.Dst.IP || in.Dst.Node == "" || !in.Dst.Pod {
		return Check{}, false
	}
	if ns.Node == in.Dst.Node {
		return in.podRouteCheck(s)
	}
	want := in.wayTo(ns)
	if want == "" {
		return Check{}, false
	}
	c := Check{Name: CheckRoute, Source: FromIntent, Expected: want, Observed: orNone(s.Entry, "no route")}
	gw := gateway(s)
	if !gw.IsValid() {
		c.OK = in.backend(in.Dst.Node) == "udp" && s.Route != nil && in.isKind(s, "tun")
		return c, true
	}
	owner := in.NodeOf(gw)
	c.Owner = owner
	c.OK = owner == in.Dst.Node
	return c, true
}

// LeadsTo reports whether a node's route leads to the node of the far end.
func (in *Intent) LeadsTo(r *tables.Route) bool {
	return slices.ContainsFunc(r.NextHops, func(nh tables.NextHop) bool {
		return nh.Gateway.IsValid() && in.NodeOf(nh.Gateway) == in.Dst.Node
	})
}

// gatewayCheck: a pod's route for others must lead to its own node, by one of the node's addresses or by one
// that the node answers for (link-local ones, proxy ARP).
func (in *Intent) gatewayCheck(ns *tables.Netns, s *forward.Step) (Check, bool) {
	host := in.Snapshot.ByID(in.Src.Host)
	l := ns.Link(s.Ifindex)
	if host == nil || l == nil || s.Route.Type != tables.RouteUnicast {
		return Check{}, false
	}
	gw := s.Via
	if !gw.IsValid() && !l.Loopback || gw.IsLinkLocalUnicast() || !l.Loopback && !servesSubnet(host, in.Src.Bridge, ns, l.Index, s.Target.Is6()) {
		return Check{}, false // where the node has no address of the pod's subnet, that is what is wrong
	}
	st, found, _ := in.Model.WhoHas(s.Netns, s.Ifindex, gw)
	ok := gw.IsValid() && (host.HasAddr(gw) || found && in.hostMAC(host, st.MAC))
	return Check{
		Name: CheckGateway, Source: FromIntent, OK: ok, Expected: "an address of " + host.Node,
		Observed: orNone(s.Entry, "no route"),
	}, true
}

// servesSubnet reports whether the pods' bridge has an address in the subnet of a pod's interface.
func servesSubnet(host *tables.Netns, bridge tables.Ifindex, pod *tables.Netns, dev tables.Ifindex, v6 bool) bool {
	return bridge != 0 && slices.ContainsFunc(pod.Addrs, func(a tables.Addr) bool {
		ip := a.Prefix.Addr()
		return a.Index == dev && ip.Is6() == v6 && !ip.IsLinkLocalUnicast() && slices.ContainsFunc(host.Addrs, func(h tables.Addr) bool {
			return h.Index == bridge && a.Prefix.Masked().Contains(h.Prefix.Addr())
		})
	})
}

func (in *Intent) hostMAC(host *tables.Netns, m ether.MAC) bool {
	return slices.ContainsFunc(host.Links, func(l tables.Link) bool { return l.MAC == m })
}

// gateway is the next hop that the walk took: the one of the route on the step's device.
func gateway(s *forward.Step) netip.Addr {
	if s.Route == nil {
		return netip.Addr{}
	}
	return s.Via
}

// podRouteCheck: on the pod's own node the route must lead to the pod's bridge, or to its veth.
func (in *Intent) podRouteCheck(s *forward.Step) (Check, bool) {
	if !in.Dst.Pod {
		return Check{}, false
	}
	want := in.Dst.Bridge
	if want == 0 {
		want = in.Dst.Veth
	}
	if want == 0 || in.Dst.Bridge == 0 && in.isBridge(s) {
		return Check{}, false // a veth that has left its bridge: the route is right, the attachment is not
	}
	return Check{
		Name: CheckPodRoute, Source: FromIntent, OK: s.Route != nil && s.Ifindex == want,
		Expected: "dev " + in.linkName(in.Dst.Host, want), Observed: orNone(s.Entry, "no route"),
	}, true
}

func (in *Intent) isBridge(s *forward.Step) bool { return in.isKind(s, "bridge") }

func (in *Intent) isKind(s *forward.Step, kind string) bool {
	l := in.link(s)
	return l != nil && l.Kind == kind
}

// backend is what a node announces of flannel, "" when it announces nothing.
func (in *Intent) backend(node string) string {
	if n := in.node(node); n != nil {
		return n.Flannel.BackendType
	}
	return ""
}

// wayTo says how packets for the far end should leave a node, by the backend that its node announces; ""
// when it announces none, and a router of the network's own may carry them.
func (in *Intent) wayTo(from *tables.Netns) string {
	n := in.node(in.Dst.Node)
	if n == nil {
		return ""
	}
	far := in.Snapshot.ByID(in.Dst.Host)
	switch direct := in.GoesDirect(from); {
	case n.Flannel.BackendType == "vxlan" && !direct:
		dev, gw := "a vxlan device", ""
		if l := vxlanOf(from, n.Flannel.VNI); l != nil {
			dev = l.Name
		}
		if far != nil {
			gw = vtepAddr(far, n.Flannel.VNI, in.Dst.IP.Is6())
		}
		return fmt.Sprintf("via %s dev %s, the VTEP of %s", orNone(gw, "?"), dev, n.Name)
	case n.Flannel.BackendType == "vxlan", n.Flannel.BackendType == "host-gw":
		return fmt.Sprintf("via %s, the address of %s", orNone(addrString(n.Flannel.PublicIP), "?"), n.Name)
	case n.Flannel.BackendType == "udp":
		for _, l := range from.Links {
			if l.Kind == "tun" {
				return fmt.Sprintf("dev %s, whose process sends it to %s", l.Name, n.Name)
			}
		}
		return "dev of a TUN device, whose process sends it to " + n.Name
	default:
		return in.byReturn(far)
	}
}

// byReturn is the way that the far node's own routes show: it reaches the near pod by a VXLAN device, so the near
// node should reach its pods by its; or by the near node itself, so the near node should reach its pods by it.
func (in *Intent) byReturn(far *tables.Netns) string {
	if l := ReturnsBy(far, in.Src.IP); l != nil {
		return fmt.Sprintf("via %s dev %s, the VTEP of %s", orNone(vtepAddr(far, uint32(l.VXLAN.VNI), in.Dst.IP.Is6()), "?"), l.Name, far.Node)
	}
	r := returnRoute(far, in.Src.IP)
	if r == nil || len(r.NextHops) != 1 || in.Src.Node == "" || !in.Src.Pod {
		return ""
	}
	if gw := r.NextHops[0].Gateway; gw.IsValid() && in.NodeOf(gw) == in.Src.Node && in.Src.Node != far.Node {
		return fmt.Sprintf("via an address of %s, which reaches %s via %s of %s", far.Node, in.Src.IP, gw, in.Src.Node)
	}
	return ""
}

// ReturnsBy is the vxlan device by which a node reaches an address, nil when it is another device.
func ReturnsBy(far *tables.Netns, ip netip.Addr) *tables.Link {
	r := returnRoute(far, ip)
	if r == nil {
		return nil
	}
	if l := far.Link(r.NextHops[0].Index); l != nil && l.VXLAN != nil {
		return l
	}
	return nil
}

// returnRoute is a node's most exact unicast route to an address in table main that is no default route; nil: none.
func returnRoute(far *tables.Netns, ip netip.Addr) (best *tables.Route) {
	if far == nil || !ip.IsValid() {
		return nil
	}
	bits := 0
	for i := range far.Routes {
		r := &far.Routes[i]
		if r.Type == tables.RouteUnicast && r.Table == tables.TableMain && r.Dst.Bits() > bits && r.Dst.Contains(ip) && len(r.NextHops) > 0 {
			best, bits = r, r.Dst.Bits()
		}
	}
	return best
}

func vxlanOf(ns *tables.Netns, vni uint32) *tables.Link {
	var any *tables.Link
	for i := range ns.Links {
		l := &ns.Links[i]
		if l.VXLAN == nil {
			continue
		}
		any = l
		if uint32(l.VXLAN.VNI) == vni {
			return l
		}
	}
	return any
}

// vtepAddr is the overlay address of a node's vxlan device, the next hop of its peers' routes.
func vtepAddr(ns *tables.Netns, vni uint32, v6 bool) string {
	l := vxlanOf(ns, vni)
	if l == nil {
		return ""
	}
	for _, a := range ns.Addrs {
		if a.Index == l.Index && a.Prefix.Addr().Is6() == v6 && !a.Prefix.Addr().IsLinkLocalUnicast() {
			return a.Prefix.Addr().String()
		}
	}
	return ""
}

// neighCheck: a neighbour entry must hold the address of the station that answers for the next hop.
func (in *Intent) neighCheck(s *forward.Step) (Check, bool) {
	ns := in.Snapshot.ByID(s.Netns)
	if ns == nil || in.Model == nil {
		return Check{}, false
	}
	c := Check{Name: CheckNeigh, Source: FromTables, Observed: orNone(s.Entry, "no entry")}
	l := ns.Link(s.Ifindex)
	if l != nil && l.Kind == "vxlan" {
		return in.vtepNeighCheck(c, s)
	}
	if in.Model.IsUnderlay(s.Netns, s.Ifindex) {
		c.Name = CheckUnderlay
	}
	st, found, _ := in.Model.WhoHas(s.Netns, s.Ifindex, s.Target)
	if !found {
		return Check{}, false
	}
	c.OK = s.MAC == st.MAC
	c.Expected, c.Owner = fmt.Sprintf("%s (%s)", st.MAC, st.Who), in.macOwner(s.MAC)
	return c, true
}

// vtepNeighCheck: on a vxlan device nobody answers ARP; the entry must hold the MAC of the device that
// has the next hop's address, which its node also announced.
func (in *Intent) vtepNeighCheck(c Check, s *forward.Step) (Check, bool) {
	node := in.NodeOf(s.Target)
	if node == "" {
		return Check{}, false
	}
	far := in.Snapshot.Host(node)
	n := in.node(node)
	if n != nil {
		told := n.Flannel.VtepMAC
		if s.Target.Is6() {
			told = n.Flannel.VtepV6MAC
		}
		if !told.IsZero() {
			c.Announced = told.String()
		}
	}
	dev := deviceOf(far, s.Target)
	if dev == nil {
		return Check{}, false
	}
	c.Expected = fmt.Sprintf("%s (%s %s)", dev.MAC, node, dev.Name)
	c.OK = s.MAC == dev.MAC
	c.Owner = in.macOwner(s.MAC)
	return c, true
}

func deviceOf(ns *tables.Netns, ip netip.Addr) *tables.Link {
	if ns == nil {
		return nil
	}
	for _, a := range ns.Addrs {
		if a.Prefix.Addr() == ip {
			return ns.Link(a.Index)
		}
	}
	return nil
}

// fdbCheck: the VTEP behind a MAC must be the node that the packet has to go to.
func (in *Intent) fdbCheck(s *forward.Step) (Check, bool) {
	if in.Dst.Node == "" || in.Dst.Node == s.Node {
		return Check{}, false
	}
	want := in.vtepUnderlay(in.Dst.Node)
	if len(want) == 0 {
		return Check{}, false
	}
	got := addrString(s.Target)
	c := Check{
		Name: CheckFDB, Source: FromIntent, Expected: strings.Join(want, " or ") + " (" + in.Dst.Node + ")",
		Observed: orNone(s.Entry, "no entry for "+s.MAC.String()),
		OK:       s.FDB != nil && slices.Contains(want, got), Owner: in.NodeOf(s.Target),
	}
	if n := in.node(in.Dst.Node); n != nil {
		c.Announced = addrString(n.Flannel.PublicIP)
	}
	if c.OK {
		c.OK = in.ownTunnel(s)
	}
	return c, true
}

// ownTunnel reports whether an FDB row sends by the device's own tunnel: a row may override UDP port, VNI and
// device.
func (in *Intent) ownTunnel(s *forward.Step) bool {
	l := in.link(s)
	if l == nil || l.VXLAN == nil {
		return true
	}
	v, f := l.VXLAN, s.FDB
	return (f.Port == 0 || f.Port == v.Port) && (f.VNI == 0 || f.VNI == v.VNI) && (f.Via == 0 || v.Lower == 0 || f.Via == v.Lower)
}

func (in *Intent) link(s *forward.Step) *tables.Link {
	if ns := in.Snapshot.ByID(s.Netns); ns != nil {
		return ns.Link(s.Ifindex)
	}
	return nil
}

// vtepUnderlay are the underlay addresses under which a node's VTEP may rightly be known: what it
// announced, and its device's local address.
func (in *Intent) vtepUnderlay(node string) []string {
	var out []string
	add := func(a netip.Addr) {
		if a.IsValid() && !slices.Contains(out, a.String()) {
			out = append(out, a.String())
		}
	}
	n := in.node(node)
	if n != nil {
		add(n.Flannel.PublicIP)
		add(n.Flannel.PublicIPv6)
	}
	if len(out) > 0 {
		return out
	}
	if ns := in.Snapshot.Host(node); ns != nil {
		for _, l := range ns.Links {
			if l.VXLAN != nil {
				add(l.VXLAN.Local)
			}
		}
	}
	return out
}

// vxlanChecks: a vxlan device must have the MAC and the VNI that its node announced.
func (in *Intent) vxlanChecks(s *forward.Step) []Check {
	ns, n := in.Snapshot.ByID(s.Netns), in.node(s.Node)
	if ns == nil || n == nil {
		return nil
	}
	l := ns.Link(s.Ifindex)
	if l == nil || l.VXLAN == nil {
		return nil
	}
	var out []Check
	base := Check{Source: FromIntent, Step: s, Node: s.Node, Interface: l.Name}
	announced := n.Flannel.VtepMAC
	if l.VXLAN.Local.Is6() {
		announced = n.Flannel.VtepV6MAC
	}
	if !announced.IsZero() && (n.Flannel.VNI == 0 || uint32(l.VXLAN.VNI) == n.Flannel.VNI) {
		c := base
		c.Name, c.Expected, c.Observed, c.OK = CheckVtepMAC, announced.String(), l.MAC.String(), l.MAC == announced
		out = append(out, c)
	}
	if want := announcedLocal(ns, n, l); want.IsValid() {
		c := base
		c.Name, c.Expected, c.Observed, c.OK = CheckVtepLocal, want.String(), addrString(l.VXLAN.Local), l.VXLAN.Local == want
		out = append(out, c)
	}
	if n.Flannel.VNI != 0 {
		c := base
		c.Name, c.OK = CheckVNI, uint32(l.VXLAN.VNI) == n.Flannel.VNI
		c.Expected, c.Observed = fmt.Sprint(n.Flannel.VNI), fmt.Sprint(l.VXLAN.VNI)
		out = append(out, c)
	}
	return out
}

// announcedLocal is the address that the VTEP should send from: the one that the node announced, if it is on one
// of its interfaces. That of a node behind a NAT is on none, and says nothing.
func announcedLocal(ns *tables.Netns, n *inventory.Node, l *tables.Link) netip.Addr {
	a := n.Flannel.PublicIP
	if l.VXLAN.Local.Is6() {
		a = n.Flannel.PublicIPv6
	}
	if !a.IsValid() || !l.VXLAN.Local.IsValid() || !ns.HasAddr(a) {
		return netip.Addr{}
	}
	return a
}
