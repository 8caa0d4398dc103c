package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// registers are the nf_tables registers as 80 bytes: the verdict, then sixteen words
// (net/netfilter/nf_tables_core.c). bad marks words that were loaded from something unknown.
type registers struct {
	b   [80]byte
	bad bool
}

// regOffset is nft_parse_register: 1 to 4 are the 16-byte registers, 8 and up the 4-byte ones.
func regOffset(reg uint32) int {
	if reg <= 4 {
		return int(reg) * 16
	}
	return int(reg-8)*4 + 16
}

func (r *registers) load(reg uint32, n int) []byte {
	o := regOffset(reg)
	if o < 0 || o+n > len(r.b) {
		return nil
	}
	return r.b[o : o+n]
}

// store writes a value and clears the rest of its last word, as the kernel does.
func (r *registers) store(reg uint32, v []byte) {
	o := regOffset(reg)
	if o < 0 || o >= len(r.b) {
		return
	}
	n := copy(r.b[o:], v)
	for i := o + n; i < len(r.b) && i%4 != 0; i++ {
		r.b[i] = 0
	}
}

// eval runs one expression: a verdict, or whether the rule goes on.
func (r *run) eval(e *Expr) (*Jump, bool) {
	switch e.Op {
	case OpPass, OpAssume:
		return nil, true
	case OpVerdict:
		return e.Jump, true
	case OpReject:
		return &Jump{Code: JumpReject}, true
	case OpNotrack:
		if r.ct.State == ConnNone {
			r.ct.State = ConnUntracked
		}
		return nil, true
	case OpNAT:
		return r.evalNAT(e)
	case OpLookup:
		return r.evalLookup(e)
	case OpSetMark:
		r.setMark(e)
		return nil, true
	case OpMeta, OpCT:
		if e.Sreg != 0 {
			return nil, r.evalSet(e)
		}
	case OpUnknown:
		return nil, r.doubt()
	default:
	}
	return nil, r.matches(e)
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
	case OpImmediate:
		r.regs.store(e.Dreg, e.Data)
		return true
	case OpBitwise:
		return r.bitwise(e)
	case OpCmp:
		return r.compare(e)
	case OpRange:
		v := r.regs.load(e.Sreg, len(e.Data))
		if r.regs.bad || v == nil {
			return r.doubt()
		}
		in := bytes.Compare(v, e.Data) >= 0 && bytes.Compare(v, e.DataEnd) <= 0
		return in != e.Invert
	case OpNumgen:
		n := r.choose(int(min(max(e.Mod, 1), maxOutcomes)))
		r.chance = joinChance(r.chance, fmt.Sprintf("%s = %d", e.Text, n))
		r.regs.store(e.Dreg, binary.NativeEndian.AppendUint32(nil, uint32(n)+e.Offset))
		return true
	case OpStatistic:
		n := r.choose(2)
		r.chance = joinChance(r.chance, fmt.Sprintf("%s: %v", e.Text, n == 1))
		return n == 1
	default:
		return r.matchesXT(e)
	}
}

