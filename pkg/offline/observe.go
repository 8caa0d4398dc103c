package offline

import (
	"fmt"
	"time"

	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// maxFrames bounds the frames of all points together.
const maxFrames = 1 << 20

// spot is one interface of one namespace.
type spot struct {
	ns  netns.ID
	dev tables.Ifindex
}

// observer puts captures together as if podtrace had taken them.
type observer struct {
	c     *trace.Case
	o     *trace.Observed
	taken map[spot]string // the file that is of an interface
	spans map[int]span    // by point
	from  map[int]string  // the file of a point, and how its place is known
	ways  *ways
	notes []string
}

// span is the time that a capture shows, ns since the epoch; zero where it shows nothing.
type span struct{ first, last int64 }

func (s *span) add(t int64) {
	if s.first == 0 || t < s.first {
		s.first = t
	}
	s.last = max(s.last, t)
}

// observe reads the captures. It gives what each point was read from.
func observe(c *trace.Case, recordings []*recording, w *ways) (*trace.Observed, map[int]string, error) {
	b := &observer{c: c, o: &trace.Observed{}, ways: w, taken: make(map[spot]string), spans: make(map[int]span), from: make(map[int]string)}
	for _, r := range recordings {
		if r.at == "" {
			continue // nothing tells where: said already
		}
		if err := b.add(r); err != nil {
			return nil, nil, err
		}
	}
	if len(b.o.Points) == 0 {
		c.Incomplete = append(c.Incomplete, b.notes...)
		return nil, nil, nil
	}
	var spans []span
	for i := range b.o.Points {
		spans = append(spans, b.spans[i])
	}
	c.Incomplete = append(append(c.Incomplete, b.notes...), overlap(b.o, spans)...)
	return b.o, b.from, nil
}

// add takes the frames of one file, to the points that they were taken at.
func (b *observer) add(r *recording) error {
	ns, link, err := place(b.c.Snapshot, r.at)
	switch {
	case ns == nil:
		return &PlaceError{r.path, err.Error()}
	case link == nil && !r.knowsInterfaces():
		return &PlaceError{r.path, err.Error() + r.whyNot()}
	case link != nil && !r.severalInterfaces():
		return b.one(r, ns, link)
	}
	return b.several(r, ns)
}

// one: all frames of the file passed one interface.
func (b *observer) one(r *recording, ns *tables.Netns, link *tables.Link) error {
	id, err := b.point(r, ns, link)
	if err != nil {
		return err
	}
	s := sides(b.c.Snapshot, ns, link)
	for i := range r.packets {
		b.frame(id, &r.packets[i], &s)
	}
	b.stats(id, r, -1)
	return nil
}

// several: each frame says which interface it passed, by number (cooked captures of version 2) or by name (pcapng).
// Those of interfaces that no listing shows are left out.
func (b *observer) several(r *recording, ns *tables.Netns) error {
	type at struct {
		id int
		s  side
	}
	known := make(map[int]*at) // by ifindex
	strange := make(map[string]int)
	for i := range r.packets {
		p := &r.packets[i]
		link, name := r.interfaceOf(ns, p)
		if link == nil {
			strange[name]++
			continue
		}
		a := known[int(link.Index)]
		if a == nil {
			id, err := b.point(r, ns, link)
			if err != nil {
				return err
			}
			a = &at{id, sides(b.c.Snapshot, ns, link)}
			known[int(link.Index)] = a
			b.stats(id, r, p.iface)
		}
		b.frame(a.id, p, &a.s)
	}
	for _, name := range sortedKeys(strange) {
		b.notes = append(b.notes, fmt.Sprintf("capture %q: %d packets of %s, which no listing of %s %s shows", r.path, strange[name], name, ns.Node, ns.Name))
	}
	return nil
}

// point makes the point of an interface.
func (b *observer) point(r *recording, ns *tables.Netns, link *tables.Link) (int, error) {
	at := spot{ns.ID, link.Index}
	if other, ok := b.taken[at]; ok {
		return 0, &PlaceError{r.path, fmt.Sprintf("is of the same interface as %q", other)}
	}
	b.taken[at] = r.path
	p := trace.Point{ID: len(b.o.Points), Netns: ns.ID, Node: ns.Node, Name: ns.Name, Interface: link.Name, Ifindex: link.Index}
	p.Stats.ID = p.ID
	b.from[p.ID] = r.path
	if r.why != "" {
		b.from[p.ID] += ": " + r.why
	}
	b.o.Points = append(b.o.Points, p)
	return p.ID, nil
}

func (b *observer) frame(id int, p *packet, s *side) {
	f := p.frame
	f.Point = id
	dir, sure := s.direction(&f, p.flags)
	if !sure {
		if by, ok := b.ways.direction(b.o.Points[id], &f); ok {
			dir = by
		}
	}
	f.Dir = dir
	f.GSO = s.mtu > 0 && f.WireLen > s.mtu+vlanHeader
	b.o.Frames = append(b.o.Frames, f)
	sp := b.spans[id]
	sp.add(f.Time.UnixNano())
	b.spans[id] = sp
	b.o.Points[id].Stats.Packets++
}

// stats takes what the file says of its end: damage, and what the capture lost, of one of its interfaces or of all.
func (b *observer) stats(id int, r *recording, iface int) {
	st := &b.o.Points[id].Stats
	for i := range r.interfaces {
		f := &r.interfaces[i]
		if iface >= 0 && i != iface {
			continue
		}
		st.Drops += f.Drops()
		sp := b.spans[id]
		if f.Stats.Start > 0 {
			sp.add(f.Stats.Start)
		}
		if f.Stats.End > 0 {
			sp.add(f.Stats.End)
		}
		b.spans[id] = sp
	}
	if r.others.last != 0 {
		sp := b.spans[id]
		sp.add(r.others.first)
		sp.add(r.others.last)
		b.spans[id] = sp
	}
	if r.damage != nil {
		st.Err = r.damage
	}
}

// stopped is how far apart people stop the captures of one path. A point that falls silent longer before the
// others shows a path that broke, not a capture that ended.
const stopped = 15 * time.Second

// underWay is how long before Observed.End a packet may set out and still be on its way. Here the end is the last
// packet of a capture, and that one was seen.
const underWay = 20 * time.Millisecond

// overlap finds the time in which all points were there to see: captures are not begun at one moment, nor ended.
// It says what is not judged for that.
func overlap(o *trace.Observed, spans []span) (notes []string) {
	var begin, end, earliest, latest int64
	for _, s := range spans {
		if s.last == 0 {
			continue
		}
		begin, latest = max(begin, s.first), max(latest, s.last)
		if end == 0 || s.last < end {
			end = s.last
		}
		if earliest == 0 || s.first < earliest {
			earliest = s.first
		}
	}
	if begin >= end { // clocks too far apart, or one capture after the other
		return nil
	}
	o.Begin = begin
	if d := time.Duration(begin - earliest); d > time.Second {
		notes = append(notes, fmt.Sprintf("the captures do not begin together: packets of the first %s are not judged", d.Round(time.Millisecond)))
	}
	if d := time.Duration(latest - end); d <= stopped {
		o.End = end + underWay.Nanoseconds()
		if d > time.Second {
			notes = append(notes, fmt.Sprintf("the captures do not end together: packets of the last %s are not judged", d.Round(time.Millisecond)))
		}
	}
	return notes
}

// commonest is the protocol and port of most packets from source to destination.
func commonest(c *trace.Case, f forward.Flow, recordings []*recording) (proto uint8, port uint16) {
	type key struct {
		proto uint8
		port  uint16
	}
	d := decode.Decoder{VXLANPorts: vxlanPorts(c.Snapshot)}
	counts := make(map[key]int)
	var best key
	var h decode.Frame
	for _, r := range recordings {
		for i := range r.packets {
			decodeFrame(&d, &r.packets[i].frame, &h)
			in := h.Flow()
			if in.Dst != f.Dst || f.Src.IsValid() && in.Src != f.Src {
				continue
			}
			k := key{in.Proto, in.DstPort}
			if in.Proto == forward.ProtoICMP || in.Proto == forward.ProtoICMPv6 {
				k.port = 0
			}
			counts[k]++
			if n, m := counts[k], counts[best]; n > m || n == m && (k.proto < best.proto || k.proto == best.proto && k.port < best.port) {
				best = k
			}
		}
	}
	return best.proto, best.port
}
