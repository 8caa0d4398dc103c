package forward

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Bounds that end a walk which the tables would never end.
const (
	maxHops  = 300 // a routing loop of two nodes passes 4 interfaces for each step of TTL
	maxLegs  = 32  // alternatives of one walk
	maxDepth = 2000
)

// packet is one packet on its way, with what the kernel keeps beside its bytes (struct sk_buff).
type packet struct {
	Headers
	flow   Flow // ports, types and lengths that headers do not show
	inner  *packet
	vni    tables.VNI
	gbp    bool
	bare   bool // inner stands right behind the UDP header
	mark   uint32
	length int // bytes of the IP packet
	conn   netfilter.Conn
	in     *tables.Link // the device that it came in by (skb_iif); nil: local origin
	physIn *tables.Link // the bridge port that it came in by
	// nfDone: PREROUTING has run in the bridge already (ip_sabotage_in of br_netfilter_hooks.c)
	nfDone bool
	// noChecksum: an outer UDP header without a checksum
	noChecksum bool
	// vlan is the 802.1Q tag that the frame carries, 0: none; vid is the VLAN that it is in inside a bridge
	// that filters them
	vlan, vid uint16
	// hops counts the forwarding decisions, to end loops of which no tap tells
	hops int
}

func (p *packet) clone() *packet {
	c := *p
	return &c
}

// frame is what a tap shows of the packet.
func (p *packet) frame() Frame {
	if p.inner == nil {
		return Frame{Headers: p.Headers}
	}
	return Frame{Headers: p.inner.Headers, Outer: &Outer{Headers: p.Headers, VNI: p.vni, Bare: p.bare}}
}

// worldState is what one packet leaves behind for the next: connections, and addresses that bridges
// and neighbour tables learned.
type worldState struct {
	nf      map[netns.ID]netfilter.State
	learned map[learnKey]tables.Ifindex
	neigh   map[learnedNeigh]answered
	// fabric are the translations of the network between nodes, which a reply takes backwards
	fabric []translation
	// opened is a flow whose first packet is held to have passed every namespace; its zero value is none
	opened Flow
	// anyPort are the namespaces that translated a source port which was not known already
	anyPort map[netns.ID]bool
}

// answered is who a neighbour lookup found; sure is false where another may have answered in its place.
type answered struct {
	mac  ether.MAC
	sure bool
}

// translation is a packet's addresses before and after the network between nodes rewrote them.
type translation struct {
	src, dst       netip.Addr
	newSrc, newDst netip.Addr
}

type learnKey struct {
	ns netns.ID
	bridgeKey
}

type learnedNeigh struct {
	ns netns.ID
	neighKey
}

func newState() worldState {
	return worldState{
		nf:      make(map[netns.ID]netfilter.State),
		learned: make(map[learnKey]tables.Ifindex),
		neigh:   make(map[learnedNeigh]answered),
		anyPort: make(map[netns.ID]bool),
	}
}

func (s worldState) clone() worldState {
	return worldState{
		nf: maps.Clone(s.nf), learned: maps.Clone(s.learned), neigh: maps.Clone(s.neigh),
		fabric: slices.Clone(s.fabric), opened: s.opened, anyPort: maps.Clone(s.anyPort),
	}
}

// walk is one alternative of a leg while it is played.
type walk struct {
	m       *Model
	leg     Leg
	pending []Step
	depth   int
	done    *[]Leg
}

// fork copies the walk for another alternative, said in words.
func (w *walk) fork(chance string) *walk {
	c := *w
	c.leg.Hops = append([]Hop(nil), w.leg.Hops...)
	c.leg.Chance = append([]string(nil), w.leg.Chance...)
	c.leg.Notes = append([]string(nil), w.leg.Notes...)
	c.pending = append([]Step(nil), w.pending...)
	c.leg.state = w.leg.state.clone()
	if chance != "" {
		c.leg.Chance = append(c.leg.Chance, chance)
	}
	return &c
}

func (w *walk) full() bool { return len(*w.done) >= maxLegs }

// step records a decision that waits for the next hop.
func (w *walk) step(s Step) { w.pending = append(w.pending, s) }

// hop records a passage of an interface and gives it the decisions that led there. It reports whether
// the walk may go on.
func (w *walk) hop(h *host, l *tables.Link, dir Direction, p *packet) bool {
	w.leg.Hops = append(w.leg.Hops, Hop{
		Netns: h.ID, Node: h.Node, Name: h.Name, Interface: l.Name, Ifindex: l.Index, Kind: l.Kind,
		Dir: dir, Frame: p.frame(), Steps: w.pending, Opaque: opaqueHook(l, dir),
	})
	w.pending = nil
	if len(w.leg.Hops) >= maxHops {
		w.drop(ReasonLoop, h, l, Step{Kind: StepRoute, Note: "the packet comes back to the same place again and again"})
		return false
	}
	return true
}

