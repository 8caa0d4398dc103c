package netfilter

import (
	"bytes"
	"net/netip"
)

// matchesXT evaluates the matches of iptables.
func (r *run) matchesXT(e *Expr) bool {
	p := &r.p
	switch e.Op {
	case OpTuple:
		return r.tuple(e.Tuple)
	case OpPorts:
		return r.ports(e.Tuple)
	case OpTCPFlags:
		return (p.TCPFlags&e.Data[0] == e.Data[1]) != e.Invert
	case OpICMP:
		if !isICMP(p.Proto) {
			return false
		}
		ok := e.Data[0] == 0xff && p.Proto == 1 || p.ICMPType == e.Data[0] && p.ICMPCode >= e.Data[1] && p.ICMPCode <= e.Data[2]
		return ok != e.Invert
	case OpState:
		return r.xtState(e)
	case OpMark:
		return (p.Mark&e.Flags == e.Mod) != e.Invert
	case OpConnmark:
		return (r.ct.Entry.Mark&e.Flags == e.Mod) != e.Invert
	case OpAddrtype:
		return r.addrtype(e)
	case OpPhysdev:
		return r.physdev(e)
	case OpMAC:
		return bytes.Equal(p.EthSrc[:], e.Data) != e.Invert
	case OpIPRange:
		a := p.Src
		if e.Key == "dst" {
			a = p.Dst
		}
		in := a.Compare(addrOf(e.Data)) >= 0 && a.Compare(addrOf(e.DataEnd)) <= 0
		return in != e.Invert
	case OpLength:
		return (p.Length >= int(e.Offset) && p.Length <= int(e.Len)) != e.Invert
	case OpTTL:
		return r.ttl(e)
	case OpRPFilter:
		dev := r.env.ReverseDevice(p.Src, 0)
		ok := dev == p.In || e.Flags&1 != 0 && dev != "" // loose
		return ok != e.Invert
	default:
		return r.doubt()
	}
}

// tuple is ip_packet_match of net/ipv4/netfilter/ip_tables.c.
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

func (r *run) ports(m *Match) bool {
	p := &r.p
	if isICMP(p.Proto) {
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
	return ok(m.SPorts, p.SrcPort, m.NotSPorts) && ok(m.DPorts, p.DstPort, m.NotDPorts) && either
}

// State bits of xt_conntrack (XT_CONNTRACK_STATE_*).
var xtStateBits = map[ConnState]uint32{ConnInvalid: 1, ConnEstablished: 2, ConnRelated: 4, ConnNew: 8, ConnUntracked: 1 << 8, ConnNone: 1}

// xtState compares state, status and direction as xt_conntrack does: Flags is the state mask, Mod the
// status mask, Dir the direction; Data the inversions.
func (r *run) xtState(e *Expr) bool {
	if e.Flags != 0 {
		bits := xtStateBits[r.ct.State]
		if st := r.ctStatus(); r.ct.State != ConnNone {
			if st&statusSrcNAT != 0 {
				bits |= ctSNAT
			}
			if st&statusDstNAT != 0 {
				bits |= ctDNAT
			}
		}
		if (bits&e.Flags != 0) == (e.Data[0] != 0) {
			return false
		}
	}
	if e.Mod != 0 {
		if (r.ctStatus()&e.Mod != 0) == (e.Data[1] != 0) {
			return false
		}
	}
	if e.Dir != 0 {
		return r.ct.State != ConnNone && (r.ct.Reply == (e.Dir == 2)) != (e.Data[2] != 0)
	}
	return true
}

// Bits of xt_conntrack's state mask for translated connections.
const (
	ctSNAT = 1 << 6
	ctDNAT = 1 << 7
)

// addrtype compares the types of both addresses: Flags and Mod are masks of routes types.
func (r *run) addrtype(e *Expr) bool {
	dev := ""
	switch e.Key {
	case "iface-in":
		dev = r.p.In
	case "iface-out":
		dev = r.p.Out
	}
	is := func(mask uint32, a netip.Addr) bool {
		typ, _ := r.env.AddrType(a, dev)
		return mask&(1<<routeTypes[typ]) != 0
	}
	if e.Flags != 0 && is(e.Flags, r.p.Src) == (e.Data[0] != 0) {
		return false
	}
	return e.Mod == 0 || is(e.Mod, r.p.Dst) != (e.Data[1] != 0)
}

// physdev: Tuple.In and Out are the bridge ports; Flags the bits XT_PHYSDEV_OP_*.
func (r *run) physdev(e *Expr) bool {
	const bridged, isIn, isOut = 0x04, 0x08, 0x10
	p := &r.p
	if e.Flags&bridged != 0 && (p.PhysOut != "") == (e.Data[0]&bridged != 0) {
		return false
	}
	if e.Flags&isIn != 0 && (p.PhysIn != "") == (e.Data[0]&isIn != 0) {
		return false
	}
	if e.Flags&isOut != 0 && (p.PhysOut != "") == (e.Data[0]&isOut != 0) {
		return false
	}
	return devMatches(e.Tuple.In, p.PhysIn, e.Tuple.NotIn) && devMatches(e.Tuple.Out, p.PhysOut, e.Tuple.NotOut)
}

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
	return r.doubt()
}
