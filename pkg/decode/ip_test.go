package decode

import (
	"net/netip"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
)

// icmpError is a "fragmentation needed" that quotes a VXLAN packet whole.
var icmpError = func() []byte {
	quoted := vxlanFrame(tcpFrame, 8472)[14:]
	return cat(ethIPv4, ipv4Header(28+len(quoted), 1), []byte{
		0x03,       // destination unreachable
		0x04,       // fragmentation needed
		0x00, 0x00, // checksum
		0x00, 0x00, // unused
		0x05, 0x78, // MTU 1400
	}, quoted)
}()

var neighbourAdvert = cat(ethIPv6, ipv6Header(32, 58), []byte{
	0x88,       // neighbour advertisement
	0x00,       // code
	0x00, 0x00, // checksum
	0x60, 0x00, 0x00, 0x00, // solicited, override
	0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, // target
	0x02, 0x01, // target link-layer address, 8 bytes
	0x02, 0x00, 0x00, 0x00, 0x00, 0x01,
})

func TestICMPErrorQuotes(t *testing.T) {
	var f Frame
	decoder.Decode(icmpError, 0, &f)
	if f.Problem.Err() != nil || !f.HasQuoted || !f.HasQuotedInner {
		t.Fatalf("problem %v, quoted %t, quoted inner %t", f.Problem.Err(), f.HasQuoted, f.HasQuotedInner)
	}
	if f.Outer.ICMPType != 3 || f.Outer.ICMPCode != 4 || f.Outer.ICMPMTU != 1400 {
		t.Errorf("ICMP type %d code %d MTU %d", f.Outer.ICMPType, f.Outer.ICMPCode, f.Outer.ICMPMTU)
	}
	if f.Quoted.DstPort != 8472 || f.QuotedInner.DstPort != 8080 || f.QuotedFlow() != &f.QuotedInner {
		t.Errorf("quoted port %d, inner %d", f.Quoted.DstPort, f.QuotedInner.DstPort)
	}
	if f.PayloadOff != 42 || f.PayloadEnd != len(icmpError) || f.HasVXLAN {
		t.Errorf("the quotation moved the payload to %d-%d", f.PayloadOff, f.PayloadEnd)
	}
}

// A router that keeps to RFC 792 quotes the IP header and 8 bytes.
func TestICMPErrorQuotesEightBytes(t *testing.T) {
	in := cat(ethIPv4, ipv4Header(56, 1), []byte{11, 0, 0, 0, 0, 0, 0, 0}, ipv4Header(1500, 6), tcpHeader[:8])
	var f Frame
	decoder.Decode(in, 0, &f)
	q := f.QuotedFlow()
	if f.Problem.Err() != nil || q != &f.Quoted || !q.HasL4 {
		t.Fatalf("problem %v, quoted %+v", f.Problem.Err(), q)
	}
	if q.Src != ip4A || q.SrcPort != 40000 || q.DstPort != 8080 || q.TCPSeq != 10 || q.ID != 0x1234 || q.IPLen != 1500 {
		t.Errorf("quoted %+v", q)
	}
}

func TestIPv4Options(t *testing.T) {
	ip := ipv4Header(52, 6)
	ip[0] = 0x46
	var f Frame
	decoder.Decode(cat(ethIPv4, ip, []byte{1, 1, 1, 0}, tcpHeader, payload), 0, &f)
	if f.Problem.Err() != nil || f.Outer.DstPort != 8080 || f.Outer.PayloadLen != 8 || f.PayloadOff != 58 {
		t.Errorf("problem %v, headers %+v", f.Problem.Err(), f.Outer)
	}
}

func TestFragments(t *testing.T) {
	frag := func(flags ...byte) []byte { // the two bytes of flags and offset
		ip := ipv4Header(36, 17)
		copy(ip[6:], flags)
		return cat(ethIPv4, ip, udpHeader(3008, 9999), payload)
	}
	tests := []struct {
		name       string
		in         []byte
		hasL4      bool
		mf         bool
		offset     uint16
		payloadLen int
	}{
		{"first", frag(0x20, 0x00), true, true, 0, 3000},
		{"middle", frag(0x20, 0xb9), false, true, 1480, 16},
		{"last", frag(0x01, 0x72), false, false, 2960, 16},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f Frame
			decoder.Decode(tt.in, 0, &f)
			h := f.Outer
			if f.Problem.Err() != nil || h.HasL4 != tt.hasL4 || (h.DstPort == 9999) != tt.hasL4 {
				t.Errorf("problem %v, layer 4 %t, port %d", f.Problem.Err(), h.HasL4, h.DstPort)
			}
			if h.MF != tt.mf || h.FragOffset != tt.offset || h.PayloadLen != tt.payloadLen {
				t.Errorf("MF %t, offset %d, payload %d", h.MF, h.FragOffset, h.PayloadLen)
			}
		})
	}
}

// The first fragment of a VXLAN packet shows the inner headers as far as they go, and what is
// missing was not malformed by the sender.
func TestFirstFragmentOfVXLAN(t *testing.T) {
	in := vxlanFrame(tcpFrame, 8472)[:90]
	in[17], in[20] = 76, 0x20
	var f Frame
	decoder.Decode(in, 0, &f)
	if !f.HasVXLAN || f.Inner.Src != ip4A || f.Inner.IPLen != 48 || f.Inner.HasL4 {
		t.Errorf("inner %+v", f.Inner)
	}
	if want := (Problem{Truncated, LayerTCP, 84}); f.Problem != want {
		t.Errorf("problem %+v, want %+v", f.Problem, want)
	}
}

