package forward

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// xmit is dev_queue_xmit: the device's programs, the tap, then whatever the device is.
func (w *walk) xmit(h *host, l *tables.Link, p *packet) {
	if w.depth++; w.depth > maxDepth {
		w.drop(ReasonLoop, h, l, Step{Kind: StepLink, Note: "the frame goes round in circles"})
		return
	}
	switch {
	case !l.Up:
		w.drop(ReasonLinkDown, h, l, h.linkStep(l, "the device is down"))
		return
	case !l.LowerUp && l.Kind != "tun":
		w.drop(ReasonNoCarrier, h, l, h.linkStep(l, "the device has no carrier"))
		return
	}
	w.device(h, netfilter.HookEgress, l, p, func(w *walk, p *packet) {
		if w.hop(h, l, Out, p) {
			w.carry(h, l, p)
		}
	})
}

// carry is ndo_start_xmit of the device's kind.
func (w *walk) carry(h *host, l *tables.Link, p *packet) {
	switch {
	case l.Loopback:
		p.in = l
		w.arrive(h, l, p)
	case w.m.isUnderlay(h, l):
		w.underlay(h, l, p)
	case l.Kind == "veth":
		w.vethXmit(h, l, p)
	case l.Kind == "bridge":
		w.bridgeSend(h, l, p)
	case l.Kind == "vxlan":
		w.vxlanXmit(h, l, p)
	case isUpper(l.Kind):
		w.upperXmit(h, l, p)
	case l.Kind == "tun" && p.NoEth:
		w.tunXmit(h, l, p)
	case l.Kind == "ifb", l.Kind == "dummy":
		w.drop(ReasonNoPeer, h, l, h.linkStep(l, fmt.Sprintf("a %s device leads nowhere", l.Kind)))
	default:
		w.unknown(fmt.Sprintf("what %s (a %q device) does with the packet is not in the tables", l.Name, l.Kind))
	}
}

// vlanTag is how many bytes more than its MTU is_skb_forwardable grants a device.
const vlanTag = 4

// vethXmit hands the frame to the peer. A peer takes frames up to its MTU and a VLAN tag
// (is_skb_forwardable in net/core/dev.c).
func (w *walk) vethXmit(h *host, l *tables.Link, p *packet) {
	ph, pl := w.m.peer(h, l)
	if pl == nil {
		why := fmt.Sprintf("the other end of %s, interface %d, ", l.Name, l.Parent)
		if ph == nil {
			w.unknown(why + "is in a namespace that is not in the snapshot")
			return
		}
		w.drop(ReasonNoPeer, h, l, h.linkStep(l, why+"is gone"))
		return
	}
	if !p.flow.GSO && pl.MTU != 0 && p.length > pl.MTU+vlanTag {
		w.drop(ReasonTooBig, ph, pl, ph.linkStep(pl, fmt.Sprintf("frame of %d bytes is longer than the MTU %d", p.length, pl.MTU)))
		return
	}
	p.scrub(ph != h)
	w.arrive(ph, pl, p)
}

// scrub is skb_scrub_packet (net/core/skbuff.c): what a packet leaves behind when it passes to another
// device, and more so to another namespace.
func (p *packet) scrub(otherNetns bool) {
	p.conn, p.nfDone, p.physIn = noConn, false, nil
	if otherNetns {
		p.mark = 0
	}
}

// underlay carries a frame between nodes. The fabric has no tables here: a frame whose MAC is a node's
// own arrives there as it is, and any other is looked for by its IP destination, through routers that
// change MACs and TTL.
func (w *walk) underlay(h *host, l *tables.Link, p *packet) {
	p.scrub(true)
	if th, tl := w.m.byMAC(h, p); tl != nil {
		if p.Any&FieldEthDst != 0 { // a router may have answered, and pass the packet on
			p.Any |= FieldEthSrc | FieldTTL
		}
		w.arrive(th, tl, p)
		return
	}
	th := w.m.underlayHost(p.Dst)
	if th == nil {
		th = w.m.nativeHost(p.Dst)
	}
	if th == nil || th == h {
		w.leg.Why = fmt.Sprintf("%s is no address of a node in the snapshot", p.Dst)
		if p.inner == nil {
			w.leg.FinalFlow = p.asFlow()
		}
		w.finish(Left)
		return
	}
	tl := w.m.underlayLink(th, p)
	if tl == nil {
		w.unknown(fmt.Sprintf("by which device %s would reach node %s is not in the tables", p.Dst, th.Node))
		return
	}
	w.step(Step{
		Kind: StepUnderlay, Netns: h.ID, Node: h.Node, Ifindex: l.Index, MAC: p.EthDst, Target: p.Dst,
		Note: fmt.Sprintf("next hop %s is no node's device: a router or the fabric takes the packet to %s", p.EthDst, p.Dst),
	})
	p.Any |= FieldEthSrc | FieldEthDst | FieldTTL
	p.EthSrc, p.EthDst = ether.MAC{}, tl.MAC
	w.translate(h, th, tl, p)
	w.arrive(th, tl, p)
}

