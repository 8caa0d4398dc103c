package forward

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// noConn is the connection of a packet that conntrack has not looked at yet.
var noConn netfilter.Conn

// hook runs one netfilter hook of the IP layer and goes on with every outcome that lets the packet
// pass. changed tells the continuation that an address or a mark was rewritten, so that a route chosen
// before no longer holds.
func (w *walk) hook(h *host, hook netfilter.Hook, p *packet, in, out *tables.Link, next func(w *walk, p *packet, changed bool)) {
	family := netfilter.FamilyIPv4
	if p.Dst.Is6() {
		family = netfilter.FamilyIPv6
	}
	np := p.nfPacket(in, out)
	w.run(h, family, hook, np, p, in, out, next)
}

// bridgeHook runs a hook of nftables' bridge family.
func (w *walk) bridgeHook(h *host, hook netfilter.Hook, p *packet, in, out *tables.Link, next func(w *walk, p *packet)) {
	np := p.nfPacket(in, out)
	w.run(h, netfilter.FamilyBridge, hook, np, p, in, out, func(w *walk, p *packet, _ bool) { next(w, p) })
}

// device runs the netdev hooks of one device.
func (w *walk) device(h *host, hook netfilter.Hook, l *tables.Link, p *packet, next func(w *walk, p *packet)) {
	np := p.nfPacket(l, l)
	w.run(h, netfilter.FamilyNetdev, hook, np, p, l, l, func(w *walk, p *packet, _ bool) { next(w, p) })
}

// callsIP reports whether br_netfilter shows the frames of a bridge to the IP layer's hooks.
func (m *Model) callsIP(h *host, br *tables.Link, p *packet) bool {
	name, own := "bridge.bridge-nf-call-iptables", br.Bridge != nil && br.Bridge.NFCallIP
	if p.Dst.Is6() {
		name, own = "bridge.bridge-nf-call-ip6tables", br.Bridge != nil && br.Bridge.NFCallIP6
	}
	v, _ := h.SysctlInt(name)
	return v != 0 || own
}

// callIP runs a hook of the IP layer for a bridged frame (net/bridge/br_netfilter_hooks.c): the rules see
// the bridge as the device, and the ports as physdev.
func (w *walk) callIP(h *host, hook netfilter.Hook, br, in, out *tables.Link, p *packet, next func(w *walk, p *packet, changed bool)) {
	if !w.m.callsIP(h, br, p) {
		next(w, p, false)
		return
	}
	family := netfilter.FamilyIPv4
	if p.Dst.Is6() {
		family = netfilter.FamilyIPv6
	}
	np := p.nfPacket(nil, nil)
	if in != nil || hook == netfilter.HookForward {
		np.In, np.InIndex = br.Name, int(br.Index)
	}
	if out != nil {
		np.Out, np.OutIndex = br.Name, int(br.Index)
		np.PhysOut = out.Name
	}
	if p.physIn != nil {
		np.PhysIn = p.physIn.Name
	}
	w.run(h, family, hook, np, p, in, out, next)
}

// nfPacket is what rules may ask about a packet.
func (p *packet) nfPacket(in, out *tables.Link) netfilter.Packet {
	np := netfilter.Packet{
		EtherType: p.EtherType, EthSrc: p.EthSrc, EthDst: p.EthDst,
		Src: p.Src, Dst: p.Dst, Proto: p.Proto, TTL: p.TTL, Length: p.length, Mark: p.mark,
		TCPFlags: p.flow.TCPFlags, ICMPType: p.flow.ICMPType, ICMPCode: p.flow.ICMPCode,
	}
	np.Family = netfilter.FamilyIPv4
	if p.Dst.Is6() {
		np.Family = netfilter.FamilyIPv6
	}
	if p.isICMP() {
		np.ICMPID = p.SrcPort
	} else {
		np.SrcPort, np.DstPort = p.SrcPort, p.DstPort
	}
	if in != nil {
		np.In, np.InIndex = in.Name, int(in.Index)
	}
	if out != nil {
		np.Out, np.OutIndex = out.Name, int(out.Index)
	}
	if p.physIn != nil {
		np.PhysIn = p.physIn.Name
	}
	return np
}

