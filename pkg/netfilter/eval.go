package netfilter

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// eval runs one expression: a verdict, or whether the rule goes on.
func (r *run) eval(e *Expr) (*Jump, bool) {
	if !e.sound() {
		return &Jump{Code: JumpUnknown}, true
	}
	switch e.Op {
	case OpPass:
		return nil, true
	case OpLimit:
		return nil, (r.chanceOf(e, 2, func(n int) string { return e.Text + [...]string{": within", ": over"}[n] }) == 1) == e.Invert
	case OpVerdict:
		return e.Jump, true
	case OpReject:
		return r.reject(e)
	case OpNotrack:
		if r.ct.State == ConnNone && !r.ct.template {
			r.ct.State = ConnUntracked
		}
		return nil, true
	case OpZone:
		r.setZone(uint16(e.Mod)) //nolint:gosec // a zone has 16 bits
		return nil, true
	case OpNAT:
		return r.evalNAT(e)
	case OpLookup:
		return r.evalLookup(e)
	case OpObjref:
		return r.evalObject(e)
	case OpSetMark, OpSetTOS, OpSetTTL:
		r.change(e)
		return nil, true
	case OpWrite:
		return r.write(e)
	case OpOpaque:
		return &Jump{Code: JumpUnknown}, true
	case OpMeta, OpCT:
		if e.Sreg != 0 {
			return r.evalSet(e)
		}
	case OpUnknown:
		return nil, r.doubt(e)
	default:
	}
	return nil, r.matches(e)
}

// sound reports whether an expression has what its Op needs: one from a file may not.
func (e *Expr) sound() bool {
	switch e.Op {
	case OpTuple, OpPorts:
		return e.Tuple != nil
	case OpPhysdev:
		return e.Tuple != nil && len(e.Data) >= 1
	case OpAddrtype:
		return len(e.Data) >= 2
	case OpNAT:
		return e.NAT != nil
	case OpVerdict:
		return e.Jump != nil
	default:
		return true
	}
}

// matches evaluates an expression that only says yes or no, or loads a register.
func (r *run) matches(e *Expr) bool {
	switch e.Op {
	case OpMeta:
		return r.loaded(e, r.meta(e.Key))
	case OpPayload:
		return r.loaded(e, r.payload(e))
	case OpCT:
		return r.loaded(e, r.ctKey(e))
	case OpFib:
		return r.loaded(e, r.fib(e))
	case OpExthdr:
		return r.loaded(e, r.exthdr(e))
	case OpLoad:
		return r.loaded(e, unknownValue(16))
	case OpImmediate:
		return r.loaded(e, exactly(e.Data))
	case OpBitwise, OpShift, OpBool, OpByteorder:
		return r.loaded(e, r.compute(e))
	case OpHash:
		return r.hash(e)
	case OpCmp:
		return r.compare(e)
	case OpRange:
		return r.within(e)
	case OpQuota:
		return (e.Used+uint64(max(r.p.Length, 0)) > e.Quota) == e.Invert
	case OpDynset:
		return r.dynset(e)
	case OpNumgen:
		n := r.chanceOf(e, int(min(max(e.Mod, 1), maxPasses)), func(n int) string { return fmt.Sprintf("%s = %d", cmp.Or(e.Key, e.Text), n) })
		return r.loaded(e, exactly(host32(uint32(n)+e.Offset))) //nolint:gosec // below Mod
	default:
		return r.matchesXT(e)
	}
}

// loaded stores what was found; a value that does not exist ends the rule (NFT_BREAK).
func (r *run) loaded(e *Expr, v value) bool {
	if v.b == nil {
		return false
	}
	r.regs.store(e.Dreg, v)
	return true
}

// compute gives what bitwise and byteorder make of a register.
func (r *run) compute(e *Expr) value {
	v := r.regs.load(e.Sreg, int(e.Len))
	switch e.Op {
	case OpBitwise:
		if len(e.Data) < len(v.b) || len(e.DataEnd) < len(v.b) {
			return unknownValue(len(v.b))
		}
		return v.mask(e.Data, e.DataEnd)
	case OpShift:
		return v.shift(e.Mod, e.Invert)
	case OpBool:
		w := r.regs.load(e.Sreg2, int(e.Len))
		if e.Sreg2 == 0 {
			w = exactly(e.Data)
		}
		if len(w.b) < len(v.b) {
			return unknownValue(len(v.b))
		}
		return v.combine(e.Key, w)
	default:
		return v.swap(int(e.Mod))
	}
}

