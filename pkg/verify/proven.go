package verify

import (
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Reached is how many packets got to the end of the leg: seen there, or, where nothing could have seen them,
// answered.
func (l *Leg) Reached() int { return max(l.Arrived, l.Proven) }

// Blind is the first of the hops at the leg's end that have no tap, as where the captures are of one node; -1 where
// the end has one.
func (l *Leg) Blind() int {
	n := len(l.Hops)
	for n > 0 && l.Hops[n-1].untapped {
		n--
	}
	if n == 0 || n == len(l.Hops) {
		return -1
	}
	return n
}

// prove counts the packets whose arrival the other direction proves, where the end of this one has no tap: an echo
// reply answers its request, a TCP segment acknowledges the bytes before its number. Of other protocols an answer
// does not say to what. What the far end's kernel sends is taken for an answer only where all of it came back whole.
func (l *Leg) prove(back *Leg) {
	if l.Arrived > 0 || l.Journeys == 0 || l.Blind() < 0 || l.Last < 0 || back.Journeys == 0 || len(back.Foreign) > 0 {
		return
	}
	if back.Arrived != back.Journeys && back.Blind() < 0 {
		return
	}
	for i := range l.js {
		j := &l.js[i]
		if l.wasSeen(j) && (j.Retransmission == 0 || j.Key.Len == 0) && answered(j, l.js, back.js) {
			l.Proven++
		}
	}
}

// wasSeen reports whether the last hop that saw packets saw this one.
func (l *Leg) wasSeen(j *correlate.Journey) bool {
	h := &l.Hops[l.Last]
	for k := range h.Sightings {
		for i := range j.Sightings {
			if j.Sightings[i].Time == h.Sightings[k].Time && j.Sightings[i].Point == h.Sightings[k].Point {
				return true
			}
		}
	}
	return false
}

// answered reports whether one of the packets of the other direction answers j. A TCP segment without data is
// acknowledged by none; it counts as arrived where the data of its direction did.
func answered(j *correlate.Journey, all, back []correlate.Journey) bool {
	switch j.Key.Proto {
	case decode.ProtoICMP, decode.ProtoICMPv6:
		for i := range back {
			if back[i].Key.EchoID == j.Key.EchoID && back[i].Key.Seq == j.Key.Seq {
				return true
			}
		}
		return false
	case decode.ProtoTCP:
		if j.Key.Len > 0 {
			return acknowledged(j, back)
		}
		for i := range all {
			if all[i].Key.Len > 0 && !acknowledged(&all[i], back) {
				return false
			}
		}
		return true
	default:
		return len(back) >= len(all)
	}
}

// acknowledged: a number behind the segment's last, modulo 2^32 (RFC 9293 section 3.4).
func acknowledged(j *correlate.Journey, back []correlate.Journey) bool {
	end := j.Key.Seq + j.Key.Len
	for i := range back {
		for k := range back[i].Sightings {
			f := back[i].Sightings[k].Frame.Flow()
			if f.TCPFlags&decode.TCPAck != 0 && int32(f.TCPAck-end) >= 0 {
				return true
			}
		}
	}
	return false
}

// mirror compares the address that packets are sent to on the network between the nodes with the one that the answers
// come from, where no table shows the neighbour entry: if these come from the far node's own device, no router stands
// between, and the packets must be sent to that device.
func (l *Leg) mirror(back *Leg, intent *Intent) {
	for i := range l.Hops {
		out := &l.Hops[i]
		if out.Dir != forward.Out || len(out.Sightings) == 0 || intent.Model == nil || !intent.Model.IsUnderlay(out.Netns, out.Ifindex) {
			continue
		}
		for k := range back.Hops {
			in := &back.Hops[k]
			if in.Dir != forward.In || in.Netns != out.Netns || in.Ifindex != out.Ifindex || len(in.Sightings) == 0 {
				continue
			}
			far, ns := sender(back.Hops[:k], intent)
			if !ns.IsZero() && i+1 < len(l.Hops) && l.Hops[i+1].Netns != ns {
				continue // the answers come from another node than this one sends to
			}
			if o := out.Frame.Outer; o != nil {
				far = intent.deviceWith(o.Dst)
			}
			out.mirror(in, far)
		}
	}
}

// sender is the address of the device that last sent a packet into the network between the nodes, of the hops before it
// came in, and that node's namespace; zero: none is known. A packet may cross that network more than once.
func sender(before []Hop, intent *Intent) (ether.MAC, tables.NetnsID) {
	for i := len(before) - 1; i >= 0; i-- {
		h := &before[i]
		if h.Dir != forward.Out || !intent.Model.IsUnderlay(h.Netns, h.Ifindex) {
			continue
		}
		if ns := intent.Snapshot.ByID(h.Netns); ns != nil {
			if link := ns.Link(h.Ifindex); link != nil {
				return link.MAC, ns.ID
			}
		}
	}
	return ether.MAC{}, tables.NetnsID{}
}

// deviceWith is the address of the device that has an IP address; zero: none is known.
func (in *Intent) deviceWith(ip netip.Addr) ether.MAC {
	for _, ns := range in.Snapshot.Netns {
		if l := deviceOf(ns, ip); l != nil {
			return l.MAC
		}
	}
	return ether.MAC{}
}

func (h *Hop) mirror(in *Hop, far ether.MAC) {
	prefix := ""
	if h.Frame.Outer != nil {
		prefix = "outer."
	}
	to, from := h.Sightings[0].Frame.Outer.EthDst, in.Sightings[0].Frame.Outer.EthSrc
	if h.checked(prefix+"ethDst") || far.IsZero() || from != far && to != far || h.Sightings[0].Frame.Outer.NoEthDst {
		return
	}
	h.wireCheck(prefix+"ethDst", far, to)
	if !in.checked(prefix + "ethSrc") {
		in.wireCheck(prefix+"ethSrc", far, from)
	}
}

func (h *Hop) checked(name string) bool {
	return slices.ContainsFunc(h.Checks, func(c Check) bool { return c.Name == name })
}

// wireCheck compares what was seen here with what was seen elsewhere.
func (h *Hop) wireCheck(name string, want, got ether.MAC) {
	h.Checks = append(h.Checks, Check{
		Name: name, OK: got == want, Expected: want.String(), Observed: got.String(), Source: FromWire, Node: h.Node, Interface: h.Interface,
	})
	if got != want && h.State == OK {
		h.State = Mismatch
	}
}

// carried compares the addresses of frames with those at the next hop that saw them, where the tables let no kernel
// rewrite them in between and did not show which they are.
func (l *Leg) carried() {
	for i := range l.Hops {
		a := &l.Hops[i]
		k := i + 1
		for k < len(l.Hops) && l.Hops[k].Seen == 0 {
			k++
		}
		if a.Seen == 0 || k == len(l.Hops) || len(a.Sightings) == 0 || len(l.Hops[k].Sightings) == 0 {
			continue
		}
		b := &l.Hops[k]
		x, y := a.Sightings[0].Frame.Flow(), b.Sightings[0].Frame.Flow()
		if a.Node != b.Node || !sameLink(&a.Frame.Headers, &b.Frame.Headers) || x.NoEthDst || y.NoEthDst {
			continue
		}
		wrong := func(c Check) bool { return c.Name == "ethDst" && !c.OK }
		if !a.checked("ethDst") && !slices.ContainsFunc(b.Checks, wrong) {
			a.wireCheck("ethDst", y.EthDst, x.EthDst)
		}
	}
}

// sameLink: the tables lead to the same known addresses in both places.
func sameLink(a, b *forward.Headers) bool {
	const either = forward.FieldEthDst | forward.FieldEthSrc
	return (a.Any|b.Any)&either == 0 && !a.NoEth && !b.NoEth && !a.EthDst.IsZero() && a.EthDst == b.EthDst && a.EthSrc == b.EthSrc
}

// arrival compares the address that a frame arrives with on the network between the nodes: what is not addressed to
// the device goes no further.
func (h *Hop) arrival(intent *Intent) {
	if h.Dir != forward.In || h.Seen == 0 || intent == nil || intent.Model == nil || !intent.Model.IsUnderlay(h.Netns, h.Ifindex) {
		return
	}
	ns := intent.Snapshot.ByID(h.Netns)
	link := ns.Link(h.Ifindex)
	name := "ethDst"
	if h.Frame.Outer != nil {
		name = "outer.ethDst"
	}
	if h.checked(name) || link == nil || link.Master != 0 || link.Kind != "" || link.MAC.IsZero() {
		return
	}
	c := Check{Name: name, OK: true, Expected: link.MAC.String(), Observed: link.MAC.String(), Source: FromTables, Node: h.Node, Interface: h.Interface}
	for i := range h.Sightings {
		o := &h.Sightings[i].Frame.Outer
		if o.NoEthDst || o.EthDst.IsMulticast() {
			return
		}
		if o.EthDst != link.MAC && !intent.hostMAC(ns, o.EthDst) { // another device on top of it may have its own
			c.OK, c.Observed = false, o.EthDst.String()
			break
		}
	}
	h.Checks = append(h.Checks, c)
}
