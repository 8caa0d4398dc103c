package pcapfile

import (
	"encoding/binary"
	"math/bits"
)

// Block types (draft-pcapng section 11.1).
const (
	blockSection   uint32 = 0x0a0d0d0a // the same in both byte orders
	blockInterface uint32 = 1
	blockPacket    uint32 = 2 // obsolete
	blockSimple    uint32 = 3
	blockStats     uint32 = 5
	blockEnhanced  uint32 = 6
)

const byteOrderMagic uint32 = 0x1a2b3c4d

const (
	blockFrame = 12 // bytes: type and total length before the body, the length again after it
	// maxBlock bounds, in bytes, the blocks that are looked into: a packet and its options. Others
	// are passed over without a buffer.
	maxBlock = 4 * MaxPacket
	// maxInterfaces bounds what a file can make a Reader remember.
	maxInterfaces = 1 << 16
)

func isSection(magic []byte) bool { return binary.BigEndian.Uint32(magic) == blockSection }

// ng reads the blocks of a pcapng file.
type ng struct {
	order    binary.ByteOrder
	sections int
	base     int // index of the first interface of the section
}

// next reads blocks up to the next packet.
func (g *ng) next(r *Reader, rec *Record) error {
	for {
		head, err := r.src.peek(blockFrame)
		if err != nil {
			return r.cut(blockFrame)
		}
		if isSection(head) {
			if err := g.section(r, head); err != nil {
				return err
			}
			continue
		}
		if g.order == nil {
			return r.broken("a block before the section header")
		}
		kind, total := g.order.Uint32(head), g.order.Uint32(head[4:])
		if total < blockFrame || total%4 != 0 {
			return r.broken("block length %d", total)
		}
		switch kind {
		case blockInterface, blockPacket, blockSimple, blockStats, blockEnhanced:
		default:
			if err := g.pass(r, total); err != nil {
				return err
			}
			continue
		}
		body, err := g.body(r, total)
		if err != nil {
			return err
		}
		rec.Offset = r.src.off
		done, err := g.block(r, kind, body, rec)
		if err != nil {
			return err
		}
		r.src.use(int(total))
		if done {
			return nil
		}
	}
}

// body gives the bytes between the two lengths of a block.
func (g *ng) body(r *Reader, total uint32) ([]byte, error) {
	if total > maxBlock {
		return nil, r.broken("block length %d is more than the %d bytes of any packet", total, maxBlock)
	}
	b, err := r.src.peek(int(total))
	if err != nil {
		return nil, r.cut(int(total))
	}
	if again := g.order.Uint32(b[total-4:]); again != total {
		return nil, r.broken("block length is %d before and %d after the block", total, again)
	}
	return b[8 : total-4 : total-4], nil
}

// pass passes over a block of any size.
func (g *ng) pass(r *Reader, total uint32) error {
	if total <= maxBlock {
		if _, err := g.body(r, total); err != nil {
			return err
		}
		r.src.use(int(total))
		return nil
	}
	start := r.src.off
	if r.src.skip(int64(total)) != nil {
		err := r.broken("cut short: %d of %d bytes are there", r.src.off-start, total)
		r.damage.Offset, r.damage.CutShort = start, true
		return err
	}
	return nil
}

// section reads a section header: from here on another byte order may hold, and interfaces are
// numbered anew.
func (g *ng) section(r *Reader, head []byte) error {
	var order binary.ByteOrder
	switch {
	case binary.LittleEndian.Uint32(head[8:]) == byteOrderMagic:
		order = binary.LittleEndian
	case binary.BigEndian.Uint32(head[8:]) == byteOrderMagic:
		order = binary.BigEndian
	default:
		return r.broken("section header with byte-order magic %x", head[8:12])
	}
	total := order.Uint32(head[4:])
	if total < blockFrame+16 || total%4 != 0 {
		return r.broken("section header length %d", total)
	}
	g.order, g.base = order, len(r.interfaces)
	g.sections++
	b, err := g.body(r, total)
	if err != nil {
		return err
	}
	// Minor version 2 is what some wrote for 0 and is the same (section 4.1).
	if major, minor := order.Uint16(b[4:]), order.Uint16(b[6:]); major != 1 || minor != 0 && minor != 2 {
		return r.broken("pcapng version %d.%d", major, minor)
	}
	r.src.use(int(total))
	return nil
}

// block reads one block that is looked into, and reports whether it was a packet.
func (g *ng) block(r *Reader, kind uint32, b []byte, rec *Record) (bool, error) {
	switch kind {
	case blockEnhanced:
		return true, g.enhanced(r, b, rec)
	case blockSimple:
		return true, g.simple(r, b, rec)
	case blockPacket:
		return true, g.obsolete(r, b, rec)
	case blockInterface:
		return false, g.describe(r, b)
	default:
		return false, g.stats(r, b)
	}
}

