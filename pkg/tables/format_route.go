package tables

import (
	"net/netip"
	"strconv"
)

// FormatRoute gives the row of ip route show table all.
func (n *Netns) FormatRoute(r Route) string {
	var l line
	l.addIf(r.Type != RouteUnicast, "%s", r.Type)
	l.add("%s", destination(r.Dst))
	l.addIf(r.Src.IsValid(), "from %s", destination(r.Src))
	l.addIf(r.TOS != 0, "tos %s", tosName(r.TOS))
	l.addIf(r.NexthopID != 0, "nhid %d", r.NexthopID)
	single := len(r.NextHops) == 1
	if single {
		n.addHop(&l, r.NextHops[0], r.Dst)
	}
	// the kernel shows lo as the device of an IPv6 route, or of a nexthop object, that leads nowhere
	l.addIf(leadsNowhere(r.Type) && (r.Dst.Addr().Is6() || r.NexthopID != 0), "dev lo")
	l.addIf(r.Table != 0 && r.Table != TableMain, "table %s", tableName(r.Table))
	l.addIf(r.Protocol != 3, "proto %s", protocolName(r.Protocol)) // 3, boot, is what ip leaves out
	l.addIf(r.Scope != 0 && r.Dst.Addr().Is4(), "scope %s", scopeName(r.Scope))
	l.addIf(r.PrefSrc.IsValid(), "src %s", r.PrefSrc)
	l.addIf(r.Metric != 0 || r.Dst.Addr().Is6(), "metric %d", r.Metric)
	if single {
		addHopFlags(&l, r.NextHops[0])
	}
	l.addIf(r.Flags&rtnhOffload != 0, "offload")
	l.addIf(r.Flags&rtnhTrap != 0, "trap")
	l.addIf(r.Expires != 0, "expires %dsec", r.Expires)
	l.addIf(r.MTU != 0 && r.MTULock, "mtu lock %d", r.MTU)
	l.addIf(r.MTU != 0 && !r.MTULock, "mtu %d", r.MTU)
	l.addIf(r.Dst.Addr().Is6(), "pref %s", prefName(r.Pref))
	if !single {
		for _, h := range r.NextHops {
			l.add("nexthop")
			n.addHop(&l, h, r.Dst)
			l.add("weight %d", h.Weight)
			addHopFlags(&l, h)
		}
	}
	return l.String()
}

// leadsNowhere tells the types of route that have no next hop.
func leadsNowhere(t RouteType) bool {
	switch t {
	case RouteBlackhole, RouteUnreachable, RouteProhibit, RouteThrow:
		return true
	default:
		return false
	}
}

func (n *Netns) addHop(l *line, h NextHop, dst netip.Prefix) {
	l.addIf(h.Encap != "", "encap %s", h.Encap)
	if h.Gateway.IsValid() {
		l.add("via")
		l.addIf(h.Gateway.Is6() && dst.Addr().Is4(), "inet6")
		l.add("%s", h.Gateway)
	}
	l.addIf(h.Index != 0, "dev %s", n.devName(h.Index))
}

func addHopFlags(l *line, h NextHop) {
	l.addIf(h.Dead, "dead")
	l.addIf(h.Onlink, "onlink")
	l.addIf(h.LinkDn, "linkdown")
}

// destination writes a prefix as ip-route(8) does: a host without its length.
func destination(p netip.Prefix) string {
	switch {
	case p.Bits() == 0:
		return "default"
	case p.IsSingleIP():
		return p.Addr().String()
	default:
		return p.String()
	}
}

// tableName is a routing table by the names of rt_tables.
func tableName(t uint32) string {
	switch t {
	case TableDefault:
		return "default"
	case TableMain:
		return "main"
	case TableLocal:
		return "local"
	default:
		return strconv.FormatUint(uint64(t), 10)
	}
}

