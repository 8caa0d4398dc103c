package flows

import (
	"cmp"
	"math/bits"
	"slices"
	"time"
)

// result draws up what was counted.
func (c *correlator) result(sources []*source) *Result {
	res := &Result{Window: time.Duration(c.longest), WindowShort: c.short}
	vnis := c.networks()
	for i, s := range sources {
		res.Points = append(res.Points, s.result(c.offset[i], vnis[i]))
	}
	v := view{c: c, res: res, vnis: vnis}
	res.Flows = make([]FlowResult, 0, len(c.flows.flows))
	tallies := c.tallies()
	for i := range c.flows.flows {
		root := uint32(i)
		if c.flows.flows[i].root != root {
			continue
		}
		n := 0
		for n < len(tallies) && tallies[n].root == root {
			n++
		}
		if f, ok := v.flow(root, tallies[:n]); ok {
			res.Flows = append(res.Flows, f)
		}
		tallies = tallies[n:]
	}
	slices.SortFunc(res.Flows, func(a, b FlowResult) int { return a.Tuple.Compare(b.Tuple) })
	return res
}

// tally is an event and how often it happened.
type tally struct {
	event
	root uint32 // flow
	n    uint64
}

// tallies gives all events by flow, and then by what they are, so that the result is the same every
// time.
func (c *correlator) tallies() []tally {
	out := make([]tally, 0, len(c.events))
	for e, n := range c.events {
		out = append(out, tally{e, c.flows.flows[e.flow].root, n})
	}
	slices.SortFunc(out, func(a, b tally) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.kind, b.kind), cmp.Compare(a.point, b.point),
			cmp.Compare(a.mask, b.mask), cmp.Compare(a.covered, b.covered), cmp.Compare(a.vni, b.vni),
			cmp.Compare(a.other, b.other), cmp.Compare(a.length, b.length), cmp.Compare(a.flow, b.flow))
	})
	return out
}

// networks gives the VNI of each point: the expected one, or, where the beginning did not show it, that
// of most frames; 0 where there is none.
func (c *correlator) networks() []uint32 {
	out := make([]uint32, c.points)
	for p := range out {
		if out[p] = c.plan.vni[p]; out[p] != vniOpen {
			continue
		}
		out[p] = 0
		counts := map[uint32]int{}
		for e, n := range c.events {
			if e.kind == eventVNI && int(e.point) == p {
				counts[e.vni] += int(n)
			}
		}
		if vni := expected(Point{}, counts); vni != vniOpen {
			out[p] = vni
		}
	}
	return out
}

// view turns the events of flows into results.
type view struct {
	c    *correlator
	res  *Result
	vnis []uint32
	// Buffers that all flows use.
	lost, perhaps []Loss
	networks      []Rewrite
}

// flow gives the result of a flow and its translations, false if it had no packet of its own.
func (v *view) flow(root uint32, events []tally) (FlowResult, bool) {
	c := v.c
	f := &c.flows.flows[root]
	out := FlowResult{Complete: f.complete}
	if f.complete == 0 && len(events) == 0 {
		return out, false
	}
	if root != 0 {
		out.Backward = v.backward(root)
		v.names(root, &out)
	}
	v.lost, v.perhaps, v.networks = v.lost[:0], v.perhaps[:0], v.networks[:0]
	b := flowBuilder{view: v, out: &out, root: root}
	for _, e := range events {
		b.add(e)
	}
	b.finish()
	return out, true
}

// backward decides the direction of a flow: by hop limits, then by times, then by those of its reverse,
// then by the end that saw it.
func (v *view) backward(root uint32) bool {
	if d := v.direction(root); d != 0 {
		return d < 0
	}
	r := v.c.flows.flows[root].raw
	r.src, r.dst, r.srcPort, r.dstPort = r.dst, r.src, r.dstPort, r.srcPort
	if back := v.c.flows.find(r.hash()); back != 0 {
		if d := v.direction(v.c.flows.flows[back].root); d != 0 {
			return d > 0
		}
	}
	first, last := uint32(0), uint32(0)
	v.c.flows.group(root, func(f *flow) {
		first += f.seen[0]
		last += f.seen[v.c.points-1]
	})
	return last > first
}

