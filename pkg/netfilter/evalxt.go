package netfilter

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// matchesXT evaluates the matches of iptables.
func (r *run) matchesXT(e *Expr) bool {
	p := &r.p
	switch e.Op {
	case OpTuple:
		return r.tuple(e.Tuple)
	case OpPorts:
		return r.ports(e)
	case OpICMP:
		if !isICMP(p.Proto) || len(e.Data) < 3 {
			return false
		}
		ok := e.Data[0] == 0xff && p.Proto == protoICMP || p.ICMPType == e.Data[0] && p.ICMPCode >= e.Data[1] && p.ICMPCode <= e.Data[2]
		return ok != e.Invert
	case OpState:
		return r.xtState(e)
	case OpMark:
		return (p.Mark&e.Flags == e.Mod) != e.Invert
	case OpConnmark:
		return r.ct.tracked() && (r.ct.Entry.Mark&e.Flags == e.Mod) != e.Invert
	case OpAddrtype:
		return r.addrtype(e)
	case OpStatistic:
		return r.statistic(e)
	case OpPhysdev:
		return r.physdev(e)
	case OpMAC:
		if p.In == "" || p.In == "lo" {
			return false // no Ethernet
		}
		if p.EthSrc.IsZero() {
			return r.doubt(e)
		}
		return bytes.Equal(p.EthSrc[:], e.Data) != e.Invert
	case OpIPRange:
		return r.iprange(e)
	case OpLength:
		if p.Length == 0 {
			return r.doubt(e)
		}
		return (p.Length >= int(e.Offset) && p.Length <= int(e.Len)) != e.Invert
	case OpTTL:
		return r.ttl(e)
	case OpTOS:
		return (uint32(p.TOS)&e.Flags == e.Mod) != e.Invert
	case OpPkttype:
		v := r.pkttype()
		if !v.sure() {
			return r.doubt(e)
		}
		return (uint32(v.b[0]) == e.Mod) != e.Invert
	case OpOwner:
		if r.hasSocket() {
			return r.doubt(e)
		}
		return e.Mod^e.Flags == 0 // every question that is asked is inverted
	case OpRPFilter:
		return r.rpfilter(e)
	case OpRecent:
		return r.recent(e)
	case OpSet:
		return r.ipset(e)
	default:
		return r.doubt(e)
	}
}

// tuple is ip_packet_match of net/ipv4/netfilter/ip_tables.c. Fragments are not in the model.
func (r *run) tuple(m *Match) bool {
	p := &r.p
	in := func(pre netip.Prefix, a netip.Addr, not bool) bool {
		return !pre.IsValid() || pre.Contains(a) != not
	}
	return in(m.Src, p.Src, m.NotSrc) && in(m.Dst, p.Dst, m.NotDst) &&
		devMatches(m.In, p.In, m.NotIn) && devMatches(m.Out, p.Out, m.NotOut) &&
		(m.Proto == 0 || (m.Proto == p.Proto) != m.NotProto) &&
		(!m.Fragment || m.NotFrag)
}

func devMatches(pattern, name string, not bool) bool {
	return pattern == "" || patternMatches(pattern, "+", name) != not
}

// patternMatches compares a device's name with a pattern that may end in a wildcard.
func patternMatches(pattern, wildcard, name string) bool {
	if p, prefix := strings.CutSuffix(pattern, wildcard); prefix {
		return strings.HasPrefix(name, p)
	}
	return pattern == name
}

// ports is xt_tcpudp and xt_multiport.
func (r *run) ports(e *Expr) bool {
	p, m := &r.p, e.Tuple
	if isICMP(p.Proto) {
		return false
	}
	if p.AnySrcPort && len(m.SPorts)+len(m.Either) > 0 && !r.doubt(e) {
		return false
	}
	has := func(rs [][2]uint16, port uint16) bool {
		for _, x := range rs {
			if port >= x[0] && port <= x[1] {
				return true
			}
		}
		return false
	}
	ok := func(rs [][2]uint16, port uint16, not bool) bool { return len(rs) == 0 || has(rs, port) != not }
	either := len(m.Either) == 0 || (has(m.Either, p.SrcPort) || has(m.Either, p.DstPort)) != m.NotSPorts
	flags := m.TCPMask == 0 || (p.TCPFlags&m.TCPMask == m.TCPFlags) != m.NotTCPFlags
	return (p.AnySrcPort || ok(m.SPorts, p.SrcPort, m.NotSPorts)) && ok(m.DPorts, p.DstPort, m.NotDPorts) && (p.AnySrcPort || either) && flags
}

// State bits of xt_conntrack (XT_CONNTRACK_STATE_*).
var xtStateBits = map[ConnState]uint32{ConnInvalid: 1, ConnEstablished: 2, ConnRelated: 4, ConnNew: 8, ConnUntracked: ctUntracked, ConnNone: 1}

