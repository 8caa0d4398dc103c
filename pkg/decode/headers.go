package decode

import (
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
)

// IP protocol numbers (IANA) that the decoder looks into.
const (
	ProtoICMP   uint8 = 1
	ProtoTCP    uint8 = 6
	ProtoUDP    uint8 = 17
	ProtoICMPv6 uint8 = 58
)

// Bits of TCPFlags (RFC 9293 section 3.1).
const (
	TCPFin uint8 = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
)

// ICMP types that the decoder and its users tell apart (RFC 792, 4443, 4861).
const (
	ICMPEchoReply         uint8 = 0
	ICMPEchoRequest       uint8 = 8
	ICMPv6EchoRequest     uint8 = 128
	ICMPv6EchoReply       uint8 = 129
	ICMPv6NeighborSolicit uint8 = 135
	ICMPv6NeighborAdvert  uint8 = 136
)

// VLAN is one tag (IEEE 802.1Q section 9). The zero value is no tag.
type VLAN struct {
	TPID uint16 // EtherType of the tag: 0x8100, 0x88a8 or 0x9100
	TCI  uint16 // priority 3 bits, drop eligible 1 bit, VLAN id 12 bits
}

// ID gives the VLAN id, 0 to 4095; 0 is a priority tag.
func (v VLAN) ID() uint16 { return v.TCI & 0x0fff }

// Priority gives the priority code point, 0 to 7.
func (v VLAN) Priority() uint8 { return uint8(v.TCI >> 13) }

// Headers are the headers of one Ethernet frame up to layer 4, flat and comparable. Numbers are in
// host byte order; a field whose header is absent or was not captured is zero.
type Headers struct {
	EthSrc, EthDst ether.MAC
	NoEthDst       bool    // set by who knows that the capture did not record EthDst (cooked captures)
	VLANs          [2]VLAN // outermost first; a third tag is payload
	VLANCount      uint8   // 0 to 2
	EtherType      uint16  // of what follows the tags; a length in bytes below 0x0600 (802.3)

	HasIP    bool
	Src, Dst netip.Addr // without a zone; an IPv4-mapped IPv6 address stays one
	Proto    uint8      // IP protocol, in IPv6 the one after the extension headers
	TTL      uint8      // time to live, in IPv6 the hop limit
	TOS      uint8      // DSCP and ECN, in IPv6 the traffic class
	// ID is the IPv4 identification (16 bits), or that of an IPv6 fragment header (32 bits).
	ID         uint32
	DF, MF     bool   // do not fragment (IPv4 only), more fragments
	FragOffset uint16 // in bytes
	// IPLen is the length of the whole IP packet in bytes as its header says, IPv4 and IPv6 header
	// included; where the field is zero (BIG TCP) what the wire length leaves.
	IPLen int

	// HasL4 says that at least the first 8 bytes of the layer 4 header were read: ports and the
	// TCP sequence number, or all of a UDP and ICMP header. Never for later fragments.
	HasL4            bool
	SrcPort, DstPort uint16 // TCP and UDP
	TCPSeq, TCPAck   uint32 // absolute
	TCPFlags         uint8  // CWR ECE URG ACK PSH RST SYN FIN, FIN is bit 0
	// PayloadLen is the layer 4 payload in bytes by header arithmetic, captured or not; for the
	// first fragment of a UDP datagram that of the whole datagram. Where layer 4 is not decoded it
	// is the IP payload; where a TCP header is cut before its length field it is 0.
	PayloadLen int

	ICMPType, ICMPCode uint8
	ICMPID, ICMPSeq    uint16 // echo requests and replies
	// ICMPMTU is the MTU in bytes of "fragmentation needed" (RFC 1191) and "packet too big" (RFC
	// 4443 section 3.2).
	ICMPMTU uint32

	// ARP for IPv4 over Ethernet (RFC 826): sender and target.
	ARPOp                uint16 // 1 request, 2 reply
	ARPSrcMAC, ARPDstMAC ether.MAC
	ARPSrcIP, ARPDstIP   netip.Addr

	// NDTarget is the target address of a neighbour solicitation or advertisement (RFC 4861
	// sections 4.3 and 4.4), NDMAC its link-layer address option: of the sender in a solicitation,
	// of the target in an advertisement.
	NDTarget netip.Addr
	NDMAC    ether.MAC
}

// IsNeighbour reports whether the frame resolves an address: ARP, or a neighbour solicitation or
// advertisement.
func (h *Headers) IsNeighbour() bool {
	return h.EtherType == ether.TypeARP || h.NDTarget.IsValid()
}

// Neighbour gives the address that an ARP frame or a message of neighbour discovery is about, and whether it
// answers.
func (h *Headers) Neighbour() (ip netip.Addr, answer, ok bool) {
	const request, reply = 1, 2
	switch {
	case h.NDTarget.IsValid():
		return h.NDTarget, h.ICMPType == ICMPv6NeighborAdvert, true
	case h.EtherType == ether.TypeARP && h.ARPOp == request:
		return h.ARPDstIP, false, true
	case h.EtherType == ether.TypeARP && h.ARPOp == reply:
		return h.ARPSrcIP, true, true
	default:
		return netip.Addr{}, false, false
	}
}

// IsEcho reports whether the packet is an echo request or reply of either IP version.
func (h *Headers) IsEcho() bool {
	if !h.HasL4 {
		return false
	}
	switch h.Proto {
	case ProtoICMP:
		return h.ICMPType == ICMPEchoReply || h.ICMPType == ICMPEchoRequest
	case ProtoICMPv6:
		return h.ICMPType == ICMPv6EchoReply || h.ICMPType == ICMPv6EchoRequest
	}
	return false
}
