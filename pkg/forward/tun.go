package forward

import (
	"fmt"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/tables"
)

// bareOverhead4 is what a proxy adds to an IP packet: outer IPv4 and UDP headers.
const bareOverhead4 = 20 + 8

// proxy finds the process behind a TUN device: the one that has it open, on the cluster's port if it has several
// sockets; else what the nodes announced.
func (m *Model) proxy(h *host, dev tables.Ifindex) (found tables.Proxy, ok bool) {
	for _, p := range h.Proxies {
		if p.Index == dev && (!ok || p.Local.Port() == m.opts.ProxyPort) {
			found, ok = p, true
		}
	}
	if !ok && m.opts.ProxyPort != 0 {
		return tables.Proxy{Index: dev, Local: netip.AddrPortFrom(netip.IPv4Unspecified(), m.opts.ProxyPort)}, true
	}
	return found, ok
}

// proxyStep names the hop through the process.
func (h *host) proxyStep(l *tables.Link, p tables.Proxy, what string) Step {
	s := Step{Kind: StepProxy, Netns: h.ID, Node: h.Node, Ifindex: l.Index}
	who := "a process that is not known"
	if p.PID != 0 {
		who = fmt.Sprintf("process %s (pid %d)", p.Process, p.PID)
		s.Entry = fmt.Sprintf("%s has %s open, and UDP socket %s", who, l.Name, p.Local)
		s.Command = h.cmd("ss -uanp 'sport = :%d'", p.Local.Port())
	}
	s.Note = fmt.Sprintf("%s, %s", who, what)
	return s
}

// tunXmit hands a packet to the process behind a TUN device, which sends it on in UDP to the node whose range
// holds the destination, with the TTL one lower (flannel's backend "udp").
func (w *walk) tunXmit(h *host, l *tables.Link, p *packet) {
	pr, ok := w.m.proxy(h, l.Index)
	if !ok || p.Dst.Is6() {
		w.unknown(fmt.Sprintf("what the process behind %s does with the packet is not in the tables", l.Name))
		return
	}
	to := w.m.lease(p.Dst)
	if !to.IsValid() {
		w.unknown(fmt.Sprintf("to which node the process behind %s sends %s is not announced", l.Name, p.Dst))
		return
	}
	if p.TTL--; p.TTL == 0 {
		w.drop(ReasonTTL, h, l, h.proxyStep(l, pr, "the TTL has run out"))
		return
	}
	s := h.proxyStep(l, pr, fmt.Sprintf("sends it in UDP from port %d to %s, whose range holds %s", pr.Local.Port(), to, p.Dst))
	s.Target, s.Fields = to, []string{"outer.ipDst", "outer.srcPort", "outer.dstPort"}
	w.step(s)
	p.scrub(true)
	o := &packet{inner: p, bare: true, length: p.length + bareOverhead4}
	o.flow = Flow{Proto: ProtoUDP, Dst: to, SrcPort: pr.Local.Port(), DstPort: pr.Local.Port(), GSO: p.flow.GSO}
	o.Dst, o.Proto, o.SrcPort, o.DstPort = to, ProtoUDP, pr.Local.Port(), pr.Local.Port()
	if a := pr.Local.Addr(); !a.IsUnspecified() {
		o.Src, o.flow.Src = a, a
	}
	o.EtherType, o.TTL = etherTypeOf(to), h.defaultTTL(to)
	w.send(h, o)
}

// lease is the address of the node whose range holds a pod's, the longest where they nest.
func (m *Model) lease(ip netip.Addr) (node netip.Addr) {
	bits := -1
	for _, l := range m.opts.Leases {
		if l.Range.Contains(ip) && l.Range.Bits() > bits {
			node, bits = l.Node, l.Range.Bits()
		}
	}
	return node
}

// proxyReceive is the other end: the process whose socket takes the datagram writes the packet to its device.
func (w *walk) proxyReceive(h *host, o *packet) {
	for i := range h.Links {
		l := &h.Links[i]
		pr, ok := w.m.proxy(h, l.Index)
		if l.Kind != "tun" || !ok || pr.Local.Port() != o.DstPort {
			continue
		}
		p := o.inner
		if p.TTL--; p.TTL == 0 {
			w.drop(ReasonTTL, h, l, h.proxyStep(l, pr, "the TTL has run out"))
			return
		}
		w.step(h.proxyStep(l, pr, "takes it from its UDP socket"))
		p.mark, p.conn, p.nfDone, p.physIn = 0, noConn, false, nil
		w.arrive(h, l, p)
		return
	}
	w.drop(ReasonNoSocket, h, o.in, Step{
		Kind: StepSocket, Command: h.cmd("ss -uanp 'sport = :%d'", o.DstPort),
		Note: fmt.Sprintf("no process with a TUN device listens on UDP port %d", o.DstPort),
	})
}
