// Package decode reads the headers of one captured frame in place and without allocation: Ethernet
// (IEEE 802.3, 802.1Q and 802.1ad tags), ARP (RFC 826), IPv4 (RFC 791), IPv6 with its extension
// headers (RFC 8200, 4302), ICMP (RFC 792), ICMPv6 with neighbour solicitation and advertisement
// (RFC 4443, 4861), TCP (RFC 9293), UDP (RFC 768), and one level of VXLAN (RFC 7348).
//
// It verifies no checksum (offloads leave them partial), puts no fragments together and reads no
// payload. Lengths come from the headers; where an offload left a length field empty (BIG TCP) they
// come from the frame's length on the wire.
package decode

import (
	"slices"

	"github.com/podtrace/podtrace/pkg/decode/vxlan"
)

// Frame is one decoded frame. The zero value is a frame of which nothing could be read.
type Frame struct {
	Outer    Headers      // the first Ethernet frame's
	VXLAN    vxlan.Header // valid with HasVXLAN
	HasVXLAN bool
	// HasIPUDP: an IP packet stands right behind the UDP header, as flannel's proxy in user space sends it
	HasIPUDP bool
	Inner    Headers // the frame's behind the VXLAN or UDP header, valid with HasVXLAN or HasIPUDP

	// Quoted holds the headers of the packet that the innermost ICMP or ICMPv6 error quotes. Its
	// Ethernet part is empty, and as little as 8 bytes of its layer 4 header are there (RFC 792).
	Quoted    Headers
	HasQuoted bool
	// QuotedInner holds the headers of the frame inside a quoted VXLAN packet, where the error
	// quotes that much (Linux quotes up to 576 bytes).
	QuotedInner    Headers
	HasQuotedInner bool

	// Problem is the first thing in the frame that could not be read, or contradicts itself. What
	// was read before it stands.
	Problem Problem

	// PayloadOff and PayloadEnd bound the captured bytes of the innermost layer 4 payload in the
	// data; equal when there is none. Where layer 4 is not decoded (later fragments, other
	// protocols) they bound the IP payload.
	PayloadOff, PayloadEnd int
}

// Flow gives the headers of the traffic itself: the inner ones of an encapsulated packet, else the outer ones.
func (f *Frame) Flow() *Headers {
	if f.HasVXLAN || f.HasIPUDP {
		return &f.Inner
	}
	return &f.Outer
}

// QuotedFlow gives the headers of the traffic that an ICMP error speaks of, nil if the frame is no
// such error.
func (f *Frame) QuotedFlow() *Headers {
	switch {
	case f.HasQuotedInner:
		return &f.QuotedInner
	case f.HasQuoted:
		return &f.Quoted
	}
	return nil
}

// Decoder decodes frames. The zero value takes no UDP port for VXLAN. It keeps no state between
// frames and may be used by several goroutines at once.
type Decoder struct {
	// VXLANPorts are the UDP destination ports of the VXLAN devices on the path, in host byte order.
	VXLANPorts []uint16
	// IPUDPPorts are the UDP destination ports behind whose header an IP packet begins.
	IPUDPPorts []uint16
}

// Decode reads an Ethernet frame into f and resets every field of f first. wireLen is the length in
// bytes that the frame had on the wire, before the capture cut it; a value below len(data) counts as
// len(data). f keeps no reference to data.
func (d *Decoder) Decode(data []byte, wireLen int, f *Frame) {
	*f = Frame{}
	w := walker{data: data, f: f, ports: d.VXLANPorts, ipPorts: d.IPUDPPorts, end: max(wireLen, len(data))}
	w.ethernet(&f.Outer, 0)
}

// DecodeIP is Decode for link types without a link header (LINKTYPE_RAW): data starts with an IPv4
// or an IPv6 header, as its first four bits say.
func (d *Decoder) DecodeIP(data []byte, wireLen int, f *Frame) {
	*f = Frame{}
	w := walker{data: data, f: f, ports: d.VXLANPorts, ipPorts: d.IPUDPPorts, end: max(wireLen, len(data))}
	w.ip(&f.Outer, 0)
}

