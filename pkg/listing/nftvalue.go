package listing

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// typeLen is the length in bytes of a value of a type of nft; those in host byte order are in hostOrder. Types
// that nft has no name for tell numbers by their length and fields of a few bits by what they are.
var typeLen = map[string]int{
	"ipv4_addr": 4, "ipv6_addr": 16, "ether_addr": 6, "inet_service": 2, "inet_proto": 1, "ifname": 16, "mark": 4, "ct_state": 4,
	"ct_status": 4, "ct_dir": 1, "fib_addrtype": 4, "nf_proto": 1, "ether_type": 2, "icmp_type": 1, "icmpv6_type": 1, "icmp_code": 1,
	"tcp_flag": 1, "integer8": 1, "integer16": 2, "integer32": 4, "uid": 4, "pkt_type": 1,
	"boolean": 1, "zone": 2, "iface_type": 2, "arp_op": 2, "integer32be": 4, "integer64": 8, "integer64be": 8, "ip_dscp": 1, "ip6_dscp": 2,
	"ip_version": 1, "ip_hdrlength": 1,
}

var hostOrder = map[string]bool{"mark": true, "ct_state": true, "ct_status": true, "fib_addrtype": true, "integer32": true, "uid": true, "zone": true, "iface_type": true,
	"integer64": true}

// bigEndian before a type's name is that type in network byte order.
const bigEndian = "be:"

func sizeOf(typ string) int { return typeLen[strings.TrimPrefix(typ, bigEndian)] }

// bitField is a field of some bits: the value stands shift bits to the left, under the mask.
type bitField struct {
	mask  uint64
	shift uint
}

var bitFields = map[string]bitField{
	"ip_dscp": {0xfc, 2}, "ip6_dscp": {0x0fc0, 6}, "ip_version": {0xf0, 4}, "ip_hdrlength": {0x0f, 0},
}

// bytes writes the bits of a field as they stand in its bytes.
func (bitField) bytes(v uint64, size uint32) []byte {
	b := binary.BigEndian.AppendUint64(nil, v)
	return b[8-min(size, 8):]
}

