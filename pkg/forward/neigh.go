package forward

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// arphrdNone is the hardware type of devices without link-layer headers (TUN): ARPHRD_NONE.
const arphrdNone = 65534

// neighOutput is neigh_output: find the next hop's link-layer address and send.
func (w *walk) neighOutput(h *host, p *packet, a answer, out *tables.Link) {
	next := a.hop.Gateway
	if !next.IsValid() {
		next = p.Dst
	}
	p.EthSrc, p.NoEth, p.Any = out.MAC, false, p.Any&^(FieldEthSrc|FieldEthDst)
	p.EtherType = etherTypeOf(p.Dst)
	switch {
	case out.HardwareTy == arphrdNone || out.Kind == "tun" && out.MAC.IsZero():
		p.NoEth, p.EthSrc, p.EthDst = true, ether.MAC{}, ether.MAC{}
		w.xmit(h, out, p)
		return
	case out.Loopback || out.NoARP:
		p.EthDst = out.MAC
		w.linkSource(h, out)
		w.xmit(h, out, p)
		return
	}
	mac, sure, ok := w.resolveNeigh(h, out, next, p.Src)
	if !ok {
		return
	}
	p.EthDst = mac
	if !sure {
		p.Any |= FieldEthDst
	}
	w.linkSource(h, out)
	w.xmit(h, out, p)
}

// linkSource records the device whose address the frame carries.
func (w *walk) linkSource(h *host, out *tables.Link) {
	s := h.linkStep(out, "")
	s.Fields = []string{"ethSrc"}
	w.step(s)
}

// resolveNeigh looks the next hop up, and asks by ARP or ND where there is no usable entry. An answer from the
// network between nodes is not sure: a router there may answer in the place of the node. ok is false when the
// walk has ended.
func (w *walk) resolveNeigh(h *host, out *tables.Link, next, src netip.Addr) (mac ether.MAC, sure, ok bool) {
	key := neighKey{out.Index, next}
	n := h.neigh[key]
	if n != nil && n.State.Valid() && !n.MAC.IsZero() {
		w.step(h.neighStep(n, out, next, ""))
		return n.MAC, true, true
	}
	if l, ok := w.leg.state.neigh[learnedNeigh{h.ID, key}]; ok {
		return l.mac, l.sure, true
	}
	ans := w.m.whoHas(h, out, next, src)
	if ans.found {
		s := h.neighStep(n, out, next, "no entry yet: "+ans.who+" answers for it")
		s.MAC = ans.mac
		w.step(s)
		w.leg.state.neigh[learnedNeigh{h.ID, key}] = answered{ans.mac, !ans.fabric}
		return ans.mac, !ans.fabric, true
	}
	if b := ans.blocked; b != nil {
		w.drop(ReasonNetfilter, b.s.h, b.s.l, b.step)
		return ether.MAC{}, false, false
	}
	failed := n != nil && n.State&tables.NUDFailed != 0
	if !failed && slices.Contains(w.m.opts.Unread, next) {
		w.unknown(fmt.Sprintf("whether anybody answers for %s on %s: its namespace was not read", next, out.Name))
		return ether.MAC{}, false, false
	}
	if where := w.m.addressesUnread(h); !failed && where != "" {
		w.unknown(fmt.Sprintf("whether anybody answers for %s on %s: not all addresses of %s were read", next, out.Name, where))
		return ether.MAC{}, false, false
	}
	if why := w.m.silence(h, out, next, src); why != nil {
		w.drop(ReasonNeigh, why.s.h, why.s.l, why.step)
		if w.leg.Drop != nil {
			w.leg.Drop.Silent = true
		}
		return ether.MAC{}, false, false
	}
	if !ans.outside || failed || w.m.owned(h, out, next) {
		note := fmt.Sprintf("no entry for %s, and nobody on %s answers for it", next, out.Name)
		if failed {
			note = fmt.Sprintf("%s has not answered on %s", next, out.Name)
		}
		w.drop(ReasonNeigh, h, out, h.neighStep(n, out, next, note))
		return ether.MAC{}, false, false
	}
	w.step(h.neighStep(n, out, next, "no entry yet; who answers is outside the snapshot"))
	if !w.m.isUnderlay(h, out) {
		w.unknown(fmt.Sprintf("who answers for %s on %s is outside the snapshot", next, out.Name))
		return ether.MAC{}, false, false
	}
	return ether.MAC{}, false, true
}

// addressesUnread is a namespace of the same node whose addresses are not all known; "" where there is none. The one
// that is asked for may be there.
func (m *Model) addressesUnread(from *host) string {
	for _, h := range m.order {
		if h.Node == from.Node && h.Lacks("addresses", "") {
			return h.Name
		}
	}
	return ""
}

