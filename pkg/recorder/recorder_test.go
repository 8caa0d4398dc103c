package recorder

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtrace/podtrace/pkg/capture"
)

var (
	podA, podB = netip.MustParseAddr("10.244.1.32"), netip.MustParseAddr("10.244.2.40")
	begin      = time.Unix(1_700_000_000, 0).UTC()
)

// path is three points in a row, there and back.
func path() Config {
	return Config{
		A: []netip.Addr{podA}, B: []netip.Addr{podB}, Grace: 40 * time.Millisecond,
		Legs: [2][]Place{
			{{0, capture.Out}, {-1, capture.In}, {1, capture.In}, {2, capture.In}},
			{{2, capture.Out}, {1, capture.Out}, {0, capture.In}},
		},
	}
}

// packet is a frame of IPv4 without options.
type packet struct {
	reply       bool
	id          uint16
	ttl, proto  uint8
	l4          []byte
	sport, port uint16
}

func udp(id uint16) packet {
	return packet{id: id, ttl: 64, proto: 17, sport: 40000, port: 53, l4: []byte("query")}
}

// segment is of TCP, with so many bytes of data.
func segment(seq uint32, flags byte, data int) packet {
	l4 := make([]byte, 16+data)
	binary.BigEndian.PutUint32(l4, seq)
	l4[8], l4[9] = 5<<4, flags
	return packet{id: uint16(seq), ttl: 64, proto: 6, sport: 40000, port: 80, l4: l4}
}

func (p packet) frame(point int, dir capture.Direction, at time.Duration) *capture.Frame {
	src, dst, sport, dport := podA, podB, p.sport, p.port
	if p.reply {
		src, dst, sport, dport = podB, podA, p.port, p.sport
	}
	l4 := binary.BigEndian.AppendUint16(nil, sport)
	l4 = binary.BigEndian.AppendUint16(l4, dport)
	if p.proto == 17 {
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(p.l4)))
		l4 = append(l4, 0, 0)
	}
	l4 = append(l4, p.l4...)
	b := []byte{2, 0, 0, 0, 0, byte(point), 2, 0, 0, 0, 1, byte(point), 8, 0, 0x45, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(l4)))
	b = binary.BigEndian.AppendUint16(b, p.id)
	b = append(b, 0x40, 0, p.ttl, p.proto, 0, 0)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = append(b, l4...)
	return &capture.Frame{Point: point, Dir: dir, Time: begin.Add(at), HWType: 1, Data: b, WireLen: len(b)}
}

// watched runs frames through a detector and gives what it noticed, headers that are new aside.
func watched(cfg Config, frames ...*capture.Frame) (kinds []Kind, all []Notice) {
	d := New(cfg, func(n Notice) {
		all = append(all, n)
		if n.Kind != Rewrite {
			kinds = append(kinds, n.Kind)
		}
	})
	d.Tick(begin, begin)
	for _, f := range frames {
		d.Look(f)
	}
	for i := range 4 {
		at := begin.Add(time.Duration(i+1) * cfg.Grace)
		d.Tick(at, at)
	}
	return kinds, all
}

// along gives the sightings of a packet of the request at the first n of its three points.
func along(p packet, n int, start time.Duration) (out []*capture.Frame) {
	for i, dir := range []capture.Direction{capture.Out, capture.In, capture.In}[:n] {
		out = append(out, p.frame(i, dir, start+time.Duration(i)*time.Millisecond))
	}
	return out
}

func TestDetector(t *testing.T) {
	join := func(lists ...[]*capture.Frame) (out []*capture.Frame) {
		for _, l := range lists {
			out = append(out, l...)
		}
		return out
	}
	reversed := along(udp(1), 3, 0)
	reversed[0], reversed[2] = reversed[2], reversed[0]
	answer := udp(9)
	answer.reply = true
	stack := along(udp(1), 3, 0)
	stack[2].Stamp = capture.StampStack
	bound := path()
	bound.Bound = time.Millisecond
	super := udp(1)
	big := along(super, 1, 0)
	big[0].GSOSize = 1400
	for _, tt := range []struct {
		name   string
		cfg    Config
		frames []*capture.Frame
		want   []Kind
	}{
		{"seen everywhere", path(), along(udp(1), 3, 0), nil},
		{"read in another order", path(), reversed, nil},
		{"lost after the second point", path(), along(udp(1), 2, 0), []Kind{Lost}},
		{"one of two is lost", path(), join(along(udp(1), 3, 0), along(udp(2), 1, 0)), []Kind{Lost}},
		{"two that nothing tells apart", path(), join(along(udp(1), 3, 0), along(udp(1), 1, 0)), nil},
		{"answer lost", path(), []*capture.Frame{answer.frame(2, capture.Out, 0)}, []Kind{Lost}},
		{"not from the first point", path(), along(udp(1), 3, 0)[1:2], nil},
		{"slow", bound, along(udp(1), 3, 0), []Kind{Slow}},
		{"times that do not compare", bound, stack, nil},
		{"sent again", path(), join(along(segment(100, 0x10, 50), 3, 0), along(segment(150, 0x10, 50), 3, 0), along(segment(100, 0x10, 50), 3, 0)), []Kind{Retransmit}},
		{"keep-alive", path(), join(along(segment(100, 0x10, 50), 3, 0), along(segment(149, 0x10, 1), 3, 0)), nil},
		{"SYN sent again", path(), join(along(segment(100, 2, 0), 1, 0), along(segment(100, 2, 0), 1, 0)), []Kind{Retransmit}},
		{"acknowledgement lost", path(), along(segment(100, 0x10, 0), 1, 0), []Kind{Lost}},
		{"super-packet of UDP", path(), big, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kinds, _ := watched(tt.cfg, tt.frames...)
			if d := cmp.Diff(tt.want, kinds); d != "" {
				t.Errorf("noticed (-want +got):\n%s", d)
			}
		})
	}
}

