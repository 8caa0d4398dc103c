package flows

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// Tuple is what a flow is named by: one direction. For ICMP echo both ports are the echo id; where
// there are no ports they are 0.
type Tuple struct {
	Proto            uint8 // IP protocol
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16 // host byte order
}

// Reverse gives the other direction.
func (t Tuple) Reverse() Tuple {
	return Tuple{t.Proto, t.Dst, t.Src, t.DstPort, t.SrcPort}
}

// Compare orders tuples.
func (t Tuple) Compare(u Tuple) int {
	return cmp.Or(t.Src.Compare(u.Src), t.Dst.Compare(u.Dst), cmp.Compare(t.Proto, u.Proto),
		cmp.Compare(t.SrcPort, u.SrcPort), cmp.Compare(t.DstPort, u.DstPort))
}

// String gives "tcp 10.244.1.32:40000 > 10.244.2.40:8080".
func (t Tuple) String() string {
	return fmt.Sprintf("%s %s > %s", protoName(t.Proto), end(t.Src, t.SrcPort), end(t.Dst, t.DstPort))
}

// MarshalText gives the form of String.
func (t Tuple) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func end(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

func protoName(p uint8) string {
	switch p {
	case protoICMP:
		return "icmp"
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoICMPv6:
		return "icmp6"
	}
	return fmt.Sprintf("proto %d", p)
}

// raw is a Tuple as it is in the packet, cheap to make and to compare.
type raw struct {
	src, dst         [16]byte // IPv4: the first four bytes
	srcPort, dstPort uint16
	proto            uint8
	v6               bool
}

func (r *raw) tuple() Tuple {
	t := Tuple{Proto: r.proto, SrcPort: r.srcPort, DstPort: r.dstPort}
	if r.v6 {
		t.Src, t.Dst = netip.AddrFrom16(r.src), netip.AddrFrom16(r.dst)
	} else {
		t.Src, t.Dst = netip.AddrFrom4([4]byte(r.src[:4])), netip.AddrFrom4([4]byte(r.dst[:4]))
	}
	return t
}

// hash gives what stands for the tuple in sightings.
func (r *raw) hash() uint64 {
	ports := uint64(r.srcPort)<<48 | uint64(r.dstPort)<<32 | uint64(r.proto)
	if !r.v6 {
		return mix(uint64(binary.BigEndian.Uint32(r.src[:]))<<32|uint64(binary.BigEndian.Uint32(r.dst[:])), ports)
	}
	a := mix(binary.BigEndian.Uint64(r.src[:]), binary.BigEndian.Uint64(r.src[8:]))
	b := mix(binary.BigEndian.Uint64(r.dst[:])+a, binary.BigEndian.Uint64(r.dst[8:]))
	return mix(b, ports|1<<8)
}

// Odd constants with as many ones as zeros, as in wyhash.
const (
	mixA uint64 = 0xa0761d6478bd642f
	mixB uint64 = 0xe7037ed1a0b428db
)

// mix folds two words into one: the product in 128 bits, both halves.
func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a^mixA, b^mixB)
	return high ^ low
}

// UnmarshalText reads the form of String.
func (t *Tuple) UnmarshalText(b []byte) error {
	var proto, src, dst string
	if f := strings.Fields(string(b)); len(f) == 4 && f[2] == ">" {
		proto, src, dst = f[0], f[1], f[3]
	} else if len(f) == 5 && f[0] == "proto" && f[3] == ">" {
		proto, src, dst = f[1], f[2], f[4]
	} else {
		return fmt.Errorf("parse flow %q: want \"PROTO SRC > DST\"", b)
	}
	u := Tuple{}
	var err error
	if u.Proto, err = parseProto(proto); err != nil {
		return fmt.Errorf("parse flow %q: %w", b, err)
	}
	if u.Src, u.SrcPort, err = parseEnd(src); err != nil {
		return fmt.Errorf("parse flow %q: %w", b, err)
	}
	if u.Dst, u.DstPort, err = parseEnd(dst); err != nil {
		return fmt.Errorf("parse flow %q: %w", b, err)
	}
	*t = u
	return nil
}

func parseProto(s string) (uint8, error) {
	for _, p := range []uint8{protoICMP, protoTCP, protoUDP, protoICMPv6} {
		if s == protoName(p) {
			return p, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return uint8(n), err
}

func parseEnd(s string) (netip.Addr, uint16, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr(), ap.Port(), nil
	}
	if s == (netip.Addr{}).String() {
		return netip.Addr{}, 0, nil
	}
	a, err := netip.ParseAddr(s)
	return a, 0, err
}
