package tables

import (
	"golang.org/x/sys/unix"
)

// parseLink reads struct ifinfomsg and its attributes (rtnetlink(7), linux/if_link.h), and adds the
// device's sysctls to conf.
func parseLink(b []byte, conf map[string]string) (Link, bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, false
	}
	flags := u32(b[8:])
	l := Link{
		Index: index(b[4:]), HardwareTy: u16(b[2:]), Flags: flags, ParentNetns: -1,
		Up: flags&unix.IFF_UP != 0, LowerUp: flags&unix.IFF_LOWER_UP != 0,
		Loopback: flags&unix.IFF_LOOPBACK != 0, PointToP: flags&unix.IFF_POINTOPOINT != 0,
		Broadcast: flags&unix.IFF_BROADCAST != 0, NoARP: flags&unix.IFF_NOARP != 0,
		AllMulti: flags&unix.IFF_ALLMULTI != 0,
	}
	var afSpec []byte
	for t, v := range attrs(b[unix.SizeofIfInfomsg:]) {
		if t == unix.IFLA_AF_SPEC {
			afSpec = v
			continue
		}
		parseLinkAttr(&l, t, v)
	}
	parseDevConf(l.Name, afSpec, conf)
	return l, true
}

func parseLinkAttr(l *Link, t uint16, v []byte) {
	switch t {
	case unix.IFLA_IFNAME:
		l.Name = text(v)
	case unix.IFLA_ADDRESS:
		l.MAC = mac(v)
	case unix.IFLA_MTU:
		l.MTU = int(u32(v))
	case unix.IFLA_PROMISCUITY:
		l.Promisc = int(u32(v))
	case unix.IFLA_OPERSTATE:
		l.OperState = operState(u8(v))
	case unix.IFLA_LINK:
		l.Parent = index(v)
	case unix.IFLA_LINK_NETNSID:
		l.ParentNetns = int(int32(u32(v)))
	case unix.IFLA_MASTER:
		l.Master = index(v)
	case unix.IFLA_QDISC:
		l.Qdisc = text(v)
	case unix.IFLA_IFALIAS:
		l.Alias = text(v)
	case unix.IFLA_GROUP:
		l.Group = u32(v)
	case unix.IFLA_GSO_MAX_SIZE:
		l.GSOMax = u32(v)
	case unix.IFLA_STATS64:
		l.Stats = parseStats(v)
	case unix.IFLA_XDP:
		l.Hooks = append(l.Hooks, parseXDP(v)...)
	case unix.IFLA_LINKINFO:
		parseLinkInfo(l, v)
	}
}

