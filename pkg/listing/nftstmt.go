package listing

import (
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

func (n *nftRule) statement(s any) {
	kind, v := object1(s)
	if j := jumpOf(s); j != nil {
		n.verdict(j.Code, j.Chain, strings.TrimSpace(kind+" "+j.Chain))
		return
	}
	if objectTypes[kind] != 0 && n.objref(kind, v) {
		return
	}
	switch kind {
	case "match":
		n.match(v)
	case "vmap":
		n.vmap(v)
	case "counter":
		n.rule.Packets, n.rule.Bytes = number[uint64](str(get(v, "packets"))), number[uint64](str(get(v, "bytes")))
		n.rule.Counted = n.rule.Counted || get(v, "packets") != nil
		n.add(netfilter.Expr{Op: netfilter.OpPass, Text: "counter"})
	case "limit", "quota", "ct count":
		n.add(stateful(kind, v))
	case "log", "last", "dup", "flow":
		n.add(netfilter.Expr{Op: netfilter.OpPass, Text: kind})
	case "fwd":
		n.verdict(netfilter.JumpStolen, "", kind)
	case "notrack":
		n.add(netfilter.Expr{Op: netfilter.OpNotrack, Text: kind})
	case "reject":
		n.reject(v)
	case "snat", "dnat", "masquerade", "redirect":
		n.nat(kind, v, s)
	case "mangle":
		n.mangle(v, s)
	case "set", "map":
		n.dynset(kind, v, s)
	case "xt":
		if str(get(v, "name")) == "comment" {
			n.add(netfilter.Expr{Op: netfilter.OpPass, Text: "comment"})
			return
		}
		n.opaque(s)
	default:
		n.opaque(s)
	}
}

// units are the multiples of bytes that nft prints.
var units = map[string]uint64{"": 1, "bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20}

// stateful is a statement that stops a rule at some point: a rate, a quota, a number of connections.
func stateful(kind string, v any) netfilter.Expr {
	over, _ := get(v, "inv").(bool)
	word := ""
	if over {
		word = "over "
	}
	switch kind {
	case "quota":
		val := get(v, "val")
		if val == nil {
			val = get(v, "bytes") // of an object
		}
		q := number[uint64](str(val)) * units[str(get(v, "val_unit"))]
		return netfilter.Expr{Op: netfilter.OpQuota, Quota: q, Used: number[uint64](str(get(v, "used"))) * units[str(get(v, "used_unit"))], Invert: over,
			Text: "quota " + word + str(val) + " " + orWord(str(get(v, "val_unit")), "bytes")}
	case "ct count":
		return netfilter.Expr{Op: netfilter.OpLimit, Key: needsCT, Invert: over, Text: "ct count " + word + str(get(v, "val"))}
	}
	return netfilter.Expr{Op: netfilter.OpLimit, Invert: over,
		Text: "limit rate " + word + str(get(v, "rate")) + strings.TrimSuffix(" "+str(get(v, "rate_unit")), " ") + "/" + orWord(str(get(v, "per")), "second")}
}

// objectTypes are NFT_OBJECT_* by the words of nft.
var objectTypes = map[string]uint32{
	"counter": 1, "quota": 2, "ct helper": 3, "limit": 4, "ct timeout": 7, "secmark": 8, "ct expectation": 9, "synproxy": 10,
}

// object keeps a named object: what a reference to it does.
func (r *nftRuleset) object(kind string, v any) {
	if objectTypes[kind] == 0 {
		return
	}
	o := netfilter.Object{Name: str(get(v, "name")), Expr: netfilter.Expr{Op: netfilter.OpPass, Text: kind + " " + str(get(v, "name"))}}
	switch kind {
	case "counter":
		o.Packets, o.Bytes, o.Counted = number[uint64](str(get(v, "packets"))), number[uint64](str(get(v, "bytes"))), true
	case "quota", "limit":
		o.Expr = stateful(kind, v)
	case "ct helper", "ct timeout", "ct expectation":
		o.Expr.Key = needsCT
	case "synproxy":
		o.Expr.Op = netfilter.OpOpaque
	}
	t := r.at(v, str(get(v, "table")))
	t.Objects = append(t.Objects, o)
}

// objref is a reference to an object, by its name or by a map; false where the statement is no reference.
func (n *nftRule) objref(kind string, v any) bool {
	e := netfilter.Expr{Op: netfilter.OpObjref, Object: str(v), Flags: objectTypes[kind]}
	if m := get(v, "map"); m != nil {
		ok := n.try(func() (ok bool) {
			e.Set, ok = n.lookup(get(m, "key"), get(m, "data"), []string{kind})
			return ok
		})
		if !ok {
			n.opaque(obj{kind: v})
			return true
		}
		e.Sreg, e.Text = reg1, kind+" name "+nftWords(get(m, "key"))+" map "+nftWords(get(m, "data"))
		n.add(e)
		return true
	}
	e.Text = kind + " name " + e.Object
	if e.Object != "" {
		n.add(e)
	}
	return e.Object != ""
}

// dynset adds an element to a set or a map, updates or deletes it.
func (n *nftRule) dynset(kind string, v, s any) {
	name := strings.TrimPrefix(str(get(v, kind)), "@")
	key := value0(get(v, "elem"))
	e := netfilter.Expr{Op: netfilter.OpDynset, Set: name, Sreg: reg1, Key: str(get(v, "op")), Text: str(get(v, "op")) + " @" + name + " { " + nftWords(key) + " }"}
	for _, st := range list(get(v, "stmt")) {
		if k, x := object1(st); k == "limit" || k == "quota" || k == "ct count" {
			e.Sub = append(e.Sub, stateful(k, x))
		}
	}
	ok := n.try(func() bool {
		types, ok := n.load(key, reg1)
		if data := get(v, "data"); data != nil && ok {
			size := 0
			for _, t := range types {
				size += (sizeOf(t) + 3) &^ 3
			}
			e.Sreg2 = reg3
			ok = size <= 32 && n.dataTo(reg3, n.set.types["data "+name], data) // registers 1 and 2
		}
		return ok && name != ""
	})
	if !ok {
		n.opaque(s)
		return
	}
	n.add(e)
}

// dataTo loads a value of known types, or what an expression gives.
func (n *nftRule) dataTo(reg uint32, types []string, v any) bool {
	if len(types) == 1 {
		if b, ok := encode(types[0], v); ok {
			n.add(netfilter.Expr{Op: netfilter.OpImmediate, Dreg: reg, Data: b})
			return true
		}
	}
	kind, _ := object1(v)
	if kind != "payload" && kind != "meta" && kind != "ct" {
		return false
	}
	_, ok := n.load(v, reg)
	return ok
}

// rejectCodes are the words of nft for the codes of ICMP, of ICMPv6, and of icmpx (NFT_REJECT_ICMPX_*).
var rejectCodes = map[string]map[string]uint8{
	"icmp": {"net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3, "net-prohibited": 9, "host-prohibited": 10,
		"admin-prohibited": 13},
	"icmpv6": {"no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5, "reject-route": 6},
	"icmpx":  {"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3},
}

// rejectICMPX is the type of an answer whose real type and code depend on the packet's family.
const rejectICMPX = 255

// reject answers as the rule says: by default that the port is unreachable.
func (n *nftRule) reject(v any) {
	typ, word := str(get(v, "type")), str(get(v, "expr"))
	if typ == "" {
		word = "port-unreachable"
		typ = map[netfilter.Family]string{netfilter.FamilyIPv4: "icmp", netfilter.FamilyIPv6: "icmpv6"}[n.table.Family]
		typ = orWord(typ, "icmpx")
	}
	a := &netfilter.Rejection{Type: map[string]uint8{"icmp": 3, "icmpv6": 1, "icmpx": rejectICMPX}[typ]}
	switch code, known := rejectCodes[typ][word]; {
	case typ == "tcp reset":
		a.Reset = true
		n.depend("tcp")
	case known:
		a.Code = code
	case isNumber(word):
		a.Code = number[uint8](word)
	default:
		a = nil
	}
	switch typ {
	case "icmp":
		n.depend("ip")
	case "icmpv6":
		n.depend("ip6")
	}
	n.add(netfilter.Expr{Op: netfilter.OpReject, Answer: a, Text: strings.TrimSpace("reject with " + typ + " " + word)})
}
