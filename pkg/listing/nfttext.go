package listing

import (
	"slices"
	"strconv"
	"strings"
)

// nftText reads nft list ruleset: it turns the text into the objects of nft -j. A rule that goes beyond the
// grammar here keeps its beginning; the rest is an unknown statement that prints itself.
type nftText struct {
	*block
	toks  []nftToken
	depth int
	first line
}

type nftToken struct {
	s      string
	quoted bool
	no     int // line
}

var nftLex = lazy(`"[^"]*"|#.*|[{};,()]|[^\s{};,()"#]+`)

func (p *nftText) line(l line) bool {
	text := strings.TrimSpace(l.text)
	if p.depth == 0 && !strings.HasPrefix(text, "table ") {
		return strings.HasPrefix(text, "#")
	}
	if len(p.toks) == 0 {
		p.first = l
	}
	for _, s := range nftLex().FindAllString(text, -1) {
		switch s {
		case "{":
			p.depth++
		case "}":
			p.depth--
		}
		if strings.HasPrefix(s, "#") {
			switch h, ok := strings.CutPrefix(s, "# handle "); {
			case ok:
				p.toks = append(p.toks, nftToken{"#handle", false, l.no}, nftToken{strings.TrimSpace(h), false, l.no})
			case !strings.HasPrefix(text, "#"): // what nft has no words for stands in a comment: "# xt_conntrack"
				p.toks = append(p.toks, nftToken{s, false, l.no})
			}
			continue
		}
		p.toks = append(p.toks, nftToken{strings.Trim(s, `"`), s[0] == '"', l.no})
	}
	p.toks = append(p.toks, nftToken{"\n", false, l.no})
	return true
}

func (p *nftText) end() {
	if len(p.toks) == 0 && p.cmd.text == "" {
		return
	}
	r := &nftReader{toks: p.toks}
	for !r.done() {
		if r.take("table") {
			r.table()
			continue
		}
		r.i++
	}
	p.rulesetOf(r.out)
}

// nftReader is a recursive descent over the tokens.
type nftReader struct {
	toks []nftToken
	i    int
	out  []obj
	fam  string
	name string // of the table
}

func (r *nftReader) done() bool { return r.i >= len(r.toks) }

func (r *nftReader) peek() string {
	if r.done() {
		return ""
	}
	return r.toks[r.i].s
}

func (r *nftReader) next() string {
	s := r.peek()
	r.i++
	return s
}

func (r *nftReader) take(s string) bool {
	if r.peek() != s || r.done() || r.toks[r.i].quoted {
		return false
	}
	r.i++
	return true
}

func (r *nftReader) table() {
	r.fam, r.name = r.next(), r.next()
	t := obj{"family": r.fam, "name": r.name}
	r.out = append(r.out, obj{"table": t})
	r.take("#handle")
	for !r.done() && !r.take("{") {
		r.i++
	}
	for !r.done() && !r.take("}") {
		switch word := r.next(); word {
		case "\n", ";":
		case "flags":
			t["flags"] = []any{r.next()}
		case "chain":
			r.chain()
		case "set", "map":
			r.set(word)
		case "comment":
			r.next()
		case "counter", "quota", "limit", "secmark", "synproxy":
			r.object(word)
		case "ct":
			r.object("ct " + r.next())
		default:
			r.skipBlock() // flowtable, …
		}
	}
}

// skipBlock leaves out what no rule's verdict depends on.
func (r *nftReader) skipBlock() {
	for !r.done() && r.peek() != "{" && r.peek() != "\n" {
		r.i++
	}
	if !r.take("{") {
		return
	}
	for depth := 1; depth > 0 && !r.done(); {
		switch r.next() {
		case "{":
			depth++
		case "}":
			depth--
		}
	}
}

func (r *nftReader) open() (string, bool) {
	name := r.next()
	for !r.done() && r.peek() != "{" {
		r.i++
	}
	return name, r.take("{")
}

func (r *nftReader) chain() {
	name, ok := r.open()
	if !ok {
		return
	}
	c := obj{"family": r.fam, "table": r.name, "name": name}
	r.out = append(r.out, obj{"chain": c})
	for !r.done() && !r.take("}") {
		switch r.peek() {
		case "\n", ";":
			r.i++
		case "#handle":
			r.i += 2
		case "type":
			r.base(c)
		case "policy":
			r.i++
			c["policy"] = r.next()
		case "comment":
			r.i += 2
		default:
			r.rule(name)
		}
	}
}

// base reads "type filter hook forward priority filter + 10".
func (r *nftReader) base(c obj) {
	for !r.done() && r.peek() != ";" && r.peek() != "\n" && r.peek() != "}" {
		switch key := r.next(); key {
		case "type", "hook":
			c[key] = r.next()
		case "device":
			c["dev"] = r.next()
		case "devices":
			var devs []any
			for !r.done() && r.next() != "{" {
			}
			for !r.done() && !r.take("}") {
				if s := r.next(); s != "," && s != "\n" {
					devs = append(devs, s)
				}
			}
			c["dev"] = devs
		case "priority":
			c["prio"] = strconv.Itoa(r.priority())
		}
	}
}

// Names of priorities (nft(8)); the bridge family has its own.
var nftPriorities = map[string]int{"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100, "out": 100}

func (r *nftReader) priority() int {
	s := r.next()
	n, err := strconv.Atoi(s)
	if err != nil {
		n = nftPriorities[s]
		if r.fam == "bridge" {
			n = map[string]int{"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}[s]
		}
	}
	for _, sign := range []string{"+", "-"} {
		if r.take(sign) {
			d, _ := strconv.Atoi(r.next())
			if sign == "-" {
				d = -d
			}
			n += d
		}
	}
	return n
}

// verdict reads "jump x"; nil when it is none.
func (r *nftReader) verdict() any {
	word := r.peek()
	if _, ok := nftVerdicts[word]; !ok {
		return nil
	}
	r.i++
	if word == "queue" {
		for slices.Contains([]string{"num", "to", "flags", "bypass", "fanout", ","}, r.peek()) || nftRange().MatchString(r.peek()) || isNumber(r.peek()) {
			r.i++
		}
	}
	if word == "jump" || word == "goto" {
		return obj{word: obj{"target": r.next()}}
	}
	return obj{word: nil}
}

var nftRange = lazy(`^([0-9a-fx.:]+)-([0-9a-fx.:]+)$`)

// value reads a scalar, a range, a prefix, or several joined by dots.
func (r *nftReader) value() any {
	parts := []any{r.scalar()}
	for r.take(".") {
		parts = append(parts, r.scalar())
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return obj{"concat": parts}
}

func (r *nftReader) scalar() any {
	quoted := !r.done() && r.toks[r.i].quoted
	s := r.next()
	if quoted {
		return s
	}
	if m := nftRange().FindStringSubmatch(s); m != nil && !isMAC(s) {
		return obj{"range": []any{m[1], m[2]}}
	}
	if a, bits, ok := strings.Cut(s, "/"); ok && parseIP(a).IsValid() {
		return obj{"prefix": obj{"addr": a, "len": bits}}
	}
	return s
}
