package listing

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// This file turns the rules of nft -j (libnftables-json(5)) into the model's expressions, which work on
// registers as the kernel's do. The text form is turned into the same JSON first. What has no place in the
// model becomes an unknown expression that prints itself.

// obj is a JSON object of nft: most have one key, which says what they are.
type obj = map[string]any

func object1(v any) (string, any) {
	o, ok := v.(obj)
	if !ok || len(o) != 1 {
		return "", nil
	}
	for k, v := range o {
		return k, v
	}
	return "", nil
}

func str(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	default:
		return ""
	}
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func get(v any, key string) any {
	o, _ := v.(obj)
	return o[key]
}

// readNFTables reads the array behind "nftables".
func readNFTables(b *block, l line, raw []byte) {
	var objects []obj
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err := dec.Decode(&objects); err != nil {
		b.unread(l, "is no ruleset of nft: "+err.Error())
		return
	}
	b.rulesetOf(objects)
}

// rulesetOf keeps tables, chains, sets and rules in their order.
func (b *block) rulesetOf(objects []obj) {
	r := &nftRuleset{terse: slices.ContainsFunc(b.cmd.words, func(w string) bool { return w == "-t" || w == "--terse" })}
	for _, o := range objects {
		kind, v := object1(o)
		switch kind {
		case "table":
			r.table(v)
		case "chain":
			r.chain(v)
		case "set", "map":
			r.set(v, kind)
		case "rule":
			r.rule(v)
		case "flowtable", "metainfo":
		default:
			r.object(kind, v)
		}
	}
	b.tables = append(b.tables, r.tables...)
	if !b.opts.limited {
		b.nfSeen = append(b.nfSeen, nfNFT)
	}
}

var nftFamilies = map[string]netfilter.Family{
	"inet": netfilter.FamilyInet, "ip": netfilter.FamilyIPv4, "ip6": netfilter.FamilyIPv6, "arp": netfilter.FamilyARP,
	"bridge": netfilter.FamilyBridge, "netdev": netfilter.FamilyNetdev,
}

type nftRuleset struct {
	tables []netfilter.Table
	types  map[string][]string // types of named sets and of the data of maps
	anon   int
	terse  bool // sets are listed without their elements
}

// at finds the table of an object, or makes it: a listing of one chain has no table of its own.
func (r *nftRuleset) at(v any, name string) *netfilter.Table {
	fam := nftFamilies[str(get(v, "family"))]
	for i := range r.tables {
		if r.tables[i].Family == fam && r.tables[i].Name == name {
			return &r.tables[i]
		}
	}
	r.tables = append(r.tables, netfilter.Table{Backend: netfilter.BackendNFT, Family: fam, Name: name})
	return &r.tables[len(r.tables)-1]
}

func (r *nftRuleset) table(v any) {
	t := r.at(v, str(get(v, "name")))
	for _, f := range append(list(get(v, "flags")), get(v, "flags")) {
		t.Dormant = t.Dormant || str(f) == "dormant"
	}
}

var nftHooks = map[string]netfilter.Hook{
	"prerouting": netfilter.HookPrerouting, "input": netfilter.HookInput, "forward": netfilter.HookForward,
	"output": netfilter.HookOutput, "postrouting": netfilter.HookPostrouting, "ingress": netfilter.HookIngress, "egress": netfilter.HookEgress,
}

func (r *nftRuleset) chain(v any) {
	t := r.at(v, str(get(v, "table")))
	c := netfilter.Chain{Name: str(get(v, "name"))}
	if hook, ok := nftHooks[str(get(v, "hook"))]; ok {
		prio, _ := strconv.ParseInt(str(get(v, "prio")), 10, 32)
		c.Base, c.Hook, c.Type, c.Priority = true, hook, str(get(v, "type")), int32(prio)
		c.Drop = str(get(v, "policy")) == "drop"
		for _, d := range append(list(get(v, "dev")), get(v, "dev")) {
			if s := str(d); s != "" {
				c.Devices = append(c.Devices, s)
			}
		}
	}
	t.Chains = append(t.Chains, c)
}

// rule turns the statements of a rule into expressions.
func (r *nftRuleset) rule(v any) {
	t := r.at(v, str(get(v, "table")))
	name := str(get(v, "chain"))
	i := slices.IndexFunc(t.Chains, func(c netfilter.Chain) bool { return c.Name == name })
	if i < 0 {
		t.Chains = append(t.Chains, netfilter.Chain{Name: name})
		i = len(t.Chains) - 1
	}
	c := &t.Chains[i]
	n := &nftRule{set: r, table: t}
	n.rule.Number, n.rule.Comment = len(c.Rules)+1, str(get(v, "comment"))
	n.rule.Handle, _ = strconv.ParseUint(str(get(v, "handle")), 10, 64)
	for _, s := range list(get(v, "expr")) {
		n.statement(s)
	}
	c.Rules = append(c.Rules, n.rule)
}

