package flows

import (
	"math/bits"
	"time"
)

// correlator knows which packets were seen where. It is fed by the merger and is not safe for use by
// several goroutines.
type correlator struct {
	cfg     Config
	plan    *plan
	points  int
	all     uint16 // mask of all points
	flows   *flowset
	offset  [MaxPoints]int64 // to the clock of the first point, ns
	started [MaxPoints]bool
	over    [MaxPoints]bool
	begin   [MaxPoints]int64 // of the capture, by the clock of the first point
	end     [MaxPoints]int64 // valid with over

	// Packets seen for the first time since the last rotation, and those from before it.
	young, old *table
	turned     int64 // time of the last rotation
	window     int64
	longest    int64 // window
	short      bool
	spans      [64]uint64 // hits by the binary logarithm of the time since the first sighting
	transit    int64      // what nearly all packets need at most

	drift  drift
	left   leftovers
	events map[event]uint64
}

func newCorrelator(cfg Config, plan *plan) *correlator {
	c := &correlator{
		cfg: cfg, plan: plan, points: len(plan.points), all: 1<<len(plan.points) - 1,
		flows: newFlowset(cfg.MaxFlows), offset: plan.offset,
		young: newTable(), old: newTable(), window: plan.window,
		transit: plan.window / windowPerTransit, events: make(map[event]uint64, usualEvents),
	}
	c.longest = c.window
	return c
}

// event is something rare that happened to packets of a flow; how often is the value in the map.
type event struct {
	flow uint32
	kind eventKind
	// point is where; vni and other (a flow) say what was seen there.
	point      uint8
	vni, other uint32
	length     uint32 // of TCP data whose number of segments is not known yet, bytes
	// mask and covered are the points that saw a packet, and those that could have.
	mask, covered uint16
}

type eventKind uint8

const (
	eventSeen      eventKind = iota // a packet that not all points saw
	eventDuplicate                  // a frame that a point saw again
	eventCorrupt
	eventVNI     // another VNI than expected
	eventAddress // translated wrongly to the tuple of other
	eventPair    // a packet of the flow, and of other if that is a translation of it
	eventThin    // a packet that cannot be told from others
	eventTwin    // a packet that not all points saw, and that looks like another
	eventUnclear // packets of which too little is known
)

// usualEvents is room for what goes wrong on a path of a thousand flows, so that the map does not grow by the length
// of the files.
const usualEvents = 1 << 13

// maxEvents bounds the map of events. Flows times points have far fewer unless someone makes them up;
// what is beyond is unclear.
const maxEvents = 1 << 17

func (c *correlator) note(e event, n uint64) {
	if _, ok := c.events[e]; !ok && len(c.events) >= maxEvents {
		e = event{kind: eventUnclear}
	}
	c.events[e] += n
}

// learn makes flows known before their first packet.
func (c *correlator) learn(tuples []named) {
	for i := range tuples {
		if n, fresh := c.flows.add(tuples[i]); fresh && len(c.cfg.Translations) > 0 {
			c.translate(n)
		}
	}
}

func (c *correlator) began(s *source, first int64) {
	if p := s.point; !c.started[p] {
		c.started[p], c.begin[p] = true, first+c.offset[p]
	}
}

func (c *correlator) ended(s *source) {
	c.over[s.point], c.end[s.point] = true, s.end()+c.offset[s.point]
}

// maxRepeats bounds how many packets with one key are followed at the same time.
const maxRepeats = 16 // as many as fit entry.bits

// repeatKey is added to the key of a packet for the next that looks the same.
const repeatKey uint64 = 0xd6e8feb86659fd93

// see takes sightings of one point.
func (c *correlator) see(point int, sightings []sighting) {
	bit := uint16(1) << point
	offset := c.offset[point]
	expected := c.plan.vni[point]
	for i := range sightings {
		s := &sightings[i]
		n := c.flows.find(s.tuple)
		f := &c.flows.flows[n]
		f.seen[point]++
		f.ttl[point] = s.ttl
		key := s.id ^ flowKey(f.root)
		if n == 0 {
			key = s.id ^ s.tuple
		}
		if s.flags&(sightVXLAN|sightCorrupt|sightThin) != 0 {
			c.remark(point, n, s, expected)
			if s.flags&sightThin != 0 {
				continue
			}
		}
		c.place(key, f, point, bit, s, s.time+offset)
	}
}

// remark notes what is special about a sighting.
func (c *correlator) remark(point int, n uint32, s *sighting, expected uint32) {
	e := event{flow: n, point: uint8(point)}
	if s.flags&sightVXLAN != 0 && s.vni != expected {
		e.kind, e.vni = eventVNI, s.vni
		c.note(e, 1)
		e.vni = 0
	}
	if s.flags&sightCorrupt != 0 {
		e.kind = eventCorrupt
		c.note(e, 1)
	}
	if s.flags&sightThin != 0 {
		e.kind = eventThin
		c.note(e, 1)
	}
}

