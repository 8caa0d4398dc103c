package flowstest

import (
	"encoding/binary"

	"github.com/podtrace/podtrace/pkg/flows"
)

const (
	protoICMP = 1
	protoTCP  = 6
	protoUDP  = 17

	etherLen = 14
	tcpLen   = 32 // with timestamps
	udpLen   = 8
	vxlanLen = 8
	tcpAck   = 0x10
)

// packet is one packet as its sender made it, before anything on the way changes it.
type packet struct {
	flow     *flow
	backward bool
	id       uint16 // IPv4 identification
	seq, ack uint32
	stamp    uint32 // TCP timestamp
	payload  []byte
	icmpSeq  uint16
	fault    fault
	// same: the sum that a partial checksum has is, by accident, the right checksum.
	same bool
}

// look is what a packet looks like at one point.
type look struct {
	point   int
	tuple   flows.Tuple
	ttl     uint8
	vni     uint32 // 0: not encapsulated
	port    uint16 // of the tunnel
	partial bool   // the checksum is left to the hardware
	corrupt bool
	fragOff int // of a fragment, in bytes
	more    bool
}

// frame appends the Ethernet frame of p.
func (p *packet) frame(b []byte, l look) []byte {
	if l.vni != 0 {
		inner := l
		inner.vni = 0
		n := len(b)
		b = append(b, make([]byte, etherLen+20+udpLen+vxlanLen)...)
		b = p.frame(b, inner)
		outer(b[n:], l.vni, l.port, uint16(p.flow.index))
		return b
	}
	b = append(b, 2, 0, 0, 0, 1, byte(l.point), 2, 0, 0, 0, 0, byte(l.point))
	if l.tuple.Src.Is6() {
		b = append(b, 0x86, 0xdd)
	} else {
		b = append(b, 0x08, 0x00)
	}
	ip := len(b)
	b = p.network(b, l)
	l4 := len(b)
	if l.fragOff == 0 {
		b = p.transport(b, l)
	}
	at := len(b)
	b = append(b, p.piece(l)...)
	if l.corrupt {
		b[at+len(b[at:])/2] ^= 0x20
	}
	if n := len(b) - ip; l.tuple.Src.Is6() {
		binary.BigEndian.PutUint16(b[ip+4:], uint16(n-40))
	} else {
		binary.BigEndian.PutUint16(b[ip+2:], uint16(n))
		binary.BigEndian.PutUint16(b[ip+10:], ^fold(sum(b[ip:ip+20])))
	}
	if l.fragOff == 0 {
		p.checksum(b[l4:], l)
	}
	return b
}

// fragmentLen is the IP payload of a first fragment: UDP header and data.
const fragmentLen = 1480

// piece gives the payload bytes of the packet, or of the fragment.
func (p *packet) piece(l look) []byte {
	switch {
	case l.fragOff > 0:
		return p.payload[l.fragOff-udpLen:]
	case l.more:
		return p.payload[:fragmentLen-udpLen]
	}
	return p.payload
}

func (p *packet) network(b []byte, l look) []byte {
	t := l.tuple
	if t.Src.Is6() {
		b = append(b, 0x60, 0, 0, 0, 0, 0, t.Proto, l.ttl)
	} else {
		frag := uint16(l.fragOff / 8)
		if l.more {
			frag |= 0x2000
		}
		b = append(b, 0x45, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, p.id)
		b = binary.BigEndian.AppendUint16(b, frag)
		b = append(b, l.ttl, t.Proto, 0, 0)
	}
	b = append(b, t.Src.AsSlice()...)
	return append(b, t.Dst.AsSlice()...)
}

func (p *packet) transport(b []byte, l look) []byte {
	switch l.tuple.Proto {
	case protoTCP:
		b = binary.BigEndian.AppendUint16(b, l.tuple.SrcPort)
		b = binary.BigEndian.AppendUint16(b, l.tuple.DstPort)
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, tcpLen/4<<4, tcpAck, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 8, 10)
		b = binary.BigEndian.AppendUint32(b, p.stamp)
		return append(b, 0, 0, 0, 0)
	case protoUDP:
		b = binary.BigEndian.AppendUint16(b, l.tuple.SrcPort)
		b = binary.BigEndian.AppendUint16(b, l.tuple.DstPort)
		b = binary.BigEndian.AppendUint16(b, uint16(udpLen+len(p.payload)))
		return append(b, 0, 0)
	}
	kind := byte(8)
	if p.backward {
		kind = 0
	}
	b = append(b, kind, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, l.tuple.SrcPort)
	return binary.BigEndian.AppendUint16(b, p.icmpSeq)
}

// checksum sets the checksum of layer 4. That of a corrupt packet, and of a first fragment, is that of
// the whole and sound one.
func (p *packet) checksum(l4 []byte, l look) {
	at, header := 16, tcpLen
	switch l.tuple.Proto {
	case protoUDP:
		at, header = 6, udpLen
	case protoICMP:
		at, header = 2, udpLen
	}
	var v uint32
	if l.tuple.Proto != protoICMP {
		v = sum(l.tuple.Src.AsSlice()) + sum(l.tuple.Dst.AsSlice()) + uint32(l.tuple.Proto) + uint32(header+len(p.payload))
	}
	c := ^fold(v + sum(l4[:header]) + sum(p.payload))
	if l.partial && l.tuple.Proto != protoICMP {
		binary.BigEndian.PutUint16(l4[at:], fold(v))
		p.same = c == fold(v)
		return
	}
	if c == 0 && l.tuple.Proto == protoUDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
}

// outer fills in the headers around the frame behind them. Each flow has a source port of its own.
func outer(b []byte, vni uint32, port, flow uint16) {
	copy(b, []byte{2, 0, 0, 0, 9, 1, 2, 0, 0, 0, 9, 2, 0x08, 0x00})
	ip := b[etherLen:]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protoUDP, 0, 0, 10, 1, 11, 91, 10, 1, 11, 92})
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip[:20])))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp, 40000+flow%20000)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	udp[6], udp[7] = 0, 0
	copy(udp[8:], []byte{0x08, 0, 0, 0})
	binary.BigEndian.PutUint32(udp[12:], vni<<8)
}

// sum adds 16-bit words, one by one; what it is compared with does it otherwise.
func sum(b []byte) uint32 {
	var v uint32
	for ; len(b) >= 2; b = b[2:] {
		v += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		v += uint32(b[0]) << 8
	}
	return v
}

func fold(v uint32) uint16 {
	for v > 0xffff {
		v = v>>16 + v&0xffff
	}
	return uint16(v)
}
