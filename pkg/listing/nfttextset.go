package listing

import "strings"

// object reads "quota cap { over 1000 bytes }".
func (r *nftReader) object(kind string) {
	o := obj{}
	name := r.next()
	at := r.i
	if r.take("{") && (kind == "counter" || kind == "quota" || kind == "limit") {
		for r.take("\n") || r.take("#handle") && r.next() != "" {
		}
		if _, v := object1(r.stateful(kind)); v != nil {
			o, _ = v.(obj)
		}
	}
	o["family"], o["table"], o["name"] = r.fam, r.name, name
	r.out = append(r.out, obj{kind: o})
	r.i = at
	r.skipBlock()
}

// set reads a named set or map.
func (r *nftReader) set(kind string) {
	name, ok := r.open()
	if !ok {
		return
	}
	s := obj{"family": r.fam, "table": r.name, "name": name}
	for !r.done() && !r.take("}") {
		switch r.next() {
		case "typeof":
			r.typeOf(s)
		case "type":
			var key, data []string
			for !r.done() && r.peek() != "\n" && r.peek() != ";" {
				switch w := r.next(); {
				case w == ":":
					data = []string{}
				case data != nil:
					data = append(data, w)
				default:
					key = append(key, w)
				}
			}
			s["type"] = strings.Join(key, "")
			if data != nil {
				s["map"] = strings.Join(data, "")
			}
		case "flags":
			var flags []any
			for !r.done() && r.peek() != "\n" && r.peek() != ";" {
				if f := r.next(); f != "," {
					flags = append(flags, f)
				}
			}
			s["flags"] = flags
		case "elements":
			r.take("=")
			if r.take("{") {
				s["elem"] = r.elements()
			}
		}
	}
	r.out = append(r.out, obj{kind: s})
}

// typeOf reads "typeof ip saddr . tcp dport : verdict". Rules that ask a set of other types stay in doubt.
func (r *nftReader) typeOf(s obj) {
	types := func(v any) (out []any) {
		parts := []any{v}
		if kind, c := object1(v); kind == "concat" {
			parts = list(c)
		}
		for _, p := range parts {
			kind, x := object1(p)
			typ := map[string]string{"meta": metaTypes[str(get(x, "key"))], "ct": ctTypes[str(get(x, "key"))], "payload": headers[str(get(x, "protocol"))][str(get(x, "field"))].typ}[kind]
			out = append(out, typ)
		}
		return out
	}
	s["type"] = types(r.concatExpr())
	if r.take(":") {
		if s["map"] = []any{r.peek()}; r.peek() != "verdict" {
			s["map"] = types(r.concatExpr())
		}
	}
}

// elements reads up to the closing brace, which it takes.
func (r *nftReader) elements() []any {
	var out []any
	for !r.done() && !r.take("}") {
		if s := r.peek(); s == "," || s == "\n" {
			r.i++
			continue
		}
		key := r.value()
		if r.peek() == "|" {
			bits := []any{key}
			for r.take("|") {
				bits = append(bits, r.scalar())
			}
			key = obj{"|": bits}
		}
		var data any
		for !r.done() && r.peek() != "," && r.peek() != "}" {
			if r.take(":") {
				if data = r.verdict(); data == nil {
					data = r.value()
				}
				continue
			}
			switch word := r.next(); word {
			case "\n":
			case "timeout", "expires", "comment":
				r.i++
			case "last":
				r.take("used")
				r.i++
			case "counter":
				r.stateful(word)
			case "limit", "quota", "ct":
				r.take("count")
				r.stateful(word)
				key = obj{"elem": obj{"val": key, "limit": obj{}}}
			default:
				key = obj{"text": word} // which makes the set unknown
			}
		}
		if data != nil {
			out = append(out, []any{key, data})
		} else {
			out = append(out, key)
		}
	}
	return out
}
