package listing

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// nat is snat, dnat, masquerade and redirect.
func (n *nftRule) nat(kind string, v, s any) {
	nat := &netfilter.NAT{Kind: kind}
	text := kind
	if !n.try(func() bool { return n.natTo(nat, v, &text) }) {
		n.opaque(s)
		return
	}
	for _, f := range append(list(get(v, "flags")), get(v, "flags")) {
		switch str(f) {
		case "random", "fully-random":
			nat.Random = true
		case "persistent":
			nat.Persistent = true
		case "netmap", "prefix":
			nat.Netmap = true
		case "":
			continue
		}
		text += " " + str(f)
	}
	n.add(netfilter.Expr{Op: netfilter.OpNAT, NAT: nat, Text: text})
}

// natTo loads the new address and port.
func (n *nftRule) natTo(nat *netfilter.NAT, v any, text *string) bool {
	if a := get(v, "addr"); a != nil {
		*text += " to " + nftWords(a)
		if !n.natAddr(nat, v, a) {
			return false
		}
	}
	p := get(v, "port")
	if p == nil {
		return true
	}
	*text += ":" + nftWords(p)
	nat.ProtoReg = reg2
	if kind, m := object1(p); kind == "map" {
		name, ok := n.lookup(get(m, "key"), get(m, "data"), []string{"inet_service"})
		n.add(netfilter.Expr{Op: netfilter.OpLookup, Set: name, Sreg: reg1, Dreg: reg2})
		return ok && nat.AddrReg == 0 // whose register holds the key
	}
	lo, hi, ok := bounds("inet_service", p)
	n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg2, Data: lo})
	if !slices.Equal(lo, hi) {
		nat.ProtoMaxReg = reg4
		n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg4, Data: hi})
	}
	return ok
}

// natAddr loads the new address: a value, a range, a network, or what a map says, with a port perhaps.
func (n *nftRule) natAddr(nat *netfilter.NAT, v, a any) bool {
	typ := "ipv4_addr"
	nat.Family = netfilter.FamilyIPv4
	kind, av := object1(a)
	if n.table.Family == netfilter.FamilyIPv6 || str(get(v, "family")) == "ip6" || strings.Contains(str(a), ":") {
		typ, nat.Family = "ipv6_addr", netfilter.FamilyIPv6
	}
	nat.AddrReg = reg1
	if kind == "map" {
		return n.natMap(nat, typ, av)
	}
	lo, hi, ok := bounds(typ, a)
	n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg1, Data: lo})
	if !slices.Equal(lo, hi) {
		nat.AddrMaxReg = reg3
		nat.Netmap = kind == "prefix"
		n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg3, Data: hi})
	}
	return ok
}

// natMap looks the address up: alone, with a port behind it, or as a range of two.
func (n *nftRule) natMap(nat *netfilter.NAT, typ string, v any) bool {
	types := []string{typ}
	kind, elems := object1(get(v, "data"))
	name, _ := strings.CutPrefix(str(get(v, "data")), "@")
	second := uint32(word0 + 1)
	if typ == "ipv6_addr" {
		second = word0 + 4
	}
	if kind == "set" && len(list(elems)) > 0 && len(list(list(elems)[0])) == 2 {
		if k, c := object1(list(list(elems)[0])[1]); k == "concat" && len(list(c)) == 2 {
			types = append(types, "inet_service")
		}
		if slices.ContainsFunc(list(elems), leadsToRange) {
			nat.AddrMaxReg = second
		}
	} else if named, ok := n.set.types["data "+name]; ok {
		types = named
	}
	if len(types) == 2 {
		nat.ProtoReg = second
	}
	set, ok := n.lookup(get(v, "key"), get(v, "data"), types)
	n.add(netfilter.Expr{Op: netfilter.OpLookup, Set: set, Sreg: reg1, Dreg: reg1})
	return ok
}

// mangle sets a mark, a zone or bytes of the packet; other fields change nothing that the model follows.
func (n *nftRule) mangle(v, s any) {
	kind, k := object1(get(v, "key"))
	value := get(v, "value")
	ok := false
	switch kind {
	case "meta", "ct":
		ok = n.try(func() bool { return n.setKey(kind, str(get(k, "key")), value) })
	case "payload":
		ok = n.try(func() bool { return n.write(k, value) })
	case "tcp option", "ip option", "exthdr", "sctp chunk":
		n.add(netfilter.Expr{Op: netfilter.OpPass, Text: nftWords(s)})
		return
	}
	if !ok {
		n.opaque(s)
		return
	}
	n.rule.Exprs[len(n.rule.Exprs)-1].Text = fmt.Sprintf("%s set %s", nftWords(get(v, "key")), nftWords(value))
}

