package netfilter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// nat runs the nat chains for the first packet of a connection, and translates every packet of it
// (nf_nat_inet_fn).
func (r *run) nat(dst bool) Verdict {
	if !r.ct.tracked() {
		return Accept
	}
	done := &r.ct.srcDone
	if dst {
		done = &r.ct.dstDone
	}
	if r.ct.State == ConnNew && !*done {
		if v := r.natChains(); v != Accept {
			return v
		}
		if !r.natted && !dst {
			r.keepUnique(&NAT{}) // the null binding makes the reply's tuple unique
		}
		*done = true
	}
	if r.ct.translate(&r.p, dst) && (r.ct.Entry.known || r.ct.Reply) {
		r.trail = append(r.trail, Ref{
			What: WhatConn, Family: r.fam, Hook: r.hook, Text: r.ct.Entry.String(),
			Command: fmt.Sprintf("conntrack -L -p %s --orig-src %s", protoName(r.ct.Entry.Orig.Proto), r.ct.Entry.Orig.Src),
		})
	}
	return Accept
}

// natChains are the base chains of type nat of the hook: the first translation ends them.
func (r *run) natChains() Verdict {
	r.natted = false
	sts := r.baseChains(func(_ *Table, c *Chain) bool { return c.Type == "nat" })
	for _, st := range r.ordered(sts) {
		r.table = st.table
		if v := r.base(st.chain); v != Accept || r.natted {
			return v
		}
	}
	return Accept
}

// translate applies the connection's tuples at a hook: destinations change where packets come in,
// sources where they go out (nf_nat_packet).
func (c *Conn) translate(p *Packet, dst bool) bool {
	if c.Entry.virtual && dst && !c.Reply {
		return false
	}
	want := c.Entry.Reply.reversed()
	if c.Reply {
		want = c.Entry.Orig.reversed()
	}
	before := *p
	if dst {
		p.Dst = want.Dst
	} else {
		p.Src = want.Src
	}
	switch {
	case c.State == ConnRelated && isICMPError(p): // its own addresses change, the quoted ones are undone
		if c.touches(dst) {
			p.Inner = Tuple{}
		} else {
			*p = before
		}
	case isICMP(p.Proto):
		if c.touches(dst) {
			p.ICMPID = want.SrcPort
		}
	case dst:
		p.DstPort = want.DstPort
	default:
		p.SrcPort = want.SrcPort
	}
	return *p != before
}

// touches reports whether the connection is translated at hooks of that sort, in the packet's direction.
func (c *Conn) touches(dst bool) bool {
	src, dstNAT := c.Entry.translated()
	if dst != c.Reply {
		return dstNAT
	}
	return src
}

// translated tells which sides of a connection are rewritten (IPS_SRC_NAT, IPS_DST_NAT).
func (e *Entry) translated() (src, dst bool) {
	if isICMP(e.Orig.Proto) {
		return e.Reply.Dst != e.Orig.Src || e.Reply.SrcPort != e.Orig.SrcPort, e.Reply.Src != e.Orig.Dst
	}
	return e.Reply.Dst != e.Orig.Src || e.Reply.DstPort != e.Orig.SrcPort,
		e.Reply.Src != e.Orig.Dst || e.Reply.SrcPort != e.Orig.DstPort
}

// evalNAT sets the connection's reply tuple (nf_nat_setup_info).
func (r *run) evalNAT(e *Expr) (*Jump, bool) {
	if e.NAT.Family != 0 && e.NAT.Family != FamilyInet && e.NAT.Family != r.p.Family {
		return nil, true // a rule of the inet family for the other protocol
	}
	if r.ct.State != ConnNew || r.ct.Entry.known {
		r.natted = true
		return &Jump{Code: JumpAccept}, true
	}
	n, ok := r.natValues(*e.NAT)
	if !ok {
		return &Jump{Code: JumpUnknown}, true
	}
	switch ok, known := r.setup(e, &n); {
	case !known:
		return &Jump{Code: JumpUnknown}, true
	case !ok:
		return &Jump{Code: JumpDrop}, true
	}
	r.natted = true
	r.note(WhatNAT)
	return &Jump{Code: JumpAccept}, true
}

