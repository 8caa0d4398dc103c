package correlate

import (
	"cmp"
	"slices"

	"github.com/podtrace/podtrace/pkg/decode"
)

// Journeys sorts sightings into the journeys of the flow. The order of the argument matters only
// between sightings of one point at one time; the sightings are copied, not changed.
func Journeys(flow Flow, sightings []Sighting) Result {
	sightings = sorted(sightings)
	c := collector{flow: flow}
	for l := range c.legs {
		c.legs[l] = newBuilder(sightings, flow.APort)
	}
	for i := range sightings {
		c.collect(i, &sightings[i])
	}
	for _, d := range c.unsure {
		if !c.legs[d.leg].add(d.index, false) {
			c.result.Other++
		}
	}
	for _, d := range c.fragments {
		c.legs[d.leg].addFragment(d.index)
	}
	c.result.Request, c.result.Reply = c.legs[legRequest].finish(), c.legs[legReply].finish()
	return c.result
}

// collector sorts sightings by what they are.
type collector struct {
	flow   Flow
	legs   [3]*builder // by leg; nothing is added to legNone's
	result Result
	// unsure sightings join the journeys of others, fragments those of their first fragment; both
	// wait until all others are in their places.
	unsure, fragments []deferred
}

type deferred struct {
	leg   leg
	index int
}

func (c *collector) collect(i int, s *Sighting) {
	h := s.Frame.Flow()
	l, sure := c.flow.legOf(h)
	switch {
	case h.IsNeighbour():
		c.result.Neighbours = append(c.result.Neighbours, *s)
	case c.flow.quotedBy(&s.Frame):
		c.result.Errors = append(c.result.Errors, *s)
	case l == legNone:
		c.result.Other++
	case h.FragOffset > 0:
		c.fragments = append(c.fragments, deferred{l, i})
	case !hasIdentity(h):
		c.result.Other++
	case sure || s.Own:
		c.legs[l].add(i, true)
	default:
		c.unsure = append(c.unsure, deferred{l, i})
	}
}

// sorted gives a copy ordered by time, then by point. A Sighting is large, so indices are sorted.
func sorted(in []Sighting) []Sighting {
	order := make([]int, len(in))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		a, b := &in[x], &in[y]
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Point, b.Point))
	})
	out := make([]Sighting, len(in))
	for i, n := range order {
		out[i] = in[n]
	}
	return out
}

// hasIdentity reports whether enough was captured to tell the packet from others.
func hasIdentity(h *decode.Headers) bool {
	switch h.Proto {
	case decode.ProtoTCP:
		return h.TCPFlags != 0 // a segment without any flag is one whose header was cut
	case decode.ProtoUDP:
		return h.HasL4
	case decode.ProtoICMP, decode.ProtoICMPv6:
		return h.IsEcho()
	}
	return true
}

// journey is a Journey that is being put together.
type journey struct {
	key      Key
	sighted  []int    // indices of sightings
	id       uint32   // packetID of the first sighting that has one
	hash     uint64   // the first that is known
	repeated int      // Journey.Retransmission
	order    int      // of creation
	into     *journey // the one that this was merged into, nil while it stands by itself
}

// fragmentKey is all that a later fragment says about its packet.
type fragmentKey struct {
	proto uint8
	id    uint32
}

// builder puts the journeys of one leg together.
type builder struct {
	all       []Sighting // sorted
	echoID    uint16     // the flow's, 0: any
	journeys  []*journey
	byKey     map[Key][]*journey    // all but TCP data; keys without the hash
	byRange   map[uint32][]*journey // TCP data by bucket of sequence numbers
	fragments map[fragmentKey]*journey
}

func newBuilder(all []Sighting, echoID uint16) *builder {
	return &builder{
		all:       all,
		echoID:    echoID,
		byKey:     map[Key][]*journey{},
		byRange:   map[uint32][]*journey{},
		fragments: map[fragmentKey]*journey{},
	}
}

// add puts sighting i into its journey. Without one it begins a new journey, if it may.
func (b *builder) add(i int, begin bool) bool {
	s := &b.all[i]
	k := keyOf(s.Frame.Flow(), s.Hash)
	if k.Proto == decode.ProtoTCP && k.Len > 0 {
		return b.addRange(i, k, begin)
	}
	hashless := k
	hashless.Hash = 0
	if (!begin || s.Own) && s.Frame.Flow().IsEcho() {
		hashless.EchoID = b.echoID // a translated echo id is known by its sequence and payload
	}
	known := b.byKey[hashless]
	repeated := 0
	for _, j := range slices.Backward(known) { // the latest first: what came before has mostly passed
		if j.hash != s.Hash && j.hash != 0 && s.Hash != 0 {
			continue
		}
		repeated++
		if b.fits(j, i) && (begin || b.proven(j, i)) {
			b.see(j, i)
			return true
		}
	}
	if begin {
		b.byKey[hashless] = append(known, b.begin(k, i, repeated))
	}
	return begin
}