// opaqueHook names a program that sees the packet on this passage, before the tap on the way out (tc
// egress) or after it on the way in (tc ingress; XDP comes before the tap).
func opaqueHook(l *tables.Link, dir Direction) string {
	for _, k := range l.Hooks {
		switch {
		case k.Where == "xdp" && dir == In,
			(k.Where == "tc-ingress" || k.Where == "tcx-ingress") && dir == In,
			(k.Where == "tc-egress" || k.Where == "tcx-egress") && dir == Out,
			k.Where == "netkit":
			return k.Entry
		}
	}
	return ""
}

func (w *walk) finish(end End) {
	w.leg.End = end
	w.leg.Tail = w.pending
	*w.done = append(*w.done, w.leg)
}

// unproven names the table whose missing entry would be the reason of a drop, if that table was not read or
// listed whole: what was not seen is not missing.
func unproven(why Reason, h *host, l *tables.Link) string {
	dev, vxlan := "", false
	if l != nil {
		dev, vxlan = l.Name, l.Kind == "vxlan"
	}
	table := ""
	switch {
	case why == ReasonNoRoute:
		table, dev = "routes", ""
	case why == ReasonNoFDB:
		table = "fdb"
	case why == ReasonNeigh && vxlan:
		table = "neighbours"
	case why == ReasonNoSocket:
		table, dev = "links", ""
	}
	if table == "" || !h.Lacks(table, dev) {
		return ""
	}
	return table
}

// drop ends the leg. The deciding step is the last of the tail.
func (w *walk) drop(why Reason, h *host, l *tables.Link, s Step) {
	if table := unproven(why, h, l); table != "" {
		w.step(s)
		w.unknown("the " + table + " of " + h.Node + " " + h.Name + " are not known whole, and what is known has no entry")
		return
	}
	s.Netns, s.Node = h.ID, h.Node
	name := ""
	if l != nil {
		name = l.Name
		if s.Ifindex == 0 {
			s.Ifindex = l.Index
		}
	}
	w.step(s)
	w.leg.Drop = &Drop{Reason: why, Netns: h.ID, Node: h.Node, Interface: name, Step: s}
	w.finish(Dropped)
}

func (w *walk) unknown(why string) {
	w.leg.Why = why
	w.finish(Unknown)
}

func (w *walk) deliver(h *host, p *packet) {
	w.leg.Final = h.ID
	w.leg.FinalFlow = p.asFlow()
	w.finish(Delivered)
}

func (p *packet) asFlow() Flow {
	f := p.flow
	f.Src, f.Dst, f.SrcPort, f.DstPort = p.Src, p.Dst, p.SrcPort, p.DstPort
	f.Length, f.Mark = p.length, 0
	f.Any = p.Any & (FieldSrcPort | FieldDstPort)
	return f
}

// Trace plays one packet from a socket in the namespace from. The first leg is the likeliest; more
// follow where the tables allow several (multipath routes, random netfilter rules).
func (m *Model) Trace(from netns.ID, f Flow) []Leg {
	return m.trace(from, f, newState())
}

// Reply plays the answer to a delivered leg, with the connections and learned addresses that it left. Of a leg
// that left for hosts outside of the snapshot, the answer comes in where it went out.
func (m *Model) Reply(request Leg) []Leg {
	if request.End == Left && request.FinalFlow.Dst.IsValid() {
		return m.replyFromOutside(request)
	}
	if request.End != Delivered {
		return nil
	}
	return m.trace(request.Final, replyFlow(request.FinalFlow), request.state.clone())
}

// ReplyAssumed plays the answer of the namespace to to a request f that does not arrive, as if it had: every node on the
// way back knows the connection. Without that, rules would treat the answer as one that nobody asked for.
// It gives nothing where the namespace does not have the address that was asked: what a router in front of it makes of
// the answer is not in the tables.
func (m *Model) ReplyAssumed(to netns.ID, f Flow) []Leg {
	if h := m.hosts[to]; h != nil && !h.maySendFrom(f.Dst) && m.opts.Underlay[f.Dst] == to {
		return nil
	}
	st := newState()
	st.opened = f
	return m.trace(to, replyFlow(f), st)
}