// natValues reads the registers of a translation; ok is false where they are not known.
func (r *run) natValues(n NAT) (NAT, bool) {
	size := 4
	if r.p.Dst.Is6() {
		size = 16
	}
	sure := true
	get := func(reg uint32, size int) []byte {
		v := r.regs.load(reg, size)
		sure = sure && v.sure()
		return v.b
	}
	if n.AddrReg != 0 {
		n.AddrMin = addrOf(get(n.AddrReg, size))
		if n.AddrMaxReg != 0 {
			n.AddrMax = addrOf(get(n.AddrMaxReg, size))
		}
	}
	if n.ProtoReg != 0 {
		n.PortMin = binary.BigEndian.Uint16(get(n.ProtoReg, 2))
		if n.ProtoMaxReg != 0 {
			n.PortMax = binary.BigEndian.Uint16(get(n.ProtoMaxReg, 2))
		}
	}
	return n, sure
}

// setup makes the connection's tuple the translated one. ok is false where the kernel drops, known where
// the address depends on more than the tables.
func (r *run) setup(e *Expr, n *NAT) (ok, known bool) {
	if !n.AddrMax.IsValid() {
		n.AddrMax = n.AddrMin
	}
	if n.PortMax == 0 {
		n.PortMax = n.PortMin
	}
	if n.PortMax < n.PortMin {
		n.PortMin, n.PortMax = n.PortMax, n.PortMin
	}
	switch n.Kind {
	case "masquerade":
		a, ok := r.env.MasqueradeAddr(r.p.Out, r.p.Dst)
		if !ok {
			return false, true
		}
		n.AddrMin, n.AddrMax = a, a
	case "redirect":
		a, ok := r.redirectAddr()
		if !ok {
			return false, true
		}
		n.AddrMin, n.AddrMax = a, a
	}
	if n.AddrMin.IsValid() && (n.AddrMin.Is4() != r.p.Dst.Is4() || n.AddrMax.Is4() != n.AddrMin.Is4()) {
		return false, false
	}
	toDst := n.Kind == "dnat" || n.Kind == "redirect"
	if n.Netmap { // NETMAP and prefix translation take the side that the hook has
		toDst = r.hook == HookPrerouting || r.hook == HookOutput
	}
	if toDst {
		r.setupDst(e, n)
	} else {
		r.setupSrc(n)
	}
	return true, true
}

func (r *run) setupDst(e *Expr, n *NAT) {
	t := r.ct.Entry.Reply.reversed()
	if n.AddrMin.IsValid() {
		t.Dst = n.pick(r.p.Dst, t, r.ct.zone)
	}
	if n.PortMin != 0 && !isICMP(t.Proto) {
		size := int(n.PortMax) - int(n.PortMin) + 1
		switch {
		case n.PortBase != 0:
			t.DstPort = n.PortMin + uint16((int(t.DstPort)-int(n.PortBase)+1<<16)%(1<<16)%size) //nolint:gosec // below size
		case n.Random && size > 1:
			k := r.chanceOf(e, size, func(k int) string { return fmt.Sprintf("port %d", int(n.PortMin)+k) })
			t.DstPort = n.PortMin + uint16(k) //nolint:gosec // below size
		case t.DstPort < n.PortMin || t.DstPort > n.PortMax:
			t.DstPort = n.PortMin
		}
	}
	r.ct.Entry.Reply = t.reversed()
}

func (r *run) setupSrc(n *NAT) {
	t := r.ct.Entry.Reply.reversed()
	switch m, ok := r.currentMapping(n, t); {
	case n.Random:
		t.Src = n.pick(r.p.Src, t, r.ct.zone)
	case n.inRange(t.Src, t.SrcPort, t.Proto):
	case ok:
		t.Src, t.SrcPort = m.Src, m.SrcPort
	default:
		t.Src = n.pick(r.p.Src, t, r.ct.zone)
	}
	switch inPorts := n.PortMin == 0 || t.SrcPort >= n.PortMin && t.SrcPort <= n.PortMax; {
	case n.PortMin != 0 && n.PortMin == n.PortMax && !isICMP(t.Proto):
		t.SrcPort = n.PortMin
	case n.Random || !inPorts:
		r.p.AnySrcPort = true
	}
	r.ct.Entry.Reply = t.reversed()
	r.keepUnique(n)
}