// symbols are the names that nft prints for numbers.
var symbols = map[string]map[string]uint64{
	"ct_state":     {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64},
	"ct_status":    {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512},
	"ct_dir":       {"original": 0, "reply": 1},
	"fib_addrtype": {"unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6, "unreachable": 7, "prohibit": 8},
	"nf_proto":     {"ipv4": 2, "ipv6": 10},
	"ether_type":   {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86dd, "vlan": 0x8100, "8021q": 0x8100},
	"icmp_type":    {"echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8, "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12},
	"icmpv6_type": {"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4, "echo-request": 128, "echo-reply": 129,
		"mld-listener-query": 130, "mld-listener-report": 131, "nd-router-solicit": 133, "nd-router-advert": 134, "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137},
	"tcp_flag":   {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128},
	"pkt_type":   {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3},
	"arp_op":     {"request": 1, "reply": 2},
	"iface_type": {"ether": 1, "ppp": 512, "ipip": 768, "ip6ip6": 769, "loopback": 772, "sit": 776, "ipgre": 778},
	"boolean":    {"exists": 1, "missing": 0},
	"uid":        {"root": 0},
	"ip_dscp":    dscps, "ip6_dscp": dscps,
}

var dscps = map[string]uint64{
	"cs0": 0, "cs1": 8, "cs2": 16, "cs3": 24, "cs4": 32, "cs5": 40, "cs6": 48, "cs7": 56, "df": 0, "be": 0, "lephb": 1, "le": 1, "va": 44, "ef": 46,
	"af11": 10, "af12": 12, "af13": 14, "af21": 18, "af22": 20, "af23": 22, "af31": 26, "af32": 28, "af33": 30, "af41": 34, "af42": 36, "af43": 38,
}

func isBitmask(typ string) bool { return typ == "ct_state" || typ == "ct_status" || typ == "tcp_flag" }

// encode writes a value as it stands in a register; false when the type does not have it.
func encode(typ string, v any) ([]byte, bool) {
	s := str(v)
	if t, ok := strings.CutPrefix(typ, betweenTypes); ok { // both ends, one behind the other
		lo, hi, ok := bounds(t, v)
		return append(lo, hi...), ok
	}
	typ, big := strings.CutPrefix(typ, bigEndian)
	switch typ {
	case "ipv4_addr", "ipv6_addr":
		a := parseIP(s)
		if !a.IsValid() || a.BitLen() != 8*typeLen[typ] {
			return nil, false
		}
		return a.AsSlice(), true
	case "ether_addr":
		m := parseMAC(s)
		return bytes.Clone(m[:]), isMAC(s)
	case "ifname":
		if p, ok := strings.CutSuffix(s, "*"); ok { // a prefix compares that many bytes
			return []byte(p), p != "" && len(p) < 16
		}
		b := make([]byte, 16)
		return b, s != "" && copy(b, s) == len(s)
	}
	n, ok := symbol(typ, s)
	if kind, args := object1(v); kind == "|" { // "syn | ack"
		n, ok = 0, true
		for _, a := range list(args) {
			b, bok := symbol(typ, str(a))
			n, ok = n|b, ok && bok
		}
	}
	size := sizeOf(typ)
	if f, bits := bitFields[typ]; bits {
		n <<= f.shift
		ok = ok && n&^f.mask == 0
	}
	if !ok || size == 0 || size > 8 || size < 8 && n>>(8*size) != 0 {
		return nil, false
	}
	b := binary.BigEndian.AppendUint64(nil, n)[8-size:]
	if hostOrder[typ] && !big && binary.NativeEndian.Uint16([]byte{0, 1}) != 1 {
		slices.Reverse(b)
	}
	return b, true
}

// betweenTypes before a type's name is a range of it, of which a map gives both ends.
const betweenTypes = "range:"

func symbol(typ, s string) (uint64, bool) {
	if n, ok := symbols[typ][s]; ok {
		return n, true
	}
	if typ == "inet_proto" {
		if p, ok := ipProtos[s]; ok {
			return uint64(p), true
		}
	}
	if s == "true" || s == "false" {
		return map[string]uint64{"true": 1}[s], true
	}
	n, err := strconv.ParseUint(s, 0, 64)
	return n, err == nil
}

// pad fills a value up to whole words, as concatenations hold it.
func pad(b []byte) []byte { return append(bytes.Clone(b), make([]byte, -len(b)&3)...) }

// concat encodes {"concat": [...]}, or a lone value of one type.
func concat(types []string, v any) ([]byte, bool) {
	if len(types) == 1 {
		return encode(types[0], v)
	}
	_, parts := object1(v)
	vs := list(parts)
	if len(vs) != len(types) {
		return nil, false
	}
	var out []byte
	for i, typ := range types {
		b, ok := encode(typ, vs[i])
		if !ok {
			return nil, false
		}
		out = append(out, pad(b)...)
	}
	return out, true
}

// bounds gives the first and the last value of a range, a prefix or a lone value.
func bounds(typ string, v any) (lo, hi []byte, ok bool) {
	switch kind, x := object1(v); kind {
	case "range":
		if r := list(x); len(r) == 2 {
			var ok2 bool
			lo, ok = encode(typ, r[0])
			hi, ok2 = encode(typ, r[1])
			return lo, hi, ok && ok2
		}
		return nil, nil, false
	case "prefix":
		lo, ok = encode(typ, get(x, "addr"))
		bits, err := strconv.Atoi(str(get(x, "len")))
		if !ok || err != nil || bits < 0 || bits > 8*len(lo) {
			return nil, nil, false
		}
		hi = bytes.Clone(lo)
		for i := bits; i < 8*len(lo); i++ {
			lo[i/8] &^= 0x80 >> (i % 8)
			hi[i/8] |= 0x80 >> (i % 8)
		}
		return lo, hi, true
	}
	lo, ok = encode(typ, v)
	return lo, lo, ok
}

// set reads a named set or map.
func (r *nftRuleset) set(v any, kind string) {
	t := r.at(v, str(get(v, "table")))
	name := str(get(v, "name"))
	types := typesOf(get(v, "type"))
	var data []string
	if kind == "map" {
		data = typesOf(get(v, "map"))
	}
	if r.types == nil {
		r.types = make(map[string][]string)
	}
	r.types["data "+name] = data
	interval := slices.ContainsFunc(list(get(v, "flags")), func(f any) bool { return str(f) == "interval" })
	s, ok := setOf(name, types, list(get(v, "elem")), data, interval)
	if !ok || r.terse {
		return // rules that look into it stay in doubt
	}
	t.Sets = append(t.Sets, s)
}

func typesOf(v any) []string {
	if l := list(v); l != nil {
		var out []string
		for _, e := range l {
			out = append(out, str(e))
		}
		return out
	}
	if kind, c := object1(v); kind == "concat" {
		return typesOf(c)
	}
	return strings.Split(strings.ReplaceAll(str(v), " ", ""), ".")
}

// anonymous makes the set that a rule writes in place.
func (n *nftRule) anonymous(types []string, elems []any, data []string) (string, bool) {
	name := "__listed" + strconv.Itoa(n.set.anon)
	n.set.anon++
	if len(data) == 1 && slices.ContainsFunc(elems, leadsToRange) {
		data = []string{betweenTypes + data[0]}
	}
	s, ok := setOf(name, types, elems, data, slices.ContainsFunc(elems, isRange))
	n.table.Sets = append(n.table.Sets, s)
	return name, ok
}

// leadsToRange: a map's element may give a range or a network.
func leadsToRange(e any) bool {
	l := list(e)
	if len(l) != 2 {
		return false
	}
	kind, _ := object1(l[1])
	return kind == "range" || kind == "prefix"
}

func isRange(e any) bool {
	if l := list(e); len(l) == 2 {
		e = l[0]
	}
	e = value0(e)
	kind, v := object1(e)
	if kind == "concat" {
		return slices.ContainsFunc(list(v), isRange)
	}
	return kind == "range" || kind == "prefix"
}

// value0 takes the value out of {"elem": {"val": …, "comment": …}}.
func value0(e any) any {
	if kind, v := object1(e); kind == "elem" {
		return get(v, "val")
	}
	return e
}

func setOf(name string, types []string, elems []any, data []string, interval bool) (netfilter.Set, bool) {
	s := netfilter.Set{Name: name, Map: data != nil, Interval: interval}
	types = slices.Clone(types)
	for i, t := range types {
		size := uint32(sizeOf(t))
		if size == 0 {
			return s, false
		}
		if interval && hostOrder[t] { // the kernel compares those as numbers, too
			types[i] = bigEndian + t
		}
		s.KeyLen = (s.KeyLen+3)&^3 + size
		if len(types) > 1 {
			s.Fields = append(s.Fields, size)
		}
	}
	if len(types) > 1 {
		s.KeyLen = (s.KeyLen + 3) &^ 3
	}
	for _, t := range data {
		s.DataLen = (s.DataLen+3)&^3 + uint32(sizeOf(t))
	}
	if interval && len(types) == 1 {
		s.Elements = append(s.Elements, netfilter.Element{Key: make([]byte, s.KeyLen), End: true})
	}
	for _, e := range elems {
		var target any
		if l := list(e); len(l) == 2 && data != nil {
			e, target = l[0], l[1]
		}
		es, ok := elementsOf(types, value0(e), interval)
		if !ok {
			return s, false
		}
		if data != nil && !es[0].aim(target, data) {
			return s, false
		}
		for _, x := range es {
			x.Limited = limited(e)
			s.Elements = append(s.Elements, x.Element)
		}
	}
	return s, true
}

// limited: an element may carry a statement that stops the rule.
func limited(e any) bool {
	_, v := object1(e)
	return get(v, "limit") != nil || get(v, "quota") != nil || get(v, "ct count") != nil
}

type nftElement struct{ netfilter.Element }

// aim sets what a map's element leads to.
func (e *nftElement) aim(target any, data []string) bool {
	if len(data) == 1 && data[0] == "verdict" {
		e.Verdict = jumpOf(target)
		return e.Verdict != nil
	}
	if _, object := objectTypes[data[0]]; object && len(data) == 1 {
		e.Object = str(target)
		return e.Object != ""
	}
	var ok bool
	e.Data, ok = concat(data, target)
	return ok
}

// elementsOf gives the rows of one element: intervals have a start and an end row, those of concatenations
// their own end in each field.
func elementsOf(types []string, v any, interval bool) ([]nftElement, bool) {
	if str(v) == "*" {
		return []nftElement{{netfilter.Element{Any: true}}}, true
	}
	if len(types) > 1 {
		return concatElement(types, v, interval)
	}
	lo, hi, ok := bounds(types[0], v)
	if !ok {
		return nil, false
	}
	out := []nftElement{{netfilter.Element{Key: lo}}}
	if end, more := after(hi); interval && more {
		out = append(out, nftElement{netfilter.Element{Key: end, End: true}})
	}
	return out, true
}

func concatElement(types []string, v any, interval bool) ([]nftElement, bool) {
	_, parts := object1(v)
	vs := list(parts)
	if len(vs) != len(types) {
		return nil, false
	}
	var lo, hi []byte
	for i, typ := range types {
		a, b, ok := bounds(typ, vs[i])
		if !ok {
			return nil, false
		}
		lo, hi = append(lo, pad(a)...), append(hi, pad(b)...)
	}
	e := netfilter.Element{Key: lo}
	if interval {
		e.KeyEnd = hi
	}
	return []nftElement{{e}}, true
}

// after is the value behind v; false behind the last one, where an interval stays open.
func after(v []byte) ([]byte, bool) {
	out := bytes.Clone(v)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i]++; out[i] != 0 {
			return out, true
		}
	}
	return nil, false
}
