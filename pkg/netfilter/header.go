package netfilter

import (
	"encoding/binary"
	"net/netip"
)

// Bases of nft_payload (enum nft_payload_bases).
const (
	baseLink = iota
	baseNetwork
	baseTransport
)

// header is the bytes of one header, as far as the packet determines them.
type header struct {
	value
	open bool // more bytes follow, which are not known
}

func (h *header) put(known bool, b ...byte) {
	k := byte(0)
	if known {
		k = 0xff
	}
	for _, c := range b {
		h.b, h.known = append(h.b, c), append(h.known, k)
	}
}

func (h *header) put16(known bool, v uint16) { h.put(known, byte(v>>8), byte(v)) }

// header builds a header.
func (r *run) header(base uint32) header {
	p := &r.p
	var h header
	switch base {
	case baseLink:
		h.open = true
		if r.hook == HookOutput && r.fam != FamilyBridge {
			return h // there is none yet
		}
		known := !p.EthSrc.IsZero() || !p.EthDst.IsZero()
		h.put(known, p.EthDst[:]...)
		h.put(known, p.EthSrc[:]...)
		h.put16(p.EtherType != 0, p.EtherType)
	case baseNetwork:
		h = p.network()
	case baseTransport:
		h = p.transport()
	default:
		h.open = true
	}
	return h
}

func (p *Packet) network() (h header) {
	h.open = true
	switch {
	case p.Family == FamilyARP:
		h.put(true, 0, 1, 8, 0, 6, 4)
		h.put16(p.ARPOp != 0, p.ARPOp)
		h.put(true, p.EthSrc[:]...)
		h.put(true, p.Src.AsSlice()...)
		h.put(p.ARPOp == 1, make([]byte, 6)...) // the target of a request is not known to its sender
		h.put(true, p.Dst.AsSlice()...)
		return h
	case p.Dst.Is4():
		h.put(true, 0x45, p.TOS)
		h.put16(true, uint16(p.Length)) //nolint:gosec // 16 bits on the wire
		h.put(false, 0, 0, 0, 0)
		h.put(true, p.TTL, p.Proto)
		h.put(false, 0, 0)
	default:
		h.put(true, 0x60|p.TOS>>4, p.TOS<<4)
		h.known[1] = 0xf0 // the flow label begins
		h.put(false, 0, 0)
		h.put16(true, uint16(max(p.Length-ipv6HeaderLen, 0))) //nolint:gosec // 16 bits on the wire
		h.put(true, p.Proto, p.TTL)
	}
	h.put(true, p.Src.AsSlice()...)
	h.put(true, p.Dst.AsSlice()...)
	return h
}

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// payloadLen is what follows the IP header, in bytes; 0 where the length is not known.
func (p *Packet) payloadLen() int {
	if p.Dst.Is4() {
		return max(p.Length-ipv4HeaderLen, 0)
	}
	return max(p.Length-ipv6HeaderLen, 0)
}

func (p *Packet) transport() (h header) {
	h.open = true
	switch p.Proto {
	case protoICMP, protoICMPv6:
		h.put(true, p.ICMPType, p.ICMPCode)
		h.put(false, 0, 0)
		h.put16(!isICMPError(p) && !p.AnySrcPort, p.ICMPID)
	case protoUDP:
		h.put16(!p.AnySrcPort, p.SrcPort)
		h.put16(true, p.DstPort)
		h.put16(p.Length > 0, uint16(p.payloadLen())) //nolint:gosec // 16 bits on the wire
	case protoTCP:
		h.put16(!p.AnySrcPort, p.SrcPort)
		h.put16(true, p.DstPort)
		h.put(false, make([]byte, 9)...)
		h.put(p.TCPFlags != 0, p.TCPFlags)
	default:
		h.put16(!p.AnySrcPort, p.SrcPort)
		h.put16(true, p.DstPort)
	}
	if n := p.payloadLen(); n > 0 {
		h.b, h.known = h.b[:min(n, len(h.b))], h.known[:min(n, len(h.b))]
		h.open = n > len(h.b)
	}
	return h
}

// payload reads bytes of the headers. What lies behind the end of the packet does not exist, what is
// there but not in the model is not known.
func (r *run) payload(e *Expr) value {
	if e.Base == baseTransport && r.p.Family == FamilyARP {
		return value{}
	}
	h := r.header(e.Base)
	lo, hi := int(e.Offset), int(e.Offset)+int(e.Len)
	if e.Len > 80 {
		return unknownValue(80)
	}
	if e.Base == baseTransport && r.p.payloadLen() > 0 && hi > r.p.payloadLen() {
		return value{}
	}
	v := unknownValue(int(e.Len))
	for i := lo; i < min(hi, len(h.b)); i++ {
		v.b[i-lo], v.known[i-lo] = h.b[i], h.known[i]
	}
	if hi > len(h.b) && !h.open {
		return value{}
	}
	return v
}

// write is payload with a source register: the fields of the packet follow the bytes of its headers.
func (r *run) write(e *Expr) (*Jump, bool) {
	v := r.regs.load(e.Sreg, int(e.Len))
	h := r.header(e.Base)
	touched := false
	for i, b := range v.b {
		at := int(e.Offset) + i
		if at >= len(h.b) || h.known[at] == 0 {
			continue // outside of what the model knows
		}
		if v.known[i]&h.known[at] != h.known[at] {
			return &Jump{Code: JumpUnknown}, true
		}
		h.b[at], touched = b, true
	}
	if touched {
		r.p.reread(e.Base, h.b)
		r.note(WhatMark)
	}
	return nil, true
}

// reread takes the fields of a packet from the bytes of one header.
func (p *Packet) reread(base uint32, b []byte) {
	addr := func(lo, hi int) netip.Addr { return addrOf(b[lo:hi]) }
	switch {
	case base == baseLink && len(b) >= 14:
		copy(p.EthDst[:], b)
		copy(p.EthSrc[:], b[6:])
		p.EtherType = binary.BigEndian.Uint16(b[12:])
	case base == baseNetwork && p.Family == FamilyARP:
	case base == baseNetwork && p.Dst.Is4() && len(b) >= ipv4HeaderLen:
		p.TOS, p.TTL, p.Proto, p.Src, p.Dst = b[1], b[8], b[9], addr(12, 16), addr(16, 20)
	case base == baseNetwork && len(b) >= ipv6HeaderLen:
		p.TOS, p.TTL, p.Proto, p.Src, p.Dst = b[0]<<4|b[1]>>4, b[7], b[6], addr(8, 24), addr(24, 40)
	case base == baseTransport && isICMP(p.Proto) && len(b) >= 6:
		p.ICMPType, p.ICMPCode, p.ICMPID = b[0], b[1], binary.BigEndian.Uint16(b[4:])
	case base == baseTransport && !isICMP(p.Proto) && len(b) >= 4:
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		if p.Proto == protoTCP && len(b) > 13 {
			p.TCPFlags = b[13]
		}
	}
}

// exthdr reads a header's option. The packets of the model have no extension headers of IPv6 and no
// options of IPv4; those of TCP are not known.
func (r *run) exthdr(e *Expr) value {
	if e.Key == "tcp option" && r.p.Proto == protoTCP && r.p.TCPFlags&tcpSYN != 0 {
		if e.Flags&1 != 0 {
			return unknownValue(1)
		}
		return unknownValue(int(min(e.Len, 40)))
	}
	if e.Key == "tcp option" && r.p.Proto == protoTCP {
		return unknownValue(int(min(max(e.Len, 1), 40)))
	}
	if e.Flags&1 != 0 {
		return exactly([]byte{0})
	}
	return value{}
}