func joinChance(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

// loaded stores what was found; nil is unknown and makes the rule doubtful from there on, a zero-length
// value does not match (NFT_BREAK).
func (r *run) loaded(e *Expr, v []byte) bool {
	if v == nil {
		r.regs.bad = true
		return true
	}
	if len(v) == 0 {
		return false
	}
	r.regs.store(e.Dreg, v)
	return true
}

func (r *run) bitwise(e *Expr) bool {
	v := r.regs.load(e.Sreg, int(e.Len))
	if v == nil || len(e.Data) < len(v) || len(e.DataEnd) < len(v) {
		r.regs.bad = true
		return true
	}
	out := make([]byte, len(v))
	for i := range v {
		out[i] = v[i]&e.Data[i] ^ e.DataEnd[i]
	}
	r.regs.store(e.Dreg, out)
	return true
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
	if v == nil || r.regs.bad {
		return r.doubt()
	}
	c := bytes.Compare(v, e.Data)
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
	return r.doubt()
}

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func ifname(s string) []byte {
	b := make([]byte, 16)
	copy(b, s)
	return b
}

// meta gives a meta key's value, nil when it is not known.
func (r *run) meta(key string) []byte {
	p := &r.p
	switch key {
	case "len":
		return host32(uint32(p.Length))
	case "protocol":
		return binary.BigEndian.AppendUint16(nil, p.EtherType)
	case "mark":
		return host32(p.Mark)
	case "iif":
		return host32(uint32(p.InIndex))
	case "oif":
		return host32(uint32(p.OutIndex))
	case "iifname":
		return ifname(p.In)
	case "oifname":
		return ifname(p.Out)
	case "nfproto":
		return []byte{byte(p.Family)}
	case "l4proto":
		return []byte{p.Proto}
	case "ibrname":
		return ifname(p.In)
	case "obrname":
		return ifname(p.Out)
	case "skuid", "skgid":
		if r.hook == HookOutput || r.hook == HookPostrouting && p.In == "" {
			return nil
		}
		return []byte{} // no socket: the rule does not match
	case "pkttype":
		return []byte{0} // PACKET_HOST
	default:
		return nil
	}
}

// payload reads bytes of the headers, which are made up as far as the packet is known.
func (r *run) payload(e *Expr) []byte {
	b, known := r.header(e.Base)
	end := int(e.Offset) + int(e.Len)
	if end > len(b) {
		return nil
	}
	for _, k := range known[e.Offset:end] {
		if !k {
			return nil
		}
	}
	return b[e.Offset:end]
}

// Bases of nft_payload (enum nft_payload_bases).
const (
	baseLink = iota
	baseNetwork
	baseTransport
)

// header builds a header, and says of each byte whether the packet determines it.
func (r *run) header(base uint32) (b []byte, known []bool) {
	p := &r.p
	put := func(v []byte, k bool) {
		b = append(b, v...)
		for range v {
			known = append(known, k)
		}
	}
	u16 := func(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
	switch base {
	case baseLink:
		put(p.EthDst[:], true)
		put(p.EthSrc[:], true)
		put(u16(p.EtherType), true)
	case baseNetwork:
		if p.Dst.Is4() {
			put([]byte{0x45, p.TOS}, true)
			put(u16(uint16(p.Length)), true)
			put([]byte{0, 0, 0, 0}, false)
			put([]byte{p.TTL, p.Proto}, true)
			put([]byte{0, 0}, false)
		} else {
			put([]byte{0x60 | p.TOS>>4, p.TOS << 4}, true)
			put([]byte{0, 0}, false)
			put(u16(uint16(max(p.Length-40, 0))), true)
			put([]byte{p.Proto, p.TTL}, true)
		}
		put(p.Src.AsSlice(), true)
		put(p.Dst.AsSlice(), true)
	case baseTransport:
		switch {
		case isICMP(p.Proto):
			put([]byte{p.ICMPType, p.ICMPCode}, true)
			put([]byte{0, 0}, false)
			put(u16(p.ICMPID), true)
			put([]byte{0, 0}, false)
		default:
			put(u16(p.SrcPort), true)
			put(u16(p.DstPort), true)
			put(make([]byte, 8), false)
			put([]byte{0x50}, true)
			put([]byte{p.TCPFlags}, p.Proto == 6)
			put(make([]byte, 6), false)
		}
	}
	return b, known
}

// Bits of the ct state key (NF_CT_STATE_BIT).
var stateBits = map[ConnState]uint32{ConnInvalid: 1, ConnEstablished: 2, ConnRelated: 4, ConnNew: 8, ConnUntracked: 64}

// Bits of ct status (enum ip_conntrack_status).
const (
	statusSeenReply = 1 << 1
	statusAssured   = 1 << 2
	statusConfirmed = 1 << 3
	statusSrcNAT    = 1 << 4
	statusDstNAT    = 1 << 5
)

func (r *run) ctState() uint32 {
	if r.ct.State == ConnNone {
		return stateBits[ConnInvalid] // no connection at the packet
	}
	return stateBits[r.ct.State]
}

func (r *run) ctStatus() uint32 {
	var s uint32
	e := r.ct.Entry
	if e.Replied {
		s |= statusSeenReply
	}
	if e.Assured {
		s |= statusAssured
	}
	if e.known || r.ct.State == ConnEstablished {
		s |= statusConfirmed
	}
	if e.Reply.Src != e.Orig.Dst || !isICMP(e.Orig.Proto) && e.Reply.SrcPort != e.Orig.DstPort {
		s |= statusDstNAT
	}
	if e.Reply.Dst != e.Orig.Src {
		s |= statusSrcNAT
	}
	return s
}

func (r *run) ctKey(e *Expr) []byte {
	if e.Key == "state" {
		return host32(r.ctState())
	}
	if r.ct.State == ConnNone || r.ct.State == ConnInvalid || r.ct.State == ConnUntracked {
		return []byte{}
	}
	t := r.ct.Entry.Orig
	if e.Dir == 2 {
		t = r.ct.Entry.Reply
	}
	switch e.Key {
	case "direction":
		if r.ct.Reply {
			return []byte{1}
		}
		return []byte{0}
	case "status":
		return host32(r.ctStatus())
	case "mark":
		return host32(r.ct.Entry.Mark)
	case "protocol":
		return []byte{t.Proto}
	case "src":
		return t.Src.AsSlice()
	case "dst":
		return t.Dst.AsSlice()
	case "sport":
		return binary.BigEndian.AppendUint16(nil, t.SrcPort)
	case "dport":
		return binary.BigEndian.AppendUint16(nil, t.DstPort)
	default:
		return nil
	}
}

// routeTypes are RTN_* by name, for fib and addrtype.
var routeTypes = map[string]uint32{"unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6, "unreachable": 7, "prohibit": 8}

// Flags of nft_fib (enum nft_fib_flags).
const (
	fibSaddr = 1 << iota
	fibDaddr
	fibMark
	fibIif
	fibOif
)

func (r *run) fib(e *Expr) []byte {
	a := r.p.Dst
	if e.Flags&fibSaddr != 0 {
		a = r.p.Src
	}
	switch e.Key {
	case "type":
		dev := ""
		if e.Flags&fibIif != 0 {
			dev = r.p.In
		} else if e.Flags&fibOif != 0 {
			dev = r.p.Out
		}
		typ, ok := r.env.AddrType(a, dev)
		if !ok {
			return nil
		}
		return host32(routeTypes[typ])
	default: // oif and oifname: only the reverse path question has an answer here
		dev := r.env.ReverseDevice(a, r.p.Mark)
		if e.Flags&fibIif != 0 && dev != r.p.In {
			dev = ""
		}
		if e.Key == "oifname" {
			return ifname(dev)
		}
		if dev == r.p.In {
			return host32(uint32(r.p.InIndex))
		}
		if dev == "" {
			return host32(0)
		}
		return nil
	}
}

// evalSet is meta and ct with a source register: mark and connection mark.
func (r *run) evalSet(e *Expr) bool {
	v := r.regs.load(e.Sreg, 4)
	if e.Key != "mark" {
		return true
	}
	if v == nil || r.regs.bad {
		return r.doubt()
	}
	m := binary.NativeEndian.Uint32(v)
	if e.Op == OpCT {
		r.ct.Entry.Mark = m
	} else {
		r.p.Mark = m
	}
	r.note(WhatMark)
	return true
}

func (r *run) evalLookup(e *Expr) (*Jump, bool) {
	i := slices.IndexFunc(r.table.Sets, func(s Set) bool { return s.Name == e.Set })
	if i < 0 || r.regs.bad {
		return nil, r.doubt()
	}
	s := &r.table.Sets[i]
	el := s.find(func(n int) []byte { return r.regs.load(e.Sreg, n) })
	if (el != nil) == e.Invert {
		return nil, false
	}
	if el == nil || !s.Map {
		return nil, true
	}
	if el.Verdict != nil {
		return el.Verdict, true
	}
	if e.Dreg != 0 {
		r.regs.store(e.Dreg, el.Data)
	}
	return nil, true
}

// find looks a key up. In an interval set the rows are starts and ends in ascending order, or carry
// their own end.
func (s *Set) find(key func(n int) []byte) *Element {
	var open, catchAll *Element
	for i := range s.Elements {
		el := &s.Elements[i]
		if el.Any {
			catchAll = el
			continue
		}
		k := key(len(el.Key))
		switch {
		case k == nil:
			continue
		case el.KeyEnd != nil:
			if concatIn(k, el.Key, el.KeyEnd) {
				return el
			}
		case s.Interval:
			if bytes.Compare(k, el.Key) >= 0 {
				if open == nil || bytes.Compare(el.Key, open.Key) > 0 || bytes.Equal(el.Key, open.Key) && open.End {
					open = el
				}
			}
		case bytes.Equal(k, el.Key):
			return el
		}
	}
	if open != nil && !open.End {
		return open
	}
	return catchAll
}

// concatIn compares word by word, as concatenated ranges are (nft_set_pipapo): each 4-byte field lies
// within its own bounds.
func concatIn(k, lo, hi []byte) bool {
	for i := 0; i < len(k); i += 4 {
		n := min(i+4, len(k))
		if bytes.Compare(k[i:n], lo[i:n]) < 0 || bytes.Compare(k[i:n], hi[i:n]) > 0 {
			return false
		}
	}
	return true
}

// evalNAT sets the connection's reply tuple (nf_nat_setup_info). Of a range of addresses or ports the
// first stands for all.
func (r *run) evalNAT(e *Expr) (*Jump, bool) {
	if r.ct.State != ConnNew {
		return &Jump{Code: JumpAccept}, true
	}
	n := *e.NAT
	if n.AddrReg != 0 {
		size := 4
		if r.p.Dst.Is6() {
			size = 16
		}
		n.AddrMin = addrOf(r.regs.load(n.AddrReg, size))
	}
	if n.ProtoReg != 0 {
		if b := r.regs.load(n.ProtoReg, 2); b != nil {
			n.PortMin = binary.BigEndian.Uint16(b)
		}
	}
	if r.regs.bad && n.AddrReg != 0 {
		return nil, r.doubt()
	}
	if !r.applyNAT(&n) {
		return &Jump{Code: JumpDrop}, true
	}
	r.trail = append(r.trail, r.ref(WhatNAT))
	return &Jump{Code: JumpAccept}, true
}

func (r *run) applyNAT(n *NAT) bool {
	t := &r.ct.Entry.Reply
	port := func(to *uint16) {
		if n.PortMin != 0 && !isICMP(t.Proto) {
			*to = n.PortMin
		}
	}
	switch n.Kind {
	case "dnat":
		if n.AddrMin.IsValid() {
			t.Src = n.AddrMin
		}
		port(&t.SrcPort)
	case "redirect":
		a, ok := r.redirectAddr()
		if !ok {
			return false
		}
		t.Src = a
		port(&t.SrcPort)
	case "masquerade":
		a, ok := r.env.MasqueradeAddr(r.p.Out, r.p.Dst)
		if !ok {
			return false
		}
		t.Dst = a
		port(&t.DstPort)
	case "snat":
		if n.AddrMin.IsValid() {
			t.Dst = n.AddrMin
		}
		port(&t.DstPort)
	}
	return true
}

// redirectAddr is where REDIRECT sends: loopback for packets of local origin, else the input device.
func (r *run) redirectAddr() (netip.Addr, bool) {
	switch {
	case r.hook != HookOutput:
		return r.env.PrimaryAddr(r.p.In, r.p.Dst.Is6())
	case r.p.Dst.Is6():
		return netip.IPv6Loopback(), true
	default:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
}

func (r *run) setMark(e *Expr) {
	mask, v := binary.NativeEndian.Uint32(e.Data), binary.NativeEndian.Uint32(e.DataEnd)
	switch e.Key {
	case "ct":
		r.ct.Entry.Mark = r.ct.Entry.Mark&^mask ^ v
	case "save":
		r.ct.Entry.Mark = r.ct.Entry.Mark&^mask ^ r.p.Mark&v
	case "restore":
		r.p.Mark = r.p.Mark&^v ^ r.ct.Entry.Mark&mask
	default:
		r.p.Mark = r.p.Mark&^mask ^ v
	}
	r.note(WhatMark)
}

func devMatches(pattern, name string, not bool) bool {
	if pattern == "" {
		return true
	}
	ok := pattern == name
	if p, prefix := strings.CutSuffix(pattern, "+"); prefix {
		ok = strings.HasPrefix(name, p)
	}
	return ok != not
}
