package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// legacyInfo is struct ipt_getinfo: where the base chains of a table begin and end.
type legacyInfo struct {
	valid      uint32
	entry, end [5]uint32 // by hook: the first rule, and the policy
	size       uint32
}

// layout says where the fields of struct ipt_entry or ip6t_entry are (linux/netfilter_ipv4/ip_tables.h).
type layout struct {
	v6                            bool
	addr                          int // bytes of an address
	ifaces, proto, flags, inv     int
	targetOffset, counters, total int
}

var (
	layout4 = layout{addr: 4, ifaces: 16, proto: 80, flags: 82, inv: 83, targetOffset: 88, counters: 96, total: 112}
	layout6 = layout{v6: true, addr: 16, ifaces: 64, proto: 128, flags: 131, inv: 132, targetOffset: 140, counters: 152, total: 168}
)

const (
	xtHeader   = 32 // struct xt_entry_match: size, name, revision
	errorName  = "ERROR"
	fragFlag   = 1
	gotoFlag   = 2
	gotoFlagV6 = 4
)

// parseLegacy turns the entries of one table into chains. Every offset is checked: a table that does not
// add up is an error, never a guess.
func parseLegacy(name string, fam Family, info legacyInfo, b []byte) (Table, error) {
	t := Table{Backend: BackendLegacy, Family: fam, Name: name}
	lay := layout4
	if fam == FamilyIPv6 {
		lay = layout6
	}
	p := &legacyParser{lay: lay, b: b, chains: make(map[int]string)}
	if err := p.index(info); err != nil {
		return t, fmt.Errorf("iptables table %q: %w", name, err)
	}
	err := p.build(&t, info)
	if err != nil {
		return t, fmt.Errorf("iptables table %q: %w", name, err)
	}
	return t, nil
}

type legacyParser struct {
	lay     layout
	b       []byte
	offsets []int
	chains  map[int]string // offset of a chain's first rule → its name
}

// Hook numbers of the IP families by base chain name.
var legacyHooks = [5]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// index finds all entries, and where chains begin.
func (p *legacyParser) index(info legacyInfo) error {
	for o := 0; o < len(p.b); {
		if len(p.b)-o < p.lay.total {
			return fmt.Errorf("entry at offset %d is cut short", o)
		}
		next, target := int(u16(p.b, o+p.lay.targetOffset+2)), int(u16(p.b, o+p.lay.targetOffset))
		if next < p.lay.total+xtHeader || o+next > len(p.b) || target < p.lay.total || target > next-xtHeader {
			return fmt.Errorf("entry at offset %d has bad lengths", o)
		}
		p.offsets = append(p.offsets, o)
		if n, _ := p.target(o); n == errorName {
			c, _, _ := bytes.Cut(p.b[o+target+xtHeader:o+next], []byte{0})
			p.chains[o+next] = string(c)
		}
		o += next
	}
	for h := range legacyHooks {
		if info.valid&(1<<h) != 0 {
			p.chains[int(info.entry[h])] = legacyHooks[h]
		}
	}
	return nil
}

// target gives the name and data of an entry's target.
func (p *legacyParser) target(o int) (string, []byte) {
	next, at := int(u16(p.b, o+p.lay.targetOffset+2)), int(u16(p.b, o+p.lay.targetOffset))
	name, _, _ := bytes.Cut(p.b[o+at+2:o+at+31], []byte{0})
	return string(name), p.b[o+at+xtHeader : o+next]
}

func (p *legacyParser) build(t *Table, info legacyInfo) error {
	var cur *Chain
	policy := make(map[int]bool)
	for h := range legacyHooks {
		if info.valid&(1<<h) != 0 {
			policy[int(info.end[h])] = true
		}
	}
	for _, o := range p.offsets {
		if name, ok := p.chains[o]; ok {
			t.Chains = append(t.Chains, Chain{Name: name})
			cur = &t.Chains[len(t.Chains)-1]
		}
		tname, data := p.target(o)
		if tname == errorName {
			continue
		}
		if cur == nil {
			return fmt.Errorf("rule at offset %d is in no chain", o)
		}
		if policy[o] {
			cur.Packets, cur.Bytes, cur.Counted = p.packets(o), p.bytes(o), true
			if len(data) >= 4 {
				cur.Drop = int32(u32(data, 0)) == -1 //nolint:gosec // the kernel's int
			}
			continue
		}
		r, err := p.rule(o, len(cur.Rules)+1)
		if err != nil {
			return err
		}
		cur.Rules = append(cur.Rules, r)
	}
	for h, name := range legacyHooks {
		if info.valid&(1<<h) != 0 {
			setBase(t, name, Hook(h)) //nolint:gosec // 0 to 4
		}
	}
	return nil
}

// Priorities of the tables of iptables (linux/netfilter_ipv4.h); those of nat differ by hook.
var legacyPriority = map[string]int32{"raw": -300, "mangle": -150, "filter": 0, "security": 50}

