package pcapfile

import (
	"encoding/binary"

	"github.com/podtrace/podtrace/pkg/ether"
)

// LinkType says which header a packet starts with, a LINKTYPE_ value of the IANA's registry.
type LinkType uint32

// Link types that podtrace reads.
const (
	LinkNull     LinkType = 0   // BSD loopback: address family, 4 bytes in the capturing host's order
	LinkEthernet LinkType = 1   // IEEE 802.3
	linkRawBSD   LinkType = 12  // DLT_RAW in files of old libpcap on most systems
	linkRawOBSD  LinkType = 14  // DLT_RAW in files of OpenBSD
	LinkRaw      LinkType = 101 // an IPv4 or IPv6 header
	LinkLoop     LinkType = 108 // OpenBSD loopback: address family, 4 bytes in network order
	LinkSLL      LinkType = 113 // Linux cooked capture, 16 bytes
	LinkIPv4     LinkType = 228
	LinkIPv6     LinkType = 229
	LinkSLL2     LinkType = 276 // Linux cooked capture version 2, 20 bytes
)

// Normal gives the one value of link types that have several.
func (l LinkType) Normal() LinkType {
	if l == linkRawBSD || l == linkRawOBSD {
		return LinkRaw
	}
	return l
}

// Bytes of the link headers that have no Ethernet header.
const (
	loopLen = 4
	sllLen  = 16
	sll2Len = 20
)

// Payload gives the EtherType that the link header announces, in host byte order, and the offset of
// what follows it, for every link type but Ethernet, whose header may carry tags. ok is false for
// those, for other link types, for headers that were cut, and for protocols that have no EtherType.
func (l LinkType) Payload(b []byte) (etherType uint16, off int, ok bool) {
	switch l {
	case LinkRaw, LinkIPv4, LinkIPv6, linkRawBSD, linkRawOBSD:
		etherType, ok = byVersion(b)
		return etherType, 0, ok
	case LinkNull, LinkLoop:
		if len(b) < loopLen {
			return 0, 0, false
		}
		etherType, ok = byFamily(b)
		return etherType, loopLen, ok
	case LinkSLL:
		if len(b) < sllLen {
			return 0, 0, false
		}
		return binary.BigEndian.Uint16(b[14:]), sllLen, true
	case LinkSLL2:
		if len(b) < sll2Len {
			return 0, 0, false
		}
		return binary.BigEndian.Uint16(b), sll2Len, true
	default:
		return 0, 0, false
	}
}

// Ifindex gives the interface that a packet of a cooked capture of version 2 passed, by its number in the namespace of
// the capture; 0 for all others.
func (r *Record) Ifindex() uint32 {
	if r.LinkType != LinkSLL2 || len(r.Data) < sll2Len {
		return 0
	}
	return binary.BigEndian.Uint32(r.Data[4:])
}

// byVersion goes by the version field of the IP header.
func byVersion(b []byte) (etherType uint16, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	switch b[0] >> 4 {
	case 4:
		return ether.TypeIPv4, true
	case 6:
		return ether.TypeIPv6, true
	}
	return 0, false
}

// byFamily goes by the address family of a loopback header, whose byte order is that of the host that
// captured. The number of AF_INET6 differs between systems.
func byFamily(b []byte) (etherType uint16, ok bool) {
	family := binary.LittleEndian.Uint32(b)
	if family > 0xffff {
		family = binary.BigEndian.Uint32(b)
	}
	switch family {
	case 2:
		return ether.TypeIPv4, true
	case 10, 24, 28, 30: // Linux, NetBSD and OpenBSD, FreeBSD, Darwin
		return ether.TypeIPv6, true
	}
	return 0, false
}
