// Package verify lays three sources side by side: the hops that the tables lead to (forward), the
// packets that were seen (correlate), and what the control plane meant (Intent). Every comparison is a
// Check that keeps the entry behind it. It names no cause; that is diagnose's.
package verify

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
)

// State is what can be said of a hop.
type State string

// The states of a hop, as the report names them.
const (
	OK         State = "ok"
	Mismatch   State = "mismatch"
	Missing    State = "missing"
	Unobserved State = "unobserved"
	Opaque     State = "opaque"
)

// Source says who states what is expected.
type Source string

// The sources of a check.
const (
	FromIntent Source = "intent"
	FromTables Source = "tables"
	FromWire   Source = "wire"
)

// Check is one comparison.
type Check struct {
	Name      string
	OK        bool
	Expected  string
	Observed  string
	Source    Source
	Node      string // whose entry, or where it was observed
	Interface string
	Step      *forward.Step // the entry behind it; nil when there is none
	// Owner names who holds what was observed, when somebody known does ("node2 flannel.1").
	Owner string
	// Announced is what the control plane says of the same value, "" when it says nothing.
	Announced string
}

// Hop is an expected passage with what was seen there.
type Hop struct {
	forward.Hop
	Expected  bool // false: no table leads here any more; the hop stands where the packet should have come
	State     State
	Note      string
	Sightings []correlate.Sighting // the first of each journey
	Seen      int                  // journeys that were seen here
	Lost      int                  // journeys seen before and neither here nor further on
	Since     int                  // the hop that Lost counts from
	Healed    time.Duration        // after which the losses ended: the first packets were lost and no later one; 0: not so
	Latency   Spread               // since the observed hop before; across nodes with the clocks' difference taken out
	Reordered int                  // packets that were overtaken since that hop
	Repeated  int                  // journeys that passed here more than once
	Checks    []Check
	times     []int64 // of the sighting of each journey, 0: not seen
	stamps    []correlate.Stamp
	// Untimed counts the packets whose time since the hop before is not known though both saw them: the two
	// times were not taken in the same way, or were taken once for both.
	Untimed  int
	untapped bool // the wire was watched, and nothing was there to see the packet here
}

// Leg is one direction, judged hop by hop.
type Leg struct {
	Name    string
	Forward forward.Leg
	Hops    []Hop
	// Tail are the checks on the decisions after the last expected hop.
	Tail []Check
	// Journeys is how many packets set out on this leg, by the wire; Arrived how many reached the end.
	Journeys, Arrived int
	// Proven is how many packets the other direction proves to have arrived, where the end has no tap.
	Proven int
	// Last is the index of the last hop at which every or any packet was seen; -1: none.
	Last int
	// Others are the alternatives that the tables allow beside Forward.
	Others []Other
	// Foreign are replies that never passed the far end's own interface: somebody else sent them.
	Foreign []correlate.Journey
	js      []correlate.Journey
	used    map[sightingKey]bool
	// crossings are the passages from one node to another among the observed hops.
	crossings []crossing
	// Strays are passages that no table predicts: other interfaces, other directions, loops.
	Strays []Stray
}

// Other is an alternative, with intent's opinion of it.
type Other struct {
	forward.Leg
	Checks []Check
}

// Stray is a sighting where no hop was expected.
type Stray struct {
	Point    int
	Sighting correlate.Sighting
	Count    int
}

// Tap is one capture point as it turned out.
type Tap struct {
	Point   int
	Netns   tables.NetnsID
	Ifindex tables.Ifindex
	Node    string
	Name    string // interface
	Drops   uint64
	Err     string
	Flapped bool // the interface went down and came up again
}

// Input is all that verify compares.
type Input struct {
	Request, Reply []forward.Leg // alternatives each, the likeliest first
	Intent         *Intent
	// Wire is nil when no packet was looked for (check).
	Wire *Wire
}

// Wire is what the capture gave.
type Wire struct {
	Taps     []Tap
	Journeys correlate.Result
}

