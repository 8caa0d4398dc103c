package pcapfile

import (
	"bytes"
	"strings"
)

// Option codes (draft-pcapng sections 3.5, 4.2, 4.3, 4.6).
const (
	optEnd     uint16 = 0
	optComment uint16 = 1

	optName       uint16 = 2 // interface description
	optDesc       uint16 = 3
	optResolution uint16 = 9
	optOffset     uint16 = 14

	optFlags     uint16 = 2 // enhanced packet
	optDropCount uint16 = 4
	optLocal     uint16 = 0x8850 // codes from 0x8000 on are for local use (section 3.5)

	optStart    uint16 = 2 // interface statistics
	optStop     uint16 = 3
	optReceived uint16 = 4
	optIfDrop   uint16 = 5
	optOSDrop   uint16 = 7
)

// options calls fn with each option of a block. They end with the block or with optEnd.
func (g *ng) options(r *Reader, b []byte, fn func(code uint16, v []byte)) error {
	for len(b) >= 4 {
		code, n := g.order.Uint16(b), g.order.Uint16(b[2:])
		if code == optEnd {
			return nil
		}
		if pad(uint32(n)) > len(b)-4 {
			return r.broken("option %d of %d bytes in a block with %d left", code, n, len(b)-4)
		}
		fn(code, b[4:4+int(n)])
		b = b[4+pad(uint32(n)):]
	}
	return nil
}

// packetOptions reads the options of a packet.
func (g *ng) packetOptions(r *Reader, i *Interface, b []byte, rec *Record) error {
	return g.options(r, b, func(code uint16, v []byte) {
		switch {
		case code == optComment && rec.Comment == "":
			rec.Comment = text(v)
		case code == optFlags && len(v) == 4:
			rec.Flags = g.order.Uint32(v)
		case code == optLocal:
			rec.Local = v
		case code == optDropCount && len(v) == 8:
			i.LostBefore += g.order.Uint64(v)
		}
	})
}

// text gives a string of a file, which need not be UTF-8 and may be padded with zeros.
func text(v []byte) string {
	return strings.ToValidUTF8(string(bytes.TrimRight(v, "\x00")), "\uFFFD")
}

// describe reads an interface description block (section 4.2).
func (g *ng) describe(r *Reader, b []byte) error {
	const fixed = 8
	if len(b) < fixed {
		return r.broken("interface description block of %d bytes", len(b))
	}
	if len(r.interfaces) == maxInterfaces {
		return r.broken("more than %d interfaces", maxInterfaces)
	}
	i := Interface{
		Section:  g.sections - 1,
		ID:       len(r.interfaces) - g.base,
		LinkType: LinkType(g.order.Uint16(b)).Normal(),
		SnapLen:  g.order.Uint32(b[4:]),
		units:    1e6, // unless an option says otherwise
	}
	err := g.options(r, b[fixed:], func(code uint16, v []byte) {
		switch {
		case code == optName:
			i.Name = text(v)
		case code == optDesc:
			i.Description = text(v)
		case code == optResolution && len(v) == 1:
			i.resolution(v[0])
		case code == optOffset && len(v) == 8:
			i.offset = int64(g.order.Uint64(v))
		}
	})
	if err != nil {
		return err
	}
	r.interfaces = append(r.interfaces, i)
	return nil
}

// resolution sets the clock by an if_tsresol value: a negative power of ten, or of two with the
// highest bit set. 10^-19 is the finest power of ten that 64 bits hold; a finer one is none.
func (i *Interface) resolution(v byte) {
	if exp := uint(v & 0x7f); v&0x80 != 0 {
		i.units, i.shift = 0, exp
		return
	}
	i.units = 1
	for range min(v, 19) {
		i.units *= 10
	}
}

// stats reads an interface statistics block (section 4.6). Each replaces the one before.
func (g *ng) stats(r *Reader, b []byte) error {
	const fixed = 12
	if len(b) < fixed {
		return r.broken("interface statistics block of %d bytes", len(b))
	}
	i, err := g.iface(r, g.order.Uint32(b))
	if err != nil {
		return err
	}
	var s Stats
	err = g.options(r, b[fixed:], func(code uint16, v []byte) {
		if len(v) != 8 {
			return
		}
		ticks := uint64(g.order.Uint32(v))<<32 | uint64(g.order.Uint32(v[4:]))
		switch n := g.order.Uint64(v); code {
		case optStart:
			s.Start = i.time(ticks)
		case optStop:
			s.End = i.time(ticks)
		case optReceived:
			s.Received = n
		case optIfDrop, optOSDrop:
			s.Dropped += n
		}
	})
	if err != nil {
		return err
	}
	i.Stats, i.HasStats = s, true
	return nil
}
