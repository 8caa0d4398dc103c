package tables

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/ether"
)

// userHZ is the unit of times in netlink messages (USER_HZ), a second's worth.
const userHZ = 100

// ip reads an address by its length; anything but 4 or 16 bytes gives the zero value.
func ip(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// anyIP is ip without the unspecified address, by which some attributes say "none".
func anyIP(b []byte) netip.Addr {
	if a := ip(b); a.IsValid() && !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

func mac(b []byte) ether.MAC {
	if len(b) != 6 {
		return ether.MAC{}
	}
	return ether.MAC(b)
}

// prefix makes a masked prefix; without an address it is the default route of the family.
func prefix(family uint8, b []byte, bits uint8) netip.Prefix {
	a := ip(b)
	switch {
	case a.IsValid():
	case family == unix.AF_INET6:
		a = netip.IPv6Unspecified()
	default:
		a = netip.IPv4Unspecified()
	}
	return netip.PrefixFrom(a, int(bits)).Masked()
}

// parseAddr reads struct ifaddrmsg and its attributes (rtnetlink(7)).
func parseAddr(b []byte) (Addr, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return Addr{}, false
	}
	bits := int(b[1])
	a := Addr{Flags: uint32(b[2]), Scope: b[3], Index: index(b[4:])}
	var local, address netip.Addr
	for t, v := range attrs(b[unix.SizeofIfAddrmsg:]) {
		switch t {
		case unix.IFA_LOCAL:
			local = ip(v)
		case unix.IFA_ADDRESS:
			address = ip(v)
		case unix.IFA_BROADCAST:
			a.Broadcast = ip(v)
		case unix.IFA_FLAGS: // all 32 bits; the header has the low 8
			a.Flags = u32(v)
		}
	}
	switch {
	case !local.IsValid():
		local = address
	case address.IsValid() && address != local: // point-to-point: IFA_ADDRESS is the far end
		a.Peer = netip.PrefixFrom(address, bits)
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, local.IsValid()
}
