package forward

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// send is ip_route_output and ip_local_out: a packet of local origin.
func (w *walk) send(h *host, p *packet) {
	w.sendVia(h, p, "")
}

// sendVia is send with the output device chosen beforehand (SO_BINDTODEVICE, a tunnel's "dev").
func (w *walk) sendVia(h *host, p *packet, oif string) {
	q := p.query(loopback, oif)
	for i, a := range w.each(h.routes(q)) {
		b, pb := w.branch(i, a), p.clone()
		if a.reason != "" {
			b.noRoute(a, h, nil, q, "")
			continue
		}
		if !pb.Src.IsValid() {
			pb.Src = h.sourceFor(a, pb.Dst)
			pb.flow.Src = pb.Src
		}
		if !pb.Src.IsValid() {
			b.drop(ReasonNoProtocol, h, h.link(a.hop.Index), Step{Kind: StepLink, Note: "no address to send from"})
			continue
		}
		b.step(h.routeStep(a, q, ""))
		if b.policyRoute(h, nil, h.link(a.hop.Index), pb) {
			continue
		}
		b.localOut(h, pb, a)
	}
}

// noRoute ends the walk at a route question without an answer.
func (w *walk) noRoute(a answer, h *host, l *tables.Link, q query, in string) {
	s := h.routeStep(a, q, in)
	if a.reason == reasonUnknown {
		w.step(s)
		w.unknown(fmt.Sprintf("%s: whether a policy rule matches is not known: %s", h.Node, s.Entry))
		return
	}
	w.drop(a.reason, h, l, s)
}

// each bounds the alternatives.
func (w *walk) each(as []answer) []answer {
	if len(as) > maxLegs {
		as = as[:maxLegs]
	}
	return as
}

// branch gives the walk for the i-th alternative: a copy of its own for each when there are several.
func (w *walk) branch(i int, a answer) *walk {
	if a.alternatives < 2 {
		return w
	}
	return w.fork(fmt.Sprintf("next hop %d of %d of a multipath route, chosen by hash", i+1, a.alternatives))
}

func (p *packet) query(iif, oif string) query {
	return query{
		dst: p.Dst, src: p.Src, iif: iif, oif: oif, mark: p.mark, proto: p.Proto,
		sport: p.portFor(p.SrcPort), dport: p.portFor(p.DstPort),
	}
}

// portFor hides the ICMP identifier that SrcPort carries.
func (p *packet) portFor(port uint16) uint16 {
	if p.isICMP() {
		return 0
	}
	return port
}

func (p *packet) isICMP() bool { return p.Proto == ProtoICMP || p.Proto == ProtoICMPv6 }

// sourceFor is the kernel's choice of a source address: the route's own, else the first address of the
// device that shares the next hop's subnet, else the first of the device (inet_select_addr).
func (h *host) sourceFor(a answer, dst netip.Addr) netip.Addr {
	if a.route.Type == tables.RouteLocal {
		if a.route.PrefSrc.IsValid() {
			return a.route.PrefSrc
		}
		return dst
	}
	if a.route.PrefSrc.IsValid() {
		return a.route.PrefSrc
	}
	toward := a.hop.Gateway
	if !toward.IsValid() {
		toward = dst
	}
	return h.addrOn(a.hop.Index, toward, dst.Is6())
}

// ifaDeprecated and ifaTentative are IFA_F_* of linux/if_addr.h: not for new packets.
const (
	ifaSecondary  = 0x01
	ifaDadFailed  = 0x08
	ifaDeprecated = 0x20
	ifaTentative  = 0x40
	scopeLink     = 253
)

func (h *host) addrOn(dev tables.Ifindex, toward netip.Addr, v6 bool) netip.Addr {
	var first, fallback netip.Addr
	for i := range h.Addrs {
		a := &h.Addrs[i]
		ip := a.Prefix.Addr()
		if ip.Is6() != v6 || a.Flags&(ifaTentative|ifaDadFailed) != 0 {
			continue
		}
		if a.Index != dev {
			if !fallback.IsValid() && a.Scope < scopeLink && !v6 {
				fallback = ip
			}
			continue
		}
		if !v6 && a.Flags&ifaSecondary != 0 {
			continue
		}
		if a.Prefix.Masked().Contains(toward) && (!v6 || ip.IsLinkLocalUnicast() == toward.IsLinkLocalUnicast()) {
			return ip
		}
		if !first.IsValid() && (!v6 || ip.IsLinkLocalUnicast() == toward.IsLinkLocalUnicast()) {
			first = ip
		}
	}
	if first.IsValid() {
		return first
	}
	return fallback
}

