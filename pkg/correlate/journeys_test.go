package correlate

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/ether"
)

type journeysTest struct {
	name           string
	flow           Flow
	in             []Sighting
	request, reply []string
	other          int
}

var (
	pods    = Flow{Proto: 1, A: []netip.Addr{podA}, B: []netip.Addr{podB}}
	tcpPods = Flow{Proto: 6, A: []netip.Addr{podA}, B: []netip.Addr{podB}, BPort: 8080}
	udpPods = Flow{Proto: 17, A: []netip.Addr{podA}, B: []netip.Addr{podB}, BPort: 53}
)

const data = decode.TCPAck | decode.TCPPsh

func runJourneys(t *testing.T, tests []journeysTest) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Journeys(tt.flow, tt.in)
			if d := cmp.Diff(tt.request, show(r.Request)); d != "" {
				t.Errorf("request (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.reply, show(r.Reply)); d != "" {
				t.Errorf("reply (-want +got):\n%s", d)
			}
			if r.Other != tt.other {
				t.Errorf("other %d, want %d", r.Other, tt.other)
			}
		})
	}
}

func TestEcho(t *testing.T) {
	request := func(seq uint16, hash uint64) func(*Sighting) { return echo(8, 7, seq, hash) }
	reply := func(seq uint16, hash uint64) func(*Sighting) { return echo(0, 7, seq, hash) }
	flow := pods
	flow.APort = 7
	runJourneys(t, []journeysTest{
		{
			name: "both legs through a tunnel, given out of order",
			flow: flow,
			in: []Sighting{
				at(2, In, 30, ip(podA, podB, 0, 63), request(1, 9), encapsulated),
				at(0, Out, 10, ip(podA, podB, 0, 64), request(1, 9)),
				at(1, Out, 20, ip(podA, podB, 0, 63), request(1, 9), encapsulated),
				at(2, Out, 40, ip(podB, podA, 5, 64), reply(1, 9), encapsulated),
				at(0, In, 50, ip(podB, podA, 5, 63), reply(1, 9)),
				at(0, Out, 60, ip(podA, podB, 0, 64), request(2, 8)),
			},
			request: []string{"icmp id 7 seq 1: 0< 1< 2>", "icmp id 7 seq 2: 0<"},
			reply:   []string{"icmp id 7 seq 1: 2< 0>"},
		},
		{
			name: "another ping with the id and sequence of the first",
			flow: pods,
			in: []Sighting{
				at(0, Out, 10, ip(podA, podB, 1, 64), request(1, 9)),
				at(0, Out, 99, ip(podA, podB, 2, 64), request(1, 9)),
				at(1, In, 100, ip(podA, podB, 2, 63), request(1, 9)),
			},
			request: []string{"icmp id 7 seq 1: 0<", "icmp id 7 seq 1: 0< 1> retransmission 1"},
		},
		{
			name: "a loop: one packet, falling TTL",
			flow: pods,
			in: []Sighting{
				at(0, In, 10, ip(podA, podB, 3, 63), request(1, 9)),
				at(0, Out, 20, ip(podA, podB, 3, 62), request(1, 9)),
				at(0, In, 30, ip(podA, podB, 3, 61), request(1, 9)),
				at(0, Out, 40, ip(podA, podB, 3, 60), request(1, 9)),
			},
			request: []string{"icmp id 7 seq 1: 0> 0< 0> 0< repeats 2 looped"},
		},
		{
			name: "a duplicate: the same TTL",
			flow: pods,
			in: []Sighting{
				at(0, In, 10, ip(podA, podB, 0, 63), request(1, 9)),
				at(0, In, 11, ip(podA, podB, 0, 63), request(1, 9)),
			},
			request: []string{"icmp id 7 seq 1: 0> 0> repeats 1"},
		},
		{
			name: "source and echo id translated in the middle",
			flow: flow,
			in: []Sighting{
				at(0, Out, 10, ip(podA, podB, 4, 64), request(1, 9)),
				at(1, Out, 20, ip(nodeA, podB, 4, 63), echo(8, 70, 1, 9)),
				at(1, Out, 21, ip(nodeA, podB, 6, 63), echo(8, 70, 1, 5)), // another payload
			},
			request: []string{"icmp id 7 seq 1: 0< 1<"},
			other:   1,
		},
		{
			name: "ends that share an address",
			flow: Flow{Proto: 1, A: []netip.Addr{podA, nodeA}, B: []netip.Addr{podB, nodeA}},
			in: []Sighting{
				at(0, Out, 10, ip(podA, podB, 1, 64), request(1, 9)),
				at(1, Out, 20, ip(nodeA, podB, 1, 63), request(1, 9)),
				at(1, In, 30, ip(podB, nodeA, 2, 64), reply(1, 9)),
				at(2, In, 40, ip(nodeA, nodeA, 3, 64), reply(2, 9)),
			},
			request: []string{"icmp id 7 seq 1: 0< 1<"},
			reply:   []string{"icmp id 7 seq 1: 1>", "icmp id 7 seq 2: 2>"},
		},
	})
}

