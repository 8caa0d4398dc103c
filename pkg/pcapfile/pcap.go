package pcapfile

import "encoding/binary"

const (
	pcapHeader   = 24 // bytes of the file header
	pcapRecord   = 16 // bytes of a record header
	pcapModified = 24 // bytes of a record header with Kuznetzov's patch: index, protocol, packet type

	magicMicro    uint32 = 0xa1b2c3d4
	magicNano     uint32 = 0xa1b23c4d
	magicModified uint32 = 0xa1b2cd34

	// linkMask leaves out of a pcap link type the length of the frame check sequence (draft-pcap
	// section 4, bits 28 to 31 and 26).
	linkMask = 0x03ffffff
)

// pcap reads the records of a pcap file.
type pcap struct {
	big     bool
	nano    bool
	header  int      // bytes of a record header
	swapped bool     // version 2.0 to 2.2: original length before captured length
	maybe   bool     // version 2.3: some did, some did not
	link    LinkType // of all packets
}

func newPcap(magic []byte) (*pcap, bool) {
	p := &pcap{header: pcapRecord}
	value := binary.LittleEndian.Uint32(magic)
	switch m := binary.BigEndian.Uint32(magic); m {
	case magicMicro, magicNano, magicModified:
		p.big, value = true, m
	}
	switch value {
	case magicMicro:
	case magicNano:
		p.nano = true
	case magicModified:
		p.header = pcapModified
	default:
		return nil, false
	}
	return p, true
}

func (p *pcap) order() binary.ByteOrder {
	if p.big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// open reads the file header.
func (p *pcap) open(r *Reader) error {
	b, err := r.src.peek(pcapHeader)
	if err != nil {
		return r.cut(pcapHeader)
	}
	o := p.order()
	if major, minor := o.Uint16(b[4:]), o.Uint16(b[6:]); major == 2 {
		p.swapped, p.maybe = minor < 3, minor == 3
	}
	p.link = LinkType(o.Uint32(b[20:]) & linkMask).Normal()
	r.interfaces = []Interface{{LinkType: p.link, SnapLen: o.Uint32(b[16:])}}
	r.src.use(pcapHeader)
	return nil
}

func (p *pcap) next(r *Reader, rec *Record) error {
	b, err := r.src.peek(p.header)
	if err != nil {
		return r.cut(p.header)
	}
	var sec, frac, captured, orig uint32
	if p.big {
		sec, frac = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		captured, orig = binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	} else {
		sec, frac = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		captured, orig = binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	}
	if p.swapped || p.maybe && captured > orig {
		captured, orig = orig, captured
	}
	if captured > MaxPacket {
		return r.broken("captured length %d is more than the %d bytes of any packet", captured, MaxPacket)
	}
	n := p.header + int(captured)
	if len(b) < n {
		if b, err = r.src.peek(n); err != nil {
			return r.cut(n)
		}
	}
	rec.Time = int64(sec)*1e9 + int64(frac)
	if !p.nano {
		rec.Time = int64(sec)*1e9 + int64(frac)*1e3
	}
	rec.Interface, rec.LinkType, rec.OrigLen = 0, p.link, int(orig)
	rec.Flags, rec.Comment, rec.Local, rec.Offset = 0, "", nil, r.src.off
	rec.Data = b[p.header:n:n]
	r.src.use(n)
	return nil
}