func setBase(t *Table, name string, h Hook) {
	for i := range t.Chains {
		c := &t.Chains[i]
		if c.Name != name {
			continue
		}
		c.Base, c.Hook, c.Type, c.Priority = true, h, "filter", legacyPriority[t.Name]
		if t.Name == "nat" {
			c.Type, c.Priority = "nat", prioNATSrc
			if h == HookPrerouting || h == HookOutput {
				c.Priority = prioNATDst
			}
		}
	}
}

func (p *legacyParser) packets(o int) uint64 {
	return binary.NativeEndian.Uint64(p.b[o+p.lay.counters:])
}

func (p *legacyParser) bytes(o int) uint64 {
	return binary.NativeEndian.Uint64(p.b[o+p.lay.counters+8:])
}

func (p *legacyParser) rule(o, number int) (Rule, error) {
	r := Rule{Number: number, Packets: p.packets(o), Bytes: p.bytes(o), Counted: true}
	m, ok := p.fixed(o)
	if !ok {
		r.Exprs = append(r.Exprs, Expr{Op: OpUnknown, Text: "(a network mask with holes)"})
	}
	if m.text() != "" || m.Fragment {
		r.Exprs = append(r.Exprs, Expr{Op: OpTuple, Tuple: m, Text: m.text()})
	}
	end := o + int(u16(p.b, o+p.lay.targetOffset))
	for at := o + p.lay.total; at < end; {
		size := int(u16(p.b, at))
		if size < xtHeader || at+size > end {
			return r, fmt.Errorf("match at offset %d has bad length %d", at, size)
		}
		name, _, _ := bytes.Cut(p.b[at+2:at+31], []byte{0})
		r.Exprs = append(r.Exprs, decodeMatch(string(name), uint32(p.b[at+31]), p.b[at+xtHeader:at+size], p.lay.v6))
		at += size
	}
	r.Exprs = append(r.Exprs, p.action(o)...)
	return r, nil
}

// fixed reads struct ipt_ip or ip6t_ip6.
func (p *legacyParser) fixed(o int) (m *Match, ok bool) {
	l, b := p.lay, p.b[o:]
	inv := b[l.inv]
	src, ok1 := prefixOf(b[:l.addr], b[2*l.addr:3*l.addr])
	dst, ok2 := prefixOf(b[l.addr:2*l.addr], b[3*l.addr:4*l.addr])
	m = &Match{
		Src: src, Dst: dst,
		In: masked(b[l.ifaces:l.ifaces+16], b[l.ifaces+32:l.ifaces+48]), Out: masked(b[l.ifaces+16:l.ifaces+32], b[l.ifaces+48:l.ifaces+64]),
		Proto: uint8(u16(b, l.proto)), //nolint:gosec // one byte of the two is used
		NotIn: inv&0x01 != 0, NotOut: inv&0x02 != 0, NotSrc: inv&0x08 != 0, NotDst: inv&0x10 != 0, NotProto: inv&0x40 != 0,
	}
	if !l.v6 {
		m.Fragment, m.NotFrag = b[l.flags]&fragFlag != 0, inv&0x20 != 0
	}
	if m.Src.IsValid() && m.Src.Bits() == 0 && !m.NotSrc {
		m.Src = netip.Prefix{}
	}
	if m.Dst.IsValid() && m.Dst.Bits() == 0 && !m.NotDst {
		m.Dst = netip.Prefix{}
	}
	return m, ok1 && ok2
}

// action is the target: a verdict, a jump, or an extension.
func (p *legacyParser) action(o int) []Expr {
	name, data := p.target(o)
	rev := uint32(p.b[o+int(u16(p.b, o+p.lay.targetOffset))+31])
	if name != "" {
		return []Expr{decodeTarget(name, rev, data, p.lay.v6)}
	}
	if len(data) < 4 {
		return []Expr{{Op: OpOpaque, Text: "target without a verdict"}}
	}
	v := int32(u32(data, 0)) //nolint:gosec // the kernel's int
	switch v {
	case -1:
		return []Expr{{Op: OpVerdict, Jump: &Jump{Code: JumpDrop}, Text: "-j DROP"}}
	case -2:
		return []Expr{{Op: OpVerdict, Jump: &Jump{Code: JumpAccept}, Text: "-j ACCEPT"}}
	case -4:
		return []Expr{{Op: OpVerdict, Jump: &Jump{Code: JumpQueue}, Text: "-j QUEUE"}}
	case -5:
		return []Expr{{Op: OpVerdict, Jump: &Jump{Code: JumpReturn}, Text: "-j RETURN"}}
	}
	chain, ok := p.chains[int(v)]
	if !ok {
		if int(v) == o+int(u16(p.b, o+p.lay.targetOffset+2)) {
			return []Expr{{Op: OpPass}} // a rule without a target falls through to the next
		}
		return []Expr{{Op: OpOpaque, Text: fmt.Sprintf("jump to offset %d", v)}}
	}
	g := byte(gotoFlag)
	if p.lay.v6 {
		g = gotoFlagV6
	}
	if p.b[o+p.lay.flags]&g != 0 {
		return []Expr{{Op: OpVerdict, Jump: &Jump{Code: JumpGoto, Chain: chain}, Text: "-g " + chain}}
	}
	return []Expr{{Op: OpVerdict, Jump: &Jump{Code: JumpJump, Chain: chain}, Text: "-j " + chain}}
}