// hash is nft_jhash_eval. A seed that the kernel chose is not in the dump, and leaves every result possible.
func (r *run) hash(e *Expr) bool {
	v := r.regs.load(e.Sreg, int(e.Len))
	mod := min(max(e.Mod, 1), maxPasses)
	if e.Flags != 0 && v.sure() {
		return r.loaded(e, exactly(host32(reciprocalScale(jhash(v.b, e.Seed), max(e.Mod, 1))+e.Offset)))
	}
	n := r.chanceOf(e, int(mod), func(n int) string { return fmt.Sprintf("%s = %d", cmp.Or(e.Key, e.Text), n) })
	return r.loaded(e, exactly(host32(uint32(n)+e.Offset))) //nolint:gosec // below Mod
}

// Comparisons of nft_cmp (enum nft_cmp_ops).
const (
	cmpEq = iota
	cmpNeq
	cmpLt
	cmpLte
	cmpGt
	cmpGte
)

func (r *run) compare(e *Expr) bool {
	v := r.regs.load(e.Sreg, len(e.Data))
	if len(v.b) != len(e.Data) {
		return r.doubt(e)
	}
	if !v.sure() {
		if e.Cmp <= cmpNeq && v.differs(e.Data) {
			return e.Cmp == cmpNeq
		}
		return r.doubt(e)
	}
	c := bytes.Compare(v.b, e.Data)
	switch e.Cmp {
	case cmpEq:
		return c == 0
	case cmpNeq:
		return c != 0
	case cmpLt:
		return c < 0
	case cmpLte:
		return c <= 0
	case cmpGt:
		return c > 0
	case cmpGte:
		return c >= 0
	}
	return r.doubt(e)
}

func (r *run) within(e *Expr) bool {
	v := r.regs.load(e.Sreg, len(e.Data))
	if !v.sure() || len(v.b) != len(e.Data) || len(e.DataEnd) != len(e.Data) {
		return r.doubt(e)
	}
	in := bytes.Compare(v.b, e.Data) >= 0 && bytes.Compare(v.b, e.DataEnd) <= 0
	return in != e.Invert
}

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func ifname(s string) []byte {
	b := make([]byte, 16)
	copy(b, s)
	return b
}