func (n *nftRule) setKey(kind, key string, value any) bool {
	op := netfilter.OpMeta
	if kind == "ct" {
		op = netfilter.OpCT
	}
	ok := true
	switch {
	case key == "mark":
		ok = n.markValue(value)
	case kind == "ct" && key == "zone":
		var b []byte
		b, ok = encode("zone", value)
		n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg1, Data: b})
	}
	n.add(netfilter.Expr{Op: op, Key: key, Sreg: reg1})
	return ok
}

// write puts a value into the packet, of a field of some bits among the others of its bytes.
func (n *nftRule) write(field, value any) bool {
	f, ok := n.field(field)
	if !ok {
		return false
	}
	data, ok := encode(f.typ, value)
	size := uint32(sizeOf(f.typ))
	if bits, some := bitFields[f.typ]; some {
		rest := bits.bytes(^bits.mask, size)
		n.add(netfilter.Expr{Op: netfilter.OpPayload, Base: f.base, Offset: f.offset, Len: size, Dreg: reg1},
			netfilter.Expr{Op: netfilter.OpBitwise, Sreg: reg1, Dreg: reg1, Len: size, Data: rest, DataEnd: data})
	} else {
		n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg1, Data: data})
	}
	n.add(netfilter.Expr{Op: netfilter.OpWrite, Sreg: reg1, Base: f.base, Offset: f.offset, Len: size})
	return ok
}

// markValue computes a mark in register 1: a number, another mark, one with bits set, cleared or turned, or
// what a map or a hash gives.
func (n *nftRule) markValue(v any) bool {
	if isNumber(str(v)) {
		n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg1, Data: native32(number[uint32](str(v)))})
		return true
	}
	kind, args := object1(v)
	switch kind {
	case "meta", "ct", "numgen", "jhash", "symhash":
		types, ok := n.load(v, reg1)
		return ok && len(types) == 1 && (types[0] == "mark" || types[0] == "integer32")
	case "map":
		name, ok := n.lookup(get(args, "key"), get(args, "data"), []string{"mark"})
		n.add(netfilter.Expr{Op: netfilter.OpLookup, Set: name, Sreg: reg1, Dreg: reg1})
		return ok
	}
	a := list(args)
	if len(a) != 2 || !isNumber(str(a[1])) || !n.markValue(a[0]) {
		return false
	}
	m := number[uint32](str(a[1]))
	mask, xor := ^uint32(0), uint32(0)
	switch kind {
	case "|":
		mask, xor = ^m, m
	case "&":
		mask = m
	case "^":
		xor = m
	default:
		return false
	}
	n.add(netfilter.Expr{Op: netfilter.OpBitwise, Sreg: reg1, Dreg: reg1, Len: 4, Data: native32(mask), DataEnd: native32(xor)})
	return true
}

// nftWords prints an expression much as nft does.
func nftWords(v any) string {
	switch kind, x := object1(v); kind {
	case "payload":
		if base := str(get(x, "base")); base != "" {
			return "@" + base + "," + str(get(x, "offset")) + "," + str(get(x, "len"))
		}
		return str(get(x, "protocol")) + " " + str(get(x, "field"))
	case "map":
		return nftWords(get(x, "key")) + " map " + nftWords(get(x, "data"))
	case "numgen":
		return "numgen " + str(get(x, "mode")) + " mod " + str(get(x, "mod"))
	case "jhash", "symhash":
		return strings.Replace(kind+" "+nftWords(get(x, "expr"))+" mod "+str(get(x, "mod")), "symhash null", "symhash", 1)
	case "meta", "ct":
		return strings.Join(strings.Fields(kind+" "+str(get(x, "dir"))+" "+str(get(x, "key"))), " ")
	case "text": // that the grammar does not reach
		return str(x)
	case "prefix":
		return str(get(x, "addr")) + "/" + str(get(x, "len"))
	case "range", "concat", "set", "&", "|", "^":
		var parts []string
		for _, e := range list(x) {
			parts = append(parts, nftWords(e))
		}
		switch kind {
		case "range":
			return strings.Join(parts, "-")
		case "concat":
			return strings.Join(parts, " . ")
		case "set":
			return "{ " + strings.Join(parts, ", ") + " }"
		default:
			return strings.Join(parts, " "+kind+" ")
		}
	case "":
	default:
		if x == nil {
			return kind
		}
		b, _ := json.Marshal(x)
		return kind + " " + string(b[:min(len(b), maxNoteLength)])
	}
	if l := list(v); l != nil {
		var parts []string
		for _, e := range l {
			parts = append(parts, nftWords(e))
		}
		return strings.Join(parts, ",")
	}
	if s := str(v); s != "" {
		return s
	}
	b, _ := json.Marshal(v)
	return string(b[:min(len(b), maxNoteLength)])
}