// Result is the judged path.
type Result struct {
	Request, Reply Leg
	// Skew is how far the clock of the destination's node is ahead of the source's, estimated from both
	// directions; valid when HasSkew.
	Skew    time.Duration
	HasSkew bool
}

// Verify compares.
func Verify(in Input) Result {
	var r Result
	r.Request = verifyLeg("request", in, in.Request, in.journeys(false), in.Intent)
	r.Reply = verifyLeg("reply", in, in.Reply, in.journeys(true), in.Intent.Reversed())
	toReply, toRequest := unreached(r.Reply, r.Request), unreached(r.Request, r.Reply)
	r.Request.beyond(toRequest, in.Wire, in.Intent.For(r.Request.Forward))
	r.Reply.beyond(toReply, in.Wire, in.Intent.For(r.Request.Forward).Reversed())
	r.Request.losses()
	r.Reply.losses()
	r.Request.prove(&r.Reply)
	r.Reply.prove(&r.Request)
	r.Request.carried()
	r.Reply.carried()
	r.Request.mirror(&r.Reply, in.Intent)
	r.Reply.mirror(&r.Request, in.Intent)
	r.Skew, r.HasSkew = skew(&r.Request, &r.Reply)
	return r
}

func (in Input) journeys(reply bool) []correlate.Journey {
	switch {
	case in.Wire == nil:
		return nil
	case reply:
		return in.Wire.Journeys.Reply
	default:
		return in.Wire.Journeys.Request
	}
}

func verifyLeg(name string, in Input, alternatives []forward.Leg, js []correlate.Journey, intent *Intent) Leg {
	taps := newTapIndex(in.Wire)
	leg := Leg{Name: name, Last: -1, Journeys: len(js)}
	if len(alternatives) == 0 {
		return leg
	}
	picked := pickAlternative(alternatives, js, taps)
	leg.Forward = alternatives[picked]
	any := intent
	intent = intent.For(leg.Forward)
	for i, l := range alternatives {
		if i != picked {
			leg.Others = append(leg.Others, any.Alternative(l))
		}
	}
	var foreign []correlate.Journey
	if intent == nil || !intent.Src.Unread { // else the leg begins where it comes in, and that is not the sender's own
		js, foreign = own(js, leg.Forward, taps)
	}
	leg.Journeys, leg.js = len(js), js
	if name == legReply {
		leg.Foreign = foreign
	}
	used := make(map[sightingKey]bool)
	leg.used = used
	shift := ttlShift(leg.Forward, js, taps)
	for i := range leg.Forward.Hops {
		h := Hop{Hop: leg.Forward.Hops[i], Expected: true}
		h.Checks = append(h.Checks, intent.stepChecks(h.Steps)...)
		h.Checks = append(h.Checks, intent.sourceChecks(h.Steps)...)
		h.Checks = append(h.Checks, any.endpointChecks(&h.Hop)...)
		h.observe(js, taps, used, shift)
		h.arrival(intent)
		leg.Hops = append(leg.Hops, h)
	}
	leg.Tail = append(leg.Tail, intent.stepChecks(leg.Forward.Tail)...)
	leg.Tail = append(leg.Tail, intent.endChecks(leg.Forward)...)
	leg.settle(in.Wire != nil, taps, intent)
	leg.Strays = strays(js, used)
	return leg
}

// legReply is the name of the way back.
const legReply = "reply"

// own splits packets into those that set out from the leg's first hop, with the flow's ports, and those that did
// not, though a tap there would have shown them: other connections, a node's own reset, an impostor.
func own(js []correlate.Journey, l forward.Leg, taps tapIndex) (mine, foreign []correlate.Journey) {
	if len(l.Hops) == 0 {
		return js, nil
	}
	first := l.Hops[0]
	t, ok := taps.at(first)
	if !ok || t.Drops > 0 || t.Err != "" || first.Opaque != "" || first.Hidden != "" {
		return js, nil
	}
	for _, j := range js {
		i, ok := find([]correlate.Journey{j}, 0, t.Point, direction(first.Dir), nil)
		if ok && samePorts(&first.Frame.Headers, j.Sightings[i].Frame.Flow()) {
			mine = append(mine, j)
		} else {
			foreign = append(foreign, j)
		}
	}
	return mine, foreign
}