func TestTCP(t *testing.T) {
	segment := func(seq uint32, n int) func(*Sighting) { return tcp(40000, 8080, seq, 500, data, n) }
	runJourneys(t, []journeysTest{
		{
			name: "a super-packet and its segments, over the end of the sequence space",
			flow: tcpPods,
			in: []Sighting{
				at(0, Out, 10, ip(podA, podB, 20, 64), segment(0xfffffe00, 3000)),
				at(1, Out, 20, ip(podA, podB, 20, 63), segment(0xfffffe00, 1000), encapsulated),
				at(1, Out, 21, ip(podA, podB, 21, 63), segment(0x1e8, 1000), encapsulated),
				at(1, Out, 22, ip(podA, podB, 22, 63), segment(0x5d0, 1000), encapsulated),
				at(2, In, 30, ip(podA, podB, 20, 63), segment(0xfffffe00, 2000), encapsulated),
				at(2, In, 31, ip(podA, podB, 22, 63), segment(0x5d0, 1000), encapsulated),
			},
			request: []string{"tcp seq 0xfffffe00+3000: 0< 1< 1< 1< 2> 2>"},
		},
		{
			name: "the segments first, for the clocks differ",
			flow: tcpPods,
			in: []Sighting{
				at(1, In, 1, ip(podA, podB, 20, 63), segment(1000, 1000)),
				at(1, In, 2, ip(podA, podB, 21, 63), segment(2000, 1000)),
				at(0, Out, 10, ip(podA, podB, 20, 64), segment(1000, 3000)),
				at(1, In, 11, ip(podA, podB, 22, 63), segment(3000, 1000)),
			},
			request: []string{"tcp seq 0x3e8+3000: 1> 1> 0< 1>"},
		},
		{
			name: "a later fragment of a segment that became part of a super-packet",
			flow: tcpPods,
			in: []Sighting{
				at(1, In, 1, ip(podA, podB, 20, 63), segment(1000, 1000)),
				at(1, In, 2, ip(podA, podB, 21, 63), segment(2000, 1000)),
				at(0, Out, 3, ip(podA, podB, 20, 64), segment(1000, 2000)),
				at(2, In, 4, ip(podA, podB, 21, 63), fragment(decode.ProtoTCP, 600)),
			},
			request: []string{"tcp seq 0x3e8+2000: 1> 1> 0< 2>"},
		},
		{
			name: "GRO merges the end of one super-packet with the start of the next",
			flow: tcpPods,
			in: []Sighting{
				at(0, Out, 1, ip(podA, podB, 20, 64), segment(1000, 2000)),
				at(0, Out, 2, ip(podA, podB, 22, 64), segment(3000, 2000)),
				at(1, In, 3, ip(podA, podB, 20, 63), segment(1000, 1000)),
				at(1, In, 4, ip(podA, podB, 21, 63), segment(2000, 2000)),
				at(1, In, 5, ip(podA, podB, 23, 63), segment(4000, 1000)),
			},
			request: []string{"tcp seq 0x3e8+2000: 0< 1> 1>", "tcp seq 0xbb8+2000: 0< 1> 1>"},
		},
		{
			name: "a segment of a super-packet sent again",
			flow: tcpPods,
			in: []Sighting{
				at(0, Out, 10, ip(podA, podB, 20, 64), segment(1000, 2000)),
				at(1, Out, 20, ip(podA, podB, 20, 63), segment(1000, 1000)),
				at(1, Out, 21, ip(podA, podB, 21, 63), segment(2000, 1000)),
				at(0, Out, 300, ip(podA, podB, 30, 64), segment(1000, 1000)),
				at(1, Out, 310, ip(podA, podB, 30, 63), segment(1000, 1000)),
				at(2, In, 320, ip(podA, podB, 30, 63), segment(1000, 1000)),
			},
			request: []string{
				"tcp seq 0x3e8+2000: 0< 1< 1<",
				"tcp seq 0x3e8+1000: 0< 1< 2> retransmission 1",
			},
		},
		{
			name: "the handshake and its end; a SYN sent again",
			flow: tcpPods,
			in: []Sighting{
				at(0, Out, 1, ip(podA, podB, 1, 64), tcp(40000, 8080, 99, 0, decode.TCPSyn, 0)),
				at(0, Out, 2, ip(podA, podB, 2, 64), tcp(40000, 8080, 99, 0, decode.TCPSyn, 0)),
				at(1, In, 3, ip(podA, podB, 2, 63), tcp(40000, 8080, 99, 0, decode.TCPSyn, 0)),
				at(1, Out, 4, ip(podB, podA, 0, 64), tcp(8080, 40000, 7, 100, decode.TCPSyn|decode.TCPAck, 0)),
				at(0, In, 5, ip(podB, podA, 0, 63), tcp(8080, 40000, 7, 100, decode.TCPSyn|decode.TCPAck, 0)),
				at(0, Out, 6, ip(podA, podB, 3, 64), tcp(40000, 8080, 100, 8, decode.TCPAck, 0)),
				at(0, Out, 7, ip(podA, podB, 4, 64), tcp(40000, 8080, 100, 8, decode.TCPFin|decode.TCPAck, 0)),
			},
			request: []string{
				"tcp seq 0x63+1: 0<",
				"tcp seq 0x63+1: 0< 1> retransmission 1",
				"tcp seq 0x64 ack 0x8: 0<",
				"tcp seq 0x64+1: 0<",
			},
			reply: []string{"tcp seq 0x7+1: 1< 0>"},
		},
		{
			name: "duplicate ACKs are told apart by the identification",
			flow: tcpPods,
			in: []Sighting{
				at(0, Out, 1, ip(podA, podB, 1, 64), tcp(40000, 8080, 100, 8, decode.TCPAck, 0)),
				at(0, Out, 2, ip(podA, podB, 2, 64), tcp(40000, 8080, 100, 8, decode.TCPAck, 0)),
				at(1, In, 3, ip(podA, podB, 1, 63), tcp(40000, 8080, 100, 8, decode.TCPAck, 0)),
				at(1, In, 4, ip(podA, podB, 2, 63), tcp(40000, 8080, 100, 8, decode.TCPAck, 0)),
			},
			request: []string{
				"tcp seq 0x64 ack 0x8: 0< 1>",
				"tcp seq 0x64 ack 0x8: 0< 1> retransmission 1",
			},
		},
		{
			name: "a loop without identification, and a retransmission after it",
			flow: Flow{Proto: 6, A: []netip.Addr{pod6A}, B: []netip.Addr{pod6B}},
			in: []Sighting{
				at(0, In, 1, ip(pod6A, pod6B, 0, 64), segment(1000, 10)),
				at(0, In, 2, ip(pod6A, pod6B, 0, 62), segment(1000, 10)),
				at(0, In, 3, ip(pod6A, pod6B, 0, 64), segment(1000, 10)),
			},
			request: []string{
				"tcp seq 0x3e8+10: 0> 0> repeats 1 looped",
				"tcp seq 0x3e8+10: 0> retransmission 1",
			},
		},
	})
}