// ReplyTranslated is ReplyAssumed for a request that was translated on its way to the address ip of the namespace to, and
// did not get there: the nodes that it passed know how. It gives nothing where the translation is not among what it passed.
// f is the request's flow at its sender.
func (m *Model) ReplyTranslated(request Leg, to netns.ID, ip netip.Addr, f Flow) []Leg {
	if len(request.Hops) == 0 || m.hosts[to] == nil {
		return nil
	}
	h := request.Hops[len(request.Hops)-1].Frame.Headers
	if h.Dst != ip || h.Any&(FieldSrc|FieldDst|FieldSrcPort|FieldDstPort) != 0 {
		return nil
	}
	f.Src, f.Dst, f.SrcPort, f.DstPort = h.Src, h.Dst, h.SrcPort, h.DstPort
	st := request.state.clone()
	st.opened = f
	return m.trace(to, replyFlow(f), st)
}

// Data plays the sender's next packet on the connection that a request and its delivered reply opened: a segment
// with data of the given size in bytes of the IP packet (TCP flags PSH and ACK).
func (m *Model) Data(from netns.ID, f Flow, reply Leg, size int) []Leg {
	const pshAck = 0x18
	f.TCPFlags, f.Length = pshAck, size
	return m.trace(from, f, reply.state.clone())
}

// replyFromOutside: which way the answer takes out there, and how far its sender is, is not in the tables.
func (m *Model) replyFromOutside(request Leg) []Leg {
	last := request.Hops[len(request.Hops)-1]
	return m.Arriving(last.Netns, last.Ifindex, replyFlow(request.FinalFlow), &request)
}

// Arriving plays a packet that comes in by a device, addressed to it, from where nothing is known. Of a reply, after is
// the request, whose connections and learned addresses it finds; else nil.
func (m *Model) Arriving(ns netns.ID, dev tables.Ifindex, f Flow, after *Leg) []Leg {
	h := m.hosts[ns]
	if h == nil || h.link(dev) == nil {
		return nil
	}
	l := h.link(dev)
	var done []Leg
	w := &walk{m: m, done: &done}
	w.leg.state = newState()
	if after != nil {
		w.leg.state = after.state.clone()
	}
	p := newPacket(h, f)
	p.EthDst, p.Any = l.MAC, p.Any|FieldEthSrc|FieldTTL
	w.arrive(h, l, p)
	return done
}

// replyFlow turns a flow around, as the other end's socket answers it.
func replyFlow(f Flow) Flow {
	r := f
	r.Src, r.Dst = f.Dst, f.Src
	r.SrcPort, r.DstPort = f.DstPort, f.SrcPort
	r.TTL, r.Mark, r.Any = 0, 0, 0
	if f.Any&FieldSrcPort != 0 {
		r.Any |= FieldDstPort
	}
	if f.Any&FieldDstPort != 0 {
		r.Any |= FieldSrcPort
	}
	switch {
	case f.Proto == ProtoICMP:
		r.ICMPType = 0
		r.SrcPort, r.DstPort = f.SrcPort, f.DstPort // the identifier stays
	case f.Proto == ProtoICMPv6:
		r.ICMPType = 129
		r.SrcPort, r.DstPort = f.SrcPort, f.DstPort
	case f.Proto == ProtoTCP && f.TCPFlags == 0x02:
		r.TCPFlags = 0x12
	}
	return r
}

// ReplyFlow is the flow that answers f.
func ReplyFlow(f Flow) Flow { return replyFlow(f) }

func (m *Model) trace(from netns.ID, f Flow, st worldState) []Leg {
	var done []Leg
	w := &walk{m: m, done: &done}
	w.leg.state = st
	h := m.hosts[from]
	if h == nil {
		w.unknown("the namespace that it starts in was not read")
		return done
	}
	w.send(h, newPacket(h, f))
	return done
}

func newPacket(h *host, f Flow) *packet {
	p := &packet{flow: f, mark: f.Mark, length: f.Length}
	p.Src, p.Dst, p.Proto, p.SrcPort, p.DstPort = f.Src, f.Dst, f.Proto, f.SrcPort, f.DstPort
	p.EtherType, p.Any = etherTypeOf(f.Dst), f.Any
	p.TTL = f.TTL
	if p.TTL == 0 {
		p.TTL = h.defaultTTL(f.Dst)
	}
	if p.length == 0 {
		p.length = 84 // a default ping
	}
	return p
}

func etherTypeOf(a netip.Addr) uint16 {
	if a.Is6() {
		return ether.TypeIPv6
	}
	return ether.TypeIPv4
}

// defaultTTL is net.ipv4.ip_default_ttl, or the IPv6 hop limit; 64 when neither was read.
func (h *host) defaultTTL(dst netip.Addr) uint8 {
	if dst.Is6() {
		if v, ok := h.conf("hop_limit", "all", true); ok {
			return uint8(v)
		}
		return 64
	}
	if v, ok := h.SysctlInt("ipv4.ip_default_ttl"); ok {
		return uint8(v)
	}
	return 64
}
