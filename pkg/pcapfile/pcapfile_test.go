package pcapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// classic makes a pcap file of packets of the lengths given, a second apart and a tick off.
func classic(magic uint32, order binary.AppendByteOrder, lens ...int) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	for _, v := range []uint32{0, 0, 65535, uint32(LinkEthernet)} {
		b = order.AppendUint32(b, v)
	}
	for i, n := range lens {
		for _, v := range []uint32{uint32(i), 1, uint32(n), uint32(n) + 1} {
			b = order.AppendUint32(b, v)
		}
		if magic == magicModified {
			b = append(b, make([]byte, 8)...)
		}
		b = append(b, bytes.Repeat([]byte{byte(i)}, n)...)
	}
	return b
}

// drain reads all packets of a file.
func drain(t *testing.T, b []byte) ([]Record, *Reader) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b), "test.pcap")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []Record
	for rec := (Record{}); r.Next(&rec) == nil; {
		rec.Data = bytes.Clone(rec.Data)
		out = append(out, rec)
	}
	return out, r
}

func TestClassic(t *testing.T) {
	for _, tt := range []struct {
		name  string
		magic uint32
		order binary.AppendByteOrder
		tick  int64
	}{
		{"microseconds little-endian", magicMicro, binary.LittleEndian, 1000},
		{"microseconds big-endian", magicMicro, binary.BigEndian, 1000},
		{"nanoseconds little-endian", magicNano, binary.LittleEndian, 1},
		{"nanoseconds big-endian", magicNano, binary.BigEndian, 1},
		{"modified little-endian", magicModified, binary.LittleEndian, 1000},
		{"modified big-endian", magicModified, binary.BigEndian, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, r := drain(t, classic(tt.magic, tt.order, 3, 0))
			header := int64(pcapRecord)
			if tt.magic == magicModified {
				header = pcapModified
			}
			want := []Record{
				{Time: tt.tick, OrigLen: 4, LinkType: LinkEthernet, Data: []byte{0, 0, 0}, Offset: pcapHeader},
				{Time: 1e9 + tt.tick, OrigLen: 1, LinkType: LinkEthernet, Data: []byte{}, Offset: pcapHeader + header + 3},
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if r.Damage() != nil {
				t.Error(r.Damage())
			}
		})
	}
}

// TestLargeFile: more than one buffer, so that records cross its end.
func TestLargeFile(t *testing.T) {
	lens := make([]int, 2500)
	for i := range lens {
		lens[i] = 1000 + i%7
	}
	lens[1000] = MaxPacket
	b := classic(magicNano, binary.LittleEndian, lens...)
	for name, file := range map[string][]byte{"plain": b, "gzip": gzipped(t, b), "zstd": zstded(t, b)} {
		t.Run(name, func(t *testing.T) {
			got, r := drain(t, file)
			if len(got) != len(lens) || r.Damage() != nil {
				t.Fatalf("%d packets of %d, damage %v", len(got), len(lens), r.Damage())
			}
			for i, p := range got {
				if len(p.Data) != lens[i] || lens[i] > 0 && (p.Data[0] != byte(i) || p.Data[lens[i]-1] != byte(i)) {
					t.Fatalf("packet %d: %d bytes", i, len(p.Data))
				}
			}
		})
	}
}

