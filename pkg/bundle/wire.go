package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/pcapfile"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// Bits of epb_flags (draft-ietf-opsawg-pcapng section 4.3.1): direction, reception type, offload.
const (
	flagIn          = 1
	flagOut         = 2
	flagOtherHost   = 4 << 2 // reception type promiscuous: not addressed to the interface
	flagCsumPending = 1 << 9
	flagCsumValid   = 1 << 10
	flagGSO         = 1 << 11 // TCP segmentation offloaded
)

// ARPHRD_* of linux/if_arp.h.
const (
	arphrdEther = 1
	arphrdNone  = 65534 // frames start at the IP header
)

// application stands in the capture file as the program that wrote it. It has no version: that is the manifest's.
const application = "podtrace"

// encodeCapture writes a capture as pcapng.
func encodeCapture(c *trace.Case, o *trace.Observed, comments []string) (*recording, []byte, error) {
	r := &recording{ArmNanos: o.ArmNs, BeginNanos: o.Begin, EndNanos: o.End, Points: []point{}, Interfaces: []iface{}}
	var b bytes.Buffer
	w, err := pcapfile.NewWriter(&b, application)
	if err != nil {
		return r, nil, err
	}
	blocks := make(map[iface]int)
	for i := range o.Points {
		p := &o.Points[i]
		r.Points = append(r.Points, fromPoint(p))
		if err := r.describe(w, blocks, p, hardware(c.Snapshot, p)); err != nil {
			return r, nil, err
		}
	}
	points := make(map[int]*trace.Point)
	for i := range o.Points {
		points[o.Points[i].ID] = &o.Points[i]
	}
	for i := range o.Frames {
		f := &o.Frames[i]
		p := points[f.Point]
		if p == nil {
			return r, nil, fmt.Errorf("frame %d is of point %d, which is not there", i, f.Point)
		}
		if err := r.describe(w, blocks, p, f.HWType); err != nil {
			return r, nil, err
		}
		rec := fromFrame(f)
		rec.Interface = blocks[newIface(f.Point, f.HWType)]
		if i < len(comments) {
			rec.Comment = comments[i]
		}
		if err := w.Write(rec); err != nil {
			return r, nil, err
		}
	}
	for i := range o.Points {
		p := &o.Points[i]
		err = errors.Join(err, w.WriteStats(blocks[newIface(p.ID, hardware(c.Snapshot, p))],
			pcapfile.Stats{End: o.End, Received: p.Stats.Packets, Dropped: p.Stats.Drops}))
	}
	err = errors.Join(err, w.Flush())
	return r, b.Bytes(), err
}

// hardware is the type of a point's interface by the tables.
func hardware(s *tables.Snapshot, p *trace.Point) uint16 {
	if ns := s.ByID(p.Netns); ns != nil {
		if l := ns.Link(p.Ifindex); l != nil {
			return l.HardwareTy
		}
	}
	return arphrdEther
}

func newIface(point int, hwType uint16) iface {
	i := iface{Point: point, LinkType: "ethernet", HWType: hwType}
	if hwType == arphrdNone {
		i.LinkType = "raw"
	}
	return i
}

// describe adds an interface block for frames of that type at a point, unless there is one. A point has one,
// except where its index was another device's in between.
func (r *recording) describe(w *pcapfile.Writer, blocks map[iface]int, p *trace.Point, hwType uint16) error {
	i := newIface(p.ID, hwType)
	if _, ok := blocks[i]; ok {
		return nil
	}
	link := pcapfile.LinkEthernet
	if hwType == arphrdNone {
		link = pcapfile.LinkRaw
	}
	n, err := w.AddInterface(pcapfile.Interface{
		Name: p.Interface, Description: fmt.Sprintf("%s %s %s, ifindex %d", p.Node, p.Name, p.Interface, p.Ifindex), LinkType: link,
	})
	blocks[i] = n
	r.Interfaces = append(r.Interfaces, i)
	return err
}

func fromPoint(p *trace.Point) point {
	s := p.Stats
	out := point{
		ID: p.ID, Node: p.Node, Name: p.Name, Netns: p.Netns, Interface: p.Interface, Ifindex: p.Ifindex,
		Packets: s.Packets, Drops: s.Drops, Overflow: s.Overflow, FreezeQueue: s.FreezeQueue, Truncated: s.Truncated, StatsID: s.ID, Flapped: s.Flapped,
	}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	return out
}

