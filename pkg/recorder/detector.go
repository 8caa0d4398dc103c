package recorder

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/decode"
)

// Kind is what was noticed.
type Kind string

// The kinds.
const (
	Lost       Kind = "lost"       // seen at a hop and at none further on
	Rewrite    Kind = "rewrite"    // headers that no packet had at this hop before
	Retransmit Kind = "retransmit" // a TCP segment was sent again
	Slow       Kind = "slow"       // took longer than the bound
)

// Notice is one thing that was noticed, with the packet.
type Notice struct {
	Kind  Kind
	Reply bool // on the way back
	Hop   int  // index on the leg: where it was seen last, or has the headers; -1: does not apply
	Time  time.Time
	Took  time.Duration // of Slow
	// The packet's flow as it set out on its leg; ICMP has its echo id in SrcPort.
	Proto            uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// String says it in a few words.
func (n Notice) String() string {
	leg := "request"
	if n.Reply {
		leg = "reply"
	}
	switch n.Kind {
	case Lost:
		return fmt.Sprintf("a packet of the %s was not seen after hop %d", leg, n.Hop+1)
	case Rewrite:
		return fmt.Sprintf("new headers at hop %d of the %s", n.Hop+1, leg)
	case Retransmit:
		return fmt.Sprintf("a TCP segment of the %s was sent again", leg)
	case Slow:
		return fmt.Sprintf("a packet of the %s took %s", leg, n.Took)
	}
	return string(n.Kind)
}

// Place is a tap and the direction through it.
type Place struct {
	Point int
	Dir   capture.Direction
}

// Config says what the path is.
type Config struct {
	// A and B are the addresses that either end has on the way, at most 256 each; the request goes from A to B.
	A, B []netip.Addr
	// Legs are the places that packets of the request and of the reply pass, in order. One that cannot be
	// seen has a negative Point.
	Legs [2][]Place
	// Encap are the points where packets are encapsulated, and the decoder for them.
	Encap   map[int]bool
	Decoder decode.Decoder
	// Grace is how long after its first sighting a packet must have been seen everywhere. It has to be longer
	// than any tap holds a frame back.
	Grace time.Duration
	// Bound is the longest time from first to last hop; 0: any.
	Bound time.Duration
}

// Stats is what a detector has seen.
type Stats struct {
	Sightings uint64
	Packets   uint64 // told apart, by the first hop
	Unjudged  uint64 // packets for which there was no room in the table
	Noticed   map[Kind]uint64
}

// Detector looks at every frame. It is for one goroutine.
type Detector struct {
	cfg    Config
	notify func(Notice)
	hops   [2][]int8 // by leg: place → index of the hop, -1
	last   [2]int8   // the last hop that can be seen
	plain  decode.Decoder
	frame  decode.Frame
	young  *table // packets first seen in this period
	old    *table // and in the one before
	since  time.Time
	shapes map[shape]bool
	recent [2][]uint64 // by leg and hop: the shape that was there last
	flows  map[conn]*tcpState
	stats  Stats
}

// New gives a detector that calls notify for what it notices, from Look and Tick.
func New(cfg Config, notify func(Notice)) *Detector {
	d := &Detector{
		cfg: cfg, notify: notify, young: newTable(), old: newTable(),
		shapes: map[shape]bool{}, flows: map[conn]*tcpState{}, stats: Stats{Noticed: map[Kind]uint64{}},
	}
	for l, places := range cfg.Legs {
		most := -1
		for _, p := range places {
			most = max(most, p.Point)
		}
		d.hops[l] = slices.Repeat([]int8{-1}, 2*(most+1))
		d.last[l] = -1
		d.recent[l] = make([]uint64, len(places))
		for i, p := range places {
			if p.Point < 0 || i >= maxHops {
				continue
			}
			if at := slot(p.Point, p.Dir); d.hops[l][at] < 0 {
				d.hops[l][at] = int8(i)
				d.last[l] = int8(i)
			}
		}
	}
	return d
}

// maxHops is how many places of a leg are told apart: the bits of entry.mask.
const maxHops = 32

func slot(point int, dir capture.Direction) int {
	if dir == capture.Out {
		return 2*point + 1
	}
	return 2 * point
}

// Stats gives the counts so far.
func (d *Detector) Stats() Stats { return d.stats }

// first is the first hop of a leg that can be seen.
func (d *Detector) first(leg int) int8 {
	for i, p := range d.cfg.Legs[leg] {
		if p.Point >= 0 {
			return int8(i)
		}
	}
	return -1
}

// Look takes a frame.
func (d *Detector) Look(f *capture.Frame) {
	d.stats.Sightings++
	dec := &d.plain
	if d.cfg.Encap[f.Point] {
		dec = &d.cfg.Decoder
	}
	const arphrdNone = 65534
	if f.HWType == arphrdNone {
		dec.DecodeIP(f.Data, f.WireLen, &d.frame)
	} else {
		dec.Decode(f.Data, f.WireLen, &d.frame)
	}
	h := d.frame.Flow()
	leg := d.legOf(h)
	if leg < 0 || d.frame.HasQuoted || h.IsNeighbour() {
		return
	}
	at := slot(f.Point, f.Dir)
	if at >= len(d.hops[leg]) || d.hops[leg][at] < 0 {
		return
	}
	hop := d.hops[leg][at]
	d.shape(f, leg, hop, h)
	if h.MF || h.FragOffset > 0 || !h.HasL4 {
		return // put together at some points and not at others
	}
	switch {
	case h.Proto == decode.ProtoTCP && (h.PayloadLen > 0 || h.TCPFlags&decode.TCPSyn != 0):
		if hop == d.first(leg) {
			d.sent(f, leg, hop, h)
		}
		if h.PayloadLen > 0 {
			return // cut into segments at some points and not at others; a lost one is sent again
		}
	case f.GSOSize > 0:
		return
	}
	d.pass(f, leg, hop, h)
}

// legOf gives 0 for the request, 1 for the reply, -1 for neither.
func (d *Detector) legOf(h *decode.Headers) int {
	if !h.HasIP {
		return -1
	}
	switch {
	case slices.Contains(d.cfg.A, h.Src) && slices.Contains(d.cfg.B, h.Dst):
		return 0
	case slices.Contains(d.cfg.B, h.Src) && slices.Contains(d.cfg.A, h.Dst):
		return 1
	}
	return -1
}

// ends are the addresses that packets of a leg come from and go to.
func (d *Detector) ends(leg int) (from, to []netip.Addr) {
	if leg == 1 {
		return d.cfg.B, d.cfg.A
	}
	return d.cfg.A, d.cfg.B
}

// pass notes that a packet was at a hop.
func (d *Detector) pass(f *capture.Frame, leg int, hop int8, h *decode.Headers) {
	k := d.identity(f, leg, h)
	e := d.old.find(k)
	if e == nil {
		if e = d.young.get(k); e == nil {
			if hop == d.first(leg) {
				d.stats.Unjudged++
			}
			return
		}
	}
	t := f.Time.UnixNano()
	if e.mask == 0 {
		e.first, e.last, e.stamp = t, t, f.Stamp
	}
	if hop == d.first(leg) {
		d.stats.Packets++
		if e.mask&(1<<hop) != 0 { // one more with the same identity: which of them is seen further on, nobody can say
			e.twin = true
		}
		e.proto, e.sport, e.dport = h.Proto, h.SrcPort, h.DstPort
		if h.IsEcho() {
			e.sport = h.ICMPID
		}
		from, to := d.ends(leg)
		e.src, e.dst, e.reply = uint8(slices.Index(from, h.Src)), uint8(slices.Index(to, h.Dst)), leg == 1
	}
	e.first, e.last = min(e.first, t), max(e.last, t)
	e.mask |= 1 << hop
	e.mixed = e.mixed || f.Stamp != e.stamp
}

// Tick lets time pass: packets that were first seen long enough ago are judged, once everything that was seen until
// complete has been looked at. It reports whether any are still waiting, for which it has to be called again.
func (d *Detector) Tick(now, complete time.Time) bool {
	if d.since.IsZero() {
		d.since = now
	}
	if complete.Sub(d.since) < d.cfg.Grace {
		return d.young.n+d.old.n > 0
	}
	d.since = now
	d.old.each(d.settle)
	d.old.clear()
	d.young, d.old = d.old, d.young
	return d.old.n > 0
}

// settle judges a packet whose time is up.
func (d *Detector) settle(e *entry) {
	leg := 0
	if e.reply {
		leg = 1
	}
	first, last := d.first(leg), d.last[leg]
	if first < 0 || e.mask&(1<<first) == 0 || e.twin {
		return
	}
	from, to := d.ends(leg)
	n := Notice{
		Reply: e.reply, Hop: highest(e.mask), Time: time.Unix(0, e.first).UTC(), Proto: e.proto,
		Src: from[e.src], Dst: to[e.dst], SrcPort: e.sport, DstPort: e.dport,
	}
	took := time.Duration(e.last - e.first)
	switch {
	case e.mask&(1<<last) == 0:
		n.Kind = Lost
	case d.cfg.Bound > 0 && took > d.cfg.Bound && !e.mixed:
		n.Kind, n.Took = Slow, took
	default:
		return
	}
	d.tell(n)
}

func highest(mask uint32) int {
	for i := maxHops - 1; i >= 0; i-- {
		if mask&(1<<i) != 0 {
			return i
		}
	}
	return -1
}

func (d *Detector) tell(n Notice) {
	d.stats.Noticed[n.Kind]++
	d.notify(n)
}
