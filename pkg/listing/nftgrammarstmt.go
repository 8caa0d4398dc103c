package listing

import (
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// statement reads one; nil when it is beyond this grammar.
func (r *nftReader) statement() any {
	if v := r.verdict(); v != nil {
		return v
	}
	at := r.i
	switch word := r.next(); word {
	case "counter", "quota", "limit":
		if r.take("name") {
			return r.objref(word)
		}
		return r.stateful(word)
	case "notrack":
		return obj{word: nil}
	case "log":
		r.options("prefix", "level", "group", "snaplen", "queue-threshold", "flags")
		return obj{word: nil}
	case "reject":
		return r.reject()
	case "snat", "dnat", "masquerade", "redirect":
		return r.nat(word)
	case "add", "update", "delete":
		return r.dynset(word)
	case "dup", "fwd":
		r.options("to", "device")
		return obj{word: nil}
	case "flow":
		r.options("add")
		return obj{word: nil}
	case "ct":
		switch key := r.next(); {
		case key == "count":
			return r.stateful("ct count")
		case r.take("set") && objectTypes["ct "+key] != 0:
			return obj{"ct " + key: r.next()}
		}
	}
	r.i = at
	return r.match()
}

// options takes words with one argument each.
func (r *nftReader) options(names ...string) {
	for slices.Contains(names, r.peek()) {
		r.i += 2
	}
}

// objref reads what follows "counter name": a name, or a map that gives one.
func (r *nftReader) objref(kind string) any {
	if r.toks[min(r.i, len(r.toks)-1)].quoted || r.i+1 >= len(r.toks) || r.toks[r.i+1].s == "\n" {
		return obj{kind: r.next()}
	}
	if m := r.mapOf(); m != nil {
		return obj{kind: m}
	}
	return nil
}

// stateful reads "limit rate over 10/second burst 5 packets", "quota over 10 mbytes used 1 bytes", "ct count over
// 20", "counter packets 0 bytes 0".
func (r *nftReader) stateful(kind string) any {
	o := obj{}
	r.take("rate")
	if r.take("over") {
		o["inv"] = true
	}
	r.take("until")
	switch kind {
	case "counter":
		if !r.take("packets") {
			return obj{kind: nil}
		}
		o["packets"] = r.next()
		r.take("bytes")
		o["bytes"] = r.next()
	case "ct count":
		o["val"] = r.next()
	case "quota":
		o["val"], o["val_unit"] = r.next(), r.next()
		if r.take("used") {
			o["used"], o["used_unit"] = r.next(), r.next()
		}
	default:
		rate := r.next()
		unit := ""
		if !strings.Contains(rate, "/") { // "1 mbytes/second"
			unit, _, _ = strings.Cut(r.peek(), "/")
			_, per, _ := strings.Cut(r.next(), "/")
			rate += "/" + per
		}
		o["rate"], o["per"], _ = strings.Cut(rate, "/")
		o["rate_unit"] = unit
		if r.take("burst") {
			r.i += 2
		}
	}
	return obj{kind: o}
}

// reject reads "reject with icmpx admin-prohibited" and "reject with tcp reset".
func (r *nftReader) reject() any {
	if !r.take("with") {
		return obj{"reject": nil}
	}
	typ := r.next()
	r.take("type")
	word := r.next()
	if typ == "tcp" {
		typ, word = "tcp "+word, ""
	}
	return obj{"reject": obj{"type": typ, "expr": word}}
}

// dynset reads "add @set { ip saddr timeout 5s limit rate 1/second : value }".
func (r *nftReader) dynset(op string) any {
	name := r.next()
	if !r.take("{") {
		return nil
	}
	key := r.concatExpr()
	if key == nil {
		return nil
	}
	o := obj{"op": op, "elem": key, "set": name}
	var stmts []any
	for !r.done() && !r.take("}") {
		switch word := r.next(); word {
		case "timeout", "expires", "comment":
			r.i++
		case "limit", "quota", "counter":
			stmts = append(stmts, r.stateful(word))
		case "ct":
			r.take("count")
			stmts = append(stmts, r.stateful("ct count"))
		case ":":
			o["data"], o["map"] = r.operand(), name
		default:
			return nil
		}
	}
	o["stmt"] = stmts
	if o["map"] != nil {
		return obj{"map": o}
	}
	return obj{"set": o}
}

// mapOf reads "ip saddr map { … }"; nil when it is something else.
func (r *nftReader) mapOf() any {
	at := r.i
	if key := r.concatExpr(); key != nil && r.take("map") {
		if data := r.setOrName(); data != nil {
			return obj{"map": obj{"key": key, "data": data}}
		}
	}
	r.i = at
	return nil
}

func (r *nftReader) nat(word string) any {
	n := obj{}
	for _, f := range []string{"ip", "ip6"} {
		if r.take(f) {
			n["family"] = f
		}
	}
	var flags []any
	if r.take("prefix") {
		flags = append(flags, "netmap")
	}
	r.take("interval")
	if r.take("to") && !r.natTo(n) {
		return nil
	}
	for slices.Contains([]string{"random", "fully-random", "persistent", ","}, r.peek()) {
		flags = append(flags, strings.Trim(r.next(), ","))
	}
	n["flags"] = flags
	return obj{word: n}
}

// natTo reads the new address and port.
func (r *nftReader) natTo(n obj) bool {
	if word, ok := strings.CutPrefix(r.peek(), ":"); ok && !r.done() { // ":tcp dport map …"
		tok := &r.toks[r.i]
		tok.s = word
		if m := r.mapOf(); m != nil {
			n["port"] = m
			return true
		}
		tok.s = ":" + word
	}
	if m := r.mapOf(); m != nil {
		n["addr"] = m
		return true
	}
	if a, _, ok := strings.Cut(r.peek(), "/"); ok && parseIP(a).IsValid() {
		n["addr"] = r.scalar()
		return true
	}
	x := &netfilter.NAT{}
	if !natRange(x, r.peek()) {
		return false
	}
	r.i++
	between := func(lo, hi string) any {
		if lo == hi {
			return lo
		}
		return obj{"range": []any{lo, hi}}
	}
	if x.AddrMin.IsValid() {
		n["addr"] = between(x.AddrMin.String(), x.AddrMax.String())
	}
	if x.PortMin != 0 {
		n["port"] = between(strconv.Itoa(int(x.PortMin)), strconv.Itoa(int(x.PortMax)))
	}
	return true
}

// operand reads what a field is set to: a value, "meta mark | 0x4000", a hash, a map.
func (r *nftReader) operand() any {
	if m := r.mapOf(); m != nil {
		return m
	}
	at := r.i
	v := r.expr()
	if v == nil {
		r.i = at
		if v = r.scalar(); v == "\n" || v == "" {
			return nil
		}
	}
	ops := map[string]string{"or": "|", "|": "|", "and": "&", "&": "&", "xor": "^", "^": "^"}
	for ops[r.peek()] != "" {
		op := ops[r.next()]
		v = obj{op: []any{v, r.next()}}
	}
	return v
}
