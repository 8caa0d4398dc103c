package forward

import (
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Messages of neighbour discovery (RFC 4861 section 4).
const (
	neighbourSolicit   = 135
	neighbourAdvertise = 136
	ndHopLimit         = 255
	ndLength           = 40 + 32
)

// solicitFrom is the source address of a neighbour solicitation: the packet's own where the device has it,
// else the device's link-local one (ndisc_solicit of net/ipv6/ndisc.c).
func (h *host) solicitFrom(out *tables.Link, src netip.Addr) netip.Addr {
	if src.IsValid() && h.onDevice(out, src) {
		return src
	}
	for i := range h.Addrs {
		if a := h.Addrs[i].Prefix.Addr(); h.Addrs[i].Index == out.Index && a.Is6() && a.IsLinkLocalUnicast() {
			return a
		}
	}
	return h.addrOn(out.Index, netip.Addr{}, true)
}

// solicitedNode is the multicast group that a solicitation goes to (RFC 4291 section 2.7.1).
func solicitedNode(ip netip.Addr) netip.Addr {
	b, t := netip.MustParseAddr("ff02::1:ff00:0").As16(), ip.As16()
	copy(b[13:], t[13:])
	return netip.AddrFrom16(b)
}

// ndAnswered plays the solicitation and its answer through both ends' netfilter hooks. Unlike ARP, the answer
// is an IP packet: rules see it, and the neighbour table of who answers says where it goes.
func (m *inquiry) ndAnswered(asker, to station, src netip.Addr, path []crossing) bool {
	ip := m.ip
	if off, ok := to.h.conf("disable_ipv6", to.l.Name, true); ok && off != 0 {
		return false
	}
	ns := netfilter.Packet{
		Family: netfilter.FamilyIPv6, EtherType: ether.TypeIPv6, EthSrc: asker.l.MAC, Src: src, Dst: solicitedNode(ip),
		Proto: ProtoICMPv6, ICMPType: neighbourSolicit, TTL: ndHopLimit, Length: ndLength,
	}
	if !m.ndSent(asker, ns) || !m.crosses(path, ns) || !m.ndReceived(to, ns) {
		return false
	}
	if to.misled(asker, src) != nil {
		return false
	}
	na := ns
	na.EthSrc, na.EthDst, na.Src, na.Dst, na.ICMPType = to.l.MAC, asker.l.MAC, ip, src, neighbourAdvertise
	return m.ndSent(to, na) && m.crosses(reversed(path), na) && m.ndReceived(asker, na)
}

func (m *inquiry) ndSent(s station, p netfilter.Packet) bool {
	p.Out, p.OutIndex = s.l.Name, int(s.l.Index)
	return m.passes(s, netfilter.FamilyIPv6, p, netfilter.HookOutput, netfilter.HookPostrouting)
}

func (m *inquiry) ndReceived(s station, p netfilter.Packet) bool {
	p.In, p.InIndex = s.l.Name, int(s.l.Index)
	return m.passes(s, netfilter.FamilyIPv6, p, netfilter.HookPrerouting, netfilter.HookInput)
}