// direction is positive for forward, negative for backward, 0 if nothing tells. A flow and its translations are the
// same packets: their hop limits fall along the path, whatever they are called there.
func (v *view) direction(root uint32) int {
	votes := 0
	var ttls [MaxPoints]uint8
	v.c.flows.group(root, func(f *flow) {
		votes += int(f.votes)
		for p := range v.c.points {
			if f.seen[p] > 0 {
				ttls[p] = max(ttls[p], f.ttl[p])
			}
		}
	})
	before := uint8(0)
	for _, ttl := range ttls[:v.c.points] {
		if ttl != 0 && before != 0 && ttl != before {
			return cmp.Compare(before, ttl)
		}
		before = cmp.Or(ttl, before)
	}
	return votes
}

// names finds the tuple at the first point of the flow, and the others.
func (v *view) names(root uint32, out *FlowResult) {
	entry := 0
	if out.Backward {
		entry = v.c.points - 1
	}
	best := &v.c.flows.flows[root]
	v.c.flows.group(root, func(f *flow) {
		if f.seen[entry] > best.seen[entry] {
			best = f
		}
	})
	out.Tuple = best.raw.tuple()
	v.c.flows.group(root, func(f *flow) {
		if f != best {
			out.NAT = append(out.NAT, f.raw.tuple())
		}
	})
	slices.SortFunc(out.NAT, Tuple.Compare)
	e := best.ends[min(entry, 1)]
	out.Retransmissions = uint64(e.repeats)
}

// flowBuilder puts the result of one flow together.
type flowBuilder struct {
	*view
	out  *FlowResult
	root uint32

	missed [MaxPoints]uint64
	late   uint64 // packets that appeared behind the first point, though it captured
	thin   [MaxPoints]uint64
}

// add takes one kind of event.
func (b *flowBuilder) add(e tally) {
	switch e.kind {
	case eventSeen:
		b.seen(e.mask, e.covered, e.n*segments(e.length, b.c.flows.flows[b.root].mss))
	case eventDuplicate:
		count(&b.out.Duplicates, int(e.point), e.n)
	case eventCorrupt:
		count(&b.out.Corrupt, int(e.point), e.n)
	case eventVNI:
		b.encapsulated(Rewrite{Point: int(e.point), VNI: e.vni, Packets: e.n})
	case eventAddress:
		b.rewritten(e)
	case eventThin:
		b.thin[e.point] += e.n
	case eventPair:
		if b.c.flows.flows[e.other].root == b.root {
			b.seen(e.mask, e.covered, e.n)
		} else {
			b.out.Ambiguous += e.n
		}
	case eventTwin:
		b.twin(e.mask, e.n)
	case eventUnclear:
		b.out.Ambiguous += e.n
	}
}

func count(list *[]Count, point int, n uint64) {
	for i := range *list {
		if (*list)[i].Point == point {
			(*list)[i].Packets += n
			return
		}
	}
	*list = append(*list, Count{point, n})
}

// at gives the point at a step of the flow's direction; the same for the step of a point.
func (b *flowBuilder) at(i int) int {
	if b.out.Backward {
		return b.c.points - 1 - i
	}
	return i
}

// seen accounts for n packets that not all points saw.
func (b *flowBuilder) seen(mask, covered uint16, n uint64) {
	last := b.c.points - 1
	low, high := last, 0
	for i := range b.c.points {
		if mask&(1<<b.at(i)) != 0 {
			low, high = min(low, i), max(high, i)
		}
	}
	for i := low + 1; i < high; i++ {
		if mask&(1<<b.at(i)) == 0 {
			b.missed[b.at(i)] += n
		}
	}
	if mask == b.c.all {
		b.out.Complete += n
		return
	}
	if high == last {
		b.arrived(low, covered, n)
		return
	}
	to := -1 // the first point behind whose capture would have seen it
	for i := high + 1; i <= last; i++ {
		switch p := b.at(i); {
		case covered&(1<<p) == 0:
		case b.res.Points[p].Drops == 0:
			b.lost = lose(b.lost, Loss{b.at(high), p, n})
			return
		case to < 0:
			to = p
		}
	}
	if to < 0 {
		b.out.Underway += n
		return
	}
	b.perhaps = lose(b.perhaps, Loss{b.at(high), to, n})
}

// lose adds packets to those that were lost on the same way.
func lose(list []Loss, l Loss) []Loss {
	for i := range list {
		if list[i].From == l.From && list[i].To == l.To {
			list[i].Packets += l.Packets
			return list
		}
	}
	return append(list, l)
}

// arrived accounts for packets that the last point saw, and the points before low did not.
func (b *flowBuilder) arrived(low int, covered uint16, n uint64) {
	begun := true
	for i := range low {
		p := b.at(i)
		begun = begun && covered&(1<<p) != 0
		if covered&(1<<p) != 0 {
			b.missed[p] += n
		}
	}
	if low > 0 && !begun {
		b.out.Underway += n
		return
	}
	b.out.Complete += n
	if low > 0 && b.res.Points[b.at(0)].Drops == 0 {
		b.late += n
	}
}