// localOut runs OUTPUT; a rewrite there routes the packet again (ip_route_me_harder).
func (w *walk) localOut(h *host, p *packet, a answer) {
	out := h.link(a.hop.Index)
	w.hook(h, netfilter.HookOutput, p, nil, out, func(w *walk, p *packet, changed bool) {
		if !changed {
			w.routed(h, p, a)
			return
		}
		q := p.query(loopback, "")
		for i, a := range w.each(h.routes(q)) {
			b, pb := w.branch(i, a), p.clone()
			if a.reason != "" {
				b.noRoute(a, h, nil, q, "")
				continue
			}
			b.step(h.routeStep(a, q, ""))
			b.routed(h, pb, a)
		}
	})
}

// routed sends a packet of local origin where its route leads.
func (w *walk) routed(h *host, p *packet, a answer) {
	if a.route.Type == tables.RouteLocal {
		w.hook(h, netfilter.HookPostrouting, p, nil, h.byName[loopback], func(w *walk, p *packet, _ bool) {
			p.in, p.nfDone = h.byName[loopback], false
			w.localIn(h, p)
		})
		return
	}
	w.ipOutput(h, p, a)
}

// ipOutput is ip_output: POSTROUTING, MTU, neighbour, device.
func (w *walk) ipOutput(h *host, p *packet, a answer) {
	out := h.link(a.hop.Index)
	if out == nil {
		w.unknown(fmt.Sprintf("route leads to interface %d, which is not in the snapshot", a.hop.Index))
		return
	}
	if a.route.Type == tables.RouteBroadcast || p.Dst.IsMulticast() {
		w.unknown("broadcast and multicast are not followed")
		return
	}
	if w.disabled6(h, out, p) {
		return
	}
	w.hook(h, netfilter.HookPostrouting, p, p.in, out, func(w *walk, p *packet, _ bool) {
		if w.tooBig(h, p, a, out) {
			return
		}
		w.neighOutput(h, p, a, out)
	})
}

// disabled6 drops an IPv6 packet at a device on which IPv6 is off (IPV6DISABLED in ipv6_rcv and ip6_output).
func (w *walk) disabled6(h *host, l *tables.Link, p *packet) bool {
	if !p.Dst.Is6() {
		return false
	}
	if off, ok := h.conf("disable_ipv6", l.Name, true); !ok || off == 0 {
		return false
	}
	w.drop(ReasonNoProtocol, h, l, h.sysctlStep(confName("disable_ipv6", l.Name, true), l, "IPv6 is off on the device"))
	return true
}

// tooBig drops a packet that the route's MTU or the device's does not let through in one piece. IPv6 and
// IPv4 with DF are refused; the rest is fragmented, which changes nothing that a hop is checked for.
func (w *walk) tooBig(h *host, p *packet, a answer, out *tables.Link) bool {
	mtu, learned := h.pathMTU(p, a, out)
	if mtu == 0 || p.length <= mtu || p.flow.GSO {
		return false
	}
	if !p.flow.DF && (p.Dst.Is4() || p.in == nil) {
		p.length = mtu // of the first fragment
		return false
	}
	if learned != nil {
		w.drop(ReasonTooBig, h, out, Step{
			Kind: StepRoute, Ifindex: out.Index, Route: learned, Target: p.Dst, Entry: h.FormatRoute(*learned),
			Command: h.cmd("ip %sroute show cache %s", familyFlag(p.Dst), p.Dst),
			Note:    fmt.Sprintf("packet of %d bytes is larger than the path MTU %d that the kernel learned", p.length, mtu),
		})
		return true
	}
	w.drop(ReasonTooBig, h, out, Step{
		Kind: StepLink, Ifindex: out.Index, Entry: h.FormatLink(*out), Command: h.cmd("ip link show dev %s", out.Name),
		Note: fmt.Sprintf("packet of %d bytes is larger than the MTU %d and may not be fragmented", p.length, mtu),
	})
	return true
}