// protocolName is RTPROT_* by the names of rt_protos.
func protocolName(p uint8) string {
	names := map[uint8]string{
		0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra",
		12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 18: "keepalived", 42: "babel",
		186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
	}
	if s, ok := names[p]; ok {
		return s
	}
	return strconv.Itoa(int(p))
}

// prefName is the router preference of RFC 4191.
func prefName(p uint8) string {
	switch p {
	case 0:
		return "medium"
	case 1:
		return "high"
	case 3:
		return "low"
	default:
		return strconv.Itoa(int(p))
	}
}

// tosName writes a TOS in hex, as ip does for one that rt_dsfield does not name.
func tosName(t uint8) string {
	return "0x" + strconv.FormatUint(uint64(t), 16)
}

// FormatRule gives the row of ip rule show.
func (n *Netns) FormatRule(r Rule) string {
	var l line
	l.add("%d: %s", r.Priority, notPrefix(r)+"from "+selector(r.Src))
	l.addIf(r.Dst.IsValid(), "to %s", selector(r.Dst))
	l.addIf(r.TOS != 0, "tos %s", tosName(r.TOS))
	switch {
	case r.Mask != 0 && r.Mask != ^uint32(0):
		l.add("fwmark %#x/%#x", r.Mark, r.Mask)
	case r.Mark != 0 || r.Mask != 0:
		l.add("fwmark %#x", r.Mark)
	}
	l.addIf(r.IIF != "", "iif %s", r.IIF)
	l.addIf(r.OIF != "", "oif %s", r.OIF)
	l.addIf(r.L3MDev, "lookup [l3mdev-table]")
	l.addIf(r.UIDRange != nil, "%s", uidRange(r.UIDRange))
	l.addIf(r.IPProto != 0, "ipproto %s", ipProtoName(r.IPProto))
	l.addIf(r.SPort != nil, "sport %s", portRange(r.SPort))
	l.addIf(r.DPort != nil, "dport %s", portRange(r.DPort))
	l.addIf(r.TunID != 0, "tun_id %d", r.TunID)
	l.addIf(r.Unknown != "", "%s", r.Unknown)
	addRuleAction(&l, r)
	l.addIf(r.Protocol != 0 && r.Protocol != 2 && r.Protocol != 3, "proto %s", protocolName(r.Protocol))
	return l.String()
}

func notPrefix(r Rule) string {
	if r.Invert {
		return "not "
	}
	return ""
}

func selector(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "all"
	case p.Bits() == 0: // ip-rule(8) writes 0/0 where the selector is there and takes everything
		return p.String()
	default:
		return destination(p)
	}
}

func addRuleAction(l *line, r Rule) {
	switch r.Action {
	case RuleTable:
		l.addIf(!r.L3MDev, "lookup %s", tableName(r.Table))
		l.addIf(r.SuppressPrefixLen >= 0, "suppress_prefixlength %d", r.SuppressPrefixLen)
		l.addIf(r.SuppressIfGroup >= 0, "suppress_ifgroup %d", r.SuppressIfGroup)
	case RuleGoto:
		l.add("goto %d", r.Goto)
	default:
		l.add("%s", r.Action)
	}
}

func uidRange(u *UIDRange) string {
	if u == nil {
		return ""
	}
	return "uidrange " + strconv.FormatUint(uint64(u.Lo), 10) + "-" + strconv.FormatUint(uint64(u.Hi), 10)
}

func portRange(p *PortRange) string {
	switch {
	case p == nil:
		return ""
	case p.Lo == p.Hi:
		return strconv.Itoa(int(p.Lo))
	default:
		return strconv.Itoa(int(p.Lo)) + "-" + strconv.Itoa(int(p.Hi))
	}
}

func ipProtoName(p uint8) string {
	names := map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 50: "esp", 58: "ipv6-icmp", 132: "sctp"}
	if s, ok := names[p]; ok {
		return s
	}
	return "ipproto-" + strconv.Itoa(int(p))
}