// twin accounts for packets that look like others: what the first point did not see is a frame that a
// later one saw twice; of others it cannot be said which was lost, if any.
func (b *flowBuilder) twin(mask uint16, n uint64) {
	if mask&(1<<b.at(0)) != 0 {
		b.out.Ambiguous += n
		return
	}
	for ; mask != 0; mask &= mask - 1 {
		count(&b.out.Duplicates, bits.TrailingZeros16(mask), n)
	}
}

// rewritten notes packets with wrong addresses, at the first point that saw them.
func (b *flowBuilder) rewritten(e tally) {
	point := bits.TrailingZeros16(e.mask)
	if b.out.Backward {
		point = bits.Len16(e.mask) - 1
	}
	t := b.c.flows.flows[e.other].raw.tuple()
	for i := range b.out.Rewrites {
		if r := &b.out.Rewrites[i]; r.Point == point && *r.Tuple == t {
			r.Packets += e.n
			return
		}
	}
	b.out.Rewrites = append(b.out.Rewrites, Rewrite{Point: point, Tuple: &t, Packets: e.n})
}

// finish weighs what was added.
func (b *flowBuilder) finish() {
	b.encapsulation()
	for _, l := range b.perhaps {
		// No more than the captures lost can be what was lost to them.
		m := min(l.Packets, b.res.Points[l.To].Drops)
		b.out.Ambiguous += m
		if l.Packets -= m; l.Packets > 0 {
			b.lost = lose(b.lost, l)
		}
	}
	slices.SortFunc(b.lost, func(x, y Loss) int { return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To)) })
	b.unknown()
	for p, n := range b.missed {
		if n > 0 {
			b.out.Missed = append(b.out.Missed, Count{p, n})
		}
	}
	b.elsewhere()
	if len(b.lost) > 0 {
		b.out.Lost = slices.Clone(b.lost)
	}
}

// encapsulated adds packets with a VNI at a point.
func (b *flowBuilder) encapsulated(r Rewrite) {
	for i := range b.networks {
		if o := &b.networks[i]; o.Point == r.Point && o.VNI == r.VNI {
			o.Packets += r.Packets
			return
		}
	}
	b.networks = append(b.networks, r)
}

// encapsulation notes packets with another VNI than the point's, or, where points carry several, than
// most of the flow's.
func (b *flowBuilder) encapsulation() {
	slices.SortFunc(b.networks, func(x, y Rewrite) int { return cmp.Or(cmp.Compare(x.Point, y.Point), cmp.Compare(x.VNI, y.VNI)) })
	for from := 0; from < len(b.networks); {
		to, most := from, b.networks[from]
		for ; to < len(b.networks) && b.networks[to].Point == most.Point; to++ {
			if b.networks[to].Packets > most.Packets {
				most = b.networks[to]
			}
		}
		want := cmp.Or(b.vnis[most.Point], most.VNI)
		for _, r := range b.networks[from:to] {
			if r.VNI != want {
				b.out.Rewrites = append(b.out.Rewrites, r)
			}
		}
		from = to
	}
}

// unknown takes packets out of the losses that may be others which nothing tells apart: those that
// carry nothing to tell them by, and those that appeared on the way under an unknown identity.
func (b *flowBuilder) unknown() {
	thin := slices.Max(b.thin[:])
	left := thin + b.late
	for i := range b.lost {
		l := &b.lost[i]
		n := min(l.Packets, left)
		l.Packets -= n
		left -= n
		b.out.Ambiguous += n
	}
	b.lost = slices.DeleteFunc(b.lost, func(l Loss) bool { return l.Packets == 0 })
	if b.out.Complete == 0 && len(b.lost) == 0 && b.out.Ambiguous == 0 {
		b.out.Ambiguous = thin
	}
}

// elsewhere: a flow that neither end ever saw is none of the path's.
func (b *flowBuilder) elsewhere() {
	ends := uint32(0)
	b.c.flows.group(b.root, func(f *flow) { ends += f.seen[0] + f.seen[b.c.points-1] })
	if ends > 0 {
		return
	}
	for _, l := range b.lost {
		b.out.Elsewhere += l.Packets
	}
	b.out.Elsewhere += b.out.Complete + b.out.Underway + b.out.Ambiguous
	b.out.Complete, b.out.Underway, b.out.Ambiguous, b.lost = 0, 0, 0, b.lost[:0]
}
