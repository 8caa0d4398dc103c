package offline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/pcapfile"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

const (
	maxFrames  = 1 << 20 // of all points together
	snapLen    = 512     // bytes kept of a frame: all headers, and what tells payloads apart
	arphrdNone = 65534   // the hardware type of devices whose frames start at the IP header
)

// observe reads the captures as if podtrace had taken them.
func observe(c *trace.Case, sources []source) (*trace.Observed, error) {
	o := &trace.Observed{}
	var spans []span
	type spot struct {
		ns  netns.ID
		dev tables.Ifindex
	}
	seen := make(map[spot]string)
	for id, src := range sources {
		if src.at == "" {
			return nil, &PlaceError{src.path, "nothing says where it was taken"}
		}
		ns, link, err := place(c.Snapshot, src.at)
		if err != nil {
			return nil, &PlaceError{src.path, err.Error()}
		}
		at := spot{ns.ID, link.Index}
		if other, ok := seen[at]; ok {
			return nil, &PlaceError{src.path, fmt.Sprintf("is of the same interface as %q", other)}
		}
		seen[at] = src.path
		p := trace.Point{ID: id, Netns: ns.ID, Node: ns.Node, Name: ns.Name, Interface: link.Name, Ifindex: link.Index}
		p.Stats.ID = id
		sp, err := read(o, &p, src.path, sides(c.Snapshot, ns, link))
		if err != nil {
			return nil, err
		}
		o.Points, spans = append(o.Points, p), append(spans, sp)
	}
	c.Incomplete = append(c.Incomplete, overlap(o, spans)...)
	return o, nil
}

// span is the time that a capture shows, ns since the epoch; zero where it shows nothing.
type span struct{ first, last int64 }

// read appends the frames of one capture.
func read(o *trace.Observed, p *trace.Point, path string, s side) (sp span, err error) {
	r, err := pcapfile.Open(path)
	if err != nil {
		return sp, err
	}
	defer r.Close() //nolint:errcheck // only read
	for {
		var rec pcapfile.Record
		if err := r.Next(&rec); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return sp, err
		}
		if len(o.Frames) == maxFrames {
			return sp, fmt.Errorf("capture %q: more than %d frames of all captures: filter them to the two ends", path, maxFrames)
		}
		f := capture.Frame{
			Point: p.ID, Time: time.Unix(0, rec.Time).UTC(), WireLen: max(rec.OrigLen, len(rec.Data)),
			Data: bytes.Clone(rec.Data[:min(len(rec.Data), snapLen)]),
		}
		switch rec.LinkType {
		case pcapfile.LinkEthernet:
			f.HWType = 1
		case pcapfile.LinkRaw:
			f.HWType = arphrdNone
		default:
			return sp, &PlaceError{path, fmt.Sprintf("has link type %d, of no single interface: capture with -i INTERFACE, not -i any", rec.LinkType)}
		}
		f.Dir = s.direction(&f, rec.Flags)
		f.GSO = s.mtu > 0 && f.WireLen > s.mtu+vlanHeader
		o.Frames = append(o.Frames, f)
		if sp.first == 0 || rec.Time < sp.first {
			sp.first = rec.Time
		}
		sp.last = max(sp.last, rec.Time)
		p.Stats.Packets++
	}
	if ifs := r.Interfaces(); len(ifs) > 1 {
		return sp, &PlaceError{path, fmt.Sprintf("is of %d interfaces", len(ifs))}
	} else if len(ifs) == 1 {
		p.Stats.Drops = ifs[0].Drops()
		sp.last = max(sp.last, ifs[0].Stats.End)
		if st := ifs[0].Stats.Start; st != 0 && (sp.first == 0 || st < sp.first) {
			sp.first = st
		}
	}
	if d := r.Damage(); d != nil {
		p.Stats.Err = d
	}
	return sp, nil
}

// vlanHeader is what a frame has beyond its MTU: an Ethernet header with one tag, bytes.
const vlanHeader = 18

// side is what tells the direction of a frame at an interface, where the capture does not say: a kernel sends with
// its own address, and what lies behind a veth sends with its own.
type side struct {
	own, peer ether.MAC
	addrs     []tables.Addr
	index     tables.Ifindex
	mtu       int
}

func sides(s *tables.Snapshot, ns *tables.Netns, l *tables.Link) side {
	out := side{own: l.MAC, addrs: ns.Addrs, index: l.Index, mtu: l.MTU}
	if l.Kind != "veth" || l.Parent == 0 {
		return out
	}
	if p := s.ByID(ns.Peers[l.ParentNetns]); p != nil && l.ParentNetns >= 0 {
		if peer := p.Link(l.Parent); peer != nil {
			out.peer = peer.MAC
		}
	}
	return out
}

// direction follows epb_flags where they say it, then the addresses.
func (s *side) direction(f *capture.Frame, flags uint32) capture.Direction {
	const in, out, ethernet = 1, 2, 14
	switch flags & 3 {
	case in:
		return capture.In
	case out:
		return capture.Out
	}
	if f.HWType == arphrdNone {
		return s.byAddress(f)
	}
	if len(f.Data) < ethernet {
		return capture.In
	}
	dst, src := ether.MAC(f.Data[:6]), ether.MAC(f.Data[6:12])
	switch {
	case src == s.own, !s.peer.IsZero() && dst == s.peer:
		return capture.Out
	case dst == s.own, !s.peer.IsZero() && src == s.peer, s.peer.IsZero():
		return capture.In
	default: // a bridge hands on what another sent
		return capture.Out
	}
}

func (s *side) byAddress(f *capture.Frame) capture.Direction {
	var d decode.Decoder
	var h decode.Frame
	d.DecodeIP(f.Data, f.WireLen, &h)
	for _, a := range s.addrs {
		if a.Index == s.index && a.Prefix.Addr() == h.Outer.Src {
			return capture.Out
		}
	}
	return capture.In
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
func commonest(c *trace.Case, f forward.Flow) (proto uint8, port uint16) {
	type key struct {
		proto uint8
		port  uint16
	}
	d := decode.Decoder{VXLANPorts: []uint16{4789, 8472}}
	for _, n := range c.Snapshot.Netns {
		for _, l := range n.Links {
			if l.VXLAN != nil && l.VXLAN.Port != 0 {
				d.VXLANPorts = append(d.VXLANPorts, l.VXLAN.Port)
			}
		}
	}
	counts := make(map[key]int)
	var best key
	var h decode.Frame
	for i := range c.Observed.Frames {
		fr := &c.Observed.Frames[i]
		if fr.HWType == arphrdNone {
			d.DecodeIP(fr.Data, fr.WireLen, &h)
		} else {
			d.Decode(fr.Data, fr.WireLen, &h)
		}
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
	return best.proto, best.port
}
