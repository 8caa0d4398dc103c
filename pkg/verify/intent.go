package verify

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// End is one end of the path as it was resolved.
type End struct {
	IP    netip.Addr
	Node  string
	Netns tables.NetnsID // the pod's; a node's own for a host-network endpoint
	Host  tables.NetnsID // of the node
	// Unread: it is a pod or a node of which no table was read
	Unread bool
	// Pod is set when the end lives behind a veth: the interface inside, and the node's side of it.
	Pod       bool
	Interface tables.Ifindex
	Veth      tables.Ifindex // in Host
	Bridge    tables.Ifindex // in Host; 0 when the veth is routed
	Port      uint16         // of an endpoint of a service, 0: none
}

// Intent is what the control plane meant, beside the snapshot that says who owns which address.
type Intent struct {
	Src, Dst End
	Port     uint16 // of Dst that was asked for, 0: none
	// Dsts are the endpoints of a service: packets to Asked may go to any of them, and Dst is one.
	Dsts  []End
	Asked netip.Addr
	// Masked: the sender's address may rightly be translated on the way
	Masked bool
	// Answers is the address that Src is to answer from, where it is not its own
	Answers  netip.Addr
	Nodes    []inventory.Node
	Snapshot *tables.Snapshot
	Model    *forward.Model
}

// Reversed is what is meant for the way back.
func (in *Intent) Reversed() *Intent {
	if in == nil {
		return nil
	}
	r := *in
	r.Src, r.Dst, r.Port = in.Dst, in.Src, 0
	r.Dsts, r.Asked, r.Masked, r.Answers = nil, netip.Addr{}, false, in.Asked
	return &r
}

// For is the intent for one way that the tables allow: of a service, the endpoint that this way leads to.
func (in *Intent) For(l forward.Leg) *Intent {
	if in == nil || len(in.Dsts) == 0 {
		return in
	}
	to := in.Dsts[0]
	for _, d := range in.Dsts {
		if l.End == forward.Delivered && l.Final == d.Netns && !d.Netns.IsZero() || l.End != forward.Delivered && goesTo(l, d.IP) {
			to = d
			break
		}
	}
	out := *in
	out.Dst = to
	if in.Port != 0 {
		out.Port = to.Port
	}
	out.Masked = in.Masked || to.IP == in.Src.IP // a pod that is its own endpoint
	return &out
}

func goesTo(l forward.Leg, ip netip.Addr) bool {
	return slices.ContainsFunc(l.Hops, func(h forward.Hop) bool { return h.Frame.Dst == ip }) ||
		slices.ContainsFunc(l.Tail, func(s forward.Step) bool { return s.Target == ip })
}

// Arrives reports whether a leg ends where it was meant to: in the far end's namespace, or, of an address outside of
// the snapshot, on the way to it.
func (in *Intent) Arrives(l forward.Leg) bool {
	switch l.End {
	case forward.Delivered:
		return in.meant(l.Final)
	case forward.Left:
		return in != nil && in.Dst.Netns.IsZero() && !in.Dst.Unread && in.Dst.IP.IsValid() && l.FinalFlow.Dst == in.Dst.IP
	default:
		return false
	}
}

// stepChecks holds each entry that the walk used against what it was meant to be.
func (in *Intent) stepChecks(steps []forward.Step) []Check {
	if in == nil {
		return nil
	}
	var out []Check
	for i := range steps {
		s := &steps[i]
		var c Check
		ok := false
		switch s.Kind {
		case forward.StepRoute:
			c, ok = in.routeCheck(s)
		case forward.StepNeigh:
			c, ok = in.neighCheck(s)
		case forward.StepFDB:
			c, ok = in.fdbCheck(s)
		case forward.StepVXLAN:
			out = append(out, in.vxlanChecks(s)...)
		case forward.StepNetfilter:
			c, ok = in.macCheck(s)
		case forward.StepRule, forward.StepBridge, forward.StepLink, forward.StepSocket, forward.StepSysctl,
			forward.StepUnderlay, forward.StepHook, forward.StepProxy, forward.StepIPVS, forward.StepIPsec:
		}
		if ok {
			c.Step, c.Node, c.Interface = s, s.Node, in.linkName(s.Netns, s.Ifindex)
			out = append(out, c)
		}
	}
	return out
}

// Names of the intent checks, which diagnose reads.
const (
	CheckRoute     = "route next hop"
	CheckPodRoute  = "route to pod"
	CheckNeigh     = "neigh lladdr"
	CheckUnderlay  = "underlay neigh"
	CheckFDB       = "fdb dst"
	CheckVtepMAC   = "vtep mac"
	CheckVNI       = "vtep vni"
	CheckVtepLocal = "vtep local"
	CheckPort      = "port kept"
	CheckMAC       = "mac kept"
	CheckGateway   = "pod gateway"
	CheckEndpoint  = "service endpoint"
	CheckDelivered = "delivered to"
	CheckSource    = "source kept"
	CheckAnswer    = "answer translated back"
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
	owner := in.nodeOf(gw)
	c.Owner = owner
	c.OK = owner == in.Dst.Node
	return c, true
}

