package listing

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// nat is snat, dnat, masquerade and redirect.
func (n *nftRule) nat(kind string, v, s any) {
	nat := &netfilter.NAT{Kind: kind}
	text := kind
	before := len(n.rule.Exprs)
	ok := true
	if a := get(v, "addr"); a != nil {
		text += " to " + nftWords(a)
		ok = n.natAddr(nat, v, a)
	}
	if p := get(v, "port"); p != nil && ok {
		text += ":" + nftWords(p)
		if k, r := object1(p); k == "range" && len(list(r)) == 2 {
			p = list(r)[0]
		}
		data, okPort := encode("inet_service", p)
		ok = okPort
		nat.ProtoReg = reg2
		n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg2, Data: data})
	}
	if !ok {
		n.rule.Exprs = n.rule.Exprs[:before]
		n.unknown(s)
		return
	}
	n.add(netfilter.Expr{Op: netfilter.OpNAT, NAT: nat, Text: text})
}

// natAddr loads the new address: a value, the first of a range, or what a map says, with a port perhaps.
func (n *nftRule) natAddr(nat *netfilter.NAT, v, a any) bool {
	typ := "ipv4_addr"
	if n.table.Family == netfilter.FamilyIPv6 || str(get(v, "family")) == "ip6" || strings.Contains(str(a), ":") {
		typ = "ipv6_addr"
	}
	nat.AddrReg = reg1
	kind, av := object1(a)
	switch kind {
	case "map":
		return n.natMap(nat, typ, av)
	case "range":
		if len(list(av)) != 2 {
			return false
		}
		a = list(av)[0]
	}
	data, ok := encode(typ, a)
	n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg1, Data: data})
	return ok
}

func (n *nftRule) natMap(nat *netfilter.NAT, typ string, v any) bool {
	types := []string{typ}
	kind, elems := object1(get(v, "data"))
	name, _ := strings.CutPrefix(str(get(v, "data")), "@")
	if kind == "set" && len(list(elems)) > 0 && len(list(list(elems)[0])) == 2 {
		if k, c := object1(list(list(elems)[0])[1]); k == "concat" && len(list(c)) == 2 {
			types = append(types, "inet_service")
		}
	} else if named, ok := n.set.types["data "+name]; ok {
		types = named
	}
	if len(types) == 2 {
		nat.ProtoReg = word0 + 1
		if typ == "ipv6_addr" {
			nat.ProtoReg = word0 + 4
		}
	}
	set, ok := n.lookup(get(v, "key"), get(v, "data"), types)
	n.add(netfilter.Expr{Op: netfilter.OpLookup, Set: set, Sreg: reg1, Dreg: reg1})
	return ok
}

// mangle sets a mark; other fields change nothing that the model follows.
func (n *nftRule) mangle(v, s any) {
	kind, k := object1(get(v, "key"))
	op := netfilter.OpMeta
	switch {
	case kind == "ct":
		op = netfilter.OpCT
	case kind != "meta":
		n.unknown(s) // of a packet's own bytes
		return
	}
	if str(get(k, "key")) != "mark" {
		n.add(netfilter.Expr{Op: netfilter.OpPass, Text: nftWords(s)})
		return
	}
	before := len(n.rule.Exprs)
	if !n.markValue(get(v, "value")) {
		n.rule.Exprs = n.rule.Exprs[:before]
		n.unknown(s)
		return
	}
	n.add(netfilter.Expr{Op: op, Key: "mark", Sreg: reg1, Text: fmt.Sprintf("%s mark set %s", kind, nftWords(get(v, "value")))})
}

// markValue computes a mark in register 1: a number, another mark, or one with bits set, cleared or turned.
func (n *nftRule) markValue(v any) bool {
	if isNumber(str(v)) {
		n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg1, Data: native32(number[uint32](str(v)))})
		return true
	}
	kind, args := object1(v)
	if kind == "meta" || kind == "ct" {
		_, ok := n.load(v, reg1)
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
		return str(get(x, "protocol")) + " " + str(get(x, "field"))
	case "meta", "ct":
		return strings.TrimSpace(kind + " " + str(get(x, "dir")) + " " + str(get(x, "key")))
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
