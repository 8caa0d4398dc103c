package tables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The rows of a listing as iproute2 prints them, so that a person who runs the command of an
// evidence finds the same line. What iproute2 breaks over several lines is one here.

// Bits of netdevice(7) and rtnetlink(7) that listings name; the numbers are Linux's on every system.
const (
	iffUp       = 0x1
	iffRunning  = 0x40
	rtnhOffload = 0x8
	rtnhTrap    = 0x40
)

// line builds a row of words.
type line struct{ strings.Builder }

func (l *line) add(format string, args ...any) {
	if l.Len() > 0 {
		l.WriteByte(' ')
	}
	fmt.Fprintf(l, format, args...)
}

func (l *line) addIf(ok bool, format string, args ...any) {
	if ok {
		l.add(format, args...)
	}
}

// FormatLink gives the row of ip -o link show: what decides about packets, without the queue length.
func (n *Netns) FormatLink(k Link) string {
	var l line
	l.add("%d: %s%s: <%s> mtu %d", k.Index, k.Name, n.parentSuffix(k), linkFlags(k), k.MTU)
	l.addIf(k.Qdisc != "", "qdisc %s", k.Qdisc)
	l.addIf(k.Master != 0, "master %s", n.devName(k.Master))
	l.addIf(k.OperState != "", "state %s", strings.ToUpper(k.OperState))
	l.add("link/%s", arphrdName(k.HardwareTy))
	switch {
	case !k.MAC.IsZero():
		l.add("%s", k.MAC)
	case k.Loopback:
		l.add("00:00:00:00:00:00")
	}
	l.addIf(k.ParentNetns >= 0, "link-netnsid %d", k.ParentNetns)
	l.addIf(k.Promisc > 0, "promiscuity %d", k.Promisc)
	l.addIf(k.VXLAN != nil, "%s", n.formatVXLAN(k.VXLAN))
	if k.Port != nil {
		l.add("bridge_slave state %s port_no %#x hairpin %s", k.Port.State, k.Port.No, onOff(k.Port.Hairpin))
		l.addIf(k.Port.Isolated, "isolated on")
		l.addIf(!k.Port.Learning, "learning off")
		l.addIf(!k.Port.Flood, "flood off")
	}
	return l.String()
}

// parentSuffix is "@NAME" of a device on top of another, "@if7" where that is in another namespace.
func (n *Netns) parentSuffix(k Link) string {
	switch {
	case k.ParentNetns >= 0:
		return "@if" + strconv.Itoa(int(k.Parent))
	case k.Parent != 0:
		return "@" + n.devName(k.Parent)
	default:
		return ""
	}
}

