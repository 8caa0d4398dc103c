package flows

import (
	"encoding/binary"
)

// IP protocol numbers.
const (
	protoICMP   uint8 = 1
	protoTCP    uint8 = 6
	protoUDP    uint8 = 17
	protoICMPv6 uint8 = 58
)

const tcpSyn = 0x02

// sighting is one packet at one point, without addresses. Everything in it but tuple, vni, ttl and the
// flags about checksums is the same at all points.
type sighting struct {
	time int64 // ns since the epoch, by the clock of the point
	// tuple stands for the addresses and ports (raw.hash), id for what translation leaves alone:
	//
	//   - TCP: identification, sequence, acknowledgement, flags and length; without an identification
	//     also window and options, but for those of a SYN, whose segment size is lowered on the way.
	//   - ICMP echo: identification, type, sequence number and length.
	//   - Fragments: identification, offset and length.
	//   - Everything else: identification and length; without an identification the checksum of the
	//     payload and its first bytes (sightWeak).
	tuple, id uint64
	seq       uint32 // TCP: sequence number; else the identification
	length    uint32 // payload in bytes
	vni       uint32 // with sightVXLAN
	flags     uint16
	// sum is the checksum of the payload alone, with sightSum; of fragments the offset in units of 8
	// bytes, with moreFragments.
	sum uint16
	ttl uint8 // IPv4 time to live, IPv6 hop limit
}

// Flags of a sighting; the lower ones are kept in table entries.
const (
	sightSum   uint16 = 1 << iota
	sightWeak         // id is no more than a checksum
	sightNoID         // TCP or echo without an identification: sent anew it looks the same
	sightData         // TCP with payload
	sightFrag         // a fragment
	entryMulti        // entries: not the only packet with this id
	sightVXLAN
	sightCorrupt
	sightThin // nothing tells the packet from others

	entryFlags = sightSum | sightWeak | sightNoID | sightData | sightFrag | entryMulti
)

// moreFragments is set in sum for all fragments but the last.
const moreFragments = 1 << 15

// packet is what the parser knows of the packet that it reads: the flow and the place of its layers.
type packet struct {
	raw    raw
	id     uint32 // identification
	frag   uint16 // offset in units of 8 bytes
	more   bool
	ttl    uint8
	l4     []byte // captured bytes of layer 4, within the length of the IP packet
	l4Len  int    // its length by the IP header
	pseudo uint32 // sum of the addresses
}

// identify fills in what the layer 4 header says.
func (p *parser) identify(k *packet, s *sighting) {
	s.ttl = k.ttl
	s.seq, s.length = k.id, uint32(k.l4Len)
	switch {
	case k.frag != 0 || k.more:
		p.fragment(k, s)
	case k.raw.proto == protoTCP:
		p.tcp(k, s)
	case k.raw.proto == protoUDP:
		p.udp(k, s)
	case k.raw.proto == protoICMP || k.raw.proto == protoICMPv6:
		p.icmp(k, s)
	default:
		p.plain(k, s, 0, k.l4)
	}
	s.tuple = k.raw.hash()
}

// fragment: the first one carries the ports, by which the flow is found.
func (p *parser) fragment(k *packet, s *sighting) {
	p.counts.Fragments++
	s.flags |= sightFrag
	s.sum = k.frag
	if k.more {
		s.sum |= moreFragments
	}
	if k.frag == 0 && len(k.l4) >= 4 && (k.raw.proto == protoTCP || k.raw.proto == protoUDP) {
		k.raw.srcPort, k.raw.dstPort = binary.BigEndian.Uint16(k.l4), binary.BigEndian.Uint16(k.l4[2:])
	}
	s.id = mix(uint64(k.id)<<32|uint64(s.length), uint64(s.sum)<<16|uint64(k.raw.proto)|1<<40)
}

func (p *parser) tcp(k *packet, s *sighting) {
	const headerLen = 20
	if len(k.l4) < headerLen {
		p.thin(k, s)
		return
	}
	b := k.l4
	k.raw.srcPort, k.raw.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	header := int(b[12]>>4) * 4
	if header < headerLen || header > k.l4Len {
		p.thin(k, s)
		return
	}
	length := k.l4Len - header
	s.seq, s.length = binary.BigEndian.Uint32(b[4:]), uint32(length)
	if length > 0 {
		s.flags |= sightData
	}
	ack, flags := binary.BigEndian.Uint32(b[8:]), b[13]
	if k.id == 0 {
		s.flags |= sightNoID
		if flags&tcpSyn == 0 && header <= len(b) {
			s.id = hashBytes(b[14:16], b[headerLen:header])
		}
	}
	s.id += mix(uint64(s.seq)<<32|uint64(ack), uint64(length)<<32|uint64(flags)<<24|uint64(k.id&0xffff)<<8|uint64(protoTCP))
	p.verify(k, s, 16)
}

func (p *parser) udp(k *packet, s *sighting) {
	const headerLen = 8
	if len(k.l4) < headerLen {
		p.thin(k, s)
		return
	}
	k.raw.srcPort, k.raw.dstPort = binary.BigEndian.Uint16(k.l4), binary.BigEndian.Uint16(k.l4[2:])
	// Padding behind the datagram is not part of it; a length of 0 is that of BIG UDP (UDP_SEGMENT).
	if n := int(binary.BigEndian.Uint16(k.l4[4:])); n >= headerLen && n < k.l4Len {
		k.l4Len, k.l4 = n, k.l4[:min(n, len(k.l4))]
	}
	s.length = uint32(k.l4Len - headerLen)
	p.sum(k, s, headerLen, 6)
	p.plain(k, s, 0, k.l4[headerLen:])
}

