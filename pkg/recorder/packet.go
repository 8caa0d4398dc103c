package recorder

import (
	"encoding/binary"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/decode"
)

// entry is a packet and where it was seen.
type entry struct {
	key          uint64 // 0: free
	first, last  int64  // times of sightings, ns since the epoch
	mask         uint32 // a bit for each hop
	sport, dport uint16
	proto        uint8
	reply        bool
	twin         bool // two packets have this identity
	mixed        bool // times that do not compare
	stamp        capture.Stamp
	src, dst     uint8 // indices into the addresses of the leg's ends
}

// table holds entries by key, in place of those of an earlier period. It has a fixed size and is open-addressed:
// a sighting costs one look into memory in nearly all cases, and nothing is allocated.
type table struct {
	entries []entry
	n       int
}

const (
	tableSize = 1 << 15
	tableFull = tableSize * 7 / 8
)

func newTable() *table { return &table{entries: make([]entry, tableSize)} }

// find gives the entry of a key, nil if there is none.
func (t *table) find(key uint64) *entry {
	if t.n == 0 {
		return nil
	}
	for i := key; ; i++ {
		e := &t.entries[i%tableSize]
		switch e.key {
		case key:
			return e
		case 0:
			return nil
		}
	}
}

// get gives the entry of a key, a new one if there is none, nil if there is no room.
func (t *table) get(key uint64) *entry {
	for i := key; ; i++ {
		e := &t.entries[i%tableSize]
		switch e.key {
		case key:
			return e
		case 0:
			if t.n >= tableFull {
				return nil
			}
			t.n++
			e.key = key
			return e
		}
	}
}

func (t *table) each(f func(*entry)) {
	for i := range t.entries {
		if t.n == 0 {
			return
		}
		if e := &t.entries[i]; e.key != 0 {
			f(e)
		}
	}
}

func (t *table) clear() {
	if t.n > 0 {
		clear(t.entries)
		t.n = 0
	}
}

// mix adds a value to a hash (the finisher of MurmurHash3, public domain).
func mix(h, v uint64) uint64 {
	h ^= v
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// hashed is how many bytes of a payload tell packets apart.
const hashed = 32

// identity is what no rewrite on the path changes, of the packet that was decoded last: the leg, the protocol, the
// IPv4 identification, the length, and what numbers it or the start of its payload.
func (d *Detector) identity(f *capture.Frame, leg int, h *decode.Headers) uint64 {
	k := mix(uint64(leg+1), uint64(h.Proto)<<32|uint64(uint32(h.PayloadLen)))
	if h.Src.Is4() {
		k = mix(k, uint64(h.ID))
	}
	switch {
	case h.Proto == decode.ProtoTCP:
		return max(mix(k, uint64(h.TCPSeq)<<32|uint64(h.TCPAck)), 1)
	case h.IsEcho():
		return max(mix(k, uint64(h.ICMPSeq)<<8|uint64(h.ICMPType)), 1)
	}
	if end := min(d.frame.PayloadEnd, len(f.Data)); d.frame.PayloadOff < end {
		data := f.Data[d.frame.PayloadOff:end]
		data = data[:min(len(data), hashed)]
		for ; len(data) >= 8; data = data[8:] {
			k = mix(k, binary.LittleEndian.Uint64(data))
		}
		for _, b := range data {
			k = k<<8 ^ k>>56 ^ uint64(b)
		}
	}
	return max(mix(k, 0), 1)
}

// shape is what a leg's packets look like at a hop, but for what tells one from another.
type shape struct {
	leg  int
	hop  int8
	hash uint64
}

// maxShapes bounds what is remembered of them. Beyond it, nothing new is noticed.
const maxShapes = 4096

// shape notices headers that no packet had here before.
func (d *Detector) shape(f *capture.Frame, leg int, hop int8, h *decode.Headers) {
	hash := mix(uint64(h.TTL)<<8|uint64(h.Proto), addrHash(h.Src)^addrHash(h.Dst)*3)
	hash = mix(hash, macs(h))
	if d.frame.HasVXLAN {
		o := &d.frame.Outer
		hash = mix(hash, addrHash(o.Src)^addrHash(o.Dst)*3)
		hash = mix(hash, macs(o)^uint64(o.TTL)<<8^uint64(o.DstPort)<<24^uint64(d.frame.VXLAN.VNI)<<40)
	}
	if d.recent[leg][hop] == hash {
		return
	}
	d.recent[leg][hop] = hash
	s := shape{leg, hop, hash}
	if d.shapes[s] || len(d.shapes) >= maxShapes {
		return
	}
	d.shapes[s] = true
	n := notice(Rewrite, f, leg, hop, h)
	d.tell(n)
}

func addrHash(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]) ^ binary.BigEndian.Uint64(b[8:])
}

// macs folds both addresses of a frame into one number.
func macs(h *decode.Headers) uint64 {
	var k uint64
	for i, b := range h.EthSrc {
		k ^= uint64(b) << (8 * i)
	}
	for i, b := range h.EthDst {
		k ^= uint64(b) << (8*i + 16)
	}
	return k
}

func notice(kind Kind, f *capture.Frame, leg int, hop int8, h *decode.Headers) Notice {
	n := Notice{
		Kind: kind, Reply: leg == 1, Hop: int(hop), Time: f.Time, Proto: h.Proto, Src: h.Src, Dst: h.Dst, SrcPort: h.SrcPort, DstPort: h.DstPort,
	}
	if h.IsEcho() {
		n.SrcPort = h.ICMPID
	}
	return n
}

// conn is a TCP connection's direction, as it sets out.
type conn struct {
	leg          int
	sport, dport uint16
}

// tcpState is what was sent so far.
type tcpState struct {
	next uint32 // the sequence number after the highest byte that was sent
}

// maxConns bounds the connections that are followed; beyond it all are forgotten, and begun anew.
const maxConns = 1 << 14

// sent notices a segment of which every byte was sent before.
func (d *Detector) sent(f *capture.Frame, leg int, hop int8, h *decode.Headers) {
	k := conn{leg, h.SrcPort, h.DstPort}
	length := uint32(h.PayloadLen)
	syn := h.TCPFlags&decode.TCPSyn != 0
	if syn {
		length++
	}
	end := h.TCPSeq + length
	s := d.flows[k]
	switch {
	case s == nil || syn && end != s.next:
		if len(d.flows) >= maxConns {
			clear(d.flows)
		}
		d.flows[k] = &tcpState{next: end}
	case int32(end-s.next) > 0:
		s.next = end
	case length > 1 || syn: // one byte of what was sent before is a keep-alive (RFC 9293 section 3.8.4)
		d.tell(notice(Retransmit, f, leg, hop, h))
	}
}
