package verify

import (
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/correlate"
)

// Spread is how the time since the hop before is distributed over the packets that both saw.
type Spread struct {
	Packets                 int
	Min, P50, P90, P99, Max time.Duration
}

// crossing is where a leg passes from one node to another: two hops whose clocks are not the same.
type crossing struct{ prev, at int }

// latencies gives each hop the time since the last observed hop before it, packet by packet. Within a node that
// is exact; across nodes the clocks' difference is still in it.
func (l *Leg) latencies() {
	prev := -1
	for i := range l.Hops {
		h := &l.Hops[i]
		if len(h.times) == 0 || h.Seen == 0 {
			continue
		}
		if prev >= 0 {
			p := &l.Hops[prev]
			ds := h.since(p)
			if h.Node != p.Node {
				l.crossings = append(l.crossings, crossing{prev, i})
			}
			h.spread(ds)
			h.Reordered = reordered(p.times, h.times)
		}
		prev = i
	}
}

// since gives the times of all packets since hop p, sorted. Two times compare if they were taken in the same way;
// two equal ones of the stack are one, which the frame has kept since a device before.
func (h *Hop) since(p *Hop) (ds []int64) {
	for j := range h.times {
		switch {
		case j >= len(p.times) || p.times[j] == 0 || h.times[j] == 0:
		case h.stamps[j] != p.stamps[j], h.stamps[j] == correlate.ByStack && h.times[j] == p.times[j]:
			h.Untimed++
		default:
			ds = append(ds, h.times[j]-p.times[j])
		}
	}
	slices.Sort(ds)
	return ds
}

func (h *Hop) spread(sorted []int64) {
	n := len(sorted)
	if n == 0 {
		return
	}
	at := func(q int) time.Duration { return time.Duration(sorted[min(n*q/100, n-1)]) }
	h.Latency = Spread{n, at(0), at(50), at(90), at(99), at(100)}
}

// reordered counts the packets that were overtaken between two hops.
func reordered(from, to []int64) (n int) {
	type passage struct{ before, after int64 }
	var ps []passage
	for j := range to {
		if j < len(from) && from[j] != 0 && to[j] != 0 {
			ps = append(ps, passage{from[j], to[j]})
		}
	}
	slices.SortFunc(ps, func(a, b passage) int { return int(a.before - b.before) })
	var latest int64
	for _, p := range ps {
		if p.after < latest {
			n++
		}
		latest = max(latest, p.after)
	}
	return n
}

// skew estimates how far the clock of the second node is ahead, from the two directions between the same nodes:
// half the difference of the medians, as if both directions took equally long (RFC 5905 section 8). It takes
// the skew out of both legs' crossings. ok is false where only one direction was seen.
func skew(req, rep *Leg) (ahead time.Duration, ok bool) {
	if len(req.crossings) != 1 || len(rep.crossings) != 1 {
		return 0, false
	}
	there, back := req.crossings[0], rep.crossings[0]
	a, b := &req.Hops[there.at], &rep.Hops[back.at]
	if req.Hops[there.prev].Node != b.Node || rep.Hops[back.prev].Node != a.Node || a.Latency.Packets == 0 || b.Latency.Packets == 0 {
		return 0, false
	}
	ahead = (a.Latency.P50 - b.Latency.P50) / 2
	a.Latency.shift(-ahead)
	b.Latency.shift(ahead)
	return ahead, true
}

func (s *Spread) shift(d time.Duration) {
	for _, p := range []*time.Duration{&s.Min, &s.P50, &s.P90, &s.P99, &s.Max} {
		*p += d
	}
}

// losses gives every hop the packets that were lost since the last hop before it which saw them all go by. A
// packet that is seen further on was not lost.
func (l *Leg) losses() {
	prev := -1
	for i := range l.Hops {
		h := &l.Hops[i]
		if h.State == Unobserved || h.State == Opaque || h.Bridged {
			continue
		}
		if prev >= 0 {
			h.Lost, h.Healed = lostSince(l.Hops[prev].times, l.Hops[i:])
			h.Since = prev
		}
		if h.Seen > 0 || prev < 0 {
			prev = i
		}
	}
}

// lostSince counts the packets that were seen at a hop and at none of those that follow. Where they were the
// first ones, more than one, and at least three came through after them, healed is the time from the first to the first that did.
func lostSince(before []int64, rest []Hop) (n int, healed time.Duration) {
	const enough = 3
	var first, through int64
	after, again := 0, false
	for j := range before {
		if before[j] == 0 {
			continue
		}
		if first == 0 {
			first = before[j]
		}
		if slices.ContainsFunc(rest, func(h Hop) bool { return j < len(h.times) && h.times[j] != 0 }) {
			if after++; through == 0 {
				through = before[j]
			}
			continue
		}
		n++
		again = again || after > 0
	}
	if n > 1 && !again && after >= enough {
		healed = time.Duration(through - first)
	}
	return n, healed
}