// pathMTU is ip_dst_mtu_maybe_forward and ip6_dst_mtu_maybe_forward: what the kernel learned (for forwarded
// IPv4 packets only if it is told to trust that), else the route's, else the device's. learned is the entry
// of the first.
func (h *host) pathMTU(p *packet, a answer, out *tables.Link) (mtu int, learned *tables.Route) {
	forwarded := p.in != nil && !p.in.Loopback
	trust, _ := h.SysctlInt("ipv4.ip_forward_use_pmtu")
	if a.pmtu != 0 && (p.Dst.Is6() || !forwarded || trust != 0 || a.route.MTULock) {
		for _, e := range h.exceptions[p.Dst] {
			learned = e
		}
		return a.pmtu, learned
	}
	if a.route.MTU != 0 {
		return int(a.route.MTU), nil
	}
	return out.MTU, nil
}

// receive is ip_rcv: a frame that its device hands to the IP stack.
func (w *walk) receive(h *host, l *tables.Link, p *packet) {
	if !p.NoEth && p.Any&FieldEthDst == 0 && p.EthDst != l.MAC && !p.EthDst.IsMulticast() && !l.Loopback {
		w.drop(ReasonOtherHost, h, l, Step{
			Kind: StepLink, Ifindex: l.Index, MAC: p.EthDst, Entry: h.FormatLink(*l), Command: h.cmd("ip link show dev %s", l.Name),
			Note: fmt.Sprintf("destination MAC is %s, the device has %s", p.EthDst, l.MAC),
		})
		return
	}
	p.in = l
	if w.disabled6(h, l, p) {
		return
	}
	if p.nfDone {
		p.nfDone = false
		w.routeIn(h, l, p)
		return
	}
	w.hook(h, netfilter.HookPrerouting, p, l, nil, func(w *walk, p *packet, _ bool) { w.routeIn(h, l, p) })
}

// routeIn is ip_route_input_slow: deliver here, forward, or drop.
func (w *walk) routeIn(h *host, l *tables.Link, p *packet) {
	if s, bad := h.martian(l, p); bad {
		w.drop(ReasonMartian, h, l, s)
		return
	}
	if p.Dst.Is6() {
		w.routeIn6(h, l, p)
		return
	}
	q := p.query(h.inputName(l), "")
	as := h.routes(q)
	if len(as) > 0 && as[0].reason == "" && (as[0].route.Type == tables.RouteLocal || as[0].route.Type == tables.RouteBroadcast) {
		if w.sourceInvalid(h, l, p, loopback) {
			return
		}
		w.step(h.routeStep(as[0], q, l.Name))
		w.localIn(h, p)
		return
	}
	if fwd, ok := h.conf("forwarding", l.Name, false); ok && fwd == 0 {
		w.drop(ReasonForwarding, h, l, h.sysctlStep(confName("forwarding", l.Name, false), l, "packets that come in by it are not forwarded"))
		return
	}
	w.forwardTo(h, l, p, q, as)
}

// inputName is the device that policy rules see: a VRF's port is the VRF.
func (h *host) inputName(l *tables.Link) string {
	if m := h.links[l.Master]; m != nil && m.VRF != 0 {
		return m.Name
	}
	return l.Name
}

func (w *walk) routeIn6(h *host, l *tables.Link, p *packet) {
	q := p.query(h.inputName(l), "")
	as := h.routes(q)
	if len(as) > 0 && as[0].reason == "" && (as[0].route.Type == tables.RouteLocal || as[0].route.Type == tables.RouteAnycast) {
		w.step(h.routeStep(as[0], q, l.Name))
		w.localIn(h, p)
		return
	}
	// ip6_forward asks the namespace's own switch, net.ipv6.conf.all.forwarding
	force, _ := h.conf("force_forwarding", l.Name, true)
	if fwd, ok := h.conf("forwarding", "all", true); ok && fwd == 0 && force == 0 {
		w.drop(ReasonForwarding, h, l, h.sysctlStep("ipv6.conf.all.forwarding", l, "IPv6 packets are not forwarded"))
		return
	}
	w.forwardTo(h, l, p, q, as)
}