// iface finds an interface of the section.
func (g *ng) iface(r *Reader, id uint32) (*Interface, error) {
	if i := uint64(g.base) + uint64(id); i < uint64(len(r.interfaces)) {
		return &r.interfaces[i], nil
	}
	return nil, r.broken("interface %d of the section is not described", id)
}

// enhanced reads an enhanced packet block (section 4.3).
func (g *ng) enhanced(r *Reader, b []byte, rec *Record) error {
	const fixed = 20
	if len(b) < fixed {
		return r.broken("enhanced packet block of %d bytes", len(b))
	}
	var id, high, low, captured, orig uint32
	if g.order == binary.LittleEndian { // the order of nearly all files, without calls by interface
		id, high, low = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
		captured, orig = binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint32(b[16:])
	} else {
		id, high, low = g.order.Uint32(b), g.order.Uint32(b[4:]), g.order.Uint32(b[8:])
		captured, orig = g.order.Uint32(b[12:]), g.order.Uint32(b[16:])
	}
	i, err := g.iface(r, id)
	if err != nil {
		return err
	}
	if err := g.packet(r, i, b[fixed:], captured, rec); err != nil {
		return err
	}
	rec.Interface, rec.OrigLen = g.base+int(id), int(orig)
	rec.Time = i.time(uint64(high)<<32 | uint64(low))
	if rest := b[fixed+pad(captured):]; len(rest) >= 4 {
		return g.packetOptions(r, i, rest, rec)
	}
	return nil
}

// obsolete reads a packet block (section appendix A of the draft).
func (g *ng) obsolete(r *Reader, b []byte, rec *Record) error {
	const fixed = 20
	if len(b) < fixed {
		return r.broken("packet block of %d bytes", len(b))
	}
	id, drops := uint32(g.order.Uint16(b)), g.order.Uint16(b[2:])
	high, low := g.order.Uint32(b[4:]), g.order.Uint32(b[8:])
	captured, orig := g.order.Uint32(b[12:]), g.order.Uint32(b[16:])
	i, err := g.iface(r, id)
	if err != nil {
		return err
	}
	if err := g.packet(r, i, b[fixed:], captured, rec); err != nil {
		return err
	}
	if drops != 0xffff { // not known
		i.LostBefore += uint64(drops)
	}
	rec.Interface, rec.OrigLen = g.base+int(id), int(orig)
	rec.Time = i.time(uint64(high)<<32 | uint64(low))
	if rest := b[fixed+pad(captured):]; len(rest) >= 4 {
		return g.packetOptions(r, i, rest, rec)
	}
	return nil
}

// simple reads a simple packet block (section 4.4): of the first interface, without a time.
func (g *ng) simple(r *Reader, b []byte, rec *Record) error {
	const fixed = 4
	if len(b) < fixed {
		return r.broken("simple packet block of %d bytes", len(b))
	}
	i, err := g.iface(r, 0)
	if err != nil {
		return err
	}
	orig := g.order.Uint32(b)
	captured := min(orig, uint32(len(b)-fixed))
	if i.SnapLen != 0 {
		captured = min(captured, i.SnapLen)
	}
	if err := g.packet(r, i, b[fixed:], captured, rec); err != nil {
		return err
	}
	rec.Interface, rec.OrigLen, rec.Time = g.base, int(orig), 0
	return nil
}

// packet sets what all kinds of packet block share; b starts with the packet.
func (g *ng) packet(r *Reader, i *Interface, b []byte, captured uint32, rec *Record) error {
	if captured > MaxPacket {
		return r.broken("captured length %d is more than the %d bytes of any packet", captured, MaxPacket)
	}
	if pad(captured) > len(b) {
		return r.broken("captured length %d in a block with room for %d bytes", captured, len(b))
	}
	rec.Data = b[:captured:captured]
	rec.LinkType, rec.Flags, rec.Comment, rec.Local = i.LinkType, 0, "", nil
	return nil
}

// pad rounds up to four bytes; n is at most MaxPacket.
func pad(n uint32) int { return int(n+3) &^ 3 }

// time converts a timestamp to ns since the epoch. What does not fit 64 bits wraps around: the file
// means no time that exists.
func (i *Interface) time(ticks uint64) int64 {
	const second = 1e9
	switch i.units {
	case second:
		return int64(ticks) + i.offset*second
	case 1e6:
		return int64(ticks*1e3) + i.offset*second
	case 0:
		high, low := bits.Mul64(ticks, second)
		if i.shift >= 64 {
			return int64(high>>(i.shift-64)) + i.offset*second
		}
		return int64(high<<(64-i.shift)|low>>i.shift) + i.offset*second
	}
	high, low := bits.Mul64(ticks%i.units, second)
	part, _ := bits.Div64(high, low, i.units) // the remainder is below units, so this is below a second
	return int64(ticks/i.units*second+part) + i.offset*second
}