// samePorts reports whether a packet has the ports of the flow where it sets out: others between the same ends
// are not the probe's.
func samePorts(want *forward.Headers, got *decode.Headers) bool {
	if want.Proto != forward.ProtoTCP && want.Proto != forward.ProtoUDP || got.Proto != want.Proto || !got.HasL4 {
		return true
	}
	return (want.SrcPort == 0 || want.Any&forward.FieldSrcPort != 0 || got.SrcPort == want.SrcPort) &&
		(want.DstPort == 0 || want.Any&forward.FieldDstPort != 0 || got.DstPort == want.DstPort)
}

// Pick gives the index of the request that the packets took, among the ways that the tables allow; the first
// where no packet tells.
func Pick(request []forward.Leg, w *Wire) int {
	return pickAlternative(request, Input{Wire: w}.journeys(false), newTapIndex(w))
}

// pickAlternative takes, among the ways that the tables allow, the one that the packets went.
func pickAlternative(legs []forward.Leg, js []correlate.Journey, taps tapIndex) int {
	best, score := 0, math.MinInt
	for i, l := range legs {
		n := 0
		for _, h := range l.Hops {
			t, ok := taps.at(h)
			switch {
			case !ok || len(js) == 0 || h.Hidden != "":
			case seenAt(js, t.Point, direction(h.Dir)):
				n++
			default:
				n-- // of two ways of which one ends early, packets that ended there took that one
			}
		}
		if n > score {
			best, score = i, n
		}
	}
	return best
}

// unreached are the places where the packet should still have come, by the other leg walked backwards,
// when the tables end this one early.
func unreached(l, other Leg) []Hop {
	if l.Forward.End == forward.Delivered || len(l.Hops) == 0 {
		return nil
	}
	seen := make(map[tapKey]bool, len(l.Hops))
	for _, h := range l.Hops {
		seen[tapKey{h.Netns, h.Ifindex}] = true
	}
	from := 0 // skip what mirrors this leg's own part
	mirror := slices.Clone(other.Forward.Hops)
	slices.Reverse(mirror)
	for i, h := range mirror {
		if seen[tapKey{h.Netns, h.Ifindex}] {
			from = i + 1
		}
	}
	var out []Hop
	for _, h := range mirror[from:] {
		h.Dir = opposite(h.Dir)
		h.Frame, h.Steps = forward.Frame{}, nil
		out = append(out, Hop{Hop: h})
	}
	return out
}

func opposite(d forward.Direction) forward.Direction {
	if d == forward.In {
		return forward.Out
	}
	return forward.In
}

// beyond adds the places where the packet should still have come. Where it was seen all the same, the tables did
// not tell where it goes, and the wire does.
func (l *Leg) beyond(hops []Hop, w *Wire, intent *Intent) {
	taps := newTapIndex(w)
	for i := range hops {
		h := &hops[i]
		h.watch(l.js, taps, l.used)
		l.Hops = append(l.Hops, *h)
		if h.Seen > 0 {
			l.Last = len(l.Hops) - 1
		}
	}
	if n := len(l.Hops); len(hops) > 0 && intent.meant(l.Hops[n-1].Netns) {
		l.Arrived = intent.taken(&l.Hops[n-1])
	}
	for i := range l.Hops {
		h := &l.Hops[i]
		if h.Expected {
			continue
		}
		h.settle(w != nil, i < l.Last, l.Journeys, taps)
		if h.State == Missing || h.State == Unobserved && w == nil {
			h.State, h.Note = Missing, "the tables do not lead here any more"
		}
	}
}

// Frame fields, compared.

func macString(m ether.MAC) string {
	if m.IsZero() {
		return ""
	}
	return m.String()
}

func addrString(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
