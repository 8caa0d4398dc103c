package netfilter

import (
	"encoding/binary"
	"math/bits"
)

// jhashInitval is JHASH_INITVAL of linux/jhash.h.
const jhashInitval = 0xdeadbeef

func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	a, c = (a-c)^bits.RotateLeft32(c, 4), c+b
	b, a = (b-a)^bits.RotateLeft32(a, 6), a+c
	c, b = (c-b)^bits.RotateLeft32(b, 8), b+a
	a, c = (a-c)^bits.RotateLeft32(c, 16), c+b
	b, a = (b-a)^bits.RotateLeft32(a, 19), a+c
	c, b = (c-b)^bits.RotateLeft32(b, 4), b+a
	return a, b, c
}

func jhashFinal(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}

// jhash is jhash() of linux/jhash.h: Bob Jenkins's lookup3 over bytes, words in host byte order.
func jhash(key []byte, initval uint32) uint32 {
	a := uint32(jhashInitval) + uint32(len(key)) + initval //nolint:gosec // keys are short
	b, c := a, a
	for len(key) > 12 {
		a, b, c = jhashMix(a+binary.NativeEndian.Uint32(key), b+binary.NativeEndian.Uint32(key[4:]), c+binary.NativeEndian.Uint32(key[8:]))
		key = key[12:]
	}
	if len(key) == 0 {
		return c
	}
	var tail [12]byte
	copy(tail[:], key)
	return jhashFinal(a+binary.LittleEndian.Uint32(tail[:]), b+binary.LittleEndian.Uint32(tail[4:]), c+binary.LittleEndian.Uint32(tail[8:]))
}

// jhash2 is jhash2() of linux/jhash.h, over words.
func jhash2(k []uint32, initval uint32) uint32 {
	a := uint32(jhashInitval) + uint32(len(k))<<2 + initval //nolint:gosec // four words
	b, c := a, a
	for len(k) > 3 {
		a, b, c = jhashMix(a+k[0], b+k[1], c+k[2])
		k = k[3:]
	}
	if len(k) == 0 {
		return c
	}
	var tail [3]uint32
	copy(tail[:], k)
	return jhashFinal(a+tail[0], b+tail[1], c+tail[2])
}

// reciprocalScale maps a hash to 0..n-1 (linux/math.h).
func reciprocalScale(h, n uint32) uint32 { return uint32(uint64(h) * uint64(n) >> 32) } //nolint:gosec // below n
