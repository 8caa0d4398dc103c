package netfilter

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// describe gives the expressions of an nftables rule the words of nft(8): the registers are followed
// symbolically, and the expression that uses a value prints it. Those of iptables have their words already.
func (t *Table) describe(r *Rule) {
	d := describer{table: t, v6: t.Family == FamilyIPv6}
	for i := range r.Exprs {
		e := &r.Exprs[i]
		if text, ok := d.step(e, r.Exprs[i+1:]); ok {
			e.Text = text
		}
	}
}

// symbol is what a register holds, in nft's words.
type symbol struct {
	reg  uint32
	text string
	kind string // how a value that it is compared with is printed
	mask []byte // of a bitwise and that is not printed
}

type describer struct {
	table *Table
	syms  []symbol
	l4    string // the protocol that a comparison has established
	v6    bool
	low   string // of a range in two comparisons
}

// load notes what a register holds from now on.
func (d *describer) load(reg uint32, text, kind string) (string, bool) {
	d.drop(reg)
	d.syms = append(d.syms, symbol{reg: reg, text: text, kind: kind})
	return "", true
}

func (d *describer) drop(reg uint32) {
	d.syms = slices.DeleteFunc(d.syms, func(s symbol) bool { return regOffset(s.reg) == regOffset(reg) })
}

func (d *describer) get(reg uint32) symbol {
	for _, s := range d.syms {
		if regOffset(s.reg) == regOffset(reg) {
			return s
		}
	}
	return symbol{text: "?"}
}

// from gives the symbols from a register on, which make a concatenated key.
func (d *describer) from(reg uint32) (text string, kinds []string) {
	syms := slices.DeleteFunc(slices.Clone(d.syms), func(s symbol) bool { return regOffset(s.reg) < regOffset(reg) })
	slices.SortFunc(syms, func(a, b symbol) int { return regOffset(a.reg) - regOffset(b.reg) })
	var parts []string
	for _, s := range syms {
		parts, kinds = append(parts, s.text), append(kinds, s.kind)
	}
	return strings.Join(parts, " . "), kinds
}

// step gives the words of one expression; ok is false where it keeps those that it has.
func (d *describer) step(e *Expr, rest []Expr) (text string, ok bool) {
	switch e.Op {
	case OpMeta, OpCT:
		return d.key(e)
	case OpPayload:
		text, kind := d.field(e)
		return d.load(e.Dreg, text, kind)
	case OpExthdr, OpLoad:
		return d.load(e.Dreg, e.Text, "num")
	case OpFib:
		return d.load(e.Dreg, fibText(e), map[string]string{"type": "routetype", "oifname": "ifname", "oif": "host"}[e.Key])
	case OpNumgen:
		e.Key = e.Text
		return d.load(e.Dreg, e.Text, "host")
	case OpHash:
		of, _ := d.from(e.Sreg)
		e.Key = fmt.Sprintf("jhash %s mod %d", of, e.Mod)
		if e.Flags != 0 {
			e.Key += fmt.Sprintf(" seed %#x", e.Seed)
		}
		e.Key += offsetText(e.Offset)
		return d.load(e.Dreg, e.Key, "host")
	case OpImmediate:
		d.drop(e.Dreg)
		d.syms = append(d.syms, symbol{reg: e.Dreg, text: "", kind: "immediate", mask: e.Data})
		return "", true
	case OpBitwise:
		return d.bitwise(e)
	case OpShift, OpBool, OpByteorder:
		return d.compute(e)
	case OpCmp, OpRange:
		return d.compare(e, rest), true
	case OpLookup:
		return d.lookup(e)
	case OpNAT:
		return d.nat(e)
	case OpWrite:
		text, kind := d.field(e)
		return text + " set " + d.value(e.Sreg, kind), true
	case OpVerdict:
		if e.Text == "" && e.Jump != nil {
			return strings.TrimSpace(string(e.Jump.Code) + " " + e.Jump.Chain), true
		}
	case OpReject:
		if e.Text == "" {
			return e.Answer.text(), true
		}
	case OpDynset:
		return d.dynset(e), true
	case OpObjref:
		return d.object(e), true
	default:
	}
	return "", false
}

// value is what a register holds, an immediate value printed as what it is used for.
func (d *describer) value(reg uint32, kind string) string {
	s := d.get(reg)
	if s.kind == "immediate" {
		return valueText(s.mask, kind)
	}
	return s.text
}

// kinds of values by key; what is not here is a number in host order.
var keyKinds = map[string]string{
	"iifname": "ifname", "oifname": "ifname", "ibrname": "ifname", "obrname": "ifname", "l4proto": "proto", "protocol": "ethertype",
	"nfproto": "nfproto", "l3proto": "nfproto", "mark": "mark", "state": "state", "status": "status", "direction": "direction",
	"src": "addr", "dst": "addr", "sport": "num", "dport": "num", "pkttype": "pkttype",
}

