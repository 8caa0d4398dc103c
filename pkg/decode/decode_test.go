package decode

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podtrace/podtrace/pkg/decode/vxlan"
	"github.com/podtrace/podtrace/pkg/ether"
)

var decoder = Decoder{VXLANPorts: []uint16{4789, 8472}}

var (
	macA = ether.MAC{2, 0, 0, 0, 0, 1}
	macB = ether.MAC{2, 0, 0, 0, 0, 2}
	ip4A = netip.MustParseAddr("10.244.1.32")
	ip4B = netip.MustParseAddr("10.244.2.40")
	ip6A = netip.MustParseAddr("fd00:1::20")
	ip6B = netip.MustParseAddr("fd00:2::28")
)

// headers4 are what the pieces of an IPv4 frame hold, changed by edit.
func headers4(ipLen int, proto uint8, edit func(*Headers)) Headers {
	h := Headers{
		EthSrc: macA, EthDst: macB, EtherType: 0x0800, HasIP: true, Src: ip4A, Dst: ip4B,
		Proto: proto, TTL: 63, TOS: 0x10, ID: 0x1234, DF: true, IPLen: ipLen,
	}
	edit(&h)
	return h
}

func headers6(ipLen int, proto uint8, edit func(*Headers)) Headers {
	h := Headers{
		EthSrc: macA, EthDst: macB, EtherType: 0x86dd, HasIP: true, Src: ip6A, Dst: ip6B,
		Proto: proto, TTL: 63, TOS: 0x10, IPLen: ipLen,
	}
	edit(&h)
	return h
}

func tcpPart(h *Headers) {
	h.HasL4, h.SrcPort, h.DstPort = true, 40000, 8080
	h.TCPSeq, h.TCPAck, h.TCPFlags, h.PayloadLen = 10, 20, TCPPsh|TCPAck, 8
}

func udpPart(port uint16, n int) func(*Headers) {
	return func(h *Headers) {
		h.HasL4, h.SrcPort, h.DstPort, h.PayloadLen = true, 50000, port, n
	}
}

func pingPart(h *Headers) {
	h.HasL4, h.ICMPType, h.ICMPID, h.ICMPSeq, h.PayloadLen = true, 8, 7, 2, 8
}

func diffFrames(want, got Frame) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}))
}