func TestTranslation(t *testing.T) {
	flow := Flow{
		Proto: 6, A: []netip.Addr{podA, nodeA}, B: []netip.Addr{service, podB}, APort: 40000, BPort: 80,
	}
	runJourneys(t, []journeysTest{
		{
			name: "DNAT with another port and masquerade with another port",
			flow: flow,
			in: []Sighting{
				at(0, Out, 1, ip(podA, service, 1, 64), tcp(40000, 80, 99, 7, data, 10)),
				at(1, Out, 2, ip(nodeA, podB, 1, 63), tcp(61000, 8080, 99, 7, data, 10)),
				at(1, In, 3, ip(podB, nodeA, 2, 64), tcp(8080, 61000, 7, 109, decode.TCPAck, 0)),
				at(0, In, 4, ip(service, podA, 2, 63), tcp(80, 40000, 7, 109, decode.TCPAck, 0)),
				at(1, Out, 5, ip(nodeA, podB, 9, 63), tcp(61001, 8080, 12345, 7, data, 10)), // another flow
			},
			request: []string{"tcp seq 0x63+10: 0< 1<"},
			reply:   []string{"tcp seq 0x7 ack 0x6d: 1> 0>"},
			other:   1,
		},
	})
}

// TestOwnPayload: a sender's own node translates ports and echo ids before the first tap; the payload tells.
func TestOwnPayload(t *testing.T) {
	own := func(s *Sighting) { s.Own = true }
	runJourneys(t, []journeysTest{
		{
			name: "echo",
			flow: Flow{Proto: 1, A: []netip.Addr{nodeA}, B: []netip.Addr{podB}, APort: 7},
			in: []Sighting{
				at(0, Out, 1, ip(nodeA, podB, 1, 64), echo(8, 4711, 1, 5), own),
				at(1, In, 2, ip(nodeA, podB, 1, 63), echo(8, 4711, 1, 5), own),
				at(0, Out, 3, ip(nodeA, podB, 2, 64), echo(8, 4712, 1, 6)), // another ping
			},
			request: []string{"icmp id 4711 seq 1: 0< 1>"},
			other:   1,
		},
		{
			name: "udp",
			flow: Flow{Proto: 17, A: []netip.Addr{nodeA}, B: []netip.Addr{podB}, APort: 40000, BPort: 80},
			in: []Sighting{
				at(0, Out, 1, ip(nodeA, podB, 1, 64), udp(61000, 8080, 20, 5), own),
				at(0, Out, 2, ip(nodeA, podB, 2, 64), udp(61001, 8080, 20, 6)),
			},
			request: []string{"udp id 0x1 len 20: 0<"},
			other:   1,
		},
	})
}