func TestNoticeNamesThePacket(t *testing.T) {
	_, all := watched(path(), along(udp(1), 2, 0)...)
	want := Notice{Kind: Lost, Hop: 2, Time: begin, Proto: 17, Src: podA, Dst: podB, SrcPort: 40000, DstPort: 53}
	if d := cmp.Diff(want, all[len(all)-1], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("notice (-want +got):\n%s", d)
	}
}

// TestRewrite: headers are new once at each hop, and again when they change there.
func TestRewrite(t *testing.T) {
	odd := udp(3)
	odd.ttl = 9
	frames := append(along(udp(1), 3, 0), along(udp(2), 3, 0)...)
	_, before := watched(path(), frames...)
	_, after := watched(path(), append(frames, odd.frame(1, capture.In, 0), odd.frame(1, capture.In, 0))...)
	if len(before) != 3 || len(after) != 4 || after[3].Kind != Rewrite || after[3].Hop != 2 {
		t.Errorf("%d notices, then %+v", len(before), after)
	}
}

// TestTableFull: packets beyond the table are counted, and no others accused for it.
func TestTableFull(t *testing.T) {
	d := New(path(), func(n Notice) {
		if n.Kind != Rewrite {
			t.Fatalf("noticed %v", n)
		}
	})
	d.Tick(begin, begin)
	const many = tableSize + 1000
	for i := range many {
		p := udp(uint16(i))
		p.l4 = binary.BigEndian.AppendUint32(nil, uint32(i))
		for _, f := range along(p, 3, 0) {
			d.Look(f)
		}
	}
	d.Tick(begin.Add(time.Second), begin.Add(time.Second))
	d.Tick(begin.Add(2*time.Second), begin.Add(2*time.Second))
	if s := d.Stats(); s.Packets != tableFull || s.Unjudged != many-tableFull || s.Sightings != 3*many {
		t.Errorf("stats %+v", s)
	}
}

func TestHistory(t *testing.T) {
	h := NewHistory(1 << 16)
	var want []capture.Frame
	for i := range 3000 {
		f := udp(uint16(i)).frame(i%7, capture.Direction(i%2), time.Duration(i)*time.Millisecond)
		f.GSOSize, f.OtherHost, f.CsumNotReady, f.CsumValid, f.GSO, f.Stamp = uint16(i), i%3 == 0, i%5 == 0, i%7 == 0, i%11 == 0, capture.StampStack
		h.Add(f)
		want = append(want, *f)
	}
	got := h.Frames(begin, begin.Add(time.Hour), 1<<20)
	if len(got) < 300 || len(got) == len(want) {
		t.Fatalf("%d frames of %d in 64 KiB", len(got), len(want))
	}
	if d := cmp.Diff(want[len(want)-len(got):], got); d != "" {
		t.Errorf("the newest frames (-want +got):\n%s", d)
	}
	if at := h.Oldest(); !at.Equal(got[0].Time) {
		t.Errorf("oldest %v, want %v", at, got[0].Time)
	}
	last := h.Frames(begin.Add(2990*time.Millisecond), begin.Add(2995*time.Millisecond), 4)
	if len(last) != 4 || !last[3].Time.Equal(begin.Add(2995*time.Millisecond)) {
		t.Errorf("%d frames of a window, the last at %v", len(last), last[len(last)-1].Time)
	}
	large := capture.Frame{Time: begin, Data: make([]byte, 1<<17), WireLen: 1 << 17}
	h.Add(&large)
	if got := h.Frames(begin, begin, 1); len(got) != 1 || !got[0].Truncated() {
		t.Error("a frame larger than a slab is not kept in part")
	}
}

func BenchmarkRecorder(b *testing.B) {
	d, h := New(path(), func(Notice) {}), NewHistory(8<<20)
	var frames [3]*capture.Frame
	for i, f := range along(udp(0), 3, 0) {
		frames[i] = f
	}
	i := 0
	for b.Loop() {
		f := frames[i%3]
		binary.BigEndian.PutUint16(f.Data[18:], uint16(i/3))
		h.Add(f)
		d.Look(f)
		if i++; i%30000 == 0 {
			d.since = begin
			d.Tick(begin.Add(time.Second), begin.Add(time.Second))
		}
	}
}