func TestDecode(t *testing.T) {
	tests := []struct {
		name    string
		in      []byte
		wireLen int
		want    Frame
	}{
		{
			name: "IPv4 TCP",
			in:   tcpFrame,
			want: Frame{Outer: headers4(48, 6, tcpPart), PayloadOff: 54, PayloadEnd: 62},
		},
		{
			name: "IPv4 ICMP echo",
			in:   pingFrame,
			want: Frame{Outer: headers4(36, 1, pingPart), PayloadOff: 42, PayloadEnd: 50},
		},
		{
			name: "IPv4 UDP, padded to the Ethernet minimum",
			in:   cat(ethIPv4, ipv4Header(30, 17), udpHeader(10, 53), []byte("hi"), make([]byte, 16)),
			want: Frame{Outer: headers4(30, 17, udpPart(53, 2)), PayloadOff: 42, PayloadEnd: 44},
		},
		{
			name: "VXLAN over IPv4",
			in:   vxlanFrame(tcpFrame, 8472),
			want: Frame{
				Outer: headers4(98, 17, udpPart(8472, 70)), VXLAN: vxlan.Header{VNI: 1}, HasVXLAN: true,
				Inner: headers4(48, 6, tcpPart), PayloadOff: 104, PayloadEnd: 112,
			},
		},
		{
			name: "VXLAN over IPv6",
			in:   cat(ethIPv6, ipv6Header(78, 17), udpHeader(78, 4789), vxlanHeader, tcpFrame),
			want: Frame{
				Outer: headers6(118, 17, udpPart(4789, 70)), VXLAN: vxlan.Header{VNI: 1}, HasVXLAN: true,
				Inner: headers4(48, 6, tcpPart), PayloadOff: 124, PayloadEnd: 132,
			},
		},
		{
			name: "VXLAN on a port that no device has is payload",
			in:   vxlanFrame(tcpFrame, 4799),
			want: Frame{Outer: headers4(98, 17, udpPart(4799, 70)), PayloadOff: 42, PayloadEnd: 112},
		},
		{
			name: "VXLAN in VXLAN: the deeper header is payload",
			in:   vxlanFrame(vxlanFrame(tcpFrame, 8472), 8472),
			want: Frame{
				Outer: headers4(148, 17, udpPart(8472, 120)), VXLAN: vxlan.Header{VNI: 1}, HasVXLAN: true,
				Inner: headers4(98, 17, udpPart(8472, 70)), PayloadOff: 92, PayloadEnd: 162,
			},
		},
		{
			name:    "a snap length cuts a GSO packet: truncated nowhere that matters",
			in:      cat(ethIPv4, ipv4Header(60000, 6), tcpHeader, payload),
			wireLen: 60014,
			want: Frame{
				Outer:      headers4(60000, 6, func(h *Headers) { tcpPart(h); h.PayloadLen = 59960 }),
				PayloadOff: 54, PayloadEnd: 62,
			},
		},
		{
			name:    "BIG TCP: IP and UDP lengths are zero",
			in:      cat(ethIPv4, ipv4Header(0, 17), udpHeader(0, 8472), vxlanHeader, ethIPv4, ipv4Header(0, 6), tcpHeader),
			wireLen: 80104,
			want: Frame{
				Outer: headers4(80090, 17, udpPart(8472, 80062)), VXLAN: vxlan.Header{VNI: 1}, HasVXLAN: true,
				Inner:      headers4(80040, 6, func(h *Headers) { tcpPart(h); h.PayloadLen = 80000 }),
				PayloadOff: 104, PayloadEnd: 104,
			},
		},
		{
			name: "two VLAN tags, a third is payload",
			in: cat(ethIPv4[:12], []byte{
				0x88, 0xa8, // service tag
				0x00, 0x64, // VLAN 100
				0x81, 0x00, // customer tag
				0xa0, 0x05, // priority 5, VLAN 5
				0x81, 0x00, // a third tag
				0x00, 0x06,
			}),
			want: Frame{Outer: Headers{
				EthSrc: macA, EthDst: macB, EtherType: 0x8100, VLANCount: 2,
				VLANs: [2]VLAN{{TPID: 0x88a8, TCI: 100}, {TPID: 0x8100, TCI: 0xa005}},
			}},
		},
		{
			name: "ARP reply",
			in: cat(ethIPv4[:12], []byte{
				0x08, 0x06, // ARP
				0x00, 0x01, // Ethernet
				0x08, 0x00, // IPv4
				0x06, 0x04, // address lengths
				0x00, 0x02, // reply
				0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // sender MAC
				10, 244, 1, 32, // sender IP
				0x02, 0x00, 0x00, 0x00, 0x00, 0x02, // target MAC
				10, 244, 2, 40, // target IP
			}),
			want: Frame{Outer: Headers{
				EthSrc: macA, EthDst: macB, EtherType: 0x0806, ARPOp: 2,
				ARPSrcMAC: macA, ARPSrcIP: ip4A, ARPDstMAC: macB, ARPDstIP: ip4B,
			}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got Frame
			decoder.Decode(tt.in, tt.wireLen, &got)
			if d := diffFrames(tt.want, got); d != "" {
				t.Errorf("frame (-want +got):\n%s", d)
			}
		})
	}
}

