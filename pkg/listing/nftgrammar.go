package listing

import (
	"strings"
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

// match reads "ip saddr . tcp dport != { … }", and vmap.
func (r *nftReader) match() any {
	left := r.concatExpr()
	if left == nil {
		return nil
	}
	if r.take("set") {
		v := r.operand()
		if v == nil {
			return nil
		}
		return obj{"mangle": obj{"key": left, "value": v}}
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
		field := r.next()
		if field == "option" && (word == "tcp" || word == "ip") {
			o := obj{"name": r.next()}
			if p := r.peek(); p == "size" {
				o["field"] = r.next()
			}
			return obj{word + " option": o}
		}
		if word == "arp" && strings.HasSuffix(field, "addr") {
			field += " " + r.next()
		}
		if _, ok := h[field]; !ok {
			return nil
		}
		return obj{"payload": obj{"protocol": word, "field": field}}
	}
	switch word {
	case "@ll", "@nh", "@th":
		r.take(",")
		p := obj{"base": word[1:], "offset": r.next()}
		r.take(",")
		p["len"] = r.next()
		return obj{"payload": p}
	case "jhash", "symhash":
		return r.hash(word)
	case "exthdr":
		return obj{word: obj{"name": r.next()}}
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

// hash reads "jhash ip saddr . th sport mod 7 seed 0x1 offset 1".
func (r *nftReader) hash(word string) any {
	h := obj{}
	if word == "jhash" {
		e := r.concatExpr()
		if e == nil {
			return nil
		}
		h["expr"] = e
	}
	for _, key := range []string{"mod", "seed", "offset"} {
		if r.take(key) {
			h[key] = r.next()
		}
	}
	return obj{word: h}
}

// concatExpr reads one expression, or several joined by dots.
func (r *nftReader) concatExpr() any {
	left := r.expr()
	if left == nil || r.peek() != "." {
		return left
	}
	parts := []any{left}
	for r.take(".") {
		e := r.expr()
		if e == nil {
			return nil
		}
		parts = append(parts, e)
	}
	return obj{"concat": parts}
}