func (d *describer) key(e *Expr) (string, bool) {
	word, kind := "meta "+e.Key, keyKinds[e.Key]
	if e.Op == OpCT {
		word = "ct " + e.Key
		if e.Key == "protocol" {
			kind = "proto"
		}
		names := map[string]string{"src": "saddr", "dst": "daddr", "sport": "proto-src", "dport": "proto-dst"}
		if e.Dir != 0 {
			word = "ct " + [...]string{"", "original", "reply"}[min(e.Dir, 2)] + " "
			if n := names[e.Key]; n != "" {
				word += n
			} else {
				word += e.Key
			}
		}
	}
	switch e.Key {
	case "iif", "oif", "iifname", "oifname":
		word = e.Key
	case "len":
		word = "meta length"
	}
	if kind == "" {
		kind = "host"
	}
	if e.Sreg != 0 {
		return word + " set " + d.value(e.Sreg, kind), true
	}
	return d.load(e.Dreg, word, kind)
}

// bitwise: a mask that selects is kept for the comparison, the usual ways to set bits get their words.
func (d *describer) bitwise(e *Expr) (string, bool) {
	s := d.get(e.Sreg)
	d.drop(e.Dreg)
	s.reg = e.Dreg
	zero := bytes.Count(e.DataEnd, []byte{0}) == len(e.DataEnd)
	inverse := make([]byte, len(e.DataEnd))
	for i := range inverse {
		inverse[i] = ^e.DataEnd[i]
	}
	ones := bytes.Count(e.Data, []byte{0xff}) == len(e.Data)
	switch {
	case zero && s.kind != "immediate":
		s.mask = e.Data
	case bytes.Equal(e.Data, inverse):
		s.text += " | " + valueText(e.DataEnd, s.kind)
	case ones:
		s.text += " ^ " + valueText(e.DataEnd, s.kind)
	default:
		s.text += " & " + valueText(e.Data, s.kind) + " ^ " + valueText(e.DataEnd, s.kind)
	}
	d.syms = append(d.syms, s)
	return "", true
}

func (d *describer) compute(e *Expr) (string, bool) {
	s := d.get(e.Sreg)
	d.drop(e.Dreg)
	s.reg = e.Dreg
	switch e.Op {
	case OpByteorder:
		swapped := map[string]string{"host": "num", "num": "host", "mark": "mark-be", "mark-be": "mark"}
		if k := swapped[s.kind]; k != "" {
			s.kind = k
		}
	case OpShift:
		s.text += map[bool]string{false: " << ", true: " >> "}[e.Invert] + strconv.Itoa(int(e.Mod))
	default:
		with := d.value(e.Sreg2, s.kind)
		if e.Sreg2 == 0 {
			with = valueText(e.Data, s.kind)
		}
		s.text += " " + e.Key + " " + with
	}
	d.syms = append(d.syms, s)
	return "", true
}

var cmpWords = [...]string{"", "!= ", "< ", "<= ", "> ", ">= "}

// compare prints a comparison. One that only says which header follows is left out, as nft does.
func (d *describer) compare(e *Expr, rest []Expr) string {
	s := d.get(e.Sreg)
	op := "? "
	if int(e.Cmp) < len(cmpWords) {
		op = cmpWords[e.Cmp]
	}
	if e.Op == OpRange {
		return s.text + " " + bangEq(e.Invert) + valueText(e.Data, s.kind) + "-" + valueText(e.DataEnd, s.kind)
	}
	if s.mask != nil {
		return d.masked(s, e, op)
	}
	value := valueText(e.Data, s.kind)
	switch {
	case e.Cmp == cmpGte && len(rest) > 0 && rest[0].Op == OpCmp && rest[0].Cmp == cmpLte && rest[0].Sreg == e.Sreg:
		d.low = value
		return ""
	case e.Cmp == cmpLte && d.low != "":
		op, value, d.low = "", d.low+"-"+value, ""
	case e.Cmp == cmpEq && s.text == "meta l4proto" && len(e.Data) > 0:
		d.l4 = protoWord(e.Data[0])
		if reads(rest, baseTransport) {
			return ""
		}
	case e.Cmp == cmpEq && (s.text == "meta nfproto" || s.text == "meta protocol"):
		d.v6 = value == "ipv6" || value == "ip6"
		if reads(rest, baseNetwork) {
			return ""
		}
	}
	return s.text + " " + op + value
}

// reads reports whether a header is asked for later in the rule, which says its protocol by itself.
func reads(rest []Expr, base uint32) bool {
	return slices.ContainsFunc(rest, func(e Expr) bool { return e.Op == OpPayload && e.Base == base })
}