// nftRule is a rule in the making.
type nftRule struct {
	set   *nftRuleset
	table *netfilter.Table
	rule  netfilter.Rule
	known map[string]bool // dependencies that are in the rule already
}

func (n *nftRule) add(es ...netfilter.Expr) { n.rule.Exprs = append(n.rule.Exprs, es...) }

func (n *nftRule) verdict(code netfilter.JumpCode, chain, text string) {
	n.add(netfilter.Expr{Op: netfilter.OpVerdict, Jump: &netfilter.Jump{Code: code, Chain: chain}, Text: text})
}

// opaque keeps a statement as it was written: it may do anything.
func (n *nftRule) opaque(s any) {
	n.add(netfilter.Expr{Op: netfilter.OpOpaque, Text: nftWords(s)})
}

// try runs what adds expressions, and takes them back when it fails.
func (n *nftRule) try(f func() bool) bool {
	before, known := len(n.rule.Exprs), maps.Clone(n.known)
	if f() {
		return true
	}
	n.rule.Exprs, n.known = n.rule.Exprs[:before], known
	return false
}

var nftVerdicts = map[string]netfilter.JumpCode{
	"accept": netfilter.JumpAccept, "drop": netfilter.JumpDrop, "return": netfilter.JumpReturn, "continue": netfilter.JumpContinue,
	"jump": netfilter.JumpJump, "goto": netfilter.JumpGoto, "queue": netfilter.JumpQueue,
}

// jumpOf reads a verdict: {"accept": null}, {"jump": {"target": "x"}}.
func jumpOf(s any) *netfilter.Jump {
	kind, v := object1(s)
	code, ok := nftVerdicts[kind]
	if !ok {
		return nil
	}
	return &netfilter.Jump{Code: code, Chain: str(get(v, "target"))}
}

// Registers: 1 holds what is compared; concatenations take words from 8 on, which are the same bytes.
const (
	reg1  = 1
	word0 = 8
	reg2  = 2 // a second value: the port of a translation
	reg3  = 3 // a third: the end of a range of addresses, the data of an element
	reg4  = 4 // a fourth: the end of a range of ports; else what depend compares
)

// Comparisons of nft_cmp.
var nftOps = map[string]uint32{"==": 0, "in": 0, "!=": 1, "<": 2, "<=": 3, ">": 4, ">=": 5, "!": 1}

// match is {"op": "==", "left": …, "right": …}.
func (n *nftRule) match(v any) {
	left, right, op := get(v, "left"), get(v, "right"), str(get(v, "op"))
	text := strings.TrimSpace(nftWords(left) + " " + strings.TrimPrefix(strings.TrimPrefix(op, "=="), "in"))
	text = strings.TrimSpace(text) + " " + nftWords(right)
	before := len(n.rule.Exprs)
	cmp, known := nftOps[op]
	if !known || !n.try(func() bool { return n.compare(left, right, op, cmp) }) {
		n.add(netfilter.Expr{Op: netfilter.OpUnknown, Text: text})
		return
	}
	for i := before; i < len(n.rule.Exprs); i++ {
		if e := &n.rule.Exprs[i]; e.Op != netfilter.OpNumgen && e.Op != netfilter.OpHash { // their text is the condition of an outcome
			e.Text = ""
		}
	}
	n.rule.Exprs[len(n.rule.Exprs)-1].Text = text
}

// compare loads the left side and compares; false when something has no place in the model.
func (n *nftRule) compare(left, right any, op string, cmp uint32) bool {
	if kind, _ := object1(right); kind == "set" || strings.HasPrefix(str(right), "@") {
		name, ok := n.lookup(asAsked(left, right), right, nil)
		n.add(netfilter.Expr{Op: netfilter.OpLookup, Set: name, Sreg: reg1, Invert: cmp == 1})
		return ok && cmp <= 1
	}
	types, ok := n.load(asAsked(left, right), reg1)
	if !ok {
		return false
	}
	kind, rv := object1(right)
	if len(types) == 1 && (cmp > 1 && op != "!" || kind == "range") {
		types = n.inOrder(types, reg1)
	}
	switch {
	case len(types) != 1:
		data, ok := concat(types, right)
		n.add(netfilter.Expr{Op: netfilter.OpCmp, Sreg: reg1, Cmp: cmp, Data: data})
		return ok
	case kind == "range" && cmp <= 1:
		lo, hi, ok := bounds(types[0], right)
		n.add(netfilter.Expr{Op: netfilter.OpRange, Sreg: reg1, Invert: cmp == 1, Data: lo, DataEnd: hi})
		return ok
	case kind == "prefix":
		return n.prefix(types[0], rv, cmp)
	case op == "!":
		return n.anyBit(types[0], right, op, 1)
	case op == "in" || isBitmask(types[0]) && cmp <= 1 && masked(left) == nil:
		return n.anyBit(types[0], right, op, cmp)
	}
	data, ok := encode(types[0], right)
	n.add(netfilter.Expr{Op: netfilter.OpCmp, Sreg: reg1, Cmp: cmp, Data: data})
	return ok
}

