package decode

import (
	"encoding/binary"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
)

const (
	ipv4MinLen = 20 // bytes, without options
	ipv6Len    = 40
	// maxExtensions bounds the chain of IPv6 extension headers. RFC 8200 section 4.1 lists seven
	// that a packet may carry once each.
	maxExtensions = 8
)

// Next header values of IPv6 extension headers (IANA), and of none.
const (
	extHopByHop    uint8 = 0
	extRouting     uint8 = 43
	extFragment    uint8 = 44
	extAuth        uint8 = 51
	extNoNext      uint8 = 59
	extDestination uint8 = 60
)

// ip reads the packet at off by its version, for where no EtherType says it.
func (w *walker) ip(h *Headers, off int) {
	if !w.need(LayerIPv4, off, 1) {
		return
	}
	switch w.data[off] >> 4 {
	case 4:
		h.EtherType = ether.TypeIPv4
		w.ipv4(h, off)
	case 6:
		h.EtherType = ether.TypeIPv6
		w.ipv6(h, off)
	default:
		w.problem(Malformed, LayerIPv4, off)
	}
}

func (w *walker) ipv4(h *Headers, off int) {
	if !w.need(LayerIPv4, off, ipv4MinLen) {
		return
	}
	b := w.data[off : off+ipv4MinLen]
	headerLen := int(b[0]&0x0f) * 4
	if b[0]>>4 != 4 || headerLen < ipv4MinLen {
		w.problem(Malformed, LayerIPv4, off)
		return
	}
	h.HasIP = true
	h.TOS = b[1]
	h.IPLen = int(binary.BigEndian.Uint16(b[2:4]))
	h.ID = uint32(binary.BigEndian.Uint16(b[4:6]))
	frag := binary.BigEndian.Uint16(b[6:8])
	h.DF, h.MF, h.FragOffset = frag&0x4000 != 0, frag&0x2000 != 0, frag&0x1fff<<3
	h.TTL, h.Proto = b[8], b[9]
	h.Src = netip.AddrFrom4([4]byte(b[12:16]))
	h.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	if h.IPLen == 0 { // BIG TCP, or left to the segmentation offload
		h.IPLen = w.end - off
	}
	if h.IPLen < headerLen {
		w.problem(Malformed, LayerIPv4, off)
		return
	}
	w.bound(LayerIPv4, off, h.IPLen)
	w.transport(h, off+headerLen, off+h.IPLen)
}

func (w *walker) ipv6(h *Headers, off int) {
	if !w.need(LayerIPv6, off, ipv6Len) {
		return
	}
	b := w.data[off : off+ipv6Len]
	if b[0]>>4 != 6 {
		w.problem(Malformed, LayerIPv6, off)
		return
	}
	h.HasIP = true
	h.TOS = b[0]<<4 | b[1]>>4
	h.Proto, h.TTL = b[6], b[7]
	h.Src = netip.AddrFrom16([16]byte(b[8:24]))
	h.Dst = netip.AddrFrom16([16]byte(b[24:40]))
	h.IPLen = ipv6Len + int(binary.BigEndian.Uint16(b[4:6]))
	if h.IPLen == ipv6Len && h.Proto != extNoNext { // BIG TCP, with or without a jumbo option
		h.IPLen = w.end - off
	}
	w.bound(LayerIPv6, off, h.IPLen)
	if l4, ok := w.extensions(h, off+ipv6Len); ok {
		w.transport(h, l4, off+h.IPLen)
	}
}

// extensions walks the IPv6 extension headers at off and returns the offset behind them.
func (w *walker) extensions(h *Headers, off int) (int, bool) {
	for range maxExtensions {
		var n int
		switch h.Proto {
		default:
			return off, true
		case extHopByHop, extRouting, extDestination, extFragment, extAuth:
			if !w.need(LayerIPv6, off, 8) {
				return 0, false
			}
			n = (int(w.data[off+1]) + 1) * 8 // RFC 8200 section 4.3
		}
		b := w.data[off:]
		switch h.Proto {
		case extAuth:
			n = (int(b[1]) + 2) * 4 // RFC 4302 section 2.2
		case extFragment:
			n = 8
			frag := binary.BigEndian.Uint16(b[2:4])
			h.FragOffset, h.MF = frag&0xfff8, frag&1 != 0
			h.ID = binary.BigEndian.Uint32(b[4:8])
		}
		h.Proto = b[0]
		off += n
		if h.FragOffset > 0 {
			return off, true // what follows is the middle of a packet
		}
	}
	w.problem(Malformed, LayerIPv6, off)
	return 0, false
}

// bound narrows the enclosing layer to n bytes at off. A length beyond it is malformed, and what is
// there is still read: the addresses of a bad packet are what a person looks for.
func (w *walker) bound(layer Layer, off, n int) {
	if off+n > w.end {
		if !w.partial {
			w.problem(Malformed, layer, off)
		}
		return
	}
	w.end = off + n
}
