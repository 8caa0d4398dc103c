package decode

import (
	"encoding/binary"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
)

const (
	l4MinLen  = 8 // bytes of a UDP and ICMP header, and of what an ICMP error quotes of TCP at least
	tcpMinLen = 20
	ndLen     = 24 // bytes of a neighbour solicitation or advertisement before its options
)

// transport reads the layer 4 header at off of an IP packet that ends before ipEnd by its header.
func (w *walker) transport(h *Headers, off, ipEnd int) {
	h.PayloadLen = max(ipEnd-off, 0)
	w.payload(off, ipEnd)
	if h.FragOffset > 0 {
		return
	}
	w.partial = w.partial || h.MF
	switch h.Proto {
	case ProtoTCP:
		w.tcp(h, off, ipEnd)
	case ProtoUDP:
		w.udp(h, off, ipEnd)
	case ProtoICMP:
		w.icmp(h, off, ipEnd)
	case ProtoICMPv6:
		w.icmpv6(h, off, ipEnd)
	}
}

func (w *walker) tcp(h *Headers, off, ipEnd int) {
	h.PayloadLen = 0
	w.payload(off, off)
	if !w.need(LayerTCP, off, l4MinLen) {
		return
	}
	b := w.data[off:]
	h.HasL4 = true
	h.SrcPort = binary.BigEndian.Uint16(b[0:2])
	h.DstPort = binary.BigEndian.Uint16(b[2:4])
	h.TCPSeq = binary.BigEndian.Uint32(b[4:8])
	if !w.need(LayerTCP, off, tcpMinLen) {
		return
	}
	h.TCPAck = binary.BigEndian.Uint32(b[8:12])
	h.TCPFlags = b[13]
	headerLen := int(b[12]>>4) * 4
	if headerLen < tcpMinLen {
		w.problem(Malformed, LayerTCP, off)
		return
	}
	h.PayloadLen = max(ipEnd-off-headerLen, 0)
	w.payload(off+headerLen, ipEnd)
	w.need(LayerTCP, off, headerLen) // notes cut options
}

func (w *walker) udp(h *Headers, off, ipEnd int) {
	h.PayloadLen = 0
	w.payload(off, off)
	if !w.need(LayerUDP, off, l4MinLen) {
		return
	}
	b := w.data[off : off+l4MinLen]
	h.HasL4 = true
	h.SrcPort = binary.BigEndian.Uint16(b[0:2])
	h.DstPort = binary.BigEndian.Uint16(b[2:4])
	n := int(binary.BigEndian.Uint16(b[4:6]))
	if n == 0 && (h.Src.Is6() || ipEnd-off > 0xffff) {
		n = ipEnd - off // RFC 2675 section 4, and the carrier of a BIG TCP packet
	}
	if n < l4MinLen {
		w.problem(Malformed, LayerUDP, off)
		return
	}
	h.PayloadLen = n - l4MinLen
	w.bound(LayerUDP, off, n)
	w.payload(off+l4MinLen, off+n)
	if w.isVXLAN(h.DstPort) {
		w.vxlan(off + l4MinLen)
	} else if w.isIPUDP(h.DstPort) {
		w.ipUDP(off + l4MinLen)
	}
}

// icmpHeader reads what ICMP and ICMPv6 have in common.
func (w *walker) icmpHeader(layer Layer, h *Headers, off, ipEnd int) bool {
	h.PayloadLen = 0
	w.payload(off, off)
	if !w.need(layer, off, l4MinLen) {
		return false
	}
	h.HasL4 = true
	h.ICMPType, h.ICMPCode = w.data[off], w.data[off+1]
	h.PayloadLen = max(ipEnd-off-l4MinLen, 0)
	w.payload(off+l4MinLen, ipEnd)
	if h.IsEcho() {
		h.ICMPID = binary.BigEndian.Uint16(w.data[off+4:])
		h.ICMPSeq = binary.BigEndian.Uint16(w.data[off+6:])
	}
	return true
}

func (w *walker) icmp(h *Headers, off, ipEnd int) {
	if !w.icmpHeader(LayerICMP, h, off, ipEnd) {
		return
	}
	if h.ICMPType == 3 && h.ICMPCode == 4 { // fragmentation needed, RFC 1191 section 4
		h.ICMPMTU = uint32(binary.BigEndian.Uint16(w.data[off+6:]))
	}
	switch h.ICMPType {
	case 3, 4, 5, 11, 12: // unreachable, source quench, redirect, time exceeded, parameter problem
		w.quote(off + l4MinLen)
	}
}

func (w *walker) icmpv6(h *Headers, off, ipEnd int) {
	if !w.icmpHeader(LayerICMPv6, h, off, ipEnd) {
		return
	}
	switch h.ICMPType {
	case 1, 3, 4: // unreachable, time exceeded, parameter problem
		w.quote(off + l4MinLen)
	case 2: // packet too big
		h.ICMPMTU = binary.BigEndian.Uint32(w.data[off+4:])
		w.quote(off + l4MinLen)
	case ICMPv6NeighborSolicit, ICMPv6NeighborAdvert:
		w.neighbour(h, off)
	}
}

// quote reads the packet that an ICMP error carries; errors about errors are not sent (RFC 1122
// section 3.2.2), so a quotation inside a quotation is left alone.
func (w *walker) quote(off int) {
	if w.level >= levelQuoted {
		return
	}
	q := *w
	q.level, q.partial = levelQuoted, true
	q.ip(&w.f.Quoted, off)
	w.f.HasQuoted = w.f.Quoted.HasIP
}

// neighbour reads a neighbour solicitation or advertisement and its link-layer address option.
func (w *walker) neighbour(h *Headers, off int) {
	if !w.need(LayerICMPv6, off, ndLen) {
		return
	}
	h.NDTarget = netip.AddrFrom16([16]byte(w.data[off+8 : off+ndLen]))
	limit := min(w.end, len(w.data))
	for o := off + ndLen; o+8 <= limit; {
		kind, n := w.data[o], int(w.data[o+1])*8
		if n == 0 {
			w.problem(Malformed, LayerICMPv6, o) // RFC 4861 section 4.6
			return
		}
		if (kind == 1 || kind == 2) && n == 8 { // source or target link-layer address
			h.NDMAC = ether.MAC(w.data[o+2 : o+8])
		}
		o += n
	}
}