// level is the nesting depth of what is being read; it bounds the recursion.
type level uint8

const (
	levelOuter level = iota
	levelInner
	levelQuoted
	levelQuotedInner
)

// walker is the state while one frame is read.
type walker struct {
	data  []byte
	f     *Frame
	ports []uint16
	// ipPorts are Decoder.IPUDPPorts
	ipPorts []uint16
	// end is the first byte after the enclosing layer by the length fields so far, at most the wire
	// length. It may lie behind the captured data.
	end int
	// partial says that bytes beyond end exist elsewhere: the enclosing packet is a first fragment
	// or a quotation.
	partial bool
	level   level
}

// need reports whether n bytes at off are there, and notes the problem if not. Bytes that the
// enclosing layer has no room for are malformed; bytes that were merely not captured are truncated.
func (w *walker) need(layer Layer, off, n int) bool {
	switch {
	case off+n > w.end && !w.partial:
		w.problem(Malformed, layer, off)
	case off+n > min(w.end, len(w.data)):
		w.problem(Truncated, layer, off)
	default:
		return true
	}
	return false
}

// problem notes the first problem. A quotation is cut by design and is none.
func (w *walker) problem(kind Kind, layer Layer, off int) {
	if w.level < levelQuoted && w.f.Problem.Kind == OK {
		w.f.Problem = Problem{Kind: kind, Layer: layer, Offset: off}
	}
}

// payload sets the bounds of the innermost payload, clamped to what was captured.
func (w *walker) payload(off, end int) {
	if w.level >= levelQuoted {
		return
	}
	limit := min(w.end, len(w.data))
	w.f.PayloadOff = min(off, limit)
	w.f.PayloadEnd = max(min(end, limit), w.f.PayloadOff)
}

// isVXLAN reports whether a datagram to this port at this level carries a frame to be read: one
// VXLAN header deep, what is nested deeper is payload.
func (w *walker) isVXLAN(port uint16) bool {
	return (w.level == levelOuter || w.level == levelQuoted) && slices.Contains(w.ports, port)
}

// isIPUDP is isVXLAN for IP packets right behind the UDP header.
func (w *walker) isIPUDP(port uint16) bool {
	return (w.level == levelOuter || w.level == levelQuoted) && slices.Contains(w.ipPorts, port)
}

// ipUDP reads the IP packet at off. Other payloads of the same port are left as they are.
func (w *walker) ipUDP(off int) {
	if off >= min(w.end, len(w.data)) || w.data[off]>>4 != 4 && w.data[off]>>4 != 6 {
		return
	}
	if w.level == levelQuoted {
		w.level = levelQuotedInner
		w.ip(&w.f.QuotedInner, off)
		w.f.HasQuotedInner = w.f.QuotedInner.HasIP
		return
	}
	w.level = levelInner
	w.f.HasIPUDP = true
	w.f.PayloadOff, w.f.PayloadEnd = 0, 0
	w.ip(&w.f.Inner, off)
}

// vxlan reads the VXLAN header at off and the frame behind it.
func (w *walker) vxlan(off int) {
	if !w.need(LayerVXLAN, off, vxlan.HeaderLen) {
		return
	}
	h, _, err := vxlan.Parse(w.data[off : off+vxlan.HeaderLen])
	if err != nil {
		w.problem(Malformed, LayerVXLAN, off)
		return
	}
	if w.level == levelQuoted {
		w.level = levelQuotedInner
		w.ethernet(&w.f.QuotedInner, off+vxlan.HeaderLen)
		w.f.HasQuotedInner = w.f.QuotedInner.HasIP
		return
	}
	w.level = levelInner
	w.f.VXLAN, w.f.HasVXLAN = h, true
	w.f.PayloadOff, w.f.PayloadEnd = 0, 0
	w.ethernet(&w.f.Inner, off+vxlan.HeaderLen)
}