func (p *parser) icmp(k *packet, s *sighting) {
	const headerLen = 8
	if len(k.l4) < headerLen {
		p.thin(k, s)
		return
	}
	kind, code := k.l4[0], k.l4[1]
	p.verify(k, s, 2)
	if echo := k.raw.proto == protoICMP && (kind == 0 || kind == 8) || k.raw.proto == protoICMPv6 && (kind == 128 || kind == 129); echo {
		id, seq := binary.BigEndian.Uint16(k.l4[4:]), binary.BigEndian.Uint16(k.l4[6:])
		k.raw.srcPort, k.raw.dstPort = id, id
		if k.id == 0 {
			s.flags |= sightNoID
		}
		s.id = mix(uint64(k.id)<<32|uint64(s.length), uint64(kind)<<32|uint64(seq)<<16|uint64(k.raw.proto)|1<<41)
		return
	}
	p.plain(k, s, uint64(kind)<<8|uint64(code), k.l4[headerLen:])
}

// plain identifies a packet without sequence numbers. kind is what else is known.
func (p *parser) plain(k *packet, s *sighting, kind uint64, payload []byte) {
	a, b := uint64(k.id)<<32|uint64(s.length), kind<<8|uint64(k.raw.proto)|1<<42
	if k.id != 0 {
		s.id = mix(a, b)
		return
	}
	if len(payload) < min(maxPrefix, int(s.length)) {
		p.shortest = min(p.shortest, len(payload))
	}
	n := min(p.prefix, int(s.length))
	if len(payload) < n || s.flags&sightSum == 0 && n == 0 && s.length > 0 {
		p.thin(k, s)
		return
	}
	s.flags |= sightWeak
	if s.flags&sightSum != 0 {
		a |= uint64(s.sum) << 32
	}
	s.id = mix(a, hashBytes(payload[:n], nil)^b)
}

// hashBytes gives a hash of two short strings.
func hashBytes(a, b []byte) uint64 {
	h := uint64(len(a))
	for _, s := range [2][]byte{a, b} {
		for ; len(s) >= 8; s = s[8:] {
			h = mix(h, binary.LittleEndian.Uint64(s))
		}
		for _, v := range s {
			h = h<<8 ^ h>>56 ^ uint64(v)
		}
	}
	return mix(h, 0)
}

// thin notes a packet of which too little is known to tell it from others of its flow.
func (p *parser) thin(k *packet, s *sighting) {
	if k.raw.srcPort == 0 && len(k.l4) >= 4 && (k.raw.proto == protoTCP || k.raw.proto == protoUDP) {
		k.raw.srcPort, k.raw.dstPort = binary.BigEndian.Uint16(k.l4), binary.BigEndian.Uint16(k.l4[2:])
	}
	s.flags |= sightThin
}

// check is what a checksum says.
type check uint8

const (
	checkNone    check = iota // there is none, or not all bytes were captured
	checkGood                 // it is right
	checkPartial              // only the pseudo header is summed up: the hardware was to do the rest
	checkWrong
)

// verify checks the checksum at byte at of layer 4 and counts what it finds.
func (p *parser) verify(k *packet, s *sighting, at int) {
	pseudo := k.pseudoSum()
	field := uint32(binary.BigEndian.Uint16(k.l4[at:]))
	c := checkNone
	if len(k.l4) == k.l4Len {
		c = checkGood
		if zero(pseudo+sum16(k.l4)) != 0 {
			c = checkWrong
		}
	}
	p.judge(c, k, s, field, pseudo)
}

// judge tells partial checksums from wrong ones. A wrong one is no loss: the packet goes on.
func (p *parser) judge(c check, k *packet, s *sighting, field, pseudo uint32) check {
	if c != checkGood && k.raw.proto != protoICMP && (zero(field) == zero(pseudo) || zero(field) == zero(pseudo+0xffff-fold(uint32(k.l4Len)))) {
		c = checkPartial
	}
	switch c {
	case checkPartial:
		p.counts.Partial++
	case checkWrong:
		p.counts.Corrupt++
		s.flags |= sightCorrupt
	default:
	}
	return c
}

// pseudoSum is the sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1); ICMP has none.
func (k *packet) pseudoSum() uint32 {
	if k.raw.proto == protoICMP {
		return 0
	}
	return k.pseudo + uint32(k.raw.proto) + uint32(k.l4Len>>16) + uint32(k.l4Len&0xffff)
}

// sum checks the checksum at byte at and finds that of the payload, which starts at byte header: of the
// bytes themselves, or, where they were cut or do not fit their checksum, what the field says of them.
func (p *parser) sum(k *packet, s *sighting, header, at int) {
	pseudo := k.pseudoSum()
	field := uint32(binary.BigEndian.Uint16(k.l4[at:]))
	head := sum16(k.l4[:header])
	whole := len(k.l4) == k.l4Len
	var payload uint32
	if whole {
		payload = sum16(k.l4[header:])
	}
	if field == 0 { // UDP without a checksum
		if whole {
			s.sum, s.flags = uint16(zero(payload)), s.flags|sightSum
		}
		return
	}
	c := checkNone
	if whole {
		c = checkGood
		if zero(pseudo+head+payload) != 0 {
			c = checkWrong
		}
	}
	switch p.judge(c, k, s, field, pseudo) {
	case checkGood:
		s.sum = uint16(zero(payload))
	case checkPartial:
		if !whole {
			return
		}
		s.sum = uint16(zero(payload))
	default: // all words add up to 0xffff, so those of the payload are what the others leave
		s.sum = uint16(zero(0xffff - fold(pseudo+head)))
	}
	s.flags |= sightSum
}