// Bits of xt_conntrack's state mask besides those of nftables.
const (
	ctSNAT      = 1 << 6
	ctDNAT      = 1 << 7
	ctUntracked = 1 << 8
)

// xtState is conntrack_mt: Flags is the state mask, Mod the status mask, Dir the direction; Data their
// inversions; Track the rest.
func (r *run) xtState(e *Expr) bool {
	inverted := func(i int) bool { return i < len(e.Data) && e.Data[i] != 0 }
	if e.Flags != 0 {
		bits := xtStateBits[r.ct.State]
		if r.ct.tracked() {
			src, dst := r.ct.Entry.translated()
			if src {
				bits |= ctSNAT
			}
			if dst {
				bits |= ctDNAT
			}
		}
		if (bits&e.Flags != 0) == inverted(0) {
			return false
		}
	}
	if !r.ct.tracked() {
		return e.Flags != 0
	}
	if e.Dir != 0 && (r.ct.Reply == (e.Dir == 2)) == inverted(2) {
		return false
	}
	if e.Track != nil && !r.connMatches(e) {
		return false
	}
	return e.Mod == 0 || (r.ctStatus()&e.Mod != 0) != inverted(1)
}

func (r *run) connMatches(e *Expr) bool {
	m, c := e.Track, &r.ct.Entry
	if m.Proto != 0 && (c.Orig.Proto == m.Proto) == m.NotProto {
		return false
	}
	addrs := [4]netip.Addr{c.Orig.Src, c.Orig.Dst, c.Reply.Src, c.Reply.Dst}
	ports := [4]uint16{c.Orig.SrcPort, c.Orig.DstPort, c.Reply.SrcPort, c.Reply.DstPort}
	for i := range addrs {
		if m.Addrs[i] != nil && m.Addrs[i].Contains(addrs[i]) == m.NotAddrs[i] {
			return false
		}
		if q := m.Ports[i]; q != nil {
			if isICMP(c.Orig.Proto) || i == 3 && r.p.AnySrcPort {
				if !r.doubt(e) {
					return false
				}
			} else if (ports[i] >= q[0] && ports[i] <= q[1]) == m.NotPorts[i] {
				return false
			}
		}
	}
	return !m.Expires || r.doubt(e)
}

// addrtype compares the types of both addresses: Flags and Mod are masks of route types.
func (r *run) addrtype(e *Expr) bool {
	dev := ""
	switch e.Key {
	case "iface-in":
		dev = r.p.In
	case "iface-out":
		dev = r.p.Out
	}
	is := func(mask uint32, a netip.Addr, not bool) bool {
		if mask == 0 {
			return true
		}
		ok, known := r.hasType(mask, a, dev)
		if !known {
			return r.doubt(e)
		}
		return ok != not
	}
	return is(e.Flags, r.p.Src, e.Data[0] != 0) && is(e.Mod, r.p.Dst, e.Data[1] != 0)
}

// hasType is match_type and match_type6 of xt_addrtype.c. Of IPv6 unicast and multicast are properties of
// the address, the others of its route.
func (r *run) hasType(mask uint32, a netip.Addr, dev string) (ok, known bool) {
	typ, known := r.routeType(a, dev)
	if a.Is4() || !known {
		return mask&(1<<routeTypes[typ]) != 0, known
	}
	bit := func(name string) bool { return mask&(1<<routeTypes[name]) != 0 }
	switch {
	case bit("multicast") && !a.IsMulticast(), bit("unicast") && (a.IsMulticast() || a.IsUnspecified()), bit("unspec") && !a.IsUnspecified():
		return false, true
	case bit("local") || bit("anycast") || bit("unreachable"):
		return mask&(1<<routeTypes[typ]) != 0, true
	}
	return true, true
}

// statistic: a random rule goes either way, but for the probabilities that leave no choice.
func (r *run) statistic(e *Expr) bool {
	const always = 1 << 31
	switch {
	case e.Key == "random" && e.Mod >= always, e.Key == "nth" && e.Mod == 0:
		return !e.Invert
	case e.Key == "random" && e.Mod == 0:
		return e.Invert
	}
	return r.chanceOf(e, 2, func(n int) string { return fmt.Sprintf("%s: %v", e.Text, n == 1) }) == 1
}

// Bits of XT_PHYSDEV_OP_*.
const (
	physIn = 1 << iota
	physOut
	physBridged
	physIsIn
	physIsOut
)

