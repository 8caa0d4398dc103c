package verify

import (
	"fmt"
	"slices"

	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
)

// tapIndex finds the capture point of a hop.
type tapIndex map[tapKey]Tap

type tapKey struct {
	ns  tables.NetnsID
	dev tables.Ifindex
}

func newTapIndex(w *Wire) tapIndex {
	ix := make(tapIndex)
	if w == nil {
		return ix
	}
	for _, t := range w.Taps {
		ix[tapKey{t.Netns, t.Ifindex}] = t
	}
	return ix
}

func (ix tapIndex) at(h forward.Hop) (Tap, bool) {
	t, ok := ix[tapKey{h.Netns, h.Ifindex}]
	return t, ok
}

// sightingKey is one passage: a journey at a point in one direction.
type sightingKey struct {
	journey, sighting int
}

func direction(d forward.Direction) correlate.Direction {
	if d == forward.Out {
		return correlate.Out
	}
	return correlate.In
}

// find gives the first sighting of journey j at a hop that no earlier hop has taken.
func find(js []correlate.Journey, j int, point int, dir correlate.Direction, used map[sightingKey]bool) (int, bool) {
	for i := range js[j].Sightings {
		s := &js[j].Sightings[i]
		if s.Point == point && s.Dir == dir && !used[sightingKey{j, i}] {
			return i, true
		}
	}
	return 0, false
}

// repeats reports whether a journey passed a point in one direction more than once.
func repeats(j *correlate.Journey, point int, dir correlate.Direction) bool {
	n := 0
	for i := range j.Sightings {
		if j.Sightings[i].Point == point && j.Sightings[i].Dir == dir {
			n++
		}
	}
	return n > 1
}

func seenAt(js []correlate.Journey, point int, dir correlate.Direction) bool {
	for j := range js {
		if _, ok := find(js, j, point, dir, nil); ok {
			return true
		}
	}
	return false
}

// ttlShift is how much lower than the model's the sender's TTL was, by the first hop that was seen: a
// socket may ask for any TTL.
func ttlShift(l forward.Leg, js []correlate.Journey, taps tapIndex) int {
	if len(l.Hops) == 0 {
		return 0
	}
	h := l.Hops[0]
	t, ok := taps.at(h)
	if !ok {
		return 0
	}
	for j := range js {
		if i, ok := find(js, j, t.Point, direction(h.Dir), nil); ok {
			return int(h.Frame.TTL) - int(js[j].Sightings[i].Frame.Flow().TTL)
		}
	}
	return 0
}

// observe takes the journeys' sightings at this hop and compares their headers.
func (h *Hop) observe(js []correlate.Journey, taps tapIndex, used map[sightingKey]bool, shift int) {
	h.watch(js, taps, used)
	if h.Seen == 0 {
		return
	}
	h.Checks = append(h.Checks, h.headerChecks(shift)...)
}

// watch takes the journeys' sightings at this hop.
func (h *Hop) watch(js []correlate.Journey, taps tapIndex, used map[sightingKey]bool) {
	t, ok := taps.at(h.Hop)
	if !ok || h.Bridged {
		return
	}
	h.times, h.stamps = make([]int64, len(js)), make([]correlate.Stamp, len(js))
	for j := range js {
		i, ok := h.pick(js, j, t.Point, used)
		if !ok {
			continue
		}
		used[sightingKey{j, i}] = true
		h.Seen++
		h.times[j], h.stamps[j] = js[j].Sightings[i].Time, js[j].Sightings[i].Stamp
		h.Sightings = append(h.Sightings, js[j].Sightings[i])
		if js[j].Repeats > 0 && repeats(&js[j], t.Point, direction(h.Dir)) {
			h.Repeated++
		}
	}
}

// pick gives the first sighting of a journey at this hop that no earlier hop has taken, one with the expected
// encapsulation if there is one: a copy may pass the same device without.
func (h *Hop) pick(js []correlate.Journey, j, point int, used map[sightingKey]bool) (int, bool) {
	first := -1
	for i := range js[j].Sightings {
		s := &js[j].Sightings[i]
		if s.Point != point || s.Dir != direction(h.Dir) || used[sightingKey{j, i}] {
			continue
		}
		if s.Frame.HasVXLAN == (h.Frame.Outer != nil) {
			return i, true
		}
		if first < 0 {
			first = i
		}
	}
	return first, first >= 0
}