// LeadsTo reports whether a node's route leads to the node of the far end.
func (in *Intent) LeadsTo(r *tables.Route) bool {
	return slices.ContainsFunc(r.NextHops, func(nh tables.NextHop) bool {
		return nh.Gateway.IsValid() && in.nodeOf(nh.Gateway) == in.Dst.Node
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
	if gw := r.NextHops[0].Gateway; gw.IsValid() && in.nodeOf(gw) == in.Src.Node && in.Src.Node != far.Node {
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
	node := in.nodeOf(s.Target)
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
		OK:       s.FDB != nil && slices.Contains(want, got), Owner: in.nodeOf(s.Target),
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

// meant reports whether a packet that ends in a namespace has come to where it was meant to.
func (in *Intent) meant(final tables.NetnsID) bool {
	return in == nil || in.Dst.Netns.IsZero() || final == in.Dst.Netns
}

// endpointChecks: a service's address may be translated to its endpoints, and to nobody else.
func (in *Intent) endpointChecks(h *forward.Hop) []Check {
	if in == nil || len(in.Dsts) == 0 {
		return nil
	}
	for k := range h.Steps {
		s := &h.Steps[k]
		if s.Rule == nil || !s.Rule.IsNAT() || !slices.Contains(s.Fields, "ipDst") || slices.ContainsFunc(in.Dsts, func(e End) bool { return e.IP == h.Frame.Dst }) {
			continue
		}
		var want []string
		for _, e := range in.Dsts {
			want = append(want, e.IP.String())
		}
		return []Check{{
			Name: CheckEndpoint, Source: FromIntent, Step: s, Node: s.Node, Interface: in.linkName(s.Netns, s.Ifindex),
			Expected: strings.Join(want, " or "), Observed: h.Frame.Dst.String(),
		}}
	}
	return nil
}

// sourceChecks: between pods, and not by way of a service, no rule may put another source in the place of the
// sender's, wherever the packet ends.
func (in *Intent) sourceChecks(steps []forward.Step) []Check {
	if in == nil || !in.Src.Pod || !in.Dst.Pod || len(in.Dsts) > 0 || in.Masked || in.Answers.IsValid() {
		return nil // a service's proxy may have to
	}
	for k := range steps {
		s := &steps[k]
		if s.Rule == nil || s.Rule.What != netfilter.WhatNAT || !slices.Contains(s.Fields, "ipSrc") {
			continue
		}
		return []Check{{
			Name: CheckSource, Source: FromIntent, Step: s, Node: s.Node, Interface: in.linkName(s.Netns, s.Ifindex),
			Expected: in.Src.IP.String(), Observed: "translated",
		}}
	}
	return nil
}

// taken counts the packets at a hop that are addressed to its device: a bridge floods to a pod what is not for it.
func (in *Intent) taken(h *Hop) (n int) {
	if in == nil {
		return h.Seen
	}
	ns := in.Snapshot.ByID(h.Netns)
	if ns == nil {
		return h.Seen
	}
	l := ns.Link(h.Ifindex)
	for i := range h.Sightings {
		if to := h.Sightings[i].Frame.Flow().EthDst; l == nil || l.MAC.IsZero() || to.IsZero() || to == l.MAC {
			n++
		}
	}
	return n
}

// Alternative judges a way by intent alone: no packet took it.
func (in *Intent) Alternative(l forward.Leg) Other {
	o := Other{Leg: l}
	if in == nil {
		return o
	}
	in = in.For(l)
	for i := range l.Hops {
		o.Checks = append(o.Checks, in.stepChecks(l.Hops[i].Steps)...)
		o.Checks = append(o.Checks, in.endpointChecks(&l.Hops[i])...)
	}
	o.Checks = append(o.Checks, in.stepChecks(l.Tail)...)
	o.Checks = append(o.Checks, in.endChecks(l)...)
	return o
}

// endChecks look at the packet where it ends up: in the right namespace, and from the address that sent
// it, which pods of one cluster keep for each other.
func (in *Intent) endChecks(l forward.Leg) []Check {
	if in == nil || l.End != forward.Delivered || in.Dst.Netns.IsZero() {
		return in.answerChecks(l)
	}
	var last *forward.Step
	for i := range l.Tail {
		if l.Tail[i].Kind == forward.StepRoute {
			last = &l.Tail[i]
		}
	}
	node, dev := "", ""
	if n := len(l.Hops); n > 0 {
		node, dev = l.Hops[n-1].Node, l.Hops[n-1].Interface
	}
	out := []Check{{
		Name: CheckDelivered, Source: FromIntent, OK: l.Final == in.Dst.Netns, Node: node, Interface: dev, Step: last,
		Expected: in.nsName(in.Dst.Netns), Observed: in.nsName(l.Final),
	}}
	if nat := natStep(l, "ipDst"); nat != nil {
		out[0].Step = nat
	}
	if in.Dst.Pod && in.Port != 0 && l.FinalFlow.DstPort != in.Port {
		out = append(out, Check{
			Name: CheckPort, Source: FromIntent, Node: node, Interface: dev, Step: natStep(l, "dstPort"),
			Expected: fmt.Sprint(in.Port), Observed: fmt.Sprint(l.FinalFlow.DstPort),
		})
	}
	if in.Answers.IsValid() {
		return append(out, in.answerChecks(l)...)
	}
	if in.Src.Pod && in.Dst.Pod && !in.Masked {
		c := Check{
			Name: CheckSource, Source: FromIntent, OK: l.FinalFlow.Src == in.Src.IP, Step: natStep(l, "ipSrc"),
			Expected: in.Src.IP.String(), Observed: l.FinalFlow.Src.String(), Node: node, Interface: dev,
		}
		if c.Step != nil {
			c.Node, c.Interface = c.Step.Node, orNone(in.linkName(c.Step.Netns, c.Step.Ifindex), dev)
		}
		out = append(out, c)
	}
	return out
}

// answerChecks: an answer has to come from the address that was asked, also where it goes to a host outside of the
// snapshot.
func (in *Intent) answerChecks(l forward.Leg) []Check {
	if in == nil || !in.Answers.IsValid() || l.End != forward.Delivered && l.End != forward.Left || len(l.Hops) == 0 {
		return nil
	}
	last := &l.Hops[len(l.Hops)-1]
	return []Check{{
		Name: CheckAnswer, Source: FromIntent, OK: l.FinalFlow.Src == in.Answers, Node: last.Node, Interface: last.Interface,
		Expected: in.Answers.String(), Observed: l.FinalFlow.Src.String(), Step: natStep(l, "ipSrc"),
	}}
}

// natStep finds the netfilter rule, or the virtual server, that rewrote a field.
func natStep(l forward.Leg, field string) *forward.Step {
	wrote := func(steps []forward.Step) *forward.Step {
		for k := range steps {
			if s := &steps[k]; (s.Kind == forward.StepNetfilter || s.Kind == forward.StepIPVS) && s.Rule != nil && slices.Contains(s.Fields, field) {
				return s
			}
		}
		return nil
	}
	for i := range l.Hops {
		if s := wrote(l.Hops[i].Steps); s != nil {
			return s
		}
	}
	return wrote(l.Tail)
}

// NATStep is natStep, for the diagnosis.
func NATStep(l forward.Leg, field string) *forward.Step { return natStep(l, field) }

func (in *Intent) node(name string) *inventory.Node {
	for i := range in.Nodes {
		if in.Nodes[i].Name == name {
			return &in.Nodes[i]
		}
	}
	return nil
}

// nodeOf names the node that holds an address: on an interface of its own, else by what it announced, else
// by the subnet that it was given for its pods.
func (in *Intent) nodeOf(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	for _, ns := range in.Snapshot.Netns {
		if ns.Name == tables.HostName && ns.HasAddr(ip) {
			return ns.Node
		}
	}
	for _, n := range in.Nodes {
		if n.Flannel.PublicIP == ip || n.Flannel.PublicIPv6 == ip || slices.Contains(n.InternalIPs, ip) {
			return n.Name
		}
	}
	for _, n := range in.Nodes { // of a VTEP whose device is gone: flannel takes it from the node's own subnet
		if slices.ContainsFunc(n.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			return n.Name
		}
	}
	return ""
}

// NodeOf is nodeOf, for the diagnosis.
func (in *Intent) NodeOf(ip netip.Addr) string { return in.nodeOf(ip) }

// macOwner names the interface that has a MAC, "" when none in the snapshot does.
func (in *Intent) macOwner(m ether.MAC) string {
	if m.IsZero() {
		return ""
	}
	for _, ns := range in.Snapshot.Netns {
		for _, l := range ns.Links {
			if l.MAC == m {
				return in.nsName(ns.ID) + " " + l.Name
			}
		}
	}
	return ""
}

func (in *Intent) nsName(id tables.NetnsID) string {
	ns := in.Snapshot.ByID(id)
	switch {
	case ns == nil:
		return id.String()
	case ns.Name == tables.HostName:
		return ns.Node
	default:
		return ns.Name
	}
}

func (in *Intent) linkName(id tables.NetnsID, i tables.Ifindex) string {
	if ns := in.Snapshot.ByID(id); ns != nil {
		if l := ns.Link(i); l != nil {
			return l.Name
		}
	}
	return ""
}

func orNone(s, none string) string {
	if s == "" {
		return none
	}
	return s
}