// owned reports whether a namespace of the snapshot has the address: then nobody outside answers for it,
// even where the segment reaches others. In the network between nodes a router may answer for a pod's address
// that is of that network, as a cloud's does.
func (m *Model) owned(from *host, out *tables.Link, ip netip.Addr) bool {
	fabric := m.isUnderlay(from, out)
	for _, h := range m.order {
		if h.hasAddr(ip) && (h.isHost() || !fabric) {
			return true
		}
	}
	return false
}

// answersFor is arp_process for a request that arrives at this station.
func (s station) answersFor(ip, asker netip.Addr) bool {
	switch {
	case s.h.hasAddr(ip) && ip.Is6():
		return s.h.onDevice(s.l, ip)
	case s.h.hasAddr(ip):
		_, no := s.refuses(ip, asker)
		return !no
	case ip.Is4() && (s.l.NoARP || !s.h.takesARP(s.l, ip, asker)):
		return false
	}
	if s.h.proxy[neighKey{s.l.Index, ip}] != nil {
		return true
	}
	return ip.Is4() && s.h.proxyARP(s.l, ip)
}

// takesARP: arp_process routes the request like a packet from the asker, so the reverse path filter speaks
// here too.
func (h *host) takesARP(l *tables.Link, ip, asker netip.Addr) bool {
	mode := h.confMax("rp_filter", l.Name, false)
	if mode == 0 || !asker.IsValid() {
		return true
	}
	why := h.reverse(l, h.routes(query{dst: asker, src: ip, iif: loopback}), mode)
	return why == "" || why == reasonUnknown
}

func (h *host) onDevice(l *tables.Link, ip netip.Addr) bool {
	for _, a := range h.addrs[ip] {
		if a.Index == l.Index {
			return true
		}
	}
	return false
}

// arpReplies honours arp_ignore and arp_filter (arp_ignore and arp_filter of net/ipv4/arp.c).
func (h *host) arpReplies(l *tables.Link, ip, asker netip.Addr) bool {
	if h.confMax("arp_filter", l.Name, false) != 0 && asker.IsValid() {
		as := h.routes(query{dst: asker, src: ip, iif: loopback})
		if as[0].reason == "" && as[0].hop.Index != l.Index {
			return false
		}
	}
	switch h.confMax("arp_ignore", l.Name, false) {
	case 1:
		return h.onDevice(l, ip)
	case 2: // and the asker in the same subnet
		return h.onDevice(l, ip) && (!asker.IsValid() || h.sameSubnet(l, ip, asker))
	case 3: // not for addresses of scope host
		return !slices.ContainsFunc(h.addrs[ip], func(a *tables.Addr) bool { return a.Scope == scopeHost })
	case 8:
		return false
	default:
		return true
	}
}

const scopeHost = 254 // RT_SCOPE_HOST

func (h *host) sameSubnet(l *tables.Link, ip, asker netip.Addr) bool {
	return slices.ContainsFunc(h.addrs[ip], func(a *tables.Addr) bool {
		return a.Index == l.Index && a.Prefix.Masked().Contains(asker)
	})
}

// proxyARP is arp_fwd_proxy: the address is routed out of another device than the request came in by.
func (h *host) proxyARP(l *tables.Link, ip netip.Addr) bool {
	if h.confMax("proxy_arp", l.Name, false) == 0 {
		return false
	}
	if fwd, ok := h.conf("forwarding", l.Name, false); ok && fwd == 0 {
		return false
	}
	as := h.routes(query{dst: ip, iif: l.Name})
	return as[0].reason == "" && as[0].route.Type == tables.RouteUnicast && as[0].hop.Index != l.Index
}

// underlayHost finds the node that an underlay address leads to: by its interfaces, else by what is
// known of addresses translated on the way.
func (m *Model) underlayHost(ip netip.Addr) *host {
	for _, h := range m.order {
		if h.isHost() && h.hasAddr(ip) {
			return h
		}
	}
	if id, ok := m.opts.Underlay[ip]; ok {
		return m.hosts[id]
	}
	return nil
}

// Station is who answers for an address on a segment.
type Station struct {
	MAC ether.MAC
	Who string // "host cni0 of node1"
}

// WhoHas says who on the segment behind a device would answer an ARP request or a neighbour
// solicitation for ip. outside reports that the segment also reaches hosts outside the snapshot.
func (m *Model) WhoHas(ns netns.ID, dev tables.Ifindex, ip netip.Addr) (s Station, found, outside bool) {
	h := m.hosts[ns]
	if h == nil || h.link(dev) == nil {
		return Station{}, false, true
	}
	a := m.whoHas(h, h.link(dev), ip, netip.Addr{})
	return Station{MAC: a.mac, Who: a.who}, a.found, a.outside
}

// IsUnderlay reports whether a device of a node's own namespace leads to the network between nodes.
func (m *Model) IsUnderlay(ns netns.ID, dev tables.Ifindex) bool {
	h := m.hosts[ns]
	return h != nil && h.link(dev) != nil && m.isUnderlay(h, h.link(dev))
}