// forwardTo is ip_forward for each route that the tables allow.
func (w *walk) forwardTo(h *host, l *tables.Link, p *packet, q query, as []answer) {
	for i, a := range w.each(as) {
		b, pb := w.branch(i, a), p.clone()
		if a.reason != "" {
			b.noRoute(a, h, l, q, l.Name)
			continue
		}
		if b.sourceInvalid(h, l, pb, h.linkName(a.hop.Index)) {
			continue
		}
		b.step(h.routeStep(a, q, l.Name))
		b.ipForward(h, l, pb, a)
	}
}

func (w *walk) ipForward(h *host, l *tables.Link, p *packet, a answer) {
	out := h.link(a.hop.Index)
	if out == nil {
		w.unknown(fmt.Sprintf("route leads to interface %d, which is not in the snapshot", a.hop.Index))
		return
	}
	if w.policyCheck(h, l, p, "fwd") {
		return
	}
	if p.Any&FieldTTL == 0 && p.TTL <= 1 {
		w.drop(ReasonTTL, h, l, Step{Kind: StepRoute, Note: "the TTL has run out"})
		return
	}
	if w.policyRoute(h, l, out, p) {
		return
	}
	if p.hops++; p.hops > maxHops {
		w.drop(ReasonLoop, h, l, Step{Kind: StepRoute, Note: "the packet comes back to the same place again and again"})
		return
	}
	if w.tooBig(h, p, a, out) {
		return
	}
	p.TTL--
	w.hook(h, netfilter.HookForward, p, l, out, func(w *walk, p *packet, _ bool) { w.ipOutput(h, p, a) })
}

// martian is the part of ip_route_input_slow that looks at the addresses alone.
func (h *host) martian(l *tables.Link, p *packet) (Step, bool) {
	if l.Loopback || p.Dst.Is6() {
		return Step{}, false
	}
	src, dst := p.Src, p.Dst
	limited := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	s := Step{Kind: StepRoute, Target: dst}
	switch {
	case src.IsMulticast() || src == limited:
		s.Note = fmt.Sprintf("source %s is no unicast address", src)
		return s, true
	case src.IsUnspecified() && dst != limited:
		s.Note = "source is 0.0.0.0"
		return s, true
	case dst.IsUnspecified():
		s.Note = "destination is 0.0.0.0"
		return s, true
	case (src.IsLoopback() || dst.IsLoopback()) && h.confMax("route_localnet", l.Name, false) == 0:
		return h.sysctlStep(confName("route_localnet", l.Name, false), l, "loopback addresses are not taken from the network"), true
	}
	return Step{}, false
}

// sourceInvalid is fib_validate_source: the reverse path filter, and a source that is this host's own.
// oif is the device that the packet would leave by, "lo" when it is delivered here.
func (w *walk) sourceInvalid(h *host, l *tables.Link, p *packet, oif string) bool {
	rp := h.confMax("rp_filter", l.Name, false)
	if p.Src.Is6() || p.Src.IsUnspecified() || l.Loopback {
		return false
	}
	if rp == 0 && h.confMax("accept_local", l.Name, false) == 0 && h.ownSource(p, oif) {
		w.drop(ReasonLocalSource, h, l, Step{
			Kind: StepRoute, Target: p.Src, Entry: h.addrEntry(p.Src), Command: h.cmd("ip addr show to %s", p.Src),
			Note: fmt.Sprintf("source %s is an address of this host", p.Src),
		})
		return true
	}
	if rp == 0 {
		return false
	}
	return w.rpFilter(h, l, p, oif, rp)
}

// ownSource reports whether a source is this host's own. Without rules and local routes of its own the kernel
// looks at the addresses alone, else the source is looked up (fib_validate_source).
func (h *host) ownSource(p *packet, oif string) bool {
	if !h.ownRoutes {
		return h.hasAddr(p.Src)
	}
	as := h.routes(query{dst: p.Src, src: p.Dst, iif: oif, proto: p.Proto, sport: p.portFor(p.DstPort), dport: p.portFor(p.SrcPort)})
	return as[0].reason == "" && as[0].route.Type != tables.RouteUnicast
}

// customLocal: policy rules beside the default ones, or local routes that somebody added.
func (h *host) customLocal() bool {
	if !h.localMerged() {
		return true
	}
	const byKernel = 2 // RTPROT_KERNEL
	return slices.ContainsFunc(h.Routes, func(r tables.Route) bool {
		return r.Type == tables.RouteLocal && r.Protocol != byKernel && r.Dst.Addr().Is4()
	})
}

