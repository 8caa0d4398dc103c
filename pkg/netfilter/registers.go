package netfilter

import (
	"bytes"
	"encoding/binary"
)

// registers are the nf_tables registers as 80 bytes: the verdict, then sixteen words
// (net/netfilter/nf_tables_core.c). known has the bits that the packet and the tables determine.
type registers struct {
	b, known [80]byte
}

// value is some bytes and which of their bits are known. A nil value is one that does not exist.
type value struct {
	b, known []byte
}

// exactly is a value of which everything is known.
func exactly(b []byte) value { return value{b: b, known: bytes.Repeat([]byte{0xff}, len(b))} }

// unknownValue is a value of n bytes of which nothing is known.
func unknownValue(n int) value { return value{b: make([]byte, n), known: make([]byte, n)} }

// sure reports whether every bit is known.
func (v value) sure() bool {
	for _, k := range v.known {
		if k != 0xff {
			return false
		}
	}
	return true
}

// differs reports whether a known bit is not the one of b.
func (v value) differs(b []byte) bool {
	for i := range v.b {
		if (v.b[i]^b[i])&v.known[i] != 0 {
			return true
		}
	}
	return false
}

// regOffset is nft_parse_register: 1 to 4 are the 16-byte registers, 8 and up the 4-byte ones.
func regOffset(reg uint32) int {
	switch {
	case reg <= 4:
		return int(reg) * 16
	case reg < 8 || reg > 8+16:
		return -1
	default:
		return int(reg-8)*4 + 16
	}
}

// load reads n bytes; a register that does not exist is an unknown value.
func (r *registers) load(reg uint32, n int) value {
	o := regOffset(reg)
	if o < 0 || n < 0 || o+n > len(r.b) {
		return unknownValue(min(max(n, 0), len(r.b)))
	}
	return value{bytes.Clone(r.b[o : o+n]), bytes.Clone(r.known[o : o+n])}
}

// store writes a value and clears the rest of its last word, as the kernel does.
func (r *registers) store(reg uint32, v value) {
	o := regOffset(reg)
	if o < 0 {
		return
	}
	n := copy(r.b[o:], v.b)
	copy(r.known[o:], v.known)
	for i := o + n; i < len(r.b) && i%4 != 0; i++ {
		r.b[i], r.known[i] = 0, 0xff
	}
}

// mask is nft_bitwise's b & mask ^ xor: a bit that is masked out is known.
func (v value) mask(mask, xor []byte) value {
	out := value{make([]byte, len(v.b)), make([]byte, len(v.b))}
	for i := range v.b {
		out.b[i] = v.b[i]&mask[i] ^ xor[i]
		out.known[i] = v.known[i] | ^mask[i]
	}
	return out
}

// combine is bitwise and, or, xor of two values.
func (v value) combine(op string, w value) value {
	out := value{make([]byte, len(v.b)), make([]byte, len(v.b))}
	for i := range v.b {
		both := v.known[i] & w.known[i]
		switch op {
		case "and":
			out.b[i] = v.b[i] & w.b[i]
			out.known[i] = both | v.known[i]&^v.b[i] | w.known[i]&^w.b[i]
		case "or":
			out.b[i] = v.b[i] | w.b[i]
			out.known[i] = both | v.known[i]&v.b[i] | w.known[i]&w.b[i]
		default:
			out.b[i], out.known[i] = v.b[i]^w.b[i], both
		}
	}
	return out
}

// swap turns words of size bytes around, as byteorder does on a little-endian machine.
func (v value) swap(size int) value {
	if size < 2 || binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return v
	}
	out := value{make([]byte, len(v.b)), make([]byte, len(v.b))}
	for i := range v.b {
		word := i / size * size
		j := word + size - 1 - i%size
		if j >= len(v.b) {
			return unknownValue(len(v.b))
		}
		out.b[i], out.known[i] = v.b[j], v.known[j]
	}
	return out
}

// shift moves all words together (nft_bitwise_eval_lshift and _rshift).
func (v value) shift(bits uint32, right bool) value {
	return value{shiftWords(v.b, bits, right, 0), shiftWords(v.known, bits, right, ^uint32(0))}
}

// shiftWords shifts words in host byte order; fill is what comes in where bits leave.
func shiftWords(in []byte, bits uint32, right bool, fill uint32) []byte {
	bits %= 32
	words := make([]uint32, (len(in)+3)/4)
	padded := append(bytes.Clone(in), make([]byte, 4*len(words)-len(in))...)
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(padded[4*i:])
	}
	if bits > 0 {
		carry := fill
		for k := range words {
			i := k
			if !right {
				i = len(words) - 1 - k
			}
			w := words[i]
			if right {
				words[i] = w>>bits | carry<<(32-bits)
			} else {
				words[i] = w<<bits | carry>>(32-bits)
			}
			carry = w
		}
	}
	out := make([]byte, 0, len(padded))
	for _, w := range words {
		out = binary.NativeEndian.AppendUint32(out, w)
	}
	return out[:len(in)]
}

// reverseBytes is host order of a value as it is printed.
func reverseBytes(b []byte) []byte { return exactly(b).swap(len(b)).b }