func TestUDP(t *testing.T) {
	later := func(offset uint16) func(*Sighting) { return fragment(decode.ProtoUDP, offset) }
	runJourneys(t, []journeysTest{
		{
			name: "equal payloads are told apart by identification, unknown payloads join by it",
			flow: udpPods,
			in: []Sighting{
				at(0, Out, 1, ip(podA, podB, 1, 64), udp(50000, 53, 30, 9)),
				at(0, Out, 2, ip(podA, podB, 2, 64), udp(50000, 53, 30, 9)),
				at(1, In, 3, ip(podA, podB, 2, 63), udp(50000, 53, 30, 0)),
				at(1, In, 4, ip(podA, podB, 1, 63), udp(50000, 53, 30, 9)),
			},
			request: []string{"udp id 0x1 len 30: 0< 1>", "udp id 0x2 len 30: 0< 1>"},
		},
		{
			name: "IPv6: by payload, and by time where that is equal",
			flow: Flow{Proto: 17, A: []netip.Addr{pod6A}, B: []netip.Addr{pod6B}},
			in: []Sighting{
				at(0, Out, 1, ip(pod6A, pod6B, 0, 64), udp(50000, 53, 30, 9)),
				at(0, Out, 2, ip(pod6A, pod6B, 0, 64), udp(50000, 53, 30, 8)),
				at(1, In, 3, ip(pod6A, pod6B, 0, 63), udp(50000, 53, 30, 9)),
				at(0, Out, 9, ip(pod6A, pod6B, 0, 64), udp(50000, 53, 30, 9)),
			},
			request: []string{
				"udp hash 0x9 len 30: 0< 1>",
				"udp hash 0x8 len 30: 0<",
				"udp hash 0x9 len 30: 0< retransmission 1",
			},
		},
		{
			name: "later fragments attach by identification, whole packets and early ones too",
			flow: udpPods,
			in: []Sighting{
				at(0, Out, 1, ip(podA, podB, 5, 64), later(1480)),
				at(0, Out, 2, ip(podA, podB, 5, 64), udp(50000, 53, 3000, 9)),
				at(1, In, 3, ip(podA, podB, 5, 64), udp(50000, 53, 3000, 9)), // put together
				at(2, In, 4, ip(podA, podB, 5, 63), later(2960)),
				at(2, In, 5, ip(podA, podB, 6, 63), later(1480)),
				at(2, In, 6, ip(podA, podB, 6, 63), later(2960)),
			},
			request: []string{"udp id 0x5 len 3000: 0< 0< 1> 2>", "udp fragment id 0x6: 2> 2>"},
		},
		{
			name: "frames of others",
			flow: udpPods,
			in: []Sighting{
				at(0, Out, 1, ip(podA, podB, 1, 64), udp(50000, 54, 30, 9)),
				at(0, Out, 2, ip(nodeA, nodeB, 1, 64), udp(50000, 53, 30, 9)),
				at(0, Out, 3, ip(podA, podB, 1, 64), echo(8, 1, 1, 0)),
			},
			other: 3,
		},
	})
}