// fits reports whether sighting i can be of journey j, which has the same key and no other hash.
func (b *builder) fits(j *journey, i int) bool {
	s := &b.all[i]
	h := s.Frame.Flow()
	id := packetID(h)
	if id != 0 && j.id != 0 && id != j.id {
		return false
	}
	before := b.lastAt(j, s)
	if before == nil {
		return true
	}
	// Seen here before. The same identification is the same packet again, and so is a falling TTL; an
	// echo is one by its sequence number. Anything else was sent anew.
	return id != 0 && id == j.id || h.TTL < before.Frame.Flow().TTL || h.IsEcho()
}

// proven reports whether sighting i, whose ports (echo id) are not the flow's, is of journey j for
// more than the numbers in its key, which are small where they are not those of TCP.
func (b *builder) proven(j *journey, i int) bool {
	return j.key.Proto == decode.ProtoTCP || j.hash != 0 && j.hash == b.all[i].Hash
}

// lastAt gives the last sighting of j at the point and in the direction of s.
func (b *builder) lastAt(j *journey, s *Sighting) *Sighting {
	for _, i := range slices.Backward(j.sighted) {
		if q := &b.all[i]; q.Point == s.Point && q.Dir == s.Dir {
			return q
		}
	}
	return nil
}

func (b *builder) begin(k Key, i, repeated int) *journey {
	j := &journey{key: k, repeated: repeated, order: len(b.journeys)}
	b.journeys = append(b.journeys, j)
	b.see(j, i)
	return j
}

// see adds sighting i to j.
func (b *builder) see(j *journey, i int) {
	s := &b.all[i]
	h := s.Frame.Flow()
	j.sighted = append(j.sighted, i)
	if j.id == 0 {
		j.id = packetID(h)
	}
	if j.hash == 0 {
		j.hash = s.Hash
	}
	if h.ID != 0 {
		b.fragments[fragmentKey{h.Proto, h.ID}] = j
	}
}

// addFragment puts a later fragment beside the first fragment, or the whole packet.
func (b *builder) addFragment(i int) {
	h := b.all[i].Frame.Flow()
	if j := b.fragments[fragmentKey{h.Proto, h.ID}]; j != nil {
		for j.into != nil {
			j = j.into
		}
		j.sighted = append(j.sighted, i)
		return
	}
	b.begin(Key{Proto: h.Proto, Fragment: true, ID: h.ID}, i, 0)
}

// finish gives the journeys in the order of their first sightings.
func (b *builder) finish() []Journey {
	live := slices.DeleteFunc(b.journeys, func(j *journey) bool { return j.into != nil })
	for _, j := range live {
		slices.Sort(j.sighted)
		j.sighted = slices.Compact(j.sighted)
	}
	slices.SortStableFunc(live, func(x, y *journey) int { return cmp.Compare(x.sighted[0], y.sighted[0]) })
	var out []Journey
	for _, j := range live {
		done := Journey{Key: j.key, Retransmission: j.repeated, Sightings: make([]Sighting, 0, len(j.sighted))}
		for _, i := range j.sighted {
			done.append(b.all[i])
		}
		out = append(out, done)
	}
	return out
}

// append adds the next sighting in time and counts it if the same frame was here before.
func (j *Journey) append(s Sighting) {
	for i := len(j.Sightings) - 1; i >= 0; i-- {
		q := &j.Sightings[i]
		if q.Point == s.Point && q.Dir == s.Dir && samePart(q.Frame.Flow(), s.Frame.Flow()) {
			j.Repeats++
			j.Looped = j.Looped || s.Frame.Flow().TTL < q.Frame.Flow().TTL
			break
		}
	}
	j.Sightings = append(j.Sightings, s)
}

// samePart reports whether two frames of one journey carry the same part of it.
func samePart(x, y *decode.Headers) bool {
	if x.FragOffset != y.FragOffset {
		return false
	}
	return x.Proto != decode.ProtoTCP || seqLen(x) == 0 ||
		overlap(x.TCPSeq, seqLen(x), y.TCPSeq, seqLen(y))
}