func TestDecodeIP(t *testing.T) {
	var got Frame
	decoder.DecodeIP(pingFrame[14:], 0, &got)
	want := Frame{Outer: headers4(36, 1, pingPart), PayloadOff: 28, PayloadEnd: 36}
	want.Outer.EthSrc, want.Outer.EthDst = ether.MAC{}, ether.MAC{}
	if d := diffFrames(want, got); d != "" {
		t.Errorf("frame (-want +got):\n%s", d)
	}
	decoder.DecodeIP([]byte{0x50}, 0, &got)
	if want := (Problem{Malformed, LayerIPv4, 0}); got.Problem != want {
		t.Errorf("version 5: problem %v, want %v", got.Problem, want)
	}
}

// TestIPInUDP: an IP packet right behind the UDP header, as flannel's proxy sends it.
func TestIPInUDP(t *testing.T) {
	d := Decoder{VXLANPorts: []uint16{8472}, IPUDPPorts: []uint16{8285}}
	inner := pingFrame[14:]
	carry := func(b []byte, port uint16) []byte {
		n := len(b) + 8
		return cat(ethIPv4, ipv4Header(20+n, 17), udpHeader(n, port), b)
	}
	var got Frame
	d.Decode(carry(inner, 8285), 0, &got)
	want := Frame{
		Outer: headers4(20+8+len(inner), 17, udpPart(8285, len(inner))), HasIPUDP: true, Inner: headers4(36, 1, pingPart),
		PayloadOff: 70, PayloadEnd: 78,
	}
	want.Inner.EthSrc, want.Inner.EthDst = ether.MAC{}, ether.MAC{}
	if diff := diffFrames(want, got); diff != "" {
		t.Errorf("frame (-want +got):\n%s", diff)
	}
	if got.Flow() != &got.Inner {
		t.Error("the traffic is not the inner packet")
	}
	for name, in := range map[string][]byte{
		"another port": carry(inner, 8286), "no IP packet": carry([]byte{0, 1, 2, 3}, 8285), "nothing": carry(nil, 8285),
	} {
		if d.Decode(in, 0, &got); got.HasIPUDP || got.Problem.Kind != OK {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if d.Decode(carry(carry(inner, 8285)[14:], 8285), 0, &got); !got.HasIPUDP || got.Inner.DstPort != 8285 {
		t.Errorf("nested: what is deeper is payload: %+v", got)
	}
}

func TestDecodeResets(t *testing.T) {
	var got, want Frame
	decoder.Decode(vxlanFrame(tcpFrame, 8472), 0, &got)
	decoder.Decode(pingFrame, 0, &got)
	decoder.Decode(pingFrame, 0, &want)
	if got != want {
		t.Errorf("a field of the previous frame is left:\n%s", diffFrames(want, got))
	}
}

func TestProblems(t *testing.T) {
	edit := func(b []byte, off int, v ...byte) []byte {
		b = cat(b)
		copy(b[off:], v)
		return b
	}
	vx := vxlanFrame(tcpFrame, 8472)
	tests := []struct {
		name    string
		in      []byte
		wireLen int
		want    Problem
		text    string
	}{
		{"sound", tcpFrame, 0, Problem{}, ""},
		{"nothing captured", nil, 60, Problem{Truncated, LayerEthernet, 0}, "ethernet header at byte 0: truncated"},
		{"nothing sent", nil, 0, Problem{Malformed, LayerEthernet, 0}, "ethernet header at byte 0: malformed"},
		{"cut in the IP header", tcpFrame[:30], 62, Problem{Truncated, LayerIPv4, 14}, "ipv4 header at byte 14: truncated"},
		{"ends in the IP header", tcpFrame[:30], 30, Problem{Malformed, LayerIPv4, 14}, "ipv4 header at byte 14: malformed"},
		{"cut after the TCP ports", tcpFrame[:42], 62, Problem{Truncated, LayerTCP, 34}, "tcp header at byte 34: truncated"},
		{"IP version", edit(tcpFrame, 14, 0x55), 0, Problem{Malformed, LayerIPv4, 14}, "ipv4 header at byte 14: malformed"},
		{"IP header length", edit(tcpFrame, 14, 0x44), 0, Problem{Malformed, LayerIPv4, 14}, "ipv4 header at byte 14: malformed"},
		{"IP length over the wire length", edit(tcpFrame, 16, 0xff), 0, Problem{Malformed, LayerIPv4, 14}, "ipv4 header at byte 14: malformed"},
		{"IP length under its header", edit(tcpFrame, 16, 0, 19), 0, Problem{Malformed, LayerIPv4, 14}, "ipv4 header at byte 14: malformed"},
		{"TCP header length", edit(tcpFrame, 46, 0x40), 0, Problem{Malformed, LayerTCP, 34}, "tcp header at byte 34: malformed"},
		{"TCP options over the packet", edit(tcpFrame, 46, 0xf0), 0, Problem{Malformed, LayerTCP, 34}, "tcp header at byte 34: malformed"},
		{"UDP length", edit(vx, 38, 0, 7), 0, Problem{Malformed, LayerUDP, 34}, "udp header at byte 34: malformed"},
		{"no I flag", edit(vx, 42, 0), 0, Problem{Malformed, LayerVXLAN, 42}, "vxlan header at byte 42: malformed"},
		{"cut in the VXLAN header", vx[:46], len(vx), Problem{Truncated, LayerVXLAN, 42}, "vxlan header at byte 42: truncated"},
		{"cut in the inner frame", vx[:60], len(vx), Problem{Truncated, LayerEthernet, 50}, "ethernet header at byte 50: truncated"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f Frame
			decoder.Decode(tt.in, tt.wireLen, &f)
			if f.Problem != tt.want {
				t.Errorf("problem %+v, want %+v", f.Problem, tt.want)
			}
			err := f.Problem.Err()
			if tt.text == "" {
				if err != nil {
					t.Errorf("error %v, want none", err)
				}
				return
			}
			if err == nil || err.Error() != tt.text || errors.Is(err, ErrTruncated) != (tt.want.Kind == Truncated) {
				t.Errorf("error %v, want %s", err, tt.text)
			}
		})
	}
}

func TestPayloadHash(t *testing.T) {
	hash := func(in []byte, wireLen, limit int) uint64 {
		var f Frame
		decoder.Decode(in, wireLen, &f)
		return PayloadHash(in, &f, limit)
	}
	plain := hash(tcpFrame, 0, 64)
	if plain == 0 || plain != hash(vxlanFrame(tcpFrame, 8472), 0, 64) {
		t.Error("the hash of one payload differs inside VXLAN")
	}
	if got := hash(tcpFrame[:60], 62, 64); got != 0 {
		t.Errorf("hash of a cut payload %#x, want 0", got)
	}
	if hash(tcpFrame[:60], 62, 6) != hash(tcpFrame, 62, 6) {
		t.Error("a cut behind the limit changes the hash")
	}
	const want = 0xaf63dc4c8601ec8c // FNV-1a 64 of "a", from the test vectors of RFC 9923
	if got := hash(cat(ethIPv4, ipv4Header(29, 17), udpHeader(9, 53), []byte("a")), 0, 64); got != want {
		t.Errorf("hash of \"a\" %#x, want %#x", got, uint64(want))
	}
}

func TestDecodeAllocates(t *testing.T) {
	frames := [][]byte{tcpFrame, vxlanFrame(tcpFrame, 8472), icmpError, neighbourAdvert, tcpFrame[:20], nil}
	var f Frame
	var sum uint64
	got := testing.AllocsPerRun(100, func() {
		for _, b := range frames {
			decoder.Decode(b, 0, &f)
			sum += PayloadHash(b, &f, 64)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations a run, want none", got)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, bb := range []struct {
		name string
		in   []byte
	}{{"tcp", tcpFrame}, {"vxlan", vxlanFrame(tcpFrame, 8472)}, {"icmp-error", icmpError}} {
		b.Run(bb.name, func(b *testing.B) {
			var f Frame
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.in)))
			for b.Loop() {
				decoder.Decode(bb.in, 0, &f)
			}
		})
	}
}
