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
	if nat := NATStep(l, "ipDst"); nat != nil {
		out[0].Step = nat
	}
	if in.Dst.Pod && in.Port != 0 && l.FinalFlow.DstPort != in.Port {
		out = append(out, Check{
			Name: CheckPort, Source: FromIntent, Node: node, Interface: dev, Step: NATStep(l, "dstPort"),
			Expected: fmt.Sprint(in.Port), Observed: fmt.Sprint(l.FinalFlow.DstPort),
		})
	}
	if in.Answers.IsValid() {
		return append(out, in.answerChecks(l)...)
	}
	if in.Src.Pod && in.Dst.Pod && !in.Masked {
		c := Check{
			Name: CheckSource, Source: FromIntent, OK: l.FinalFlow.Src == in.Src.IP, Step: NATStep(l, "ipSrc"),
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
		Expected: in.Answers.String(), Observed: l.FinalFlow.Src.String(), Step: NATStep(l, "ipSrc"),
	}}
}

// NATStep finds the netfilter rule, or the virtual server, that rewrote a field.
func NATStep(l forward.Leg, field string) *forward.Step {
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

func (in *Intent) node(name string) *inventory.Node {
	for i := range in.Nodes {
		if in.Nodes[i].Name == name {
			return &in.Nodes[i]
		}
	}
	return nil
}

// NodeOf names the node that holds an address: on an interface of its own, else by what it announced, else
// by the subnet that it was given for its pods.
func (in *Intent) NodeOf(ip netip.Addr) string {
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