// physdev is physdev_mt: Tuple.In and Out are the bridge ports, Flags what is asked, Data[0] what is inverted.
func (r *run) physdev(e *Expr) bool {
	p, ask, inv := &r.p, e.Flags, uint32(e.Data[0])
	if p.PhysIn == "" && p.PhysOut == "" {
		return ask&^inv == 0
	}
	asked := func(bit uint32, is bool) bool { return ask&bit == 0 || is != (inv&bit != 0) }
	if !asked(physBridged, p.PhysOut != "") || !asked(physIsIn, p.PhysIn != "") || !asked(physIsOut, p.PhysOut != "") {
		return false
	}
	if p.PhysIn != "" && !asked(physIn, patternMatches(e.Tuple.In, "+", p.PhysIn)) {
		return false
	}
	return ask&physOut == 0 || p.PhysOut != "" && asked(physOut, patternMatches(e.Tuple.Out, "+", p.PhysOut))
}

func (r *run) iprange(e *Expr) bool {
	a, lo, hi := r.p.Src, addrOf(e.Data), addrOf(e.DataEnd)
	if e.Key == "dst" {
		a = r.p.Dst
	}
	if a.BitLen() != lo.BitLen() {
		return r.doubt(e)
	}
	return (a.Compare(lo) >= 0 && a.Compare(hi) <= 0) != e.Invert
}

// ttl compares with Mod: Flags is IPT_TTL_EQ, NE, LT or GT.
func (r *run) ttl(e *Expr) bool {
	t, v := uint32(r.p.TTL), e.Mod
	switch e.Flags {
	case 0:
		return t == v
	case 1:
		return t != v
	case 2:
		return t < v
	case 3:
		return t > v
	}
	return r.doubt(e)
}

// Flags of xt_rpfilter.
const (
	rpLoose       = 1 << 0
	rpMark        = 1 << 1
	rpAcceptLocal = 1 << 2
)

// rpfilter is rpfilter_mt: would an answer go out by the device that the packet came in by.
func (r *run) rpfilter(e *Expr) bool {
	p := &r.p
	if p.In == "lo" || p.Src.IsUnspecified() || p.Src.Is6() && p.Src.IsLinkLocalUnicast() {
		return !e.Invert
	}
	mark := uint32(0)
	if e.Flags&rpMark != 0 {
		mark = p.Mark
	}
	dev := r.env.ReverseDevice(p.Src, mark)
	ok := dev != "" && (dev == p.In || e.Flags&rpLoose != 0)
	if dev == "" && e.Flags&rpAcceptLocal != 0 {
		on := p.In
		if e.Flags&rpLoose != 0 {
			on = ""
		}
		typ, known := r.env.AddrType(p.Src, on)
		ok = known && typ == "local"
	}
	return ok != e.Invert
}

// change is a target that rewrites the mark, the TOS or the TTL.
func (r *run) change(e *Expr) {
	before, conn := r.p, r.ct.Entry.Mark
	switch e.Op {
	case OpSetTOS:
		r.p.TOS = r.p.TOS&^uint8(e.Flags) ^ uint8(e.Mod) //nolint:gosec // 8 bits
	case OpSetTTL:
		r.p.TTL = newTTL(r.p.TTL, e.Flags, e.Mod)
	default:
		r.setMark(e)
	}
	if r.p != before || conn != r.ct.Entry.Mark || e.Op == OpSetMark {
		r.note(WhatMark)
	}
}

func newTTL(ttl uint8, mode, by uint32) uint8 {
	switch mode {
	case 1:
		return uint8(min(uint32(ttl)+by, 255)) //nolint:gosec // bounded
	case 2:
		return uint8(max(int(ttl)-int(by), 0)) //nolint:gosec // bounded
	default:
		return uint8(by) //nolint:gosec // 8 bits
	}
}

// setMark is MARK and CONNMARK; without a connection CONNMARK does nothing. Dir shifts: Sreg bits to the
// left where Dir is 1, to the right where it is 2.
func (r *run) setMark(e *Expr) {
	if len(e.Data) < 4 || len(e.DataEnd) < 4 || e.Key != "" && !r.ct.tracked() {
		return
	}
	mask, v := u32(e.Data, 0), u32(e.DataEnd, 0)
	shift := func(m uint32) uint32 {
		if e.Dir == 2 {
			return m >> (e.Sreg % 32)
		}
		return m << (e.Sreg % 32)
	}
	switch e.Key {
	case "ct":
		r.ct.Entry.Mark = shift(r.ct.Entry.Mark&^mask ^ v)
	case "save":
		r.ct.Entry.Mark = r.ct.Entry.Mark&^mask ^ shift(r.p.Mark&v)
	case "restore":
		r.p.Mark = r.p.Mark&^v ^ shift(r.ct.Entry.Mark&mask)
	default:
		r.p.Mark = r.p.Mark&^mask ^ v
	}
}