// settle gives every hop its state, and finds the last one that was seen.
func (l *Leg) settle(watched bool, taps tapIndex, intent *Intent) {
	for i := range l.Hops {
		if l.Hops[i].Seen > 0 {
			l.Last = i
		}
	}
	for i := range l.Hops {
		l.Hops[i].settle(watched, i < l.Last, l.Journeys, taps)
	}
	l.bridged()
	l.latencies()
	if n := len(l.Hops); n > 0 && intent.Arrives(l.Forward) {
		l.Arrived = l.Hops[n-1].Seen
	}
	l.acquit()
}

// acquit takes the underlay's neighbour entries for right where every packet arrived: a router answers there
// with a MAC of its own.
func (l *Leg) acquit() {
	if l.Journeys == 0 || l.Arrived != l.Journeys {
		return
	}
	for i := range l.Hops {
		h := &l.Hops[i]
		for k := range h.Checks {
			if c := &h.Checks[k]; c.Name == CheckUnderlay && !c.OK {
				c.OK, c.Expected = true, c.Expected+", or a router in its place"
			}
		}
		if h.State == Mismatch && h.checksHold() {
			h.State = OK
		}
	}
}

func (h *Hop) settle(watched, seenLater bool, journeys int, taps tapIndex) {
	t, tapped := taps.at(h.Hop)
	switch {
	case h.Seen > 0 && h.checksHold():
		h.State = OK
	case h.Seen > 0:
		h.State = Mismatch
	case !watched:
		h.State, h.Note = Unobserved, "no packet was sent or looked for"
		if !h.checksHold() {
			h.State = Mismatch
		}
	case h.Hidden != "":
		h.State, h.Note = Unobserved, h.Hidden
	case !tapped:
		h.State, h.Note, h.untapped = Unobserved, "no tap here", true
	case t.Flapped:
		h.State, h.Note = Unobserved, "the interface went down and came up again: packets may have passed meanwhile, or have been lost here"
	case t.Err != "":
		h.State, h.Note = Unobserved, "the tap here ended early: "+t.Err
	case t.Drops > 0:
		h.State, h.Note = Unobserved, fmt.Sprintf("the kernel dropped %d frames for this tap", t.Drops)
	case h.Opaque != "":
		h.State, h.Note = Opaque, "a program here may take the packet past the tap: "+h.Opaque
	case journeys == 0:
		h.State, h.Note = Unobserved, "no packet set out on this leg"
	default:
		h.State = Missing
		if seenLater {
			h.Note = "seen further on, and not here"
		}
	}
}

func (h *Hop) checksHold() bool {
	return !slices.ContainsFunc(h.Checks, func(c Check) bool { return !c.OK })
}

// bridged settles a bridge between two ports: both ports saw the frame, so it went through.
func (l *Leg) bridged() {
	for i := 1; i+1 < len(l.Hops); i++ {
		h, in, out := &l.Hops[i], &l.Hops[i-1], &l.Hops[i+1]
		if !h.Bridged || h.Seen > 0 {
			continue
		}
		n := min(in.Seen, out.Seen)
		if n == 0 {
			continue
		}
		h.Seen = n
		way := "in by " + in.Interface + ", out by " + out.Interface
		h.Checks = append(h.Checks, Check{
			Name: "bridged", OK: true, Expected: way, Observed: way, Source: FromWire, Node: h.Node, Interface: h.Interface,
		})
		h.State, h.Note = OK, "seen at both ports; "+h.Hidden
		if !h.checksHold() {
			h.State = Mismatch
		}
	}
}

func strays(js []correlate.Journey, used map[sightingKey]bool) []Stray {
	var out []Stray
	for j := range js {
		for i, s := range js[j].Sightings {
			if used[sightingKey{j, i}] {
				continue
			}
			at := slices.IndexFunc(out, func(o Stray) bool { return o.Point == s.Point && o.Sighting.Dir == s.Dir })
			if at >= 0 {
				out[at].Count++
				continue
			}
			out = append(out, Stray{Point: s.Point, Sighting: s, Count: 1})
		}
	}
	return out
}