func gzipped(t *testing.T, b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// TestCutShort cuts files at every byte: each packet that is whole is used, and the damage is where
// the first is that is not.
func TestCutShort(t *testing.T) {
	for name, b := range map[string][]byte{
		"pcap":   classic(magicMicro, binary.BigEndian, 5, 60, 7),
		"pcapng": written(t, samples()...),
	} {
		whole, r := drain(t, b)
		if r.Damage() != nil || len(whole) != 3 {
			t.Fatalf("%s: %d packets, damage %v", name, len(whole), r.Damage())
		}
		for n := range len(b) {
			got, r := drain(t, b[:n])
			if d := cmp.Diff(whole[:len(got)], got); d != "" && len(got) > 0 {
				t.Fatalf("%s cut to %d bytes (-want +got)\n%s", name, n, d)
			}
			d := r.Damage()
			if d == nil {
				continue // between two records
			}
			if !d.CutShort || d.Offset > int64(n) || len(got) < 3 && d.Offset > whole[len(got)].Offset {
				t.Fatalf("%s cut to %d bytes: %v", name, n, d)
			}
		}
	}
}

// TestCutCompressed: of a compressed file that is cut short, what can be decompressed is used.
func TestCutCompressed(t *testing.T) {
	lens := make([]int, 20000)
	for i := range lens {
		lens[i] = i % 1500
	}
	b := classic(magicMicro, binary.LittleEndian, lens...)
	for name, file := range map[string][]byte{"gzip": gzipped(t, b), "zstd": zstded(t, b)} {
		got, r := drain(t, file[:len(file)/2])
		d := r.Damage()
		if len(got) == 0 || d == nil || !d.Compressed || !strings.Contains(d.Error(), "decompressed byte") {
			t.Errorf("%s: %d packets, damage %v", name, len(got), d)
		}
	}
}

func samples() []Record {
	return []Record{
		{Time: 1_700_000_000_123_456_789, Interface: 0, OrigLen: 1500, LinkType: LinkEthernet, Data: []byte{1, 2, 3}, Comment: "hop 1: ttl 63, want 62"},
		{Time: 1_700_000_000_123_456_790, Interface: 1, OrigLen: 4, LinkType: LinkRaw, Data: []byte{4, 5, 6, 7}, Flags: 2},
		{Time: 1, Interface: 0, LinkType: LinkEthernet, Data: []byte{}, Comment: "ä"},
	}
}

// written makes a pcapng file of packets of two interfaces.
func written(t *testing.T, recs ...Record) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, "podtrace")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []Interface{
		{Name: "eth0", Description: "node1", LinkType: LinkEthernet, SnapLen: 96},
		{Name: "tun0", LinkType: LinkRaw},
	} {
		if _, err := w.AddInterface(i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range recs {
		if err := w.Write(&recs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteStats(1, Stats{Start: 5, End: 1 << 40, Received: 10, Dropped: 3}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWriter(t *testing.T) {
	want := samples()
	got, r := drain(t, written(t, want...))
	for i := range got {
		got[i].Offset = 0
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	ifs := r.Interfaces()
	if len(ifs) != 2 || ifs[0].Name != "eth0" || ifs[0].Description != "node1" || ifs[0].SnapLen != 96 || ifs[1].LinkType != LinkRaw {
		t.Errorf("interfaces %+v", ifs)
	}
	if s := (Stats{Start: 5, End: 1 << 40, Received: 10, Dropped: 3}); ifs[1].Stats != s || ifs[1].Drops() != 3 || ifs[0].HasStats {
		t.Errorf("stats %+v", ifs)
	}
}

func TestWriterRefuses(t *testing.T) {
	w, err := NewWriter(io.Discard, "")
	if err != nil {
		t.Fatal(err)
	}
	if w.Write(&Record{}) == nil {
		t.Error("a packet of no interface was written")
	}
	if _, err := w.AddInterface(Interface{LinkType: 1 << 16}); err == nil {
		t.Error("a link type of 17 bits was written")
	}
	if _, err := w.AddInterface(Interface{}); err != nil {
		t.Error(err)
	}
	if w.Write(&Record{Data: make([]byte, MaxPacket+1)}) == nil {
		t.Error("a packet was written that no reader takes")
	}
	if w.WriteStats(1, Stats{}) == nil {
		t.Error("counts of no interface were written")
	}
}

// TestWriterKeepsError: a full disk shows at the latest in Flush.
func TestWriterKeepsError(t *testing.T) {
	full := errors.New("full")
	w, err := NewWriter(writeFunc(func([]byte) (int, error) { return 0, full }), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); !errors.Is(err, full) {
		t.Errorf("flush: %v", err)
	}
	if _, err := w.AddInterface(Interface{}); !errors.Is(err, full) {
		t.Errorf("after the error: %v", err)
	}
}

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(b []byte) (int, error) { return f(b) }

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no capture, but long enough to be one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(text); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "6e6f2063") {
		t.Errorf("text: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(empty)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if d := r.Damage(); d == nil || !d.CutShort || d.Offset != 0 || !errors.Is(r.Next(&Record{}), io.EOF) {
		t.Errorf("empty file: damage %v", d)
	}
}

func TestResolution(t *testing.T) {
	for _, tt := range []struct {
		name   string
		tsres  byte
		ticks  uint64
		offset int64
		want   int64
	}{
		{"seconds", 0, 7, 0, 7e9},
		{"milliseconds", 3, 1234, 0, 1_234_000_000},
		{"nanoseconds", 9, 5, 0, 5},
		{"nanoseconds with offset", 9, 5, 2, 2_000_000_005},
		{"before the epoch", 9, 5, -1, -999_999_995},
		{"picoseconds", 12, 1_500_000_000_999, 0, 1_500_000_000},
		{"finest", 19, 10_000_000_000_000_000_001, 0, 1_000_000_000},
		{"2^-8", 0x88, 0x180, 0, 1_500_000_000},
		{"2^-1", 0x81, 3, 0, 1_500_000_000},
		{"2^-63", 0xbf, 1 << 62, 0, 500_000_000},
		{"2^-64", 0xc0, 1 << 63, 0, 500_000_000},
		{"2^-127", 0xff, 1 << 63, 0, 0},
	} {
		i := Interface{offset: tt.offset}
		i.resolution(tt.tsres)
		if got := i.time(tt.ticks); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestNoAllocation: reading costs no allocation per packet.
func TestNoAllocation(t *testing.T) {
	plain := make([]Record, 2000)
	for i := range plain {
		plain[i] = Record{Data: []byte{1, 2, 3}, Flags: 1}
	}
	for name, b := range map[string][]byte{
		"pcap":   classic(magicMicro, binary.BigEndian, make([]int, 2000)...),
		"pcapng": written(t, plain...),
	} {
		r, err := NewReader(bytes.NewReader(b), name)
		if err != nil {
			t.Fatal(err)
		}
		var rec Record
		if n := testing.AllocsPerRun(1000, func() {
			if r.Next(&rec) != nil {
				t.Fatal("too few packets")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per packet", name, n)
		}
		r.Close()
	}
}

// FuzzReader: no bytes crash the reader, make it run for ever or hand out more than was there.
func FuzzReader(f *testing.F) {
	f.Add(classic(magicMicro, binary.BigEndian, 5, 60))
	f.Add(classic(magicModified, binary.LittleEndian, 5))
	f.Add([]byte("\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x1c\x00\x00\x00" +
		"\x01\x00\x00\x00\x1c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x09\x00\x01\x00\x8a\x00\x00\x00\x1c\x00\x00\x00" +
		"\x06\x00\x00\x00\x24\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\xaa\x00\x00\x00\x24\x00\x00\x00" +
		"\x03\x00\x00\x00\x14\x00\x00\x00\x01\x00\x00\x00\xbb\x00\x00\x00\x14\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b), "fuzz")
		if err != nil {
			return
		}
		defer r.Close()
		var rec Record
		last := int64(-1)
		for r.Next(&rec) == nil {
			if rec.Offset <= last || len(rec.Data) > MaxPacket {
				t.Fatalf("packet of %d bytes at %d after %d", len(rec.Data), rec.Offset, last)
			}
			if ifs := r.Interfaces(); rec.Interface >= len(ifs) {
				t.Fatalf("interface %d of %d", rec.Interface, len(ifs))
			}
			last = rec.Offset
		}
		if d := r.Damage(); d != nil && (d.Err == nil || d.Offset < last) {
			t.Fatalf("damage %+v after a packet at %d", d, last)
		}
	})
}