// translate is a router between the nodes that has one more address for each: it sends on from the sender's
// and to the receiver's own. What it takes of several is not in the tables. An answer goes back as its request came.
func (w *walk) translate(h, th *host, tl *tables.Link, p *packet) {
	t := translation{src: p.Src, dst: p.Dst, newSrc: p.Src, newDst: p.Dst}
	for _, o := range w.leg.state.fabric {
		if o.newDst != p.Src || o.newSrc != p.Dst {
			continue
		}
		if o.src != o.newSrc || o.dst != o.newDst {
			p.Src, p.Dst = o.dst, o.src
			p.Any |= FieldSrc | FieldDst
		}
		return
	}
	if pub := w.m.publicAddr(h, p.Src); pub.IsValid() {
		t.newSrc, p.Any = pub, p.Any|FieldSrc
	}
	if _, translated := w.m.opts.Underlay[p.Dst]; translated && !th.hasAddr(p.Dst) {
		if own := th.addrOn(tl.Index, t.newSrc, p.Dst.Is6()); own.IsValid() {
			t.newDst, p.Any = own, p.Any|FieldDst
		}
	}
	p.Src, p.Dst = t.newSrc, t.newDst
	w.leg.state.fabric = append(w.leg.state.fabric, t) // one that changes nothing, too: the answer is then left as it is
}

// publicAddr is the address under which others know a node that sends from an address of its own; invalid
// where it is no other.
func (m *Model) publicAddr(h *host, src netip.Addr) (pub netip.Addr) {
	if !h.hasAddr(src) {
		return pub
	}
	for ip, id := range m.opts.Underlay {
		if id == h.ID && ip.Is6() == src.Is6() && !h.hasAddr(ip) && (!pub.IsValid() || ip.Less(pub)) {
			pub = ip
		}
	}
	return pub
}

// nativeHost finds the node of a pod whose address is one of the network between the nodes: the network itself
// leads there (a cloud's routed addresses). Of any other pod's address that network knows nothing.
func (m *Model) nativeHost(ip netip.Addr) *host {
	for _, pod := range m.order {
		if pod.isHost() || !pod.hasAddr(ip) {
			continue
		}
		for _, h := range m.order {
			if h.isHost() && h.Node == pod.Node && m.onUnderlay(h, ip) {
				return h
			}
		}
	}
	return nil
}

// Native reports whether an address is a pod's that the network between the nodes knows by itself.
func (m *Model) Native(ip netip.Addr) bool { return ip.IsValid() && m.nativeHost(ip) != nil }

// onUnderlay reports whether an address is in a subnet of a device that leads to other nodes.
func (m *Model) onUnderlay(h *host, ip netip.Addr) bool {
	return slices.ContainsFunc(h.Addrs, func(a tables.Addr) bool {
		l := h.links[a.Index]
		return l != nil && m.isUnderlay(h, l) && a.Prefix.Masked().Contains(ip)
	})
}

// byMAC finds the node's device that a frame is addressed to.
func (m *Model) byMAC(from *host, p *packet) (*host, *tables.Link) {
	if p.EthDst.IsZero() {
		return nil, nil
	}
	for _, h := range m.order {
		if h == from || !h.isHost() {
			continue
		}
		for i := range h.Links {
			l := &h.Links[i]
			if !m.isUnderlay(h, l) {
				continue
			}
			if l.MAC == p.EthDst || slices.ContainsFunc(m.uppers[l], func(s station) bool { return s.l.MAC == p.EthDst }) {
				return h, l
			}
		}
	}
	return nil, nil
}

// underlayLink is the device by which a packet from outside reaches a node: the one that holds the
// address, else the one by which the node would answer.
func (m *Model) underlayLink(h *host, p *packet) *tables.Link {
	for _, a := range h.addrs[p.Dst] {
		if l := h.links[a.Index]; l != nil && m.isUnderlay(h, l) {
			return l
		}
	}
	if as := h.routes(query{dst: p.Src, src: p.Dst, iif: loopback}); as[0].reason == "" {
		if l := h.links[as[0].hop.Index]; l != nil && m.isUnderlay(h, l) {
			return l
		}
	}
	for i := range h.Links {
		if l := &h.Links[i]; m.isUnderlay(h, l) && l.Up && !h.noAddr(l) {
			return l
		}
	}
	return nil
}

// noAddr: a link-local address comes by itself, and is none.
func (h *host) noAddr(l *tables.Link) bool {
	return !slices.ContainsFunc(h.Addrs, func(a tables.Addr) bool {
		return a.Index == l.Index && !a.Prefix.Addr().IsLinkLocalUnicast()
	})
}