// run plays one hook and branches into its outcomes.
func (w *walk) run(h *host, family netfilter.Family, hook netfilter.Hook, np netfilter.Packet, p *packet,
	in, out *tables.Link, next func(w *walk, p *packet, changed bool)) {
	if h.Netfilter == nil {
		next(w, p, false)
		return
	}
	st, ok := w.leg.state.nf[h.ID]
	if !ok {
		st = netfilter.NewState(h.Netfilter)
		if f := w.leg.state.opened; f.Dst.IsValid() {
			st = st.Opened(netfilter.Tuple{Src: f.Src, Dst: f.Dst, Proto: f.Proto, SrcPort: f.SrcPort, DstPort: f.DstPort})
		}
	}
	outcomes, doubt := ways(st.Run(family, hook, np, p.conn, env{w.m, h}))
	for i, o := range outcomes {
		b, pb := w, p
		if len(outcomes) > 1 {
			b, pb = w.fork(o.Chance), p.clone()
			b.leg.ByRate = b.leg.ByRate || strings.Contains(o.Chance, ": within") || strings.Contains(o.Chance, ": over")
		}
		if i >= maxLegs || b.full() {
			return
		}
		if doubt != "" {
			b.leg.Undecided = doubt
		}
		b.leg.state.nf[h.ID] = o.State
		b.settle(h, o, pb, in, out, next)
	}
}

// ways puts what an unknown outcome may come to in its place: the packet that was seen tells which it was. doubt
// is the rule that is not known to match.
func ways(outcomes []netfilter.Outcome) (out []netfilter.Outcome, doubt string) {
	for _, o := range outcomes {
		if o.Verdict != netfilter.Unknown || len(o.Ways) < 2 {
			out = append(out, o)
			continue
		}
		out = append(out, o.Ways...)
		if n := len(o.Trail); n > 0 {
			doubt = o.Trail[n-1].String()
		}
	}
	return out, doubt
}

// settle follows one outcome.
func (w *walk) settle(h *host, o netfilter.Outcome, p *packet, in, out *tables.Link, next func(w *walk, p *packet, changed bool)) {
	l := in
	if l == nil {
		l = out
	}
	switch o.Verdict {
	case netfilter.Drop, netfilter.Reject:
		w.drop(ReasonNetfilter, h, l, nfStep(h, o, l, nil))
		return
	case netfilter.Unknown, netfilter.Stolen:
		w.step(nfStep(h, o, l, nil))
		w.unknown(fmt.Sprintf("%s: what a netfilter rule does with the packet is not known", h.Node))
		return
	case netfilter.Accept:
	}
	before := *p
	p.conn, p.mark = o.Conn, o.Packet.Mark
	p.Src, p.Dst = o.Packet.Src, o.Packet.Dst
	if p.isICMP() {
		p.SrcPort = o.Packet.ICMPID
	} else {
		p.SrcPort, p.DstPort = o.Packet.SrcPort, o.Packet.DstPort
	}
	p.TTL, p.EthSrc, p.EthDst = o.Packet.TTL, o.Packet.EthSrc, o.Packet.EthDst
	if o.Packet.AnySrcPort {
		if p.Any&FieldSrcPort != 0 {
			w.leg.state.anyPort[h.ID] = true
		}
		p.Any |= FieldSrcPort
	}
	if p.Dst != before.Dst && !w.leg.state.anyPort[h.ID] { // back to the port before the translation
		p.Any &^= FieldDstPort
	}
	fields := changedFields(&before, p)
	if len(fields) > 0 {
		step := nfStep(h, o, l, fields)
		if p.EthDst != before.EthDst {
			step.MAC = p.EthDst
		}
		w.step(step)
	}
	next(w, p, p.Dst != before.Dst || p.Src != before.Src || p.mark != before.mark)
}

