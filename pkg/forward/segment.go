package forward

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// neighAnswer is the result of asking a link-layer segment for an address.
type neighAnswer struct {
	found   bool
	mac     ether.MAC
	who     string
	outside bool // the segment reaches hosts that are not in the snapshot
	fabric  bool // the answer comes over the network between nodes, where others may answer too
	blocked *blocked
}

// blocked is a rule that drops the question for an address, or the answer.
type blocked struct {
	s    station
	step Step
}

// inquiry is one question for an address; it remembers the first rule in its way.
type inquiry struct {
	*Model
	ip      netip.Addr
	blocked *blocked
}

// station is one interface as a member of a segment.
type station struct {
	h *host
	l *tables.Link
}

// crossing is a frame's passage of a bridge. from is nil for a frame of the bridge itself, to for one that it
// takes.
type crossing struct {
	h            *host
	br, from, to *tables.Link
}

// whoHas plays an ARP request or a neighbour solicitation: who on the segment behind the device would
// answer for that address. src is the source of the packet that waits for the answer.
func (m *Model) whoHas(h *host, out *tables.Link, ip, src netip.Addr) neighAnswer {
	var ans neighAnswer
	asker := h.addrOn(out.Index, ip, ip.Is6())
	if ip.Is6() {
		asker = h.solicitFrom(out, src)
	}
	f := flooder{m: m, seen: make(map[*tables.Link]bool)}
	q := &inquiry{Model: m, ip: ip}
	f.visit = func(s station) {
		if ans.found || !s.answersFor(ip, asker) || !q.answered(station{h, out}, s, asker, f.path) {
			return
		}
		ans.found, ans.mac, ans.fabric = true, s.l.MAC, f.fabric
		ans.who = fmt.Sprintf("%s %s of %s", s.h.Name, s.l.Name, s.h.Node)
	}
	ans.outside = f.flood(h, out)
	if !ans.found {
		ans.blocked = q.blocked
	}
	return ans
}

// answered reports whether the question gets to a station and its answer back.
func (m *inquiry) answered(asker, to station, src netip.Addr, path []crossing) bool {
	if m.ip.Is6() {
		return m.ndAnswered(asker, to, src, path)
	}
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	p := netfilter.Packet{Family: netfilter.FamilyARP, EtherType: ether.TypeARP, EthSrc: asker.l.MAC, EthDst: broadcast, Src: src, Dst: m.ip, ARPOp: arpRequest}
	back := p
	back.EthSrc, back.EthDst, back.Src, back.Dst, back.ARPOp = to.l.MAC, asker.l.MAC, m.ip, src, arpReply
	return m.arp(asker, netfilter.HookOutput, p) && m.crosses(path, p) && m.arp(to, netfilter.HookInput, p) &&
		m.arp(to, netfilter.HookOutput, back) && m.crosses(reversed(path), back) && m.arp(asker, netfilter.HookInput, back)
}

// Operations of ARP (RFC 826).
const (
	arpRequest = 1
	arpReply   = 2
)

// arp runs a hook of family arp at a station.
func (m *inquiry) arp(s station, hook netfilter.Hook, p netfilter.Packet) bool {
	if hook == netfilter.HookInput {
		p.In, p.InIndex = s.l.Name, int(s.l.Index)
	} else {
		p.Out, p.OutIndex = s.l.Name, int(s.l.Index)
	}
	return m.passes(s, netfilter.FamilyARP, p, hook)
}

var broadcast = ether.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func reversed(path []crossing) []crossing {
	out := make([]crossing, 0, len(path))
	for _, c := range slices.Backward(path) {
		c.from, c.to = c.to, c.from
		out = append(out, c)
	}
	return out
}

// crosses reports whether rules of the bridges on a way let a frame pass: those of nftables' family bridge,
// and for IPv6 those of the IP layer where br_netfilter shows them frames.
func (m *inquiry) crosses(path []crossing, p netfilter.Packet) bool {
	for _, c := range path {
		q := p
		if c.from != nil && c.from.Port.Locked && !c.h.onPort(c.br, c.from, p.EthSrc) {
			return false
		}
		if c.from != nil {
			q.In, q.InIndex = c.from.Name, int(c.from.Index)
		}
		if c.to != nil {
			q.Out, q.OutIndex = c.to.Name, int(c.to.Index)
		}
		at := station{c.h, c.br}
		if !m.passes(at, netfilter.FamilyBridge, q, c.hooks()...) {
			return false
		}
		ip := &packet{Headers: Headers{Dst: p.Dst}}
		if p.Family != netfilter.FamilyIPv6 || c.from == nil || c.to == nil || !m.callsIP(c.h, c.br, ip) {
			continue
		}
		q.In, q.InIndex, q.PhysIn = c.br.Name, int(c.br.Index), c.from.Name
		q.Out, q.OutIndex, q.PhysOut = c.br.Name, int(c.br.Index), c.to.Name
		if !m.passes(at, netfilter.FamilyIPv6, q, c.hooks()...) {
			return false
		}
	}
	return true
}

func (c crossing) hooks() []netfilter.Hook {
	switch {
	case c.from == nil:
		return []netfilter.Hook{netfilter.HookOutput, netfilter.HookPostrouting}
	case c.to == nil:
		return []netfilter.Hook{netfilter.HookPrerouting, netfilter.HookInput}
	default:
		return []netfilter.Hook{netfilter.HookPrerouting, netfilter.HookForward, netfilter.HookPostrouting}
	}
}

// untracked: conntrack leaves neighbour discovery alone (nf_conntrack_proto_icmpv6.c), and ARP.
var untracked = netfilter.Conn{State: netfilter.ConnUntracked}

