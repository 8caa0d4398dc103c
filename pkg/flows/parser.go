package flows

import (
	"encoding/binary"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// parser reads headers in place. It is pkg/decode for throughput: it makes no Frame, verifies
// checksums, and reduces the packet to its identity.
type parser struct {
	counts PointResult
	// port is the UDP port of VXLAN, 0 until a frame shows it.
	port uint16
	// prefix is how many payload bytes identify a packet that has nothing else: as many as are captured
	// at every point.
	prefix int
	// shortest is the smallest number of payload bytes that was captured of a packet that has more and
	// nothing else to know it by.
	shortest int
	tuple    raw // of the last packet
}

// maxTags and maxExtensions bound the VLAN tags and IPv6 extension headers that are read.
const (
	maxTags       = 4
	maxExtensions = 8
)

// parse reads one record; false means that it is no IP packet.
func (p *parser) parse(rec *pcapfile.Record, s *sighting) bool {
	data, end := rec.Data, max(rec.OrigLen, len(rec.Data))
	c := &p.counts
	c.Packets++
	c.Bytes += uint64(end)
	if len(data) < end {
		c.Truncated++
	}
	*s = sighting{time: rec.Time}
	var k packet
	etherType, off, ok := uint16(0), 0, false
	if rec.LinkType == pcapfile.LinkEthernet {
		etherType, off, ok = ethernet(data, 0)
	} else {
		etherType, off, ok = rec.LinkType.Payload(data)
	}
	if !ok || !k.ip(data, etherType, off, end) {
		c.Other++
		return false
	}
	if k.raw.proto == protoUDP && k.frag == 0 {
		p.decapsulate(&k, s)
	}
	p.identify(&k, s)
	p.tuple = k.raw
	return true
}

// ethernet gives the EtherType behind the tags of the frame at off, and where its payload is.
func ethernet(b []byte, off int) (etherType uint16, at int, ok bool) {
	if len(b) < off+ether.HeaderLen {
		return 0, 0, false
	}
	etherType = binary.BigEndian.Uint16(b[off+12:])
	at = off + ether.HeaderLen
	for range maxTags {
		if etherType != ether.TypeVLAN && etherType != ether.TypeQinQ && etherType != 0x9100 {
			break
		}
		if len(b) < at+4 {
			return 0, 0, false
		}
		etherType = binary.BigEndian.Uint16(b[at+2:])
		at += 4
	}
	return etherType, at, true
}

// ip reads the IP header at off. end is the length of the data on the wire.
func (k *packet) ip(b []byte, etherType uint16, off, end int) bool {
	switch etherType {
	case ether.TypeIPv4:
		return k.ipv4(b, off, end)
	case ether.TypeIPv6:
		return k.ipv6(b, off, end)
	}
	return false
}

func (k *packet) ipv4(b []byte, off, end int) bool {
	const headerLen = 20
	if len(b) < off+headerLen {
		return false
	}
	h := b[off : off+headerLen : off+headerLen]
	header := int(h[0]&0xf) * 4
	if h[0]>>4 != 4 || header < headerLen {
		return false
	}
	total := int(binary.BigEndian.Uint16(h[2:]))
	if total == 0 {
		total = end - off // BIG TCP, or segmentation offload
	}
	if total < header {
		return false
	}
	frag := binary.BigEndian.Uint16(h[6:])
	k.raw = raw{proto: h[9]}
	copy(k.raw.src[:4], h[12:16])
	copy(k.raw.dst[:4], h[16:20])
	k.id = uint32(binary.BigEndian.Uint16(h[4:]))
	k.frag, k.more = frag&0x1fff, frag&0x2000 != 0
	k.ttl = h[8]
	k.pseudo = uint32(binary.BigEndian.Uint16(h[12:])) + uint32(binary.BigEndian.Uint16(h[14:])) +
		uint32(binary.BigEndian.Uint16(h[16:])) + uint32(binary.BigEndian.Uint16(h[18:]))
	k.body(b, off+header, off+total)
	return true
}

// body sets layer 4 to the bytes from off to end, as far as they were captured.
func (k *packet) body(b []byte, off, end int) {
	k.l4Len = end - off
	limit := min(end, len(b))
	if off > limit {
		off = limit
	}
	k.l4 = b[off:limit:limit]
}

func (k *packet) ipv6(b []byte, off, end int) bool {
	const headerLen = 40
	if len(b) < off+headerLen || b[off]>>4 != 6 {
		return false
	}
	h := b[off : off+headerLen : off+headerLen]
	if n := int(binary.BigEndian.Uint16(h[4:])); n != 0 {
		end = off + headerLen + n
	}
	k.raw = raw{proto: h[6], v6: true}
	copy(k.raw.src[:], h[8:24])
	copy(k.raw.dst[:], h[24:40])
	k.id, k.frag, k.more = 0, 0, false
	k.ttl = h[7]
	k.pseudo = sum16(h[8:40])
	off, ok := k.extensions(b, off+headerLen)
	if !ok || off > end {
		return false
	}
	k.body(b, off, end)
	return true
}

// extensions goes through the IPv6 extension headers at off (RFC 8200 section 4) and gives the offset
// of layer 4.
func (k *packet) extensions(b []byte, off int) (int, bool) {
	for range maxExtensions {
		switch k.raw.proto {
		case 0, 43, 60, 135: // hop-by-hop, routing, destination, mobility
			if len(b) < off+8 {
				return 0, false
			}
			k.raw.proto = b[off]
			off += 8 + int(b[off+1])*8
		case 44: // fragment
			if len(b) < off+8 {
				return 0, false
			}
			k.raw.proto = b[off]
			v := binary.BigEndian.Uint16(b[off+2:])
			k.frag, k.more = v>>3, v&1 != 0
			if k.frag != 0 || k.more { // an atomic fragment (RFC 6946) is a packet
				k.id = binary.BigEndian.Uint32(b[off+4:])
			}
			off += 8
			if k.frag != 0 {
				return off, true
			}
		case 51: // authentication (RFC 4302)
			if len(b) < off+8 {
				return 0, false
			}
			k.raw.proto = b[off]
			off += 8 + int(b[off+1])*4
		default:
			return off, true
		}
	}
	return 0, false
}

const (
	udpLen   = 8
	vxlanLen = 8
)

// decapsulate replaces k by the packet inside, where k is VXLAN (RFC 7348 section 5). The first packet
// that can be nothing else tells the port; then every packet to that port with a valid VNI counts.
func (p *parser) decapsulate(k *packet, s *sighting) {
	b := k.l4
	if len(b) < udpLen+vxlanLen+ether.HeaderLen || b[udpLen]&0x08 == 0 {
		return
	}
	port := binary.BigEndian.Uint16(b[2:])
	if p.port != 0 && port != p.port {
		return
	}
	if p.port == 0 && !looksEncapsulated(b[udpLen:]) {
		return
	}
	etherType, off, ok := ethernet(b, udpLen+vxlanLen)
	if !ok {
		return
	}
	var inner packet
	if !inner.ip(b, etherType, off, k.l4Len) {
		return
	}
	p.port = port
	p.counts.VXLANPort = port
	p.counts.VXLAN++
	s.vni = binary.BigEndian.Uint32(b[udpLen+4:]) >> 8
	s.flags |= sightVXLAN
	*k = inner
}

// looksEncapsulated reports whether b can hardly be anything but a VXLAN header and a frame: all
// reserved bits are zero, and a known EtherType with a fitting IP version follows.
func looksEncapsulated(b []byte) bool {
	groupPolicy := b[0] == 0x88
	if b[0] != 0x08 && !groupPolicy || b[1]&^0x48 != 0 || b[7] != 0 {
		return false
	}
	if !groupPolicy && (b[1] != 0 || b[2] != 0 || b[3] != 0) {
		return false
	}
	etherType, off, ok := ethernet(b, vxlanLen)
	if !ok || len(b) <= off {
		return false
	}
	return etherType == ether.TypeIPv4 && b[off]>>4 == 4 || etherType == ether.TypeIPv6 && b[off]>>4 == 6
}

// known is a small cache of the tuples that a source has told the correlator of. It forgets; a tuple
// told twice does no harm.
type known struct{ slots [4096]uint64 }

// add reports whether the hash is new to the cache.
func (k *known) add(hash uint64) bool {
	slot := &k.slots[hash%uint64(len(k.slots))]
	if *slot == hash {
		return false
	}
	*slot = hash
	return true
}

// named is a tuple with its hash.
type named struct {
	hash uint64
	raw  raw
}

// batchLen is the number of sightings that go from a source to the merger at once.
const batchLen = 1024

// batch is sightings of one source, in the order of the file.
type batch struct {
	sightings []sighting
	tuples    []named // that may be new
}

func (b *batch) reset() {
	b.sightings, b.tuples = b.sightings[:0], b.tuples[:0]
}

func newBatch() *batch {
	return &batch{sightings: make([]sighting, 0, batchLen), tuples: slices.Grow([]named(nil), 64)}
}
