package flows

import (
	"cmp"
	"math/bits"
	"slices"
)

// stretch accounts for TCP data by byte range: a super-packet of an offload at one point is several
// segments at another, so no identity is the same. For each piece of the sequence space it is counted
// how often each point saw it; the n-th sightings at all points are those of one packet.
func (c *correlator) stretch() {
	list := c.left.list
	order := c.left.bytes.order[:0]
	for i := range list {
		if x := &list[i]; !x.gone && x.flags&sightData != 0 && c.root(x) != 0 {
			order = append(order, int32(i))
		}
	}
	c.left.bytes.order = order
	if len(order) == 0 {
		return
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(c.root(&list[a]), c.root(&list[b])) })
	for from := 0; from < len(order); {
		root, to := c.root(&list[order[from]]), from+1
		for to < len(order) && c.root(&list[order[to]]) == root {
			to++
		}
		c.left.bytes.flow(c, root, order[from:to])
		from = to
	}
}

// span is a leftover as a range of bytes, from the lowest sequence number of its flow.
type span struct {
	from, to uint32
	index    int32 // in the list of leftovers
	// kept is where the part of it begins that waits for the next rotation, valid while open.
	kept uint32
	open bool
	left bool // out, because too many span the same bytes
}

// maxActive bounds how many frames with the same byte are told apart.
const maxActive = 1 << 8

// sweeper holds the buffers of stretch.
type sweeper struct {
	order  []int32
	spans  []span
	edges  []uint32
	active []int32 // indices of spans
}

// flow goes through the sequence space of one flow.
func (w *sweeper) flow(c *correlator, root uint32, items []int32) {
	list := c.left.list
	base := list[items[0]].seq
	for _, i := range items {
		if int32(list[i].seq-base) < 0 {
			base = list[i].seq
		}
	}
	w.spans, w.edges = w.spans[:0], w.edges[:0]
	for _, i := range items {
		from := list[i].seq - base
		w.spans = append(w.spans, span{from: from, to: from + list[i].length, index: i})
		w.edges = append(w.edges, from, from+list[i].length)
	}
	slices.SortFunc(w.spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to), cmp.Compare(a.index, b.index))
	})
	if !w.overlapping() {
		return // nothing to combine
	}
	f := &c.flows.flows[root]
	f.mss = max(f.mss, w.segment(list))
	slices.Sort(w.edges)
	w.edges = slices.Compact(w.edges)
	w.sweep(c, root)
}

// overlapping reports whether any two spans share a byte and were not merely seen at the same points.
func (w *sweeper) overlapping() bool {
	end := uint32(0)
	for i := range w.spans {
		if i > 0 && w.spans[i].from < end {
			return true
		}
		end = max(end, w.spans[i].to)
	}
	return false
}

// segment gives the length of the longest span that is part of a longer one and has none in it. What is
// in a young one does not count: smaller pieces may be yet to come.
func (w *sweeper) segment(list []leftover) uint32 {
	mss, end := uint32(0), uint32(0)
	for i := range w.spans {
		s := &w.spans[i]
		inside := i > 0 && s.to <= end && (s.from != w.spans[i-1].from || s.to != w.spans[i-1].to)
		leaf := i+1 == len(w.spans) || w.spans[i+1].to > s.to || w.spans[i+1].from >= s.to ||
			w.spans[i+1].from == s.from && w.spans[i+1].to == s.to
		if inside && leaf {
			mss = max(mss, s.to-s.from)
		}
		if !list[s.index].stay {
			end = max(end, s.to)
		}
	}
	return mss
}

// sweep goes from edge to edge. Pieces that all have come for are accounted for; of those that only
// young leftovers cover, the leftovers keep what is theirs.
func (w *sweeper) sweep(c *correlator, root uint32) {
	w.active = w.active[:0]
	next := 0
	for k := 0; k+1 < len(w.edges); k++ {
		from, to := w.edges[k], w.edges[k+1]
		w.active = slices.DeleteFunc(w.active, func(i int32) bool { return w.spans[i].to <= from })
		for ; next < len(w.spans) && w.spans[next].from == from; next++ {
			if w.spans[next].left = len(w.active) >= maxActive; !w.spans[next].left {
				w.active = append(w.active, int32(next))
			}
		}
		if len(w.active) == 0 {
			continue
		}
		wait := !slices.ContainsFunc(w.active, func(i int32) bool { return !c.left.list[w.spans[i].index].stay })
		for _, i := range w.active {
			w.keep(c, &w.spans[i], from, wait)
		}
		if !wait {
			w.count(c, root, to-from)
		}
	}
	for i := range w.spans {
		if s := &w.spans[i]; !s.left {
			w.keep(c, s, s.to, false)
			c.left.list[s.index].gone = true
		}
	}
}

// keep opens or closes, at a sequence number, the part of a span that waits.
func (w *sweeper) keep(c *correlator, s *span, at uint32, wait bool) {
	switch {
	case wait && !s.open:
		s.open, s.kept = true, at
	case !wait && s.open:
		s.open = false
		x := c.left.list[s.index]
		x.seq += s.kept - s.from
		x.length = at - s.kept
		c.left.list = append(c.left.list, x)
	}
}

// count accounts for a piece that the active spans cover, for each time that it was sent.
func (w *sweeper) count(c *correlator, root, length uint32) {
	var times [MaxPoints]uint16
	most := uint16(0)
	first := c.left.list[w.spans[w.active[0]].index].first
	flags := uint16(0)
	for _, i := range w.active {
		x := &c.left.list[w.spans[i].index]
		first = min(first, x.first)
		flags |= x.flags & entryMulti
		for m := x.mask; m != 0; m &= m - 1 {
			p := bits.TrailingZeros16(m)
			times[p]++
			most = max(most, times[p])
		}
	}
	for sent := uint16(1); sent <= most; sent++ {
		mask := uint16(0)
		for p, t := range times {
			if t >= sent {
				mask |= 1 << p
			}
		}
		c.data(root, mask, first, length, flags)
	}
}