func (r *run) set(name string) *Set {
	i := slices.IndexFunc(r.table.Sets, func(s Set) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &r.table.Sets[i]
}

// element looks a key up in a set; known is false where the key or the set is not.
func (r *run) element(name string, sreg uint32) (el *Element, s *Set, known bool) {
	s = r.set(name)
	if s == nil {
		return nil, nil, false
	}
	for i := len(r.state.added) - 1; i >= 0; i-- {
		a := &r.state.added[i]
		if v := r.regs.load(sreg, len(a.el.Key)); a.table == r.table && a.set == name && v.sure() && bytes.Equal(v.b, a.el.Key) {
			if a.gone {
				return nil, s, true
			}
			return &a.el, s, true
		}
	}
	el, known = s.find(func(n int) value { return r.regs.load(sreg, n) })
	return el, s, known
}

func (r *run) evalLookup(e *Expr) (*Jump, bool) {
	el, s, known := r.element(e.Set, e.Sreg)
	switch {
	case !known && (s == nil || s.Map):
		return &Jump{Code: JumpUnknown}, true
	case !known:
		return nil, r.doubt(e)
	case (el != nil) == e.Invert:
		return nil, false
	case el == nil:
		return nil, true
	case el.Limited && r.chanceOf(e, 2, func(n int) string { return e.Text + [...]string{": within its limit", ": over"}[n] }) == 1:
		return nil, false
	case el.Verdict != nil:
		return el.Verdict, true
	case s.Map && e.Dreg != 0:
		r.regs.store(e.Dreg, exactly(el.Data))
	}
	return nil, true
}

// evalObject runs a named object: the rule's own, or the one that a map has for a key.
func (r *run) evalObject(e *Expr) (*Jump, bool) {
	name := e.Object
	if e.Set != "" {
		el, _, known := r.element(e.Set, e.Sreg)
		if !known {
			return nil, r.doubt(e)
		}
		if el == nil {
			return nil, false
		}
		name = el.Object
	}
	for i := range r.table.Objects {
		if o := &r.table.Objects[i]; o.Name == name {
			return r.eval(&o.Expr)
		}
	}
	return nil, r.doubt(e)
}

// dynset adds to a set, which always goes well but where the set is full; a limit that belongs to the
// element may stop the rule.
func (r *run) dynset(e *Expr) bool {
	if s := r.set(e.Set); s != nil && s.KeyLen > 0 {
		if v := r.regs.load(e.Sreg, int(s.KeyLen)); v.sure() {
			el := Element{Key: v.b}
			if s.Map {
				el.Data = r.regs.load(e.Sreg2, int(s.DataLen)).b
			}
			r.state = r.state.put(addition{table: r.table, set: e.Set, el: el, gone: e.Key == "delete"})
		}
	}
	for i := range e.Sub {
		if e.Sub[i].Op == OpLimit || e.Sub[i].Op == OpQuota {
			over := r.chanceOf(e, 2, func(n int) string { return e.Text + [...]string{": within", ": over"}[n] }) == 1
			return over == e.Sub[i].Invert != e.Invert
		}
	}
	return !e.Invert
}

// setZone attaches a template to a packet that conntrack has not looked at.
func (r *run) setZone(zone uint16) {
	if r.ct.State == ConnNone && !r.ct.template {
		r.ct.template, r.ct.zone = true, zone
	}
}

// evalSet is meta and ct with a source register.
func (r *run) evalSet(e *Expr) (*Jump, bool) {
	switch {
	case e.Op == OpMeta && e.Key == "mark", e.Op == OpCT && e.Key == "mark":
	case e.Op == OpCT && e.Key == "zone":
		v := r.regs.load(e.Sreg, 2)
		if !v.sure() {
			return &Jump{Code: JumpUnknown}, true
		}
		r.setZone(binary.NativeEndian.Uint16(v.b))
		return nil, true
	case e.Key == "pkttype" || e.Key == "broute":
		return &Jump{Code: JumpUnknown}, true // changes who gets the packet
	default:
		return nil, true
	}
	if e.Op == OpCT && !r.ct.tracked() {
		return nil, true
	}
	v := r.regs.load(e.Sreg, 4)
	if !v.sure() {
		return &Jump{Code: JumpUnknown}, true
	}
	m := binary.NativeEndian.Uint32(v.b)
	if e.Op == OpCT {
		r.ct.Entry.Mark = m
	} else {
		r.p.Mark = m
	}
	r.note(WhatMark)
	return nil, true
}

// reject answers the sender; a TCP reset is made for TCP alone, and the packet is dropped in any case.
func (r *run) reject(e *Expr) (*Jump, bool) {
	r.answer = e.Answer
	if a := e.Answer; a != nil {
		error4 := r.p.Proto == protoICMP && isICMPError(&r.p)
		error6 := r.p.Proto == protoICMPv6 && r.p.ICMPType < 128
		if a.Reset && (r.p.Proto != protoTCP || r.p.TCPFlags&tcpRST != 0) || !a.Reset && (error4 || error6 || r.p.Dst.IsMulticast()) {
			r.answer = nil
		}
		if r.answer != nil {
			own := a.resolve(r.p.Dst.Is6())
			r.answer = &own
		}
	}
	return &Jump{Code: JumpReject}, true
}

// Types of a Rejection whose real type depends on the packet: icmpx, whose code is translated as well, and
// the family's own ICMP.
const (
	anyICMP    = 255
	familyICMP = 254
)

// resolve is nft_reject_icmp_code and nft_reject_icmpv6_code.
func (a Rejection) resolve(v6 bool) Rejection {
	codes, typ := [...]uint8{0, 3, 1, 13}, uint8(3)
	if v6 {
		codes, typ = [...]uint8{0, 4, 3, 1}, 1
	}
	switch a.Type {
	case anyICMP:
		return Rejection{Type: typ, Code: codes[min(int(a.Code), len(codes)-1)]}
	case familyICMP:
		return Rejection{Type: typ, Code: a.Code}
	}
	return a
}
