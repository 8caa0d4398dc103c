// Package forward says from tables alone what every kernel on a path would do with a packet: which
// interfaces it passes with which headers, which entry causes each rewrite, and, where it dies, which
// entry kills it.
//
// It plays one packet through the snapshot in the order of the kernel's own functions
// (net/ipv4/route.c, net/ipv4/ip_forward.c, net/bridge/br_input.c, drivers/net/vxlan/vxlan_core.c): a
// Hop for every passage of an interface, a Step for every lookup. It never asks the kernel, has no
// clock, and does not know what was meant: a packet sent to the wrong node by a wrong entry is
// forwarded to the wrong node here as well. Where the tables do not say (a program on a device, a host
// that is not in the snapshot), the leg ends Unknown with the reason.
package forward

import (
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// IP protocol numbers (IANA).
const (
	ProtoICMP   uint8 = 1
	ProtoTCP    uint8 = 6
	ProtoUDP    uint8 = 17
	ProtoICMPv6 uint8 = 58
)

// Flow is one packet as its socket hands it to the kernel.
type Flow struct {
	Proto            uint8
	Src, Dst         netip.Addr // Src invalid: the kernel chooses
	SrcPort, DstPort uint16     // of ICMP echo: SrcPort is the identifier
	ICMPType         uint8      // 8 and 0 (128 and 129 in IPv6): echo request and reply
	ICMPCode         uint8
	TCPFlags         uint8  // 0x02: SYN
	Length           int    // bytes of the IP packet, 0: small
	TTL              uint8  // 0: the namespace's default
	DF               bool   // IPv4 don't fragment
	GSO              bool   // a super-packet that devices may segment: MTU does not apply
	Mark             uint32 // SO_MARK
	// Any are the ports that the tables do not determine, after a translation that takes any.
	Any Field
}

// Direction is the way a packet passes an interface.
type Direction uint8

// The directions, seen from the interface's own namespace.
const (
	In Direction = iota + 1
	Out
)

// String gives "in" or "out".
func (d Direction) String() string {
	switch d {
	case In:
		return "in"
	case Out:
		return "out"
	default:
		return "?"
	}
}

// Headers are the addresses of one Ethernet frame. A field whose bit is set in Any can't be told from
// the tables.
type Headers struct {
	EthSrc, EthDst   ether.MAC
	EtherType        uint16 // host byte order
	Src, Dst         netip.Addr
	Proto            uint8
	SrcPort, DstPort uint16
	TTL              uint8
	NoEth            bool // the device carries bare IP packets (TUN)
	Any              Field
}

// Field is a set of header fields.
type Field uint16

// The fields that a lookup can leave open.
const (
	FieldEthSrc Field = 1 << iota
	FieldEthDst
	FieldSrc
	FieldDst
	FieldSrcPort
	FieldDstPort
	FieldTTL
)

// Frame is what a tap would see: the headers of the innermost packet, and those around it.
type Frame struct {
	Headers
	Outer *Outer
}

// Outer is a VXLAN encapsulation (RFC 7348 section 5), or UDP around a bare IP packet.
type Outer struct {
	Headers
	VNI  tables.VNI
	Bare bool // the IP packet stands right behind the UDP header: a proxy in user space sent it
}

// Hop is one passage of an interface, in the order of travel.
type Hop struct {
	Netns     netns.ID
	Node      string
	Name      string // tables.Netns.Name
	Interface string
	Ifindex   tables.Ifindex
	Kind      string // tables.Link.Kind
	Dir       Direction
	Frame     Frame
	// Steps are the decisions since the previous hop.
	Steps []Step
	// Hidden says why a tap on this interface would not show the frame; "" when it would.
	Hidden string
	// Opaque names a program on the device that may take the packet elsewhere.
	Opaque string
	// Bridged marks a bridge that hands a frame from port to port: its own device never carries it.
	Bridged bool
}

// StepKind is the sort of lookup.
type StepKind string

// The kinds of step.
const (
	StepRule      StepKind = "rule"
	StepRoute     StepKind = "route"
	StepNeigh     StepKind = "neigh"
	StepFDB       StepKind = "fdb"    // of a vxlan device
	StepBridge    StepKind = "bridge" // FDB or port state of a bridge
	StepLink      StepKind = "link"
	StepVXLAN     StepKind = "vxlan" // attributes of a vxlan device
	StepSocket    StepKind = "socket"
	StepSysctl    StepKind = "sysctl"
	StepNetfilter StepKind = "netfilter"
	StepUnderlay  StepKind = "underlay"
	StepHook      StepKind = "hook"  // XDP, tc, tcx
	StepIPVS      StepKind = "ipvs"  // a virtual server and the real one that takes its place
	StepIPsec     StepKind = "ipsec" // a policy of IPsec
	StepProxy     StepKind = "proxy" // a process between a TUN device and a UDP socket
)

// Step is one decision with the entry that made it.
type Step struct {
	Kind    StepKind
	Netns   netns.ID
	Node    string
	Ifindex tables.Ifindex // the device that it is about, 0: none
	Fields  []string       // headers at the next hop that it decides: "ethDst", "outer.ipDst", …
	Entry   string         // the row as iproute2 prints it; "" when there is none
	Command string         // shows a person the same row
	Note    string         // what the entry means here

	// Question is what a route step asked its kernel's tables.
	Question *tables.RouteQuestion
	Route    *tables.Route
	Neigh    *tables.Neigh
	FDB      *tables.FDB
	// Virtual and Real are of IPVS; Real is nil where none may be chosen.
	Virtual *tables.VirtualServer
	Real    *tables.RealServer
	IPsec   *tables.IPsecPolicy
	Rule    *netfilter.Ref
	// Accepted are the rules of the same hook that accepted the packet before Rule ended it: an accept ends
	// its own base chain only.
	Accepted []netfilter.Ref
	// PolicyRule is the ip rule that decided, or that skipped tables on the way; Thrown a throw route that did.
	PolicyRule *tables.Rule
	Thrown     *tables.Route
	// Via is the next hop that was taken, of a route with several.
	Via netip.Addr
	// Target is what was looked up: the destination of a route, the next hop of a neigh.
	Target netip.Addr
	MAC    ether.MAC // the link-layer address looked up or found
}

// End is how a leg ends.
type End string

// The ends of a leg.
const (
	Delivered End = "delivered" // to a socket of Leg.Final
	Dropped   End = "dropped"   // by Leg.Drop
	Left      End = "left"      // to hosts that are not in the snapshot
	Unknown   End = "unknown"   // the tables do not say; Leg.Why
)

// Reason is why a kernel drops a packet.
type Reason string

// The reasons that the tables can show, with the kernel's skb_drop_reason (include/net/dropreason-core.h)
// where it has one.
const (
	ReasonNoRoute     Reason = "no-route"     // IP_INNOROUTES, IP_OUTNOROUTES
	ReasonBlackhole   Reason = "blackhole"    // silent
	ReasonUnreachable Reason = "unreachable"  // ICMP host unreachable
	ReasonProhibit    Reason = "prohibit"     // ICMP administratively prohibited
	ReasonForwarding  Reason = "forwarding"   // IP_INADDRERRORS: forwarding is off on the input device
	ReasonRPFilter    Reason = "rp-filter"    // IP_RPFILTER
	ReasonLocalSource Reason = "local-source" // IP_LOCAL_SOURCE: the source is an address of this host
	// ReasonForeignSource is IP_OUTNOROUTES of a source that is no address of this host.
	ReasonForeignSource Reason = "foreign-source"
	ReasonMartian       Reason = "martian"       // IP_INVALID_SOURCE, IP_INVALID_DEST, IP_LOCALNET
	ReasonTTL           Reason = "ttl"           // IP_INHDR, ICMP time exceeded
	ReasonTooBig        Reason = "too-big"       // PKT_TOO_BIG
	ReasonNeigh         Reason = "neigh"         // NEIGH_FAILED
	ReasonNetfilter     Reason = "netfilter"     // NETFILTER_DROP
	ReasonNoFDB         Reason = "no-fdb"        // NO_TX_TARGET
	ReasonOtherHost     Reason = "other-host"    // OTHERHOST: the destination MAC is not the device's
	ReasonLinkDown      Reason = "link-down"     // the device is down
	ReasonNoCarrier     Reason = "no-carrier"    // QDISC_DROP
	ReasonPortState     Reason = "port-state"    // BRIDGE_INGRESS_STP_STATE
	ReasonNoPort        Reason = "no-port"       // no port of the bridge takes the frame
	ReasonNoServer      Reason = "no-server"     // IPVS has no real server to choose: ICMP port unreachable
	ReasonIPsec         Reason = "ipsec"         // XFRM_POLICY; for what leaves, IP_OUTNOROUTES
	ReasonNoSocket      Reason = "no-socket"     // NO_SOCKET
	ReasonNoVNI         Reason = "no-vni"        // VXLAN_VNI_NOT_FOUND
	ReasonLocalMAC      Reason = "local-mac"     // LOCAL_MAC
	ReasonNoPeer        Reason = "no-peer"       // the veth's other end is gone or down
	ReasonLoop          Reason = "loop"          // the same place again and again
	ReasonNoProtocol    Reason = "no-ip"         // IPv6 disabled, or no address of that family
	ReasonVXLANFlags    Reason = "vxlan-flags"   // VXLAN_INVALID_HDR: group policy on one side only
	ReasonVXLANEntry    Reason = "vxlan-entry"   // VXLAN_ENTRY_EXISTS: a static FDB row names another VTEP
	ReasonVLAN          Reason = "vlan"          // VLAN_FILTER, UNHANDLED_PROTO: no VLAN takes the frame
	ReasonNotLocal      Reason = "not-delivered" // arrived where no address of it lives
)

// Drop is where and by which entry a packet dies.
type Drop struct {
	Reason    Reason
	Netns     netns.ID
	Node      string
	Interface string
	Step      Step
	// Silent: of ReasonNeigh, who is asked for is there, and the step keeps it from answering.
	Silent bool
}

// Leg is one direction of one packet's travel.
type Leg struct {
	Hops []Hop
	End  End
	Drop *Drop
	Why  string // of Unknown and Left
	// Tail are the decisions after the last hop: delivery, or the drop.
	Tail []Step
	// Final is the namespace and flow at delivery, as the socket sees the packet.
	Final     netns.ID
	FinalFlow Flow
	// Chance says under which condition this leg is taken, when there are alternatives.
	Chance []string
	// Undecided is the rule of which the tables do not say whether it matches; the leg is what follows if it
	// does, or if it does not. "" where all is known.
	Undecided string
	// ByRate: the chance is a limit or quota that is used up or not, not a choice among equals.
	ByRate bool
	// Notes are oddities that change nothing.
	Notes []string

	state worldState
}

// Options are what the tables do not hold.
type Options struct {
	// Underlay maps an address that is on no interface (the public side of a NAT, a node's
	// public-ip) to the host namespace that it leads to.
	Underlay map[netip.Addr]netns.ID
	// ProxyPort is the UDP port of the nodes' proxies in user space that carry what goes into a TUN device, where
	// the process itself is not in the snapshot; 0: there are none.
	ProxyPort uint16
	// Unread are addresses of endpoints whose namespace was not read: that no station of the snapshot answers for
	// them means nothing.
	Unread []netip.Addr
	// Leases say to which node's address a proxy sends: the ranges that the nodes announced.
	Leases []Lease
}

// Lease is the range of a node's pods and the address that the node announced.
type Lease struct {
	Range netip.Prefix
	Node  netip.Addr
}