func (w *walk) rpFilter(h *host, l *tables.Link, p *packet, oif string, mode int) bool {
	q := query{dst: p.Src, src: p.Dst, iif: oif, proto: p.Proto, sport: p.portFor(p.DstPort), dport: p.portFor(p.SrcPort)}
	if v, _ := h.conf("src_valid_mark", l.Name, false); v != 0 || h.confMax("src_valid_mark", l.Name, false) != 0 {
		q.mark = p.mark
	}
	as := h.routes(q)
	why := h.reverse(l, as, mode)
	if why == "" {
		return false
	}
	if why == reasonUnknown {
		w.noRoute(as[0], h, l, q, "")
		return true
	}
	step := h.rpStep(l, mode, as, q)
	if why == ReasonLocalSource {
		step.Note = fmt.Sprintf("source %s is an address of this host", p.Src)
	}
	w.drop(why, h, l, step)
	return true
}

// reverse is __fib_validate_source for the answers to the question how the source would be reached: ""
// when the source may come in by the device.
func (h *host) reverse(l *tables.Link, as []answer, mode int) Reason {
	switch as[0].reason {
	case "":
	case reasonUnknown:
		return reasonUnknown
	default:
		return ReasonRPFilter
	}
	if as[0].route.Type != tables.RouteUnicast {
		if as[0].route.Type == tables.RouteLocal && h.confMax("accept_local", l.Name, false) != 0 {
			return ""
		}
		return ReasonLocalSource
	}
	for _, nh := range as[0].route.NextHops {
		if h.inputName(h.linkOr(nh.Index, l)) == h.inputName(l) {
			return ""
		}
	}
	if mode == 1 {
		return ReasonRPFilter
	}
	return ""
}

func (h *host) linkOr(i tables.Ifindex, other *tables.Link) *tables.Link {
	if l := h.links[i]; l != nil {
		return l
	}
	return other
}

// localIn is ip_local_deliver: INPUT, where IPVS stands behind the filters, then the socket.
func (w *walk) localIn(h *host, p *packet) {
	w.hook(h, netfilter.HookInput, p, p.in, nil, func(w *walk, p *packet, _ bool) {
		if v := h.virtualServer(p); v != nil {
			w.balance(h, v, p)
			return
		}
		w.toSocket(h, p)
	})
}

// toSocket hands the packet to its protocol. Only the VXLAN sockets of the kernel are in the tables; for
// any other the packet counts as delivered, whether somebody listens is the wire's to say.
func (w *walk) toSocket(h *host, p *packet) {
	if w.policyCheck(h, p.in, p, "in") {
		return
	}
	switch {
	case p.inner != nil && p.bare:
		w.proxyReceive(h, p)
		return
	case p.inner != nil && p.Proto == ProtoUDP:
		w.vxlanReceive(h, p)
		return
	}
	if p.Proto == ProtoICMP && p.flow.ICMPType == 8 {
		if v, _ := h.SysctlInt("ipv4.icmp_echo_ignore_all"); v != 0 {
			w.drop(ReasonNotLocal, h, p.in, h.sysctlStep("ipv4.icmp_echo_ignore_all", p.in, "echo requests are not answered"))
			return
		}
	}
	w.deliver(h, p)
}

// arrive is netif_receive_skb on one device: the tap, then whoever takes the frame first.
func (w *walk) arrive(h *host, l *tables.Link, p *packet) {
	if w.depth++; w.depth > maxDepth {
		w.drop(ReasonLoop, h, l, Step{Kind: StepLink, Note: "the frame goes round in circles"})
		return
	}
	if !l.Up {
		w.drop(ReasonLinkDown, h, l, h.linkStep(l, "the device is down"))
		return
	}
	if !w.hop(h, l, In, p) {
		return
	}
	w.device(h, netfilter.HookIngress, l, p, func(w *walk, p *packet) {
		if w.toUpper(h, l, p) {
			return
		}
		if l.Port != nil {
			w.bridgeReceive(h, l, p)
			return
		}
		if p.EtherType != ether.TypeIPv4 && p.EtherType != ether.TypeIPv6 {
			w.unknown(fmt.Sprintf("EtherType %#04x is not followed", p.EtherType))
			return
		}
		w.receive(h, l, p)
	})
}
