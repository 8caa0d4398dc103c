package listing

import (
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// rule reads one line.
func (r *nftReader) rule(chain string) {
	v := obj{"family": r.fam, "table": r.name, "chain": chain}
	var stmts []any
	for !r.done() && r.peek() != "\n" && r.peek() != "}" && r.peek() != ";" {
		switch {
		case r.take("comment"):
			v["comment"] = r.next()
			continue
		case r.take("#handle"):
			v["handle"] = r.next()
			continue
		}
		at := r.i
		s := r.statement()
		if s == nil {
			r.i = at
			var rest []string
			for !r.done() && r.peek() != "\n" && r.peek() != "#handle" {
				rest = append(rest, r.next())
			}
			s = obj{"text": strings.Join(rest, " ")}
		}
		stmts = append(stmts, s)
	}
	v["expr"] = stmts
	r.out = append(r.out, obj{"rule": v})
}

// statement reads one; nil when it is beyond this grammar.
func (r *nftReader) statement() any {
	if r.peek() != "queue" {
		if v := r.verdict(); v != nil {
			return v
		}
	}
	at := r.i
	switch word := r.next(); word {
	case "counter":
		if r.take("packets") {
			c := obj{"packets": r.next()}
			r.take("bytes")
			c["bytes"] = r.next()
			return obj{"counter": c}
		}
		if r.take("name") {
			r.next()
		}
		return obj{"counter": nil}
	case "notrack":
		return obj{word: nil}
	case "log":
		r.options("prefix", "level", "group", "snaplen", "queue-threshold", "flags")
		return obj{word: nil}
	case "limit":
		r.options("rate", "over", "burst")
		for isNumber(strings.SplitN(r.peek(), "/", 2)[0]) || slices.Contains([]string{"packets", "bytes", "burst", "kbytes", "mbytes"}, r.peek()) {
			r.i++
		}
		return obj{word: nil}
	case "reject":
		if r.take("with") {
			r.i++
			if r.take("type") {
				r.i++
			} else if r.peek() == "reset" || !slices.Contains([]string{"\n", ";", "}"}, r.peek()) {
				r.i++
			}
		}
		return obj{word: nil}
	case "snat", "dnat", "masquerade", "redirect":
		return r.nat(word)
	case "meta", "ct":
		key := r.peek()
		if r.i+1 < len(r.toks) && r.toks[r.i+1].s == "set" {
			r.i += 2
			v := r.markExpr()
			if v == nil {
				return nil
			}
			return obj{"mangle": obj{"key": obj{word: obj{"key": key}}, "value": v}}
		}
	}
	r.i = at
	return r.match()
}

// options takes words with one argument each.
func (r *nftReader) options(names ...string) {
	for slices.Contains(names, r.peek()) {
		if r.next() != "over" {
			r.i++
		}
	}
}

func (r *nftReader) nat(word string) any {
	n := obj{}
	for _, f := range []string{"ip", "ip6"} {
		if r.take(f) {
			n["family"] = f
		}
	}
	if r.take("to") {
		x := &netfilter.NAT{}
		if !natRange(x, r.peek()) {
			return nil
		}
		r.i++
		if x.AddrMin.IsValid() {
			n["addr"] = x.AddrMin.String()
		}
		if x.PortMin != 0 {
			n["port"] = strconv.Itoa(int(x.PortMin))
		}
	}
	for slices.Contains([]string{"random", "fully-random", "persistent", ","}, r.peek()) {
		r.i++
	}
	return obj{word: n}
}

// markExpr reads "0x4000", "mark or 0x4000", "meta mark | 0x4000".
func (r *nftReader) markExpr() any {
	var v any
	switch s := r.next(); {
	case isNumber(s):
		v = s
	case s == "mark":
		v = obj{"meta": obj{"key": "mark"}}
	case (s == "meta" || s == "ct") && r.take("mark"):
		v = obj{s: obj{"key": "mark"}}
	default:
		return nil
	}
	ops := map[string]string{"or": "|", "|": "|", "and": "&", "&": "&", "xor": "^", "^": "^"}
	for ops[r.peek()] != "" {
		op := ops[r.next()]
		v = obj{op: []any{v, r.next()}}
	}
	return v
}

// match reads "ip saddr . tcp dport != { … }", and vmap.
func (r *nftReader) match() any {
	left := r.expr()
	if left == nil {
		return nil
	}
	if r.peek() == "." {
		parts := []any{left}
		for r.take(".") {
			e := r.expr()
			if e == nil {
				return nil
			}
			parts = append(parts, e)
		}
		left = obj{"concat": parts}
	}
	if r.take("vmap") {
		data := r.setOrName()
		if data == nil {
			return nil
		}
		return obj{"vmap": obj{"key": left, "data": data}}
	}
	op := ""
	if r.take("&") || r.take("and") {
		mask := r.mask()
		if mask == nil {
			return nil
		}
		left, op = obj{"&": []any{left, mask}}, "=="
	}
	if _, ok := nftOps[r.peek()]; ok {
		op = r.next()
	}
	right := r.right()
	if right == nil {
		return nil
	}
	if r.take("/") { // "tcp flags syn / fin,syn,rst,ack": the value of the bits behind the slash
		mask := list(r.right())
		if mask == nil {
			return nil
		}
		left, right, op = obj{"&": []any{left, obj{"|": mask}}}, orAll(right), orWord(op, "==")
	}
	if op == "" && bitmaskField(left) && str(get(right, "set")) == "" {
		op = "in"
	}
	return obj{"match": obj{"op": orWord(op, "=="), "left": left, "right": right}}
}

func orWord(s, none string) string {
	if s == "" {
		return none
	}
	return s
}

// orAll joins a list of bits into one value.
func orAll(v any) any {
	if l := list(v); l != nil {
		return obj{"|": l}
	}
	return v
}

// bitmaskField tells the fields of which a lone value asks for one of its bits.
func bitmaskField(v any) bool {
	switch kind, x := object1(v); kind {
	case "ct":
		return isBitmask(ctTypes[str(get(x, "key"))])
	case "payload":
		return isBitmask(headers[str(get(x, "protocol"))][str(get(x, "field"))].typ)
	}
	return false
}

// mask reads a number, or "(fin | syn)".
func (r *nftReader) mask() any {
	if !r.take("(") {
		return r.scalar()
	}
	var parts []any
	for !r.done() && !r.take(")") {
		if s := r.next(); s != "|" && s != "," {
			parts = append(parts, s)
		}
	}
	return obj{"|": parts}
}

// setOrName is a set in place, or "@name".
func (r *nftReader) setOrName() any {
	if strings.HasPrefix(r.peek(), "@") {
		return r.next()
	}
	if r.take("{") {
		return obj{"set": r.elements()}
	}
	return nil
}

func (r *nftReader) right() any {
	if v := r.setOrName(); v != nil {
		return v
	}
	if s := r.peek(); s == "" || s == "\n" || s == ";" || s == "}" || s == "(" {
		return nil
	}
	v := r.value()
	if r.peek() != "," && r.peek() != "|" {
		return v
	}
	out := []any{v}
	for r.take(",") || r.take("|") {
		out = append(out, r.scalar())
	}
	return out
}

// expr reads the left side: a field of a header, or what is known beside the packet.
func (r *nftReader) expr() any {
	word := r.next()
	if h, ok := headers[word]; ok {
		if _, ok := h[r.peek()]; !ok {
			return nil
		}
		return obj{"payload": obj{"protocol": word, "field": r.next()}}
	}
	switch word {
	case "meta":
		return obj{"meta": obj{"key": r.next()}}
	case "iifname", "oifname", "iif", "oif", "mark", "skuid", "skgid", "pkttype", "ibrname", "obrname":
		return obj{"meta": obj{"key": word}}
	case "ct":
		c := obj{}
		if d := r.peek(); d == "original" || d == "reply" {
			c["dir"] = r.next()
		}
		key := r.next()
		if key == "ip" || key == "ip6" {
			key += " " + r.next()
		}
		c["key"] = key
		return obj{"ct": c}
	case "fib":
		flags := []any{r.next()}
		for r.take(".") {
			flags = append(flags, r.next())
		}
		return obj{"fib": obj{"flags": flags, "result": r.next()}}
	case "numgen":
		mode := r.next()
		if !r.take("mod") {
			return nil
		}
		n := obj{"mode": mode, "mod": r.next()}
		if r.take("offset") {
			n["offset"] = r.next()
		}
		return obj{"numgen": n}
	}
	return nil
}
