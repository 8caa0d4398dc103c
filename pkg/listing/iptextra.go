package listing

import (
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// iptWords reads what matches and the target print behind the addresses of iptables -L, and turns it into
// the options of a command line.
type iptWords struct {
	words
	out []netfilter.Expr
	to  []string // options of the target
	jmp bool     // [goto]
}

// extras gives the expressions of the words behind the addresses, and of the target.
func (p *iptablesList) extras(rest words, target string) []netfilter.Expr {
	w := &iptWords{words: rest}
	lost := false
	for len(w.words) > 0 {
		not := w.skip("!")
		at := w.words
		word := w.next()
		if v, ok := strings.CutPrefix(word, "!"); ok {
			not, word = true, v
		}
		if !w.match(word, not) && !w.target(word) {
			w.out = append(w.out, netfilter.Expr{Op: netfilter.OpUnknown, Text: strings.Join(at, " ")})
			w.words = nil
			lost = true
		}
	}
	switch {
	case lost && iptTargets[target] != nil && target != "REJECT": // its options are among what is not known
		return append(w.out, netfilter.Expr{Op: netfilter.OpOpaque, Text: "-j " + target})
	case target == "":
		return append(w.out, netfilter.Expr{Op: netfilter.OpPass})
	case w.jmp:
		return append(w.out, netfilter.Expr{Op: netfilter.OpVerdict, Jump: &netfilter.Jump{Code: netfilter.JumpGoto, Chain: target}, Text: "-g " + target})
	}
	return append(w.out, targetExpr(target, options(w.to), strings.TrimSpace("-j "+target+" "+joinWords(w.to)), p.opts.v6))
}

// add makes a match of an option.
func (w *iptWords) add(name string, not bool, opts ...string) bool {
	if not {
		opts = append([]string{"!"}, opts...)
	}
	w.out = append(w.out, matchExprs(name, options(opts), "-m "+name+" "+joinWords(opts))...)
	return true
}

// value takes the next word, which may begin with its inversion.
func (w *iptWords) value() (v string, not bool) {
	v = w.next()
	if v == "!" {
		return w.next(), true
	}
	s := strings.TrimPrefix(v, "!")
	return s, s != v
}

// one makes a match of the option's next word.
func (w *iptWords) one(name, key string, not bool) bool {
	v, inverted := w.value()
	return w.add(name, not != inverted, "--"+key, v)
}

// match reads what one match prints; false when the word begins none that is known.
func (w *iptWords) match(word string, not bool) bool {
	if word == "tcp" || word == "udp" {
		return w.ports(word)
	}
	if slices.Contains(ctWords, word) {
		w.conntrack(word, not)
		return true
	}
	switch word {
	case "icmptype", "ipv6-icmptype":
		return w.icmp(not)
	case "mark":
		return w.skip("match") && w.one("mark", "mark", not)
	case "connmark":
		return w.skip("match") && w.one("connmark", "mark", not)
	case "multiport":
		return w.one("multiport", w.next(), not)
	case "ADDRTYPE":
		return w.skip("match") && w.addrtype()
	case "MAC":
		return w.one("mac", "mac-source", not)
	case "source", "destination":
		return w.skip("IP") && w.skip("range") && w.one("iprange", map[string]string{"source": "src", "destination": "dst"}[word]+"-range", not)
	case "length":
		return w.one("length", "length", not)
	case "TTL", "HL":
		return w.ttl(strings.ToLower(word))
	case "PHYSDEV":
		return w.skip("match") && w.add("physdev", not, w.physdev()...)
	case "rpfilter":
		return w.add("rpfilter", not, w.flags("loose", "validmark", "accept-local", "invert")...)
	}
	return w.rate(word, not)
}

// ports reads "spts:1:100 dpt:!443 flags:0x17/0x02".
func (w *iptWords) ports(name string) bool {
	var opts []string
	for {
		key, v, ok := strings.Cut(w.peek(), ":")
		s := strings.TrimPrefix(v, "!")
		opt := map[string]string{"spt": "--sport", "spts": "--sport", "dpt": "--dport", "dpts": "--dport", "flags": "--tcp-flags"}[key]
		if !ok || opt == "" {
			return w.add(name, false, opts...)
		}
		w.next()
		if s != v {
			opts = append(opts, "!")
		}
		opts = append(append(opts, opt), strings.Split(s, "/")...)
	}
}

// take takes words as long as they are wanted.
func (w *iptWords) take(wanted func(string) bool) (out []string) {
	for len(w.words) > 0 && wanted(w.peek()) {
		out = append(out, w.next())
	}
	return out
}

// flags takes the words that are options without a value.
func (w *iptWords) flags(names ...string) (out []string) {
	for _, s := range w.take(func(s string) bool { return slices.Contains(names, s) }) {
		out = append(out, "--"+s)
	}
	return out
}

// ctWords are the options of -m conntrack in the order in which it prints them.
var ctWords = []string{"state", "ctstate", "ctproto", "ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst", "ctorigsrcport", "ctorigdstport", "ctreplsrcport",
	"ctrepldstport", "ctstatus", "ctexpire", "ctdir"}

// conntrack takes what one match asks: a word that goes before the last one begins another match.
func (w *iptWords) conntrack(word string, not bool) {
	var opts []string
	for {
		if not {
			opts = append(opts, "!")
		}
		opts = append(opts, "--"+word, w.next())
		rest := w.words
		not = w.skip("!")
		next := w.peek()
		if slices.Index(ctWords, next) <= slices.Index(ctWords, word) {
			w.words = rest
			w.add("conntrack", false, opts...)
			return
		}
		word = w.next()
	}
}

// physdev takes options as a command line has them.
func (w *iptWords) physdev() (opts []string) {
	for len(w.words) > 0 && (w.peek() == "!" || strings.HasPrefix(w.peek(), "--physdev-")) {
		s := w.next()
		opts = append(opts, s)
		if s == "--physdev-in" || s == "--physdev-out" {
			opts = append(opts, w.next())
		}
	}
	return opts
}

// icmp reads "8", "3 code 4", "3 codes 4-5".
func (w *iptWords) icmp(not bool) bool {
	typ, inverted := w.value()
	if typ == "255" {
		typ = "any"
	}
	if w.skip("code") {
		typ += "/" + w.next()
	}
	return w.peek() != "codes" && w.add("icmp", not != inverted, "--icmp-type", typ)
}

func (w *iptWords) addrtype() bool {
	var opts []string
	for len(w.words) > 0 {
		switch s := w.peek(); s {
		case "src-type", "dst-type":
			w.next()
			v, not := w.value()
			if not {
				opts = append(opts, "!")
			}
			opts = append(opts, "--"+s, v)
		case "limit-in", "limit-out":
			opts = append(opts, "--limit-iface"+strings.TrimPrefix(w.next(), "limit"))
		default:
			return w.add("addrtype", false, opts...)
		}
	}
	return w.add("addrtype", false, opts...)
}

// ttl reads "match TTL > 5".
func (w *iptWords) ttl(name string) bool {
	if w.peek() != "match" {
		return false // the target, which changes it
	}
	w.next()
	w.next()
	mode, ok := map[string]string{"==": "eq", "!=": "ne", "<": "lt", ">": "gt"}[w.next()]
	return ok && w.add(name, false, "--"+name+"-"+mode, w.next())
}

// rate reads the matches that ask for more than the packet's headers.
func (w *iptWords) rate(word string, not bool) bool {
	switch word {
	case "statistic":
		return w.statistic()
	case "limit:":
		above := w.skip("above")
		hash := above || w.skip("up") && w.skip("to")
		w.take(func(s string) bool {
			return strings.Contains(s, "/") && isNumber(s[:strings.Index(s, "/")]) || isNumber(s) || slices.Contains([]string{"avg", "burst", "mode", "srcip", "dstip", "srcip-dstip"}, s)
		})
		switch {
		case !hash:
			return w.add("limit", false)
		case above:
			return w.add("hashlimit", false, "--hashlimit-above", "")
		}
		return w.add("hashlimit", false, "--hashlimit-upto", "")
	case "#conn":
		w.next() // src/32
		key, ok := map[string]string{">": "above", "<=": "upto"}[w.next()]
		return ok && w.add("connlimit", false, "--connlimit-"+key, w.next())
	case "match-set":
		return w.add("set", not, "--match-set", w.next(), w.next())
	case "recent:":
		return w.recent(not)
	case "owner":
		if key, ok := map[string]string{"UID": "uid-owner", "GID": "gid-owner"}[w.peek()]; ok {
			w.next()
			return w.skip("match") && w.add("owner", not, "--"+key, w.next())
		}
		return w.skip("socket") && w.skip("exists") && w.add("owner", not, "--socket-exists")
	case "PKTTYPE":
		op := w.next()
		return w.add("pkttype", op == "!=", "--pkt-type", w.next())
	case "DSCP":
		return w.skip("match") && w.one("dscp", "dscp", not)
	case "tos":
		v, ok := strings.CutPrefix(w.next(), "match")
		s := strings.TrimPrefix(v, "!")
		return ok && w.add("tos", s != v, "--tos", s)
	}
	return false
}

// statistic reads "mode nth ! every 3 packet 1".
func (w *iptWords) statistic() bool {
	var opts []string
	for len(w.words) > 0 {
		switch s := w.peek(); s {
		case "!":
			opts = append(opts, w.next())
		case "mode", "probability", "every", "packet":
			opts = append(opts, "--"+w.next(), w.next())
		default:
			return w.add("statistic", false, opts...)
		}
	}
	return w.add("statistic", false, opts...)
}

// recent reads "recent: UPDATE seconds: 60 hit_count: 3 TTL-Match name: x side: source mask: 255.255.255.255".
func (w *iptWords) recent(not bool) bool {
	ops := map[string]string{"CHECK": "--rcheck", "SET": "--set", "UPDATE": "--update", "REMOVE": "--remove"}
	op, ok := ops[w.next()]
	opts := []string{op}
	for ok && len(w.words) > 0 {
		switch s := w.peek(); s {
		case "seconds:", "name:", "mask:":
			opts = append(opts, "--"+strings.TrimSuffix(w.next(), ":"), w.next())
		case "hit_count:":
			w.next()
			opts = append(opts, "--hitcount", w.next())
		case "TTL-Match":
			w.next()
			opts = append(opts, "--rttl")
		case "side:":
			w.next()
			opts = append(opts, map[bool]string{true: "--rdest", false: "--rsource"}[w.next() == "dest"])
		default:
			return w.add("recent", not, opts...)
		}
	}
	return ok && w.add("recent", not, opts...)
}

// target reads the options of the target, which stand behind the matches.
func (w *iptWords) target(word string) bool {
	key, v, _ := strings.Cut(word, ":")
	switch key {
	case "[goto]":
		w.jmp = true
	case "to":
		w.to = append(w.to, "--to", v)
	case "redir", "masq":
		if !w.skip("ports") && !w.skip("ports:") {
			return false
		}
		w.to = append(w.to, "--to-ports", w.next())
	case "random-fully", "random", "persistent":
		w.to = append(w.to, "--"+key)
	case "reject-with":
		w.to = append(w.to, "--reject-with", w.next())
	case "MARK", "CONNMARK":
		return w.mark()
	case "NOTRACK":
		w.to = append(w.to, "--notrack")
	case "CT":
		w.to = append(w.to, "--"+w.next())
		w.to = append(w.to, w.take(func(string) bool { return true })...)
	case "TTL", "HL":
		verb, ok := map[string]string{"set": "set", "increment": "inc", "decrement": "dec"}[w.next()]
		w.next() // to, by
		w.to = append(w.to, "--"+strings.ToLower(key)+"-"+verb, w.next())
		return ok
	case "TOS", "DSCP":
		w.to = append(w.to, "--"+w.next()+"-"+strings.ToLower(key), w.next())
	case "LOG", "nflog-prefix", "nflog-group", "NFQUEUE", "CHECKSUM", "TCPMSS", "TEE", "TPROXY", "CLASSIFY", "AUDIT":
		w.words = nil // which does not matter for what becomes of the packet
	default:
		return false
	}
	return true
}

// mark reads "xset 0x1/0xff", "or 0x4000", "save nfmask 0xf0 ctmask ~0xf".
func (w *iptWords) mark() bool {
	verb := w.next()
	switch verb {
	case "or", "and", "xor", "set":
		w.to = append(w.to, "--"+verb+"-mark", w.next())
	case "xset":
		w.to = append(w.to, "--set-xmark", w.next())
	case "save", "restore":
		w.to = append(w.to, "--"+verb+"-mark")
		for _, key := range []string{"mask", "nfmask", "ctmask"} {
			if w.skip(key) {
				w.to = append(w.to, "--"+key, strings.TrimPrefix(w.next(), "~"))
			}
		}
	default:
		return false
	}
	return true
}

// fraction reads a part of one.
func fraction(s string) (float64, bool) {
	p, err := strconv.ParseFloat(s, 64)
	return p, err == nil && p >= 0 && p <= 1
}