// operState names the states of RFC 2863 as ip-link(8) does, in lower case.
func operState(s uint8) string {
	names := [...]string{"unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// parseStats reads struct rtnl_link_stats64, an array of 64-bit counters.
func parseStats(b []byte) Stats {
	at := func(i int) uint64 { return u64(after(b, 8*i)) }
	return Stats{
		RxPackets: at(0), TxPackets: at(1), RxErrors: at(4), TxErrors: at(5), RxDropped: at(6), TxDropped: at(7),
		RxOverErrors: at(11), RxCRCErrors: at(12), RxFrameErrors: at(13), RxMissed: at(15), TxCarrier: at(17),
		RxNoHandler: at(23),
	}
}

// parseLinkInfo reads IFLA_LINKINFO. The kind comes first in the kernel's messages, but nothing
// says that it must.
func parseLinkInfo(l *Link, b []byte) {
	var data, slaveData []byte
	var slaveKind string
	for t, v := range attrs(b) {
		switch t {
		case unix.IFLA_INFO_KIND:
			l.Kind = text(v)
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			slaveKind = text(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			slaveData = v
		}
	}
	parseKind(l, data)
	if slaveKind == "bridge" {
		l.Port = parsePort(slaveData)
	}
}

func parseKind(l *Link, data []byte) {
	switch l.Kind {
	case "vxlan":
		l.VXLAN = parseVXLAN(data)
	case "bridge":
		l.Bridge = parseBridge(data)
	case "macvlan", "macvtap", "ipvlan", "ipvtap":
		l.Macvlan = lowerMode(l.Kind, data)
	case "vrf":
		for t, v := range attrs(data) {
			if t == unix.IFLA_VRF_TABLE {
				l.VRF = u32(v)
			}
		}
	case "vlan":
		for t, v := range attrs(data) {
			if t == unix.IFLA_VLAN_ID {
				l.VLANID = u16(v)
			}
		}
	}
}

// lowerMode names the mode of a macvlan or ipvlan as ip-link(8) does.
func lowerMode(kind string, data []byte) string {
	for t, v := range attrs(data) {
		if t != 1 { // IFLA_MACVLAN_MODE (u32, a bit) and IFLA_IPVLAN_MODE (u16) alike
			continue
		}
		if kind == "ipvlan" || kind == "ipvtap" {
			return map[uint16]string{0: "l2", 1: "l3", 2: "l3s"}[u16(v)]
		}
		return map[uint32]string{1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}[u32(v)]
	}
	return ""
}

func parseBridge(b []byte) *Bridge {
	br := &Bridge{}
	for t, v := range attrs(b) {
		switch t {
		case unix.IFLA_BR_STP_STATE:
			br.STP = u32(v) != 0
		case unix.IFLA_BR_VLAN_FILTERING:
			br.VLANFiltering = flag(v)
		case unix.IFLA_BR_AGEING_TIME:
			br.Ageing = int(u32(v) / userHZ)
		case unix.IFLA_BR_VLAN_DEFAULT_PVID:
			br.DefaultPVID = u16(v)
		case unix.IFLA_BR_NF_CALL_IPTABLES:
			br.NFCallIP = flag(v)
		case unix.IFLA_BR_NF_CALL_IP6TABLES:
			br.NFCallIP6 = flag(v)
		case unix.IFLA_BR_NF_CALL_ARPTABLES:
			br.NFCallARP = flag(v)
		}
	}
	return br
}

func parsePort(b []byte) *BridgePort {
	p := &BridgePort{}
	for t, v := range attrs(b) {
		switch t {
		case unix.IFLA_BRPORT_NO:
			p.No = u16(v)
		case unix.IFLA_BRPORT_STATE:
			p.State = portState(u8(v))
		case unix.IFLA_BRPORT_MODE:
			p.Hairpin = flag(v)
		case unix.IFLA_BRPORT_GUARD:
			p.Guard = flag(v)
		case unix.IFLA_BRPORT_ISOLATED:
			p.Isolated = flag(v)
		case unix.IFLA_BRPORT_LEARNING:
			p.Learning = flag(v)
		case unix.IFLA_BRPORT_UNICAST_FLOOD:
			p.Flood = flag(v)
		case unix.IFLA_BRPORT_MCAST_FLOOD:
			p.MulticastFl = flag(v)
		case unix.IFLA_BRPORT_BCAST_FLOOD:
			p.BroadcastFl = flag(v)
		case unix.IFLA_BRPORT_PROXYARP:
			p.ProxyARP = flag(v)
		case unix.IFLA_BRPORT_NEIGH_SUPPRESS:
			p.NeighSuppress = flag(v)
		case unix.IFLA_BRPORT_LOCKED:
			p.Locked = flag(v)
		}
	}
	return p
}

// portState is BR_STATE_* of linux/if_bridge.h by name.
func portState(s uint8) string {
	names := [...]string{"disabled", "listening", "learning", "forwarding", "blocking"}
	if int(s) < len(names) {
		return names[s]
	}
	return ""
}

// bridgeVLANInfo is IFLA_BRIDGE_VLAN_INFO of linux/if_bridge.h.
const bridgeVLANInfo = 2

// parsePortVLANs reads the VLAN table of a port from a link message of family AF_BRIDGE.
func parsePortVLANs(b []byte) (Ifindex, []VLAN) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_BRIDGE {
		return 0, nil
	}
	var out []VLAN
	for t, v := range attrs(b[unix.SizeofIfInfomsg:]) {
		if t != unix.IFLA_AF_SPEC {
			continue
		}
		for t, v := range attrs(v) {
			if t == bridgeVLANInfo { // struct bridge_vlan_info: flags, vid
				const pvid, untagged = 1 << 1, 1 << 2
				f := u16(v)
				out = append(out, VLAN{ID: u16(after(v, 2)), PVID: f&pvid != 0, Untagged: f&untagged != 0})
			}
		}
	}
	return index(b[4:]), out
}