// linkFlags names IFF_* in the order of ip-link(8).
func linkFlags(k Link) string {
	names := []struct {
		bit  uint32
		name string
	}{
		{0x8, "LOOPBACK"}, {0x2, "BROADCAST"}, {0x10, "POINTOPOINT"}, {0x1000, "MULTICAST"}, {0x80, "NOARP"},
		{0x200, "ALLMULTI"}, {0x100, "PROMISC"}, {0x400, "MASTER"}, {0x800, "SLAVE"}, {0x4, "DEBUG"}, {0x8000, "DYNAMIC"},
		{0x2000, "PORTSEL"}, {0x20, "NOTRAILERS"}, {iffUp, "UP"}, {0x10000, "LOWER_UP"}, {0x20000, "DORMANT"}, {0x40000, "ECHO"},
	}
	var out []string
	if k.Flags&iffUp != 0 && k.Flags&iffRunning == 0 {
		out = append(out, "NO-CARRIER")
	}
	for _, f := range names {
		if k.Flags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	return strings.Join(out, ",")
}

func (n *Netns) formatVXLAN(x *VXLAN) string {
	if x == nil {
		return ""
	}
	var l line
	l.add("vxlan id %d", x.VNI)
	l.addIf(x.Group.IsValid() && x.Group.IsMulticast(), "group %s", x.Group)
	l.addIf(x.Group.IsValid() && !x.Group.IsMulticast(), "remote %s", x.Group)
	l.addIf(x.Local.IsValid(), "local %s", x.Local)
	l.addIf(x.Lower != 0, "dev %s", n.devName(x.Lower))
	l.add("dstport %d", x.Port)
	l.addIf(!x.Learning, "nolearning")
	l.addIf(x.TTLInherit, "ttl inherit")
	l.addIf(!x.TTLInherit && x.TTL != 0, "ttl %d", x.TTL)
	l.addIf(x.GBP, "gbp")
	l.addIf(x.FlowBased, "external")
	return l.String()
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func arphrdName(t uint16) string {
	switch t {
	case 1:
		return "ether"
	case 772:
		return "loopback"
	case 65534:
		return "none"
	case 768:
		return "ipip"
	case 769:
		return "tunnel6"
	case 776:
		return "sit"
	case 778:
		return "gre"
	default:
		return fmt.Sprintf("[%d]", t)
	}
}

// FormatAddr gives the row of ip -o addr show, without its lifetimes.
func (n *Netns) FormatAddr(a Addr) string {
	var l line
	l.add("%d: %s %s", a.Index, n.devName(a.Index), inet(a.Prefix.Addr()))
	if a.Peer.IsValid() {
		l.add("%s peer %s", a.Prefix.Addr(), a.Peer)
	} else {
		l.add("%s", a.Prefix)
	}
	l.addIf(a.Broadcast.IsValid(), "brd %s", a.Broadcast)
	l.add("scope %s", scopeName(a.Scope))
	flags := []struct {
		bit  uint32
		name string
	}{
		{0x01, secondaryName(a)}, {0x40, "tentative"}, {0x20, "deprecated"}, {0x10, "home"}, {0x02, "nodad"},
		{0x100, "mngtmpaddr"}, {0x200, "noprefixroute"}, {0x400, "autojoin"}, {0x04, "optimistic"}, {0x08, "dadfailed"},
	}
	for _, f := range flags {
		l.addIf(a.Flags&f.bit != 0, "%s", f.name)
	}
	l.addIf(a.Flags&0x80 == 0, "dynamic")
	l.addIf(a.Prefix.Addr().Is4(), "%s", n.devName(a.Index))
	return l.String()
}

// secondaryName is what IFA_F_SECONDARY says: of IPv6 it is a temporary address (RFC 4941).
func secondaryName(a Addr) string {
	if a.Prefix.Addr().Is6() {
		return "temporary"
	}
	return "secondary"
}

func inet(a netip.Addr) string {
	if a.Is6() {
		return "inet6"
	}
	return "inet"
}

// scopeName is RT_SCOPE_* by the names of rt_scopes.
func scopeName(s uint8) string {
	switch s {
	case 0:
		return "global"
	case 255:
		return "nowhere"
	case 254:
		return "host"
	case 253:
		return "link"
	case 200:
		return "site"
	default:
		return strconv.Itoa(int(s))
	}
}

// FormatNeigh gives the row of ip neigh show.
func (n *Netns) FormatNeigh(e Neigh) string {
	var l line
	l.add("%s", e.IP)
	l.addIf(e.Index != 0, "dev %s", n.devName(e.Index))
	l.addIf(!e.MAC.IsZero(), "lladdr %s", e.MAC)
	l.addIf(e.Router, "router")
	l.addIf(e.Proxy, "proxy")
	l.addIf(e.ExtLrn, "extern_learn")
	l.addIf(!e.Proxy && e.State != 0, "%s", e.State)
	return l.String()
}

// FormatFDB gives the row of bridge fdb show.
func (n *Netns) FormatFDB(f FDB) string {
	var l line
	l.add("%s", f.MAC)
	l.addIf(f.Index != 0, "dev %s", n.devName(f.Index))
	l.addIf(f.Dst.IsValid(), "dst %s", f.Dst)
	l.addIf(f.VLAN != 0, "vlan %d", f.VLAN)
	l.addIf(f.Port != 0, "port %d", f.Port)
	l.addIf(f.VNI != 0, "vni %d", f.VNI)
	l.addIf(f.SrcVNI != 0, "src_vni %d", f.SrcVNI)
	l.addIf(f.Via != 0, "via %s", n.devName(f.Via))
	l.addIf(f.NHID != 0, "nhid %d", f.NHID)
	l.addIf(f.Master == 0, "self")
	l.addIf(f.ExtLrn, "extern_learn")
	l.addIf(f.Sticky, "sticky")
	l.addIf(f.Master != 0, "master %s", n.devName(f.Master))
	switch {
	case f.State&NUDPermanent != 0:
		l.add("permanent")
	case f.State&NUDNoARP != 0:
		l.add("static")
	case f.State&NUDStale != 0:
		l.add("stale")
	case f.State&NUDReachable == 0 && f.State != 0:
		l.add("state=%#x", uint16(f.State))
	}
	return l.String()
}
