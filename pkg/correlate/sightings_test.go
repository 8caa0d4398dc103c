package correlate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/decode/vxlan"
)

var (
	podA    = netip.MustParseAddr("10.244.1.32")
	podB    = netip.MustParseAddr("10.244.2.40")
	service = netip.MustParseAddr("10.96.0.10")
	nodeA   = netip.MustParseAddr("10.1.11.91")
	nodeB   = netip.MustParseAddr("10.1.11.92")
	pod6A   = netip.MustParseAddr("fd00:1::20")
	pod6B   = netip.MustParseAddr("fd00:2::28")
)

// at is a sighting at a point and time; edits make it the packet of the test.
func at(point int, dir Direction, time int64, edits ...func(*Sighting)) Sighting {
	s := Sighting{Point: point, Dir: dir, Time: time}
	s.Frame.Outer = decode.Headers{EtherType: 0x0800, HasIP: true, HasL4: true, TTL: 64}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

func ip(src, dst netip.Addr, id uint32, ttl uint8) func(*Sighting) {
	return func(s *Sighting) {
		h := &s.Frame.Outer
		h.Src, h.Dst, h.ID, h.TTL = src, dst, id, ttl
	}
}

func echo(kind uint8, id, seq uint16, hash uint64) func(*Sighting) {
	return func(s *Sighting) {
		h := &s.Frame.Outer
		h.Proto, h.ICMPType, h.ICMPID, h.ICMPSeq, h.PayloadLen = decode.ProtoICMP, kind, id, seq, 56
		s.Hash = hash
	}
}

func tcp(sport, dport uint16, seq, ack uint32, flags uint8, n int) func(*Sighting) {
	return func(s *Sighting) {
		h := &s.Frame.Outer
		h.Proto, h.SrcPort, h.DstPort, h.PayloadLen = decode.ProtoTCP, sport, dport, n
		h.TCPSeq, h.TCPAck, h.TCPFlags = seq, ack, flags
		s.GSO = n > 1460
	}
}

func udp(sport, dport uint16, n int, hash uint64) func(*Sighting) {
	return func(s *Sighting) {
		h := &s.Frame.Outer
		h.Proto, h.SrcPort, h.DstPort, h.PayloadLen = decode.ProtoUDP, sport, dport, n
		s.Hash = hash
	}
}

func fragment(proto uint8, offset uint16) func(*Sighting) {
	return func(s *Sighting) {
		h := &s.Frame.Outer
		h.Proto, h.FragOffset, h.HasL4 = proto, offset, false
	}
}

// encapsulated moves the packet behind a VXLAN header between the nodes.
func encapsulated(s *Sighting) {
	s.Frame.Inner, s.Frame.HasVXLAN, s.Frame.VXLAN = s.Frame.Outer, true, vxlan.Header{VNI: 1}
	s.Frame.Outer = decode.Headers{
		EtherType: 0x0800, HasIP: true, HasL4: true, TTL: 64, Src: nodeA, Dst: nodeB,
		Proto: decode.ProtoUDP, SrcPort: 50000, DstPort: 8472,
	}
}

// show gives one line a journey: its key, where it was seen (>: in, <: out), and its counts.
func show(journeys []Journey) []string {
	var out []string
	for _, j := range journeys {
		var b strings.Builder
		fmt.Fprintf(&b, "%v:", j.Key)
		for _, s := range j.Sightings {
			fmt.Fprintf(&b, " %d%s", s.Point, map[Direction]string{In: ">", Out: "<", Unknown: ""}[s.Dir])
		}
		if j.Retransmission > 0 {
			fmt.Fprintf(&b, " retransmission %d", j.Retransmission)
		}
		if j.Repeats > 0 {
			fmt.Fprintf(&b, " repeats %d", j.Repeats)
		}
		if j.Looped {
			b.WriteString(" looped")
		}
		out = append(out, b.String())
	}
	return out
}

// BenchmarkJourneys: ten points, 64 KiB super-packets at the first two and segments at the rest.
func BenchmarkJourneys(b *testing.B) {
	var in []Sighting
	for n := range 50 {
		seq := uint32(n) * 64000
		for point := range 10 {
			size := 64000
			if point >= 2 {
				size = 1280
			}
			for off := 0; off < 64000; off += size {
				in = append(in, at(point, Out, int64(len(in)),
					ip(podA, podB, uint32(n*50+off/1280+1), 64), tcp(40000, 8080, seq+uint32(off), 1, data, size)))
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if r := Journeys(tcpPods, in); len(r.Request) != 50 {
			b.Fatalf("%d journeys", len(r.Request))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(in)), "ns/sighting")
}