// place enters a sighting into the table.
func (c *correlator) place(key uint64, f *flow, point int, bit uint16, s *sighting, t int64) {
	multi := uint16(0)
	for n := range maxRepeats {
		e := c.young.find(key, s)
		if e == nil {
			e = c.old.find(key, s)
		}
		if e == nil {
			c.young.insert(entry{
				key: key, first: t, flow: f.root, seq: s.seq,
				bits: min(s.length, maxLength) | uint32(s.flags&entryFlags|multi)<<lengthBits | uint32(n)<<repeatBits,
				mask: bit, sum: s.sum,
			})
			c.follow(f, point, s)
			return
		}
		if e.mask&bit == 0 {
			c.hit(e, f, point, t)
			e.mask |= bit
			c.follow(f, point, s)
			return
		}
		if s.flags&(sightWeak|sightNoID) == 0 {
			c.note(event{flow: f.root, kind: eventDuplicate, point: uint8(point)}, 1)
			return
		}
		// Another packet that looks the same. One of TCP that comes later than any on the way was sent
		// anew; else nothing tells the two apart.
		if s.flags&sightWeak != 0 || t-e.first <= max(c.transit, int64(time.Millisecond)) {
			e.bits |= uint32(entryMulti) << lengthBits
			multi = entryMulti
		}
		key += repeatKey
	}
	c.note(event{flow: f.root, kind: eventUnclear, point: uint8(point)}, 1)
}

// hit notes how long a packet took, and which way it went.
func (c *correlator) hit(e *entry, f *flow, point int, t int64) {
	d := t - e.first
	c.spans[bits.Len64(uint64(max(d, -d)))&63]++
	if e.mask&(e.mask-1) != 0 {
		return // only the second point: it is known then which was the first
	}
	other := bits.TrailingZeros16(e.mask)
	if point < other {
		point, other, d = other, point, -d
	}
	if d > 0 { // the later point on the path saw it later
		f.votes++
	} else {
		f.votes--
	}
	if point == other+1 {
		c.drift.add(point, f.votes > 0, d)
	}
}

// follow counts TCP segments at either end that were sent before.
func (c *correlator) follow(f *flow, point int, s *sighting) {
	if s.flags&sightData == 0 || point != 0 && point != c.points-1 {
		return
	}
	e := &f.ends[min(point, 1)]
	if next := s.seq + s.length; !e.began || int32(next-e.next) > 0 {
		e.next, e.began = next, true
		return
	}
	e.repeats++
}

// advance says that no sighting before t will come, but for what the merger lets run ahead.
func (c *correlator) advance(t int64) {
	if c.turned == 0 {
		c.turned = t
	}
	early := c.young.count >= c.cfg.MaxPending
	if t-c.turned < c.window && !early {
		return
	}
	if early && t-c.turned < c.window {
		c.short = c.short || t-c.turned < 2*c.transit
	}
	c.turned = t
	c.rotate()
	c.measure()
}

// rotate lets go of the packets that had at least a window's time to be seen everywhere.
func (c *correlator) rotate() {
	for i := range c.old.slots {
		e := &c.old.slots[i]
		switch {
		case e.mask == 0:
		case e.mask == c.all && e.flags()&sightFrag == 0:
			c.flows.flows[c.flows.flows[e.flow].root].complete++
		default:
			c.left.add(e)
		}
	}
	c.old.clear()
	c.old, c.young = c.young, c.old
	c.settle()
}

// windowPerTransit is how much longer the window is than what nearly all packets need.
const windowPerTransit = 8

// measure fits the window to the time that packets take, and the offsets to clocks that drift.
func (c *correlator) measure() {
	c.drift.correct(&c.offset, c.points)
	if d, ok := quantile(&c.spans); ok {
		c.transit = d
		if c.cfg.Window == 0 {
			c.window = clampWindow(d * windowPerTransit)
			c.longest = max(c.longest, c.window)
		}
	}
}

func clampWindow(d int64) int64 { return min(max(d, int64(MinWindow)), int64(MaxWindow)) }

// quantile gives a time that no more than one in ten thousand hits took longer, or twice that: the
// buckets are powers of two.
func quantile(spans *[64]uint64) (int64, bool) {
	total := uint64(0)
	for _, n := range spans {
		total += n
	}
	if total == 0 {
		return 0, false
	}
	above := uint64(0)
	for i := len(spans) - 1; i > 0; i-- {
		if above += spans[i]; above > total/10000 {
			return 1<<min(i, 62) - 1, true
		}
	}
	return 0, true
}

// finish settles what is left after the last sighting.
func (c *correlator) finish(sources []*source) {
	for _, s := range sources {
		c.over[s.point] = true
	}
	for range 4 { // young, old, and both generations of leftovers
		c.rotate()
	}
}