func TestIPv6Extensions(t *testing.T) {
	ext := func(next byte, rest ...byte) []byte { return append([]byte{next}, rest...) }
	hop := ext(43, 0, 1, 4, 0, 0, 0, 0)                           // PadN
	routing := ext(60, 0, 0, 0, 0, 0, 0, 0)                       // no segments left
	dest := ext(44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // 16 bytes
	frag := ext(51, 0, 0x00, 0x01, 0xde, 0xad, 0xbe, 0xef)        // first fragment, more follow
	auth := ext(6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1)               // 12 bytes
	chain := cat(hop, routing, dest, frag, auth)

	var f Frame
	decoder.Decode(cat(ethIPv6, ipv6Header(len(chain)+28, 0), chain, tcpHeader, payload), 0, &f)
	h := f.Outer
	if f.Problem.Err() != nil || h.Proto != 6 || h.DstPort != 8080 || h.PayloadLen != 8 {
		t.Errorf("problem %v, headers %+v", f.Problem.Err(), h)
	}
	if h.ID != 0xdeadbeef || !h.MF || h.FragOffset != 0 {
		t.Errorf("fragment id %#x, MF %t, offset %d", h.ID, h.MF, h.FragOffset)
	}

	later := cat([]byte{6, 0, 0x05, 0xa8, 0, 0, 0, 9}, payload)
	decoder.Decode(cat(ethIPv6, ipv6Header(len(later), 44), later), 0, &f)
	h = f.Outer
	if f.Problem.Err() != nil || h.HasL4 || h.FragOffset != 1448 || h.ID != 9 || h.PayloadLen != 8 {
		t.Errorf("later fragment: problem %v, headers %+v", f.Problem.Err(), h)
	}

	var endless []byte
	for range 20 {
		endless = append(endless, 60, 0, 0, 0, 0, 0, 0, 0)
	}
	decoder.Decode(cat(ethIPv6, ipv6Header(len(endless), 60), endless), 0, &f)
	if f.Problem.Kind != Malformed || f.Problem.Layer != LayerIPv6 {
		t.Errorf("twenty extension headers: problem %+v", f.Problem)
	}
}

func TestNeighbourDiscovery(t *testing.T) {
	var f Frame
	decoder.Decode(neighbourAdvert, 0, &f)
	h := &f.Outer
	if f.Problem.Err() != nil || h.ICMPType != ICMPv6NeighborAdvert || !h.IsNeighbour() {
		t.Errorf("problem %v, headers %+v", f.Problem.Err(), h)
	}
	if h.NDTarget != netip.MustParseAddr("fd00:1::20") || h.NDMAC != (ether.MAC{2, 0, 0, 0, 0, 1}) {
		t.Errorf("target %v at %v", h.NDTarget, h.NDMAC)
	}
	bad := cat(neighbourAdvert)
	bad[79] = 0 // an option of no length must not loop
	decoder.Decode(bad, 0, &f)
	if want := (Problem{Malformed, LayerICMPv6, 78}); f.Problem != want {
		t.Errorf("problem %+v, want %+v", f.Problem, want)
	}
}

func TestICMPv6Echo(t *testing.T) {
	in := cat(ethIPv6, ipv6Header(16, 58), []byte{129, 0, 0, 0, 0, 7, 0, 2}, payload)
	var f Frame
	decoder.Decode(in, 0, &f)
	if h := &f.Outer; !h.IsEcho() || h.ICMPID != 7 || h.ICMPSeq != 2 || h.PayloadLen != 8 {
		t.Errorf("headers %+v", h)
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range [][]byte{tcpFrame, pingFrame, vxlanFrame(tcpFrame, 8472), icmpError, neighbourAdvert} {
		f.Add(b, len(b))
		f.Add(b[:len(b)/2], len(b))
	}
	f.Fuzz(func(t *testing.T, b []byte, wireLen int) {
		var frame, again Frame
		decoder.Decode(b, wireLen, &frame)
		check(t, b, &frame)
		again.HasVXLAN = true
		decoder.Decode(b, wireLen, &again)
		if frame != again {
			t.Fatal("the same bytes gave two frames")
		}
		if frame.HasVXLAN {
			checkVXLAN(t, b, &frame)
		}
		decoder.DecodeIP(b, wireLen, &frame)
		check(t, b, &frame)
	})
}

func check(t *testing.T, b []byte, f *Frame) {
	t.Helper()
	if f.PayloadOff < 0 || f.PayloadOff > f.PayloadEnd || f.PayloadEnd > len(b) {
		t.Fatalf("payload %d-%d of %d bytes", f.PayloadOff, f.PayloadEnd, len(b))
	}
	for _, h := range []*Headers{&f.Outer, &f.Inner, &f.Quoted, &f.QuotedInner} {
		if h.PayloadLen < 0 || h.IPLen < 0 || h.HasL4 && !h.HasIP {
			t.Fatalf("headers %+v", h)
		}
	}
	PayloadHash(b, f, 64)
}

// checkVXLAN looks for the header's bytes where they came from: straight before the inner frame.
func checkVXLAN(t *testing.T, b []byte, f *Frame) {
	t.Helper()
	want := f.VXLAN.AppendTo(nil)
	for off := 0; off+len(want) <= len(b); off++ {
		if string(b[off:off+len(want)]) == string(want) {
			return
		}
	}
	t.Fatalf("VXLAN header %x is not in the frame", want)
}