// passes reports whether no rule of the hooks is known to drop a packet that no connection belongs to.
func (m *inquiry) passes(s station, family netfilter.Family, p netfilter.Packet, hooks ...netfilter.Hook) bool {
	if s.h.Netfilter == nil {
		return true
	}
	st := netfilter.NewState(s.h.Netfilter)
	for _, hook := range hooks {
		for _, o := range st.Run(family, hook, p, untracked, env{m.Model, s.h}) {
			if o.Verdict == netfilter.Drop || o.Verdict == netfilter.Reject {
				if m.blocked == nil {
					m.blocked = &blocked{s, nfStep(s.h, o, s.l, nil)}
					m.blocked.step.Note = fmt.Sprintf("drops the question who has %s, or the answer", m.ip)
				}
				return false
			}
		}
	}
	return true
}

// flooder takes a broadcast to every station of a segment.
type flooder struct {
	m     *Model
	seen  map[*tables.Link]bool
	path  []crossing // to where the broadcast is
	visit func(station)
	// fabric is set while the stations of other nodes are visited
	fabric bool
	// through takes the broadcast also where a bridge holds it back; held is what does, on the way to the station
	through bool
	held    *silent
}

func (f *flooder) cross(c crossing, then func()) {
	f.path = append(f.path, c)
	then()
	f.path = f.path[:len(f.path)-1]
}

// flood visits every station that a broadcast sent out of a device reaches, and reports whether it also
// reaches hosts outside the snapshot.
func (f *flooder) flood(h *host, out *tables.Link) (outside bool) {
	if f.seen[out] || !out.Up {
		return false
	}
	f.seen[out] = true
	switch {
	case f.m.isUnderlay(h, out):
		f.underlay(h)
		return true
	case out.Kind == "veth":
		return f.into(h, out)
	case out.Kind == "bridge":
		return f.ports(h, out, nil)
	case out.Kind == "vxlan":
		return f.vxlan(h, out)
	case isUpper(out.Kind):
		return f.upper(h, out)
	default:
		return out.Kind != "" && !out.Loopback
	}
}

func (f *flooder) into(h *host, out *tables.Link) bool {
	ph, pl := f.m.peer(h, out)
	if pl == nil {
		return ph == nil
	}
	if !pl.Up || f.seen[pl] {
		return false
	}
	f.seen[pl] = true
	for _, up := range f.m.uppers[pl] {
		f.visit(up)
	}
	if pl.Port == nil {
		f.visit(station{ph, pl})
		return false
	}
	br := ph.links[pl.Master]
	if br == nil || !portTakes(br, pl) || pl.Port.State == portLearning {
		return false
	}
	f.cross(crossing{ph, br, pl, nil}, func() { f.visit(station{ph, br}) })
	return f.ports(ph, br, pl)
}

func (f *flooder) ports(h *host, br, from *tables.Link) (outside bool) {
	for _, port := range h.ports[br.Index] {
		if port == from {
			continue
		}
		// what the bridge itself sends is not subject to the port's flooding (br_flood)
		if !portGives(from, port) || !port.Port.BroadcastFl && from != nil {
			if f.through && f.held == nil {
				f.held = h.withheld(br, from, port)
				f.flood(h, port)
				f.held = nil
			}
			continue
		}
		f.cross(crossing{h, br, from, port}, func() { outside = f.flood(h, port) || outside })
	}
	return outside
}

// vxlan visits the stations behind a vxlan device's default destinations; without one, a broadcast goes
// nowhere.
func (f *flooder) vxlan(h *host, out *tables.Link) (outside bool) {
	var dsts []netip.Addr
	for _, row := range h.vxfdb[macKey{out.Index, ether.MAC{}}] {
		dsts = append(dsts, row.Dst)
	}
	if out.VXLAN != nil && out.VXLAN.Group.IsValid() {
		dsts = append(dsts, out.VXLAN.Group)
	}
	for _, d := range dsts {
		th := f.m.underlayHost(d)
		if th == nil {
			outside = true
			continue
		}
		for _, l := range th.links {
			if l.VXLAN != nil && out.VXLAN != nil && l.VXLAN.VNI == out.VXLAN.VNI && l.Up {
				f.visit(station{th, l})
			}
		}
	}
	return outside
}

// upper is a broadcast of a stacked device: siblings of mode bridge take it, and whoever is beyond the lower
// device.
func (f *flooder) upper(h *host, out *tables.Link) (outside bool) {
	lh, lower := f.m.peer(h, out)
	if lower == nil {
		return true
	}
	for _, up := range f.m.uppers[lower] {
		if up.l != out && up.l.Up && (out.Macvlan == "bridge" && up.l.Macvlan == "bridge" || out.Macvlan == "l2") {
			f.visit(up)
		}
	}
	if f.m.isUnderlay(lh, lower) {
		f.underlay(lh)
		return true
	}
	return f.flood(lh, lower)
}

// underlay visits every node's devices that lead to the underlay. Which of them share a segment is not in the
// tables; an address is looked for on all.
func (f *flooder) underlay(from *host) {
	f.fabric = true
	defer func() { f.fabric = false }()
	for _, h := range f.m.order {
		if h == from || !h.isHost() {
			continue
		}
		for i := range h.Links {
			l := &h.Links[i]
			if !l.Up || !f.m.isUnderlay(h, l) {
				continue
			}
			f.visit(station{h, l})
			for _, up := range f.m.uppers[l] {
				f.visit(up)
			}
		}
	}
}
