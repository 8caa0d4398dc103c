package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

func fibText(e *Expr) string {
	var of []string
	for _, f := range []bitName{{fibSaddr, "saddr"}, {fibDaddr, "daddr"}, {fibMark, "mark"}, {fibIif, "iif"}, {fibOif, "oif"}} {
		if e.Flags&f.bit != 0 {
			of = append(of, f.name)
		}
	}
	return "fib " + strings.Join(of, " . ") + " " + e.Key
}

// field names the header field that is read, and how its values are printed. Of an address nft reads only
// the bytes that a prefix of whole bytes has.
func (d *describer) field(e *Expr) (text, kind string) {
	type field struct{ base, offset, length uint32 }
	names := map[field][2]string{
		{baseNetwork, 9, 1}: {"ip protocol", "proto"}, {baseNetwork, 8, 1}: {"ip ttl", "num"}, {baseNetwork, 2, 2}: {"ip length", "num"},
		{baseNetwork, 6, 1}: {"ip6 nexthdr", "proto"}, {baseNetwork, 7, 1}: {"ip6 hoplimit", "num"},
		{baseTransport, 0, 2}: {"th sport", "num"}, {baseTransport, 2, 2}: {"th dport", "num"}, {baseTransport, 13, 1}: {"tcp flags", "tcpflags"},
		{baseTransport, 0, 1}: {"icmp type", "num"}, {baseTransport, 1, 1}: {"icmp code", "num"},
		{baseLink, 0, 6}: {"ether daddr", "mac"}, {baseLink, 6, 6}: {"ether saddr", "mac"}, {baseLink, 12, 2}: {"ether type", "ethertype"},
	}
	addrs := []struct {
		name         string
		offset, size uint32
	}{{"ip saddr", 12, 4}, {"ip daddr", 16, 4}}
	if d.v6 || e.Len > 4 {
		addrs[0].name, addrs[0].offset, addrs[0].size = "ip6 saddr", 8, 16
		addrs[1].name, addrs[1].offset, addrs[1].size = "ip6 daddr", 24, 16
	}
	for _, a := range addrs {
		if e.Base == baseNetwork && e.Offset == a.offset && e.Len == a.size {
			return a.name, "addr"
		}
		if e.Base == baseNetwork && e.Offset == a.offset && e.Len < a.size {
			return a.name, fmt.Sprintf("prefix%d", a.size)
		}
	}
	n, ok := names[field{e.Base, e.Offset, e.Len}]
	if !ok {
		base := [...]string{"ll", "nh", "th", "ih"}[min(e.Base, 3)]
		return fmt.Sprintf("@%s,%d,%d", base, e.Offset*8, e.Len*8), "hex"
	}
	if d.l4 != "" {
		n[0] = strings.Replace(n[0], "th ", d.l4+" ", 1)
		n[0] = strings.Replace(n[0], "icmp ", d.l4+" ", 1)
	}
	return n[0], n[1]
}

func protoWord(p uint8) string {
	if p == protoICMPv6 {
		return "icmpv6"
	}
	return protoName(p)
}

// valueText prints a value as its kind says.
func valueText(v []byte, kind string) string {
	host := func() uint64 { return number(reverseBytes(v)) }
	switch kind {
	case "addr":
		if a, ok := netip.AddrFromSlice(v); ok {
			return a.String()
		}
	case "prefix4", "prefix16":
		full := append(bytes.Clone(v), make([]byte, 16)...)
		if kind == "prefix4" {
			full = full[:4]
		}
		if a, ok := netip.AddrFromSlice(full[:min(len(full), 16)]); ok {
			return netip.PrefixFrom(a, 8*len(v)).String()
		}
	case "ifname":
		n, _, ended := bytes.Cut(v, []byte{0})
		if !ended && len(v) < 16 {
			return strconv.Quote(string(n) + "*")
		}
		return strconv.Quote(string(n))
	case "mac":
		if len(v) == 6 {
			return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", v[0], v[1], v[2], v[3], v[4], v[5])
		}
	case "mark":
		return fmt.Sprintf("%#08x", host())
	case "mark-be":
		return fmt.Sprintf("%#08x", number(v))
	case "host":
		return fmt.Sprint(host())
	case "num":
		return fmt.Sprint(number(v))
	case "proto":
		if len(v) > 0 {
			return protoName(v[0])
		}
	case "state", "status", "tcpflags", "direction", "nfproto", "pkttype", "ethertype", "routetype":
		return wordText(v, kind, host())
	}
	return fmt.Sprintf("%#x", v)
}

// number is a big-endian number of up to eight bytes.
func number(v []byte) uint64 {
	var b [8]byte
	if len(v) > len(b) {
		return 0
	}
	copy(b[len(b)-len(v):], v)
	return binary.BigEndian.Uint64(b[:])
}

func wordText(v []byte, kind string, host uint64) string {
	low := uint32(host) //nolint:gosec // flags of 32 bits
	pick := func(words map[uint64]string, n uint64) string {
		if w := words[n]; w != "" {
			return w
		}
		return fmt.Sprint(n)
	}
	switch kind {
	case "state":
		return orNumber(bitNames(low, []bitName{{1, "invalid"}, {2, "established"}, {4, "related"}, {8, "new"}, {64, "untracked"}}), host)
	case "status":
		return orNumber(bitNames(low, []bitName{{1, "expected"}, {2, "seen-reply"}, {4, "assured"}, {8, "confirmed"}, {16, "snat"}, {32, "dnat"}, {512, "dying"}}), host)
	case "tcpflags":
		return orNumber(bitNames(low, []bitName{{1, "fin"}, {2, "syn"}, {4, "rst"}, {8, "psh"}, {16, "ack"}, {32, "urg"}, {64, "ecn"}, {128, "cwr"}}), host)
	case "direction":
		return pick(map[uint64]string{0: "original", 1: "reply"}, host)
	case "nfproto":
		return pick(map[uint64]string{2: "ipv4", 10: "ipv6"}, host)
	case "pkttype":
		return pick(map[uint64]string{0: "host", 1: "broadcast", 2: "multicast", 3: "other"}, host)
	case "ethertype":
		return pick(map[uint64]string{etherIPv4: "ip", etherIPv6: "ip6", 0x806: "arp", 0x8100: "vlan"}, number(v))
	}
	for name, n := range routeTypes {
		if uint64(n) == host {
			return name
		}
	}
	return fmt.Sprint(host)
}

func orNumber(s string, n uint64) string {
	if s == "" {
		return fmt.Sprint(n)
	}
	return s
}

func offsetText(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" offset %d", n)
}
