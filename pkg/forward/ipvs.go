package forward

import (
	"fmt"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// virtualServer is the service of IPVS that a packet is for, nil when it is for none (ip_vs_in, at INPUT for packets that
// come in and for those of the host itself). One that is chosen by a mark takes any packet with that mark.
func (h *host) virtualServer(p *packet) *tables.VirtualServer {
	for i := range h.IPVS {
		v := &h.IPVS[i]
		switch {
		case v.Proto == "" && v.Mark == p.mark && p.mark != 0,
			v.Proto == "TCP" && p.Proto == ProtoTCP && v.Addr == netip.AddrPortFrom(p.Dst, p.DstPort),
			v.Proto == "UDP" && p.Proto == ProtoUDP && v.Addr == netip.AddrPortFrom(p.Dst, p.DstPort):
			return v
		}
	}
	return nil
}

// balance is ip_vs_in_hook: each real server that may get a new connection is a way of its own, for which one comes
// next is in no table.
func (w *walk) balance(h *host, v *tables.VirtualServer, p *packet) {
	if why := h.cannotBalance(v, p); why != "" {
		w.unknown(fmt.Sprintf("IPVS of %s sends what comes to %s on to one of %d real servers, which is not followed: %s", h.Node, v, len(v.Real), why))
		return
	}
	serve := serving(v, p)
	if len(serve) == 0 { // ip_vs_leave: ICMP port unreachable
		s := h.ipvsStep(v, nil)
		s.Note = fmt.Sprintf("none of its %d real servers has a weight", len(v.Real))
		w.drop(ReasonNoServer, h, p.in, s)
		return
	}
	for i, r := range serve {
		b, pb := w, p
		if len(serve) > 1 {
			b, pb = w.fork(fmt.Sprintf("IPVS chooses %s, one of %d (%s)", r.Addr, len(serve), v.Scheduler)), p.clone()
		}
		if i >= maxLegs || b.full() {
			return
		}
		b.masquerade(h, v, r, pb)
	}
}

// serving are the real servers that a packet may go to: of a connection that is there already the one that it has.
func serving(v *tables.VirtualServer, p *packet) (out []*tables.RealServer) {
	for i := range v.Real {
		r := &v.Real[i]
		t := p.conn.Entry.Reply
		if p.conn.State == netfilter.ConnNew && r.Weight > 0 || p.conn.State != netfilter.ConnNew && netip.AddrPortFrom(t.Src, t.SrcPort) == r.Addr {
			out = append(out, r)
		}
	}
	return out
}

// cannotBalance says why what IPVS does with a packet can't be followed, "" when it can: the connection has to be
// conntrack's too (kube-proxy sees to that), for what it translates to be known on the way back.
func (h *host) cannotBalance(v *tables.VirtualServer, p *packet) string {
	if n, ok := h.SysctlInt("ipv4.vs.conntrack"); !ok || n == 0 {
		return "net.ipv4.vs.conntrack is not known to be 1"
	}
	if p.in == nil || p.in.Loopback {
		return "the node itself is the client"
	}
	if h.Netfilter == nil || p.conn.State != netfilter.ConnNew && p.conn.State != netfilter.ConnEstablished {
		return "conntrack does not know the connection"
	}
	for _, r := range v.Real {
		if r.Forward != "Masq" && r.Forward != "Local" {
			return "it forwards by " + r.Forward
		}
	}
	return ""
}

// masquerade is ip_vs_nat_xmit: the real server takes the place of the destination, and the packet leaves as if the
// host itself had sent it.
func (w *walk) masquerade(h *host, v *tables.VirtualServer, r *tables.RealServer, p *packet) {
	p.Dst, p.DstPort = r.Addr.Addr(), r.Addr.Port()
	w.leg.state.nf[h.ID], p.conn = w.leg.state.nf[h.ID].Redirect(p.conn, r.Addr)
	step := h.ipvsStep(v, r)
	step.Fields = []string{"ipDst", "dstPort"}
	step.Ifindex = p.in.Index
	w.step(step)
	q := query{dst: p.Dst, iif: loopback}
	for i, a := range w.each(h.routes(q)) {
		b, pb := w.branch(i, a), p.clone()
		switch {
		case a.reason != "":
			b.noRoute(a, h, p.in, q, "")
		case a.route.Type == tables.RouteLocal:
			b.step(h.routeStep(a, q, ""))
			b.toSocket(h, pb)
		case pb.Any&FieldTTL == 0 && pb.TTL <= 1:
			b.drop(ReasonTTL, h, pb.in, Step{Kind: StepRoute, Note: "the TTL has run out"})
		default:
			pb.TTL--
			b.step(h.routeStep(a, q, ""))
			b.hook(h, netfilter.HookOutput, pb, nil, h.link(a.hop.Index), func(w *walk, p *packet, _ bool) { w.ipOutput(h, p, a) })
		}
	}
}

// ipvsStep shows a virtual server, and the real one that was chosen.
func (h *host) ipvsStep(v *tables.VirtualServer, r *tables.RealServer) Step {
	s := Step{Kind: StepIPVS, Netns: h.ID, Node: h.Node, Entry: "ipvs " + v.String(), Command: h.cmd("ipvsadm -Ln %s", v.Option()), Virtual: v, Real: r}
	if r != nil {
		s.Entry += " " + r.String()
	}
	s.Rule = &netfilter.Ref{What: netfilter.WhatIPVS, Hook: netfilter.HookInput, Text: s.Entry, Command: s.Command}
	return s
}