func changedFields(a, b *packet) []string {
	var out []string
	for _, f := range []struct {
		name    string
		changed bool
	}{
		{"ipSrc", a.Src != b.Src}, {"ipDst", a.Dst != b.Dst},
		{"srcPort", a.SrcPort != b.SrcPort}, {"dstPort", a.DstPort != b.DstPort}, {"ttl", a.TTL != b.TTL},
		{"ethSrc", a.EthSrc != b.EthSrc}, {"ethDst", a.EthDst != b.EthDst},
	} {
		if f.changed {
			out = append(out, f.name)
		}
	}
	return out
}

// isWritten: fields that rules write as they do marks, without a translation.
func isWritten(field string) bool { return field == "ttl" || field == "ethSrc" || field == "ethDst" }

// nfStep shows the rule that decided: the last of the trail.
func nfStep(h *host, o netfilter.Outcome, l *tables.Link, fields []string) Step {
	s := Step{Kind: StepNetfilter, Netns: h.ID, Node: h.Node, Fields: fields}
	if l != nil {
		s.Ifindex = l.Index
	}
	if n := len(o.Trail); n > 0 {
		r := o.Trail[n-1]
		for i := n - 1; i >= 0 && len(fields) > 0; i-- {
			if o.Trail[i].IsNAT() || o.Trail[i].What == netfilter.WhatMark && slices.ContainsFunc(fields, isWritten) {
				r = o.Trail[i]
				break
			}
		}
		s.Rule, s.Entry, s.Command = &r, r.String(), h.cmd("%s", r.Command)
		for _, t := range o.Trail[:n-1] {
			if t.What == netfilter.WhatAccept {
				s.Accepted = append(s.Accepted, t)
			}
		}
	}
	return s
}

// env answers the questions that rules ask of a namespace (netfilter.Env).
type env struct {
	m *Model
	h *host
}

// AddrType is inet_addr_type: the type of the route in table local.
func (e env) AddrType(a netip.Addr, dev string) (string, bool) {
	if a.IsMulticast() {
		return "multicast", true
	}
	q := query{dst: a, iif: loopback}
	as, ok, _ := e.h.lookupTable(tables.TableLocal, q, nil)
	if ok && as[0].reason == "" && (dev == "" || e.h.linkName(as[0].hop.Index) == dev) {
		return string(as[0].route.Type), true
	}
	return "unicast", true
}

// MasqueradeAddr is the source that MASQUERADE takes: the address that the device would send from.
func (e env) MasqueradeAddr(out string, dst netip.Addr) (netip.Addr, bool) {
	l := e.h.byName[out]
	if l == nil {
		return netip.Addr{}, false
	}
	toward := dst
	if as := e.h.routes(query{dst: dst, iif: loopback, oif: out}); as[0].reason == "" && as[0].hop.Gateway.IsValid() {
		toward = as[0].hop.Gateway
	}
	a := e.h.addrOn(l.Index, toward, dst.Is6())
	return a, a.IsValid()
}

// PrimaryAddr is the first address of a device, to which REDIRECT sends.
func (e env) PrimaryAddr(dev string, v6 bool) (netip.Addr, bool) {
	l := e.h.byName[dev]
	if l == nil {
		return netip.Addr{}, false
	}
	a := e.h.addrOn(l.Index, netip.Addr{}, v6)
	return a, a.IsValid()
}

// ReverseDevice is the device of the route back to an address.
func (e env) ReverseDevice(a netip.Addr, mark uint32) string {
	as := e.h.routes(query{dst: a, iif: loopback, mark: mark})
	if as[0].reason != "" || as[0].route.Type != tables.RouteUnicast {
		return ""
	}
	return e.h.linkName(as[0].hop.Index)
}
