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

// End is one end of the path as it was resolved.
type End struct {
	IP    netip.Addr
	Node  string
	Netns tables.NetnsID // the pod's; a node's own for a host-network endpoint
	Host  tables.NetnsID // of the node
	// Pod is set when the end lives behind a veth: the interface inside, and the node's side of it.
	Pod       bool
	Interface tables.Ifindex
	Veth      tables.Ifindex // in Host
	Bridge    tables.Ifindex // in Host; 0 when the veth is routed
}

// Intent is what the control plane meant, beside the snapshot that says who owns which address.
type Intent struct {
	Src, Dst End
	Nodes    []inventory.Node
	Snapshot *tables.Snapshot
	Model    *forward.Model
}

func (in *Intent) reversed() *Intent {
	if in == nil {
		return nil
	}
	r := *in
	r.Src, r.Dst = in.Dst, in.Src
	return &r
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
		case forward.StepRule, forward.StepBridge, forward.StepLink, forward.StepSocket, forward.StepSysctl,
			forward.StepNetfilter, forward.StepUnderlay, forward.StepHook:
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
	CheckDelivered = "delivered to"
	CheckSource    = "source kept"
)

// routeCheck: the route for the far end must lead to the node that the far end is on, and there to its
// interface.
func (in *Intent) routeCheck(s *forward.Step) (Check, bool) {
	ns := in.Snapshot.ByID(s.Netns)
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
		return c, true
	}
	owner := in.nodeOf(gw)
	c.Owner = owner
	c.OK = owner == in.Dst.Node
	return c, true
}

// gateway is the next hop that the walk took: the one of the route on the step's device.
func gateway(s *forward.Step) netip.Addr {
	if s.Route == nil {
		return netip.Addr{}
	}
	for _, nh := range s.Route.NextHops {
		if nh.Index == s.Ifindex {
			return nh.Gateway
		}
	}
	return netip.Addr{}
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

func (in *Intent) isBridge(s *forward.Step) bool {
	ns := in.Snapshot.ByID(s.Netns)
	if ns == nil {
		return false
	}
	l := ns.Link(s.Ifindex)
	return l != nil && l.Kind == "bridge"
}

// wayTo says how packets for the far end should leave a node, by the backend that its node announces; ""
// when it announces none, and a router of the network's own may carry them.
func (in *Intent) wayTo(from *tables.Netns) string {
	n := in.node(in.Dst.Node)
	if n == nil {
		return ""
	}
	far := in.Snapshot.ByID(in.Dst.Host)
	switch n.Flannel.BackendType {
	case "vxlan":
		dev, gw := "a vxlan device", ""
		if l := vxlanOf(from, n.Flannel.VNI); l != nil {
			dev = l.Name
		}
		if far != nil {
			gw = vtepAddr(far, n.Flannel.VNI, in.Dst.IP.Is6())
		}
		return fmt.Sprintf("via %s dev %s, the VTEP of %s", orNone(gw, "?"), dev, n.Name)
	case "host-gw":
		return fmt.Sprintf("via %s, the address of %s", orNone(addrString(n.Flannel.PublicIP), "?"), n.Name)
	default:
		return ""
	}
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
	if n != nil && !n.Flannel.VtepMAC.IsZero() && s.Target.Is4() {
		c.Announced = n.Flannel.VtepMAC.String()
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
	return c, true
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
	if n.Flannel.VNI != 0 {
		c := base
		c.Name, c.OK = CheckVNI, uint32(l.VXLAN.VNI) == n.Flannel.VNI
		c.Expected, c.Observed = fmt.Sprint(n.Flannel.VNI), fmt.Sprint(l.VXLAN.VNI)
		out = append(out, c)
	}
	return out
}

// endChecks look at the packet where it ends up: in the right namespace, and from the address that sent
// it, which pods of one cluster keep for each other.
func (in *Intent) endChecks(l forward.Leg) []Check {
	if in == nil || l.End != forward.Delivered || in.Dst.Netns.IsZero() {
		return nil
	}
	var last *forward.Step
	node, dev := "", ""
	if n := len(l.Hops); n > 0 {
		node, dev = l.Hops[n-1].Node, l.Hops[n-1].Interface
	}
	out := []Check{{
		Name: CheckDelivered, Source: FromIntent, OK: l.Final == in.Dst.Netns, Node: node, Interface: dev, Step: last,
		Expected: in.nsName(in.Dst.Netns), Observed: in.nsName(l.Final),
	}}
	if in.Src.Pod && in.Dst.Pod {
		c := Check{
			Name: CheckSource, Source: FromIntent, OK: l.FinalFlow.Src == in.Src.IP, Step: natStep(l),
			Expected: in.Src.IP.String(), Observed: l.FinalFlow.Src.String(), Node: node, Interface: dev,
		}
		if c.Step != nil {
			c.Node, c.Interface = c.Step.Node, orNone(in.linkName(c.Step.Netns, c.Step.Ifindex), dev)
		}
		out = append(out, c)
	}
	return out
}

// natStep finds the netfilter rule that rewrote an address.
func natStep(l forward.Leg) *forward.Step {
	for i := range l.Hops {
		for k := range l.Hops[i].Steps {
			s := &l.Hops[i].Steps[k]
			if s.Kind == forward.StepNetfilter && s.Rule != nil && slices.Contains(s.Fields, "ipSrc") {
				return s
			}
		}
	}
	return nil
}

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
