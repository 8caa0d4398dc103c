package flows

import (
	"encoding/binary"
	"math/bits"
)

// sum16 adds the 16-bit words of b in one's complement (RFC 1071), folded to 16 bits. An odd byte at
// the end counts as the upper half of a word. It reads eight bytes at a time in whatever order; the
// sum is the same in either, but for its own byte order (RFC 1071 section 2B).
func sum16(b []byte) uint32 {
	var s, c uint64
	for len(b) >= 64 {
		w := b[:64:64]
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(w[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var tail uint64
	for i, v := range b {
		tail |= uint64(v) << (8 * i)
	}
	s, c = bits.Add64(s, tail, c)
	s, c = bits.Add64(s, c, 0)
	s += c
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	v := fold(uint32(s>>16) + uint32(s&0xffff))
	return v>>8 | v&0xff<<8
}

// fold brings a sum of words below 2^16.
func fold(v uint32) uint32 {
	v = v>>16 + v&0xffff
	return v>>16 + v&0xffff
}

// zero gives one form to the two zeros of one's complement.
func zero(v uint32) uint32 {
	if v = fold(v); v == 0xffff {
		return 0
	}
	return v
}
