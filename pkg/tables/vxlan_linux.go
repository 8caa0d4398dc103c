package tables

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

func parseVXLAN(b []byte) *VXLAN {
	x := &VXLAN{LocalBypass: true} // what a kernel before 6.5 does and does not say
	for t, v := range attrs(b) {
		if !parseVXLANAddr(x, t, v) {
			parseVXLANFlag(x, t, v)
		}
	}
	return x
}

func parseVXLANAddr(x *VXLAN, t uint16, v []byte) bool {
	switch t {
	case unix.IFLA_VXLAN_ID:
		x.VNI = VNI(u32(v))
	case unix.IFLA_VXLAN_PORT:
		x.Port = be16(v)
	case unix.IFLA_VXLAN_PORT_RANGE: // struct ifla_vxlan_port_range: both big-endian
		x.SrcPortLow, x.SrcPortHigh = be16(v), be16(after(v, 2))
	case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
		x.Local = either(x.Local, v)
	case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6:
		x.Group = either(x.Group, v)
	case unix.IFLA_VXLAN_LINK:
		x.Lower = index(v)
	case unix.IFLA_VXLAN_TTL:
		x.TTL = int(u8(v))
	case unix.IFLA_VXLAN_TTL_INHERIT:
		x.TTLInherit = flag(v)
	case unix.IFLA_VXLAN_TOS:
		x.TOS = int(u8(v))
	case unix.IFLA_VXLAN_DF:
		x.DF = vxlanDF(u8(v))
	case unix.IFLA_VXLAN_AGEING:
		x.Ageing = int(u32(v))
	default:
		return false
	}
	return true
}

func parseVXLANFlag(x *VXLAN, t uint16, v []byte) {
	switch t {
	case unix.IFLA_VXLAN_LEARNING:
		x.Learning = flag(v)
	case unix.IFLA_VXLAN_GBP: // an attribute without a value: being there says yes
		x.GBP = true
	case unix.IFLA_VXLAN_GPE:
		x.GPE = true
	case unix.IFLA_VXLAN_COLLECT_METADATA:
		x.FlowBased = flag(v)
	case unix.IFLA_VXLAN_PROXY:
		x.Proxy = flag(v)
	case unix.IFLA_VXLAN_RSC:
		x.RSC = flag(v)
	case unix.IFLA_VXLAN_L2MISS:
		x.L2Miss = flag(v)
	case unix.IFLA_VXLAN_L3MISS:
		x.L3Miss = flag(v)
	case unix.IFLA_VXLAN_UDP_CSUM:
		x.UDPCsum = flag(v)
	case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX:
		x.UDP6ZeroTx = flag(v)
	case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX:
		x.UDP6ZeroRx = flag(v)
	case unix.IFLA_VXLAN_LOCALBYPASS:
		x.LocalBypass = flag(v)
	}
}

// either keeps an address that is set: the IPv4 and the IPv6 attribute exclude each other.
func either(old netip.Addr, v []byte) netip.Addr {
	if a := anyIP(v); a.IsValid() {
		return a
	}
	return old
}

// vxlanDF is enum ifla_vxlan_df by name.
func vxlanDF(v uint8) string {
	switch v {
	case 1:
		return "set"
	case 2:
		return "inherit"
	default:
		return "unset"
	}
}