func masked(left any) any {
	kind, v := object1(left)
	if kind == "&" {
		return v
	}
	return nil
}

// anyBit is "ct state established,related": a value that has one of the bits.
func (n *nftRule) anyBit(typ string, right any, op string, cmp uint32) bool {
	values := list(right)
	if values == nil {
		values = []any{right}
	}
	if op != "in" && op != "!" && len(values) == 1 && list(right) == nil {
		data, ok := encode(typ, right)
		n.add(netfilter.Expr{Op: netfilter.OpCmp, Sreg: reg1, Cmp: cmp, Data: data})
		return ok
	}
	mask := make([]byte, sizeOf(typ))
	for _, v := range values {
		b, ok := encode(typ, v)
		if !ok || len(b) != len(mask) {
			return false
		}
		for i := range b {
			mask[i] |= b[i]
		}
	}
	zero := make([]byte, len(mask))
	neq := uint32(1)
	if cmp == 1 {
		neq = 0
	}
	n.add(netfilter.Expr{Op: netfilter.OpBitwise, Sreg: reg1, Dreg: reg1, Len: uint32(len(mask)), Data: mask, DataEnd: zero},
		netfilter.Expr{Op: netfilter.OpCmp, Sreg: reg1, Cmp: neq, Data: zero})
	return true
}

// prefix compares the leading bits.
func (n *nftRule) prefix(typ string, v any, cmp uint32) bool {
	data, ok := encode(typ, get(v, "addr"))
	bits, err := strconv.Atoi(str(get(v, "len")))
	if !ok || err != nil || bits < 0 || bits > 8*len(data) {
		return false
	}
	mask, zero := make([]byte, len(data)), make([]byte, len(data))
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	for i := range data {
		data[i] &= mask[i]
	}
	n.add(netfilter.Expr{Op: netfilter.OpBitwise, Sreg: reg1, Dreg: reg1, Len: uint32(len(data)), Data: mask, DataEnd: zero},
		netfilter.Expr{Op: netfilter.OpCmp, Sreg: reg1, Cmp: cmp, Data: data})
	return true
}

// vmap looks a verdict up.
func (n *nftRule) vmap(v any) {
	var name string
	ok := n.try(func() (ok bool) {
		name, ok = n.lookup(get(v, "key"), get(v, "data"), []string{"verdict"})
		return ok
	})
	if !ok {
		n.opaque(obj{"vmap": v})
		return
	}
	n.add(netfilter.Expr{Op: netfilter.OpLookup, Set: name, Sreg: reg1, Text: nftWords(get(v, "key")) + " vmap " + nftWords(get(v, "data"))})
}

// lookup loads a key and names the set or map, which it makes where it has no name; data are the types of a map.
func (n *nftRule) lookup(key, set any, data []string) (string, bool) {
	types, ok := n.load(key, reg1)
	if !ok {
		return "", false
	}
	name, named := strings.CutPrefix(str(set), "@")
	interval := false
	if named {
		i := slices.IndexFunc(n.table.Sets, func(s netfilter.Set) bool { return s.Name == name })
		interval = i >= 0 && n.table.Sets[i].Interval
	} else {
		kind, elems := object1(set)
		if kind != "set" {
			return "", false
		}
		interval = slices.ContainsFunc(list(elems), isRange)
		name, ok = n.anonymous(types, list(elems), data)
	}
	if interval {
		n.inOrder(types, reg1)
	}
	return name, ok
}

// inOrder turns values in host byte order around, as the kernel has them where more than equality is asked.
func (n *nftRule) inOrder(types []string, reg uint32) (out []string) {
	if len(types) > 1 {
		reg = word0
	}
	for _, t := range types {
		size := uint32(sizeOf(t))
		if hostOrder[t] && size > 1 {
			n.add(netfilter.Expr{Op: netfilter.OpByteorder, Sreg: reg, Dreg: reg, Len: size, Mod: size})
			t = bigEndian + t
		}
		out = append(out, t)
		reg += (size + 3) / 4
	}
	return out
}