func bangEq(not bool) string {
	if not {
		return "!= "
	}
	return ""
}

// masked prints a comparison of some bits: a prefix of an address, a set of flags.
func (d *describer) masked(s symbol, e *Expr, op string) string {
	zero := bytes.Count(e.Data, []byte{0}) == len(e.Data)
	if p, ok := prefixOf(e.Data, s.mask); ok && s.kind == "addr" && p.IsValid() {
		return s.text + " " + op + p.String()
	}
	switch s.kind {
	case "state", "status", "tcpflags":
		if zero && e.Cmp == cmpNeq {
			return s.text + " " + valueText(s.mask, s.kind)
		}
	}
	if op == "" {
		op = "== "
	}
	return s.text + " & " + valueText(s.mask, s.kind) + " " + op + valueText(e.Data, s.kind)
}

func (d *describer) lookup(e *Expr) (string, bool) {
	key, kinds := d.from(e.Sreg)
	s := d.table.find(e.Set)
	name := "@" + e.Set
	if s != nil && strings.HasPrefix(e.Set, "__") {
		name = s.text(kinds)
	}
	switch {
	case s != nil && s.Map && e.Dreg == 0:
		return key + " vmap " + name, true
	case s != nil && s.Map:
		return d.load(e.Dreg, key+" map "+name, "")
	}
	return key + " " + bangEq(e.Invert) + name, true
}

func (t *Table) find(set string) *Set {
	for i := range t.Sets {
		if t.Sets[i].Name == set {
			return &t.Sets[i]
		}
	}
	return nil
}

func (d *describer) nat(e *Expr) (string, bool) {
	if e.Text != "" || e.NAT == nil {
		return "", false
	}
	n := e.NAT
	text := n.Kind
	if n.Family != 0 && d.table.Family == FamilyInet && n.AddrReg != 0 {
		text += " " + n.Family.String()
	}
	to := ""
	if n.AddrReg != 0 {
		to = d.value(n.AddrReg, "addr")
		if n.AddrMaxReg != 0 && n.AddrMaxReg != n.AddrReg {
			to += "-" + d.value(n.AddrMaxReg, "addr")
		}
	}
	if n.ProtoReg != 0 {
		if strings.Contains(to, ":") && !strings.Contains(to, " ") {
			to = "[" + to + "]"
		}
		to += ":" + d.value(n.ProtoReg, "num")
		if n.ProtoMaxReg != 0 && n.ProtoMaxReg != n.ProtoReg {
			to += "-" + d.value(n.ProtoMaxReg, "num")
		}
	}
	if to != "" {
		text += " to " + to
	}
	return text + flagWords(e.Flags, []bitName{{natRandom, " random"}, {natRandomFully, " fully-random"}, {natPersistent, " persistent"}}), true
}

func (d *describer) dynset(e *Expr) string {
	key, _ := d.from(e.Sreg)
	parts := []string{fmt.Sprintf("%s @%s { %s", e.Key, e.Set, key)}
	for _, s := range e.Sub {
		parts = append(parts, s.Text)
	}
	return strings.Join(parts, " ") + " }"
}

func (d *describer) object(e *Expr) string {
	word := map[uint32]string{1: "counter", 2: "quota", 3: "ct helper set", 4: "limit", 5: "ct count", 7: "ct timeout set", 9: "ct expectation set"}[e.Flags]
	if word == "" {
		word = "object"
	}
	if e.Set != "" {
		key, _ := d.from(e.Sreg)
		return fmt.Sprintf("%s name %s map @%s", word, key, e.Set)
	}
	return fmt.Sprintf("%s name %q", word, e.Object)
}

// text prints a reject as nft does.
func (a *Rejection) text() string {
	words := map[uint8]string{0: "net-unreachable", 1: "host-unreachable", 2: "prot-unreachable", 3: "port-unreachable", 9: "net-prohibited", 10: "host-prohibited", 13: "admin-prohibited"}
	family := "icmp"
	switch {
	case a == nil:
		return "reject"
	case a.Reset:
		return "reject with tcp reset"
	case a.Type == anyICMP:
		family, words = "icmpx", map[uint8]string{0: "no-route", 1: "port-unreachable", 2: "host-unreachable", 3: "admin-prohibited"}
	case a.Type == 1:
		family = "icmpv6"
		words = map[uint8]string{0: "no-route", 1: "admin-prohibited", 3: "addr-unreachable", 4: "port-unreachable", 5: "policy-fail", 6: "reject-route"}
	}
	w := words[a.Code]
	if w == "" {
		w = strconv.Itoa(int(a.Code))
	}
	return "reject with " + family + " " + w
}
