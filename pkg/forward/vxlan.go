package forward

import (
	"fmt"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Bytes that VXLAN adds to the inner frame's IP packet: outer IPv4 or IPv6, UDP, VXLAN, inner Ethernet.
const (
	vxlanOverhead4 = 20 + 8 + 8 + 14
	vxlanOverhead6 = 40 + 8 + 8 + 14
)

// vxlanXmit is vxlan_xmit: the destination VTEP from the FDB, then an outer packet of its own.
func (w *walk) vxlanXmit(h *host, dev *tables.Link, p *packet) {
	v := dev.VXLAN
	if v == nil {
		w.unknown(fmt.Sprintf("the VXLAN attributes of %s are not in the snapshot", dev.Name))
		return
	}
	if v.FlowBased {
		w.unknown(fmt.Sprintf("%s takes its tunnel from each packet's metadata (external)", dev.Name))
		return
	}
	rows, note := h.vtepRows(dev, p.EthDst)
	if len(rows) == 0 {
		w.drop(ReasonNoFDB, h, dev, h.fdbStep(StepFDB, nil, dev, p.EthDst, "no entry, and no default destination"))
		return
	}
	for i, row := range rows {
		b, pb := w, p.clone()
		if len(rows) > 1 {
			what := "copy %d of %d of a VXLAN flood"
			if row.NHID != 0 {
				what = "VTEP %d of %d of a nexthop group, chosen by hash"
			}
			b = w.fork(fmt.Sprintf(what, i+1, len(rows)))
		}
		s := h.fdbStep(StepFDB, row, dev, p.EthDst, note)
		s.Fields = []string{"outer.ipDst"}
		b.step(s)
		b.encapsulate(h, dev, row, pb)
	}
}

// vtepRows finds the rows for a MAC, else the default destinations: the all-zero rows, then the device's
// own "remote" or "group".
func (h *host) vtepRows(dev *tables.Link, mac ether.MAC) ([]*tables.FDB, string) {
	if rows := h.vxfdb[macKey{dev.Index, mac}]; len(rows) > 0 && !mac.IsZero() {
		return h.groupHops(rows), ""
	}
	if rows := h.vxfdb[macKey{dev.Index, ether.MAC{}}]; len(rows) > 0 {
		return h.groupHops(rows), fmt.Sprintf("no entry for %s: the default destination", mac)
	}
	if dev.VXLAN.Group.IsValid() {
		return []*tables.FDB{{Index: dev.Index, Dst: dev.VXLAN.Group, Via: dev.VXLAN.Lower}}, "the device's default destination"
	}
	return nil, ""
}

// groupHops puts the VTEPs of a nexthop group in the place of rows that name one (ip nexthop add … fdb): a
// hash of the packet takes one of them.
func (h *host) groupHops(rows []*tables.FDB) []*tables.FDB {
	var out []*tables.FDB
	for _, row := range rows {
		if row.Dst.IsValid() || row.NHID == 0 {
			out = append(out, row)
			continue
		}
		for _, gw := range h.nexthopGateways(row.NHID) {
			r := *row
			r.Dst = gw
			out = append(out, &r)
		}
	}
	return out
}

func (h *host) nexthopGateways(id uint32) (out []netip.Addr) {
	for i := range h.Nexthops {
		n := &h.Nexthops[i]
		if n.ID != id {
			continue
		}
		if n.Hop.Gateway.IsValid() {
			out = append(out, n.Hop.Gateway)
		}
		for _, g := range n.Group {
			if g != id {
				out = append(out, h.nexthopGateways(g)...)
			}
		}
	}
	return out
}

// encapsulate is vxlan_xmit_one for one destination.
func (w *walk) encapsulate(h *host, dev *tables.Link, row *tables.FDB, p *packet) {
	v := dev.VXLAN
	vni, port := v.VNI, v.Port
	if row.VNI != 0 {
		vni = row.VNI
	}
	if row.Port != 0 {
		port = row.Port
	}
	s := h.linkStep(dev, "")
	s.Kind, s.Command = StepVXLAN, h.cmd("ip -d link show dev %s", dev.Name)
	s.Fields = []string{"outer.ipSrc", "outer.dstPort", "vni"}
	w.step(s)
	o := &packet{inner: p, vni: vni, gbp: v.GBP && p.mark != 0, mark: p.mark}
	o.flow = Flow{Proto: ProtoUDP, Src: v.Local, Dst: row.Dst, DstPort: port, GSO: p.flow.GSO, DF: outerDF(v, p)}
	o.noChecksum = v.UDP6ZeroTx && row.Dst.Is6()
	o.Src, o.Dst, o.Proto, o.DstPort = v.Local, row.Dst, ProtoUDP, port
	o.Any = FieldSrcPort
	o.EtherType = etherTypeOf(row.Dst)
	o.TTL = outerTTL(h, v, p, row.Dst)
	o.length = p.length + vxlanOverhead4
	if row.Dst.Is6() {
		o.length = p.length + vxlanOverhead6
	}
	if !h.maySendFrom(o.Src) {
		s.Target = o.Src
		w.drop(ReasonForeignSource, h, dev, s)
		return
	}
	oif := ""
	if l := h.links[row.Via]; l != nil {
		oif = l.Name
	}
	if w.bypass(h, dev, o, oif) {
		return
	}
	w.sendVia(h, o, oif)
}

// maySendFrom is ip_route_output_key_hash_rcu's question of an IPv4 source that is chosen already: only one of the host's
// own has a route anywhere. IPv6 does not ask.
func (h *host) maySendFrom(src netip.Addr) bool {
	if !src.Is4() || h.Lacks("addresses", "") {
		return true
	}
	as, ok, _ := h.lookupTable(tables.TableLocal, query{dst: src, iif: loopback}, nil)
	return h.hasAddr(src) || ok && as[0].reason == "" && as[0].route.Type == tables.RouteLocal
}

// outerDF is the device's "df": only an outer IPv4 header has the bit.
func outerDF(v *tables.VXLAN, p *packet) bool {
	return v.DF == "set" || v.DF == "inherit" && (p.flow.DF || p.Dst.Is6())
}

func outerTTL(h *host, v *tables.VXLAN, p *packet, dst netip.Addr) uint8 {
	switch {
	case v.TTLInherit:
		return p.TTL
	case v.TTL != 0:
		return uint8(v.TTL)
	default:
		return h.defaultTTL(dst)
	}
}

// bypass is encap_bypass_if_local: a destination of this host's own is handed to the local device with
// that VNI and port, without a packet on any wire.
func (w *walk) bypass(h *host, dev *tables.Link, o *packet, oif string) bool {
	as := h.routes(o.query(loopback, oif))
	if as[0].reason != "" || as[0].route.Type != tables.RouteLocal || !dev.VXLAN.LocalBypass {
		return false
	}
	w.step(h.routeStep(as[0], o.query(loopback, oif), ""))
	for i := range h.Links {
		l := &h.Links[i]
		if l.VXLAN != nil && l.VXLAN.VNI == o.vni && l.VXLAN.Port == o.DstPort && l.Up {
			w.decapsulate(h, l, o)
			return true
		}
	}
	w.drop(ReasonNoVNI, h, dev, h.linkStep(dev, fmt.Sprintf("%s is this host's own address, and no local device has VNI %d", o.Dst, o.vni)))
	return true
}

// vxlanReceive is the UDP socket's vxlan_rcv: the device by port and VNI. All devices of one port and
// address family share the socket.
func (w *walk) vxlanReceive(h *host, o *packet) {
	var onPort, match, down *tables.Link
	for i := range h.Links {
		l := &h.Links[i]
		if l.VXLAN != nil && !l.Up && l.VXLAN.Port == o.DstPort && l.VXLAN.VNI == o.vni && sameFamily(l.VXLAN, o.Dst) {
			down = l
		}
		if l.VXLAN == nil || !l.Up || l.VXLAN.Port != o.DstPort || !sameFamily(l.VXLAN, o.Dst) {
			continue
		}
		onPort = l
		if l.VXLAN.VNI == o.vni || l.VXLAN.FlowBased {
			match = l
		}
	}
	switch {
	case onPort == nil:
		w.drop(ReasonNoSocket, h, o.in, w.socketStep(h, o, fmt.Sprintf("no VXLAN device that is up listens on UDP port %d", o.DstPort)))
	case match == nil && down != nil: // its socket is open all the same: another device's
		s := h.linkStep(down, fmt.Sprintf("the device with VNI %d is down", o.vni))
		w.drop(ReasonNoSocket, h, o.in, s)
	case match == nil:
		s := h.linkStep(onPort, fmt.Sprintf("VNI is %d, the packet carries %d", onPort.VXLAN.VNI, o.vni))
		s.Kind, s.Command = StepVXLAN, h.cmd("ip -d link show dev %s", onPort.Name)
		w.drop(ReasonNoVNI, h, onPort, s)
	case o.gbp && !match.VXLAN.GBP:
		s := h.linkStep(match, "the packet carries a group policy id, and the device does not take it (no gbp)")
		s.Kind, s.Command = StepVXLAN, h.cmd("ip -d link show dev %s", match.Name)
		w.drop(ReasonVXLANFlags, h, match, s)
	case o.noChecksum && !match.VXLAN.UDP6ZeroRx:
		s := h.linkStep(match, "the outer UDP checksum is zero, and the device does not take that over IPv6 (noudp6zerocsumrx)")
		s.Kind, s.Command = StepVXLAN, h.cmd("ip -d link show dev %s", match.Name)
		w.drop(ReasonVXLANFlags, h, match, s)
	default:
		w.decapsulate(h, match, o)
	}
}

func sameFamily(v *tables.VXLAN, dst netip.Addr) bool {
	switch {
	case v.FlowBased:
		return true
	case v.Local.IsValid():
		return v.Local.Is6() == dst.Is6()
	case v.Group.IsValid():
		return v.Group.Is6() == dst.Is6()
	default:
		return dst.Is4()
	}
}

// socketStep shows the vxlan devices of a namespace in place of the socket that is not there.
func (w *walk) socketStep(h *host, o *packet, note string) Step {
	s := Step{Kind: StepSocket, Netns: h.ID, Node: h.Node, Command: h.cmd("ip -d link show type vxlan"), Note: note}
	for i := range h.Links {
		l := &h.Links[i]
		if l.VXLAN == nil || !sameFamily(l.VXLAN, o.Dst) { // the other family has a socket of its own
			continue
		}
		if s.Ifindex == 0 || l.VXLAN.VNI == o.vni {
			s.Ifindex, s.Entry = l.Index, h.FormatLink(*l)
		}
	}
	return s
}

// decapsulate is the rest of vxlan_rcv: the inner frame arrives on the device.
func (w *walk) decapsulate(h *host, dev *tables.Link, o *packet) {
	s := h.linkStep(dev, "")
	s.Kind, s.Command = StepVXLAN, h.cmd("ip -d link show dev %s", dev.Name)
	w.step(s)
	p := o.inner
	if p.EthSrc == dev.MAC {
		w.drop(ReasonLocalMAC, h, dev, h.linkStep(dev, fmt.Sprintf("the inner source MAC %s is the device's own: taken for a loop", p.EthSrc)))
		return
	}
	if w.vxlanSnoop(h, dev, o) {
		return
	}
	p.mark, p.conn, p.nfDone, p.physIn = 0, noConn, false, nil
	w.arrive(h, dev, p)
}

// vxlanSnoop is vxlan_snoop of a learning device: it notes behind which VTEP a MAC lives, and drops a frame
// from another VTEP than a static row names.
func (w *walk) vxlanSnoop(h *host, dev *tables.Link, o *packet) (dropped bool) {
	if !dev.VXLAN.Learning {
		return false
	}
	for _, row := range h.vxfdb[macKey{dev.Index, o.inner.EthSrc}] {
		if row.Dst == o.Src || row.State&(tables.NUDPermanent|tables.NUDNoARP) == 0 && row.NHID == 0 {
			continue
		}
		w.drop(ReasonVXLANEntry, h, dev, h.fdbStep(StepFDB, row, dev, o.inner.EthSrc,
			fmt.Sprintf("the device learns, a static entry places %s elsewhere, and the frame came from %s", o.inner.EthSrc, o.Src)))
		return true
	}
	return false
}