func TestErrorsAndNeighbours(t *testing.T) {
	quoting := func(dport uint16) func(*Sighting) {
		return func(s *Sighting) {
			s.Frame.Outer.Proto, s.Frame.Outer.ICMPType = decode.ProtoICMP, 3
			s.Frame.HasQuoted = true
			s.Frame.Quoted = decode.Headers{
				HasIP: true, HasL4: true, Src: podA, Dst: podB, Proto: decode.ProtoTCP, SrcPort: 40000, DstPort: dport,
			}
		}
	}
	r := Journeys(tcpPods, []Sighting{
		at(0, In, 1, ip(nodeA, podA, 1, 64), quoting(8080)),
		at(0, In, 2, ip(nodeA, podA, 1, 64), quoting(9999)),
		at(0, In, 3, func(s *Sighting) { s.Frame.Outer = decode.Headers{EtherType: ether.TypeARP, ARPOp: 1} }),
		at(0, In, 4, func(s *Sighting) { s.Frame.Outer = decode.Headers{HasIP: true, NDTarget: pod6A} }),
	})
	if len(r.Errors) != 1 || len(r.Neighbours) != 2 || r.Other != 1 || r.Request != nil || r.Reply != nil {
		t.Errorf("errors %d, neighbours %d, other %d", len(r.Errors), len(r.Neighbours), r.Other)
	}
}

func TestSequenceRanges(t *testing.T) {
	tests := []struct {
		a, aLen, b, bLen    uint32
		overlaps, contained bool
	}{
		{10, 5, 10, 5, true, true},
		{10, 5, 15, 5, false, false},
		{10, 5, 14, 5, true, false},
		{10, 9, 12, 2, true, true},
		{0xfffffff0, 0x20, 0, 0x10, true, true},
		{0xfffffff0, 0x10, 0, 0x10, false, false},
		{0, 0x10, 0xfffffff0, 0x20, true, false},
	}
	for _, tt := range tests {
		if got := overlap(tt.a, tt.aLen, tt.b, tt.bLen); got != tt.overlaps {
			t.Errorf("overlap of %#x+%d and %#x+%d: %t", tt.a, tt.aLen, tt.b, tt.bLen, got)
		}
		if got := contains(tt.a, tt.aLen, tt.b, tt.bLen); got != tt.contained {
			t.Errorf("%#x+%d contains %#x+%d: %t", tt.a, tt.aLen, tt.b, tt.bLen, got)
		}
	}
}