// keepUnique: where another connection has the reply's tuple already, the source port becomes another one.
func (r *run) keepUnique(n *NAT) {
	if n.PortMin != 0 && n.PortMin == n.PortMax {
		return
	}
	for _, list := range [2][]Entry{r.state.conns, r.state.rules.Conns} {
		for i := range list {
			o := &list[i]
			if o.Zone == r.ct.zone && (o.Reply == r.ct.Entry.Reply || o.Orig == r.ct.Entry.Reply) && o.Orig != r.ct.Entry.Orig {
				r.p.AnySrcPort = true
				return
			}
		}
	}
}

// currentMapping is find_appropriate_src: the source that another connection from the same place has got.
func (r *run) currentMapping(n *NAT, t Tuple) (Tuple, bool) {
	for _, list := range [2][]Entry{r.state.conns, r.state.rules.Conns} {
		for i := range list {
			o := &list[i]
			if o.Orig.Src != t.Src || o.Orig.SrcPort != t.SrcPort || o.Orig.Proto != t.Proto || o.Zone != r.ct.zone {
				continue
			}
			if m := o.Reply.reversed(); n.inRange(m.Src, m.SrcPort, m.Proto) {
				return m, true
			}
		}
	}
	return Tuple{}, false
}

// inRange is nf_in_range.
func (n *NAT) inRange(a netip.Addr, port uint16, proto uint8) bool {
	if n.AddrMin.IsValid() && (n.Netmap || a.Compare(n.AddrMin) < 0 || a.Compare(n.AddrMax) > 0) {
		return false
	}
	return n.PortMin == 0 || isICMP(proto) || port >= n.PortMin && port <= n.PortMax
}

// pick is find_best_ips_proto: of a range of addresses a hash of source and destination chooses.
func (n *NAT) pick(old netip.Addr, t Tuple, zone uint16) netip.Addr {
	switch {
	case !n.AddrMin.IsValid():
		return old
	case n.Netmap:
		return netmapped(old, n.AddrMin, n.AddrMax)
	case n.AddrMin == n.AddrMax:
		return n.AddrMin
	}
	words := func(a netip.Addr) (w [4]uint32) {
		for i, b := 0, a.AsSlice(); i < len(b); i += 4 {
			w[i/4] = binary.NativeEndian.Uint32(b[i:])
		}
		return w
	}
	last := len(old.AsSlice())/4 - 1
	src, dst := words(t.Src), words(t.Dst)
	seed := uint32(0)
	if !n.Persistent {
		seed = dst[last] ^ uint32(zone)
	}
	j := jhash2(src[:], seed)
	lo, hi := n.AddrMin.AsSlice(), n.AddrMax.AsSlice()
	out := make([]byte, len(lo))
	full := false
	for i := 0; i <= last; i++ {
		low, dist := uint32(0), ^uint32(0)
		if !full {
			low = binary.BigEndian.Uint32(lo[4*i:])
			dist = binary.BigEndian.Uint32(hi[4*i:]) - low + 1
		}
		v := low + reciprocalScale(j, dist)
		binary.BigEndian.PutUint32(out[4*i:], v)
		full = full || v != binary.BigEndian.Uint32(hi[4*i:])
		if !n.Persistent {
			j ^= dst[i]
		}
	}
	return addrOf(out)
}

// netmapped replaces the bits in which the ends of the range agree (xt_NETMAP.c).
func netmapped(old, lo, hi netip.Addr) netip.Addr {
	o, l, h := old.AsSlice(), lo.AsSlice(), hi.AsSlice()
	for i := range o {
		host := l[i] ^ h[i]
		o[i] = o[i]&host | l[i]&^host
	}
	return addrOf(o)
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