func (p *point) point() trace.Point {
	s := capture.PointStats{
		ID: p.StatsID, Packets: p.Packets, Drops: p.Drops, Overflow: p.Overflow, FreezeQueue: p.FreezeQueue, Truncated: p.Truncated, Flapped: p.Flapped,
	}
	if p.Error != "" {
		s.Err = errors.New(p.Error)
	}
	return trace.Point{ID: p.ID, Netns: p.Netns, Node: p.Node, Name: p.Name, Interface: p.Interface, Ifindex: p.Ifindex, Stats: s}
}

// fromFrame makes a record of a frame. One beyond what a capture file holds is cut: its length on the wire stays.
func fromFrame(f *capture.Frame) *pcapfile.Record {
	rec := &pcapfile.Record{
		Time: f.Time.UnixNano(), OrigLen: f.WireLen, Data: f.Data[:min(len(f.Data), pcapfile.MaxPacket)], Flags: flagIn,
	}
	if f.Dir == capture.Out {
		rec.Flags = flagOut
	}
	for _, b := range []struct {
		on  bool
		bit uint32
	}{{f.OtherHost, flagOtherHost}, {f.CsumNotReady, flagCsumPending}, {f.CsumValid, flagCsumValid}, {f.GSO, flagGSO}} {
		if b.on {
			rec.Flags |= b.bit
		}
	}
	if f.Stamp != capture.StampTap || f.GSOSize != 0 {
		rec.Local = []byte{byte(f.Stamp), 0, byte(f.GSOSize), byte(f.GSOSize >> 8)}
	}
	return rec
}

// maxFrames bounds the frames of a capture, which take more room in memory than in a file: 30 points with as many
// as a tap keeps.
const maxFrames = 30 * capture.DefaultMaxFrames

// sectionHeader is the type of the block that begins a pcapng file.
var sectionHeader = []byte{0x0a, 0x0d, 0x0d, 0x0a}

// decodeCapture reads what encodeCapture wrote.
func decodeCapture(raw []byte, r *recording) (*trace.Observed, error) {
	o := &trace.Observed{ArmNs: r.ArmNanos, Begin: r.BeginNanos, End: r.EndNanos}
	known := make(map[int]bool)
	for i := range r.Points {
		if known[r.Points[i].ID] {
			return nil, fmt.Errorf("point %d is there twice", r.Points[i].ID)
		}
		known[r.Points[i].ID] = true
		o.Points = append(o.Points, r.Points[i].point())
	}
	if !bytes.HasPrefix(raw, sectionHeader) {
		return nil, fmt.Errorf("%s: is no pcapng", r.File) // compressed ones would need a bound of their own
	}
	in, err := pcapfile.NewReader(bytes.NewReader(raw), r.File)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	for {
		var rec pcapfile.Record
		if err := in.Next(&rec); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if rec.Interface >= len(r.Interfaces) || !known[r.Interfaces[rec.Interface].Point] {
			return nil, fmt.Errorf("%s: byte %d: interface %d is no point of the manifest", r.File, rec.Offset, rec.Interface)
		}
		if len(o.Frames) == maxFrames {
			return nil, fmt.Errorf("%s: more than %d frames", r.File, maxFrames)
		}
		o.Frames = append(o.Frames, toFrame(&rec, r.Interfaces[rec.Interface]))
	}
	if d := in.Damage(); d != nil {
		return nil, d
	}
	return o, nil
}

func toFrame(rec *pcapfile.Record, i iface) capture.Frame {
	f := capture.Frame{
		Point: i.Point, Time: time.Unix(0, rec.Time).UTC(), HWType: i.HWType, Data: bytes.Clone(rec.Data), WireLen: max(rec.OrigLen, len(rec.Data)),
		OtherHost: rec.Flags>>2&7 == flagOtherHost>>2, CsumNotReady: rec.Flags&flagCsumPending != 0,
		CsumValid: rec.Flags&flagCsumValid != 0, GSO: rec.Flags&flagGSO != 0,
	}
	if rec.Flags&3 == flagOut {
		f.Dir = capture.Out
	}
	if l := rec.Local; len(l) == 4 && capture.Stamp(l[0]) <= capture.StampDevice {
		f.Stamp, f.GSOSize = capture.Stamp(l[0]), uint16(l[2])|uint16(l[3])<<8
	}
	return f
}
