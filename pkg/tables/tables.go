// Package tables holds what each kernel on a path was told: links, addresses, policy rules, routes,
// neighbours, forwarding databases, sysctls, netfilter rules and counters, one value per network
// namespace, taken once and never changed afterwards.
//
// The types here are portable and marshal to JSON (the tables/NODE/NETNS.json of a bundle); the
// reader that fills them from rtnetlink(7) and /proc/sys is in read_linux.go. Nothing here judges.
package tables

import (
	"net/netip"
	"time"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
)

// NetnsID identifies a network namespace; see netns.ID.
type NetnsID = netns.ID

// Ifindex is an interface index; it means something only inside its namespace. 0 is "none".
type Ifindex int

// VNI is a 24-bit VXLAN network identifier (RFC 7348 section 5).
type VNI uint32

// Snapshot is every namespace that a path may cross, read once.
type Snapshot struct {
	Netns []*Netns `json:"netns"`
}

// Netns is the state of one network namespace.
type Netns struct {
	ID   NetnsID `json:"id"`
	Node string  `json:"node"` // name of the node whose kernel this is
	Name string  `json:"name"` // HostName for the node's own namespace, else "NAMESPACE/POD"
	// Exec is what a person puts before a command to run it inside ("ip netns exec NAME",
	// "nsenter --net=PATH"); empty for the namespace that podtrace itself runs in.
	Exec  string    `json:"exec,omitempty"`
	Taken time.Time `json:"taken"`

	Links  []Link  `json:"links"`
	Addrs  []Addr  `json:"addrs"`
	Rules  []Rule  `json:"rules"`
	Routes []Route `json:"routes"`
	Neighs []Neigh `json:"neighs"`
	FDB    []FDB   `json:"fdb"`
	// Exceptions are the routes that the kernel learned for single destinations (RTM_F_CLONED): a
	// path MTU, a redirect. Each has Route.Expires.
	Exceptions []Route `json:"exceptions,omitempty"`
	// Nexthops are the nexthop objects (ip nexthop) that routes refer to by Route.NexthopID.
	Nexthops []Nexthop `json:"nexthops,omitempty"`

	// Peers maps a netnsid of this namespace (IFLA_LINK_NETNSID) to the namespace's identity, as
	// far as the reader had the other namespace open (RTM_GETNSID).
	Peers map[int]NetnsID `json:"peers,omitempty"`

	// Sysctls holds values by their dotted name without the leading "net.", a device in its place:
	// "ipv4.ip_forward", "ipv4.conf.cni0.forwarding". Device names keep their dots.
	Sysctls map[string]string `json:"sysctls,omitempty"`

	// Proxies are the processes that carry packets between a TUN device and a UDP socket of this namespace.
	Proxies []Proxy `json:"proxies,omitempty"`

	// Cgroup are the programs on cgroups (bpf(2)): of a node's own namespace those on the root, which see packets
	// and calls of every socket there is; of any other those on the cgroups of its processes and above them.
	Cgroup []Hook `json:"cgroup,omitempty"`

	Netfilter *netfilter.Ruleset `json:"netfilter,omitempty"` // nil: not read
	// IPVS are the virtual servers of the namespace (/proc/net/ip_vs).
	IPVS []VirtualServer `json:"ipvs,omitempty"`
	// IPsec are the policies of IPsec, the newest first: of those of one priority the oldest decides.
	IPsec []IPsecPolicy `json:"ipsec,omitempty"`
	// IPCache is what Cilium's map says of the path's addresses, on a machine that has one.
	IPCache []IPCacheEntry `json:"ipcache,omitempty"`
	// SNMP holds the protocol counters of /proc/net/snmp, snmp6 and netstat, "Udp.InCsumErrors".
	SNMP map[string]uint64 `json:"snmp,omitempty"`

	// Incomplete names what could not be read whole, and why ("routes: dump interrupted").
	Incomplete []string `json:"incomplete,omitempty"`
}

// Proxy is a process that has a TUN device open, and a UDP socket in the device's namespace.
type Proxy struct {
	Index   Ifindex        `json:"ifindex"` // of the TUN device
	PID     int            `json:"pid,omitempty"`
	Process string         `json:"process,omitempty"` // its name, as /proc/PID/comm has it
	Local   netip.AddrPort `json:"local"`             // of the socket, host byte order; the address is unspecified where it is bound to none
}

// HostName is the Netns.Name of a node's own network namespace.
const HostName = "host"

// Link is one interface.
type Link struct {
	Index Ifindex   `json:"index"`
	Name  string    `json:"name"`
	Kind  string    `json:"kind,omitempty"` // IFLA_INFO_KIND: "veth", "bridge", "vxlan", "tun", …; "" for hardware and lo
	MAC   ether.MAC `json:"mac"`
	MTU   int       `json:"mtu"` // bytes of layer 3

	Up         bool   `json:"up"`      // IFF_UP: set up by the administrator
	LowerUp    bool   `json:"lowerUp"` // IFF_LOWER_UP: carrier
	Loopback   bool   `json:"loopback,omitempty"`
	PointToP   bool   `json:"pointToPoint,omitempty"`
	Broadcast  bool   `json:"broadcast,omitempty"`
	NoARP      bool   `json:"noarp,omitempty"`
	Promisc    int    `json:"promiscuity,omitempty"` // IFLA_PROMISCUITY: how many ask for promiscuous mode
	AllMulti   bool   `json:"allmulti,omitempty"`
	OperState  string `json:"operstate,omitempty"` // RFC 2863: "up", "down", "lowerlayerdown", "unknown", …
	HardwareTy uint16 `json:"arphrd"`              // ARPHRD_*: 1 Ethernet, 772 loopback, 65534 none (TUN)
	Flags      uint32 `json:"flags"`               // IFF_* as netdevice(7) numbers them, all of them
	Group      uint32 `json:"group,omitempty"`     // IFLA_GROUP, which suppress_ifgroup of a rule refers to

	// Parent is IFLA_LINK: the veth's peer, the vxlan's or macvlan's lower device. It is an index in
	// the namespace ParentNetns says: -1 for this one, else a netnsid to look up in Netns.Peers.
	Parent      Ifindex `json:"parent,omitempty"`
	ParentNetns int     `json:"parentNetns"`
	Master      Ifindex `json:"master,omitempty"` // the bridge, bond or VRF that it is enslaved to

	VXLAN   *VXLAN      `json:"vxlan,omitempty"`
	Bridge  *Bridge     `json:"bridge,omitempty"`
	Port    *BridgePort `json:"port,omitempty"` // set when Master is a bridge
	Macvlan string      `json:"macvlanMode,omitempty"`
	VRF     uint32      `json:"vrfTable,omitempty"` // of a VRF device: its table
	VLANID  uint16      `json:"vlan,omitempty"`     // of a vlan device
	Hooks   []Hook      `json:"hooks,omitempty"`    // programs that see packets before or after the stack
	// EthtoolPeer is peer_ifindex of "ethtool -S", the veth driver's own word for Parent; 0: not read.
	EthtoolPeer Ifindex `json:"ethtoolPeer,omitempty"`
	Qdisc       string  `json:"qdisc,omitempty"` // root queueing discipline
	Alias       string  `json:"alias,omitempty"` // IFLA_IFALIAS
	GSOMax      uint32  `json:"gsoMaxSize,omitempty"`
	Stats       Stats   `json:"stats"`
}

// Hook is a program attached to a device (XDP, tcx, a tc filter) or to a cgroup.
type Hook struct {
	Where string `json:"where"` // "cgroup-egress", "xdp", "tc-ingress", "tc-egress", "tcx-ingress", "tcx-egress", "netkit"
	Kind  string `json:"kind"`  // "bpf", "u32", "flower", …
	Name  string `json:"name,omitempty"`
	ID    uint32 `json:"id,omitempty"`
	Tag   string `json:"tag,omitempty"`
	Entry string `json:"entry"` // one line, as tc(8) or ip(8) shows it
	// Cgroup is the cgroup that it is attached to, in the unified hierarchy; "": it is no cgroup's.
	Cgroup string `json:"cgroup,omitempty"`
}

// VXLAN is the configuration of a vxlan device (IFLA_VXLAN_*).
type VXLAN struct {
	VNI         VNI        `json:"vni"`
	Port        uint16     `json:"port"` // UDP destination port, host byte order
	SrcPortLow  uint16     `json:"srcPortLow,omitempty"`
	SrcPortHigh uint16     `json:"srcPortHigh,omitempty"`
	Local       netip.Addr `json:"local"`           // source of the outer header; invalid: chosen by route
	Group       netip.Addr `json:"group"`           // default destination, multicast or unicast; invalid: none
	Lower       Ifindex    `json:"lower,omitempty"` // "dev"; 0: chosen by route
	TTL         int        `json:"ttl"`             // 0: the namespace's default (ip_default_ttl)
	TTLInherit  bool       `json:"ttlInherit,omitempty"`
	TOS         int        `json:"tos"`          // 1: inherit
	DF          string     `json:"df,omitempty"` // "unset", "set", "inherit"
	Learning    bool       `json:"learning"`
	Ageing      int        `json:"ageing"` // seconds
	GBP         bool       `json:"gbp,omitempty"`
	GPE         bool       `json:"gpe,omitempty"`
	FlowBased   bool       `json:"external,omitempty"` // collect metadata
	Proxy       bool       `json:"proxy,omitempty"`    // answers ARP from the neighbour table
	RSC         bool       `json:"rsc,omitempty"`
	L2Miss      bool       `json:"l2miss,omitempty"`
	L3Miss      bool       `json:"l3miss,omitempty"`
	UDPCsum     bool       `json:"udpCsum,omitempty"` // outer UDP checksum over IPv4 is sent
	UDP6ZeroTx  bool       `json:"udp6ZeroTx,omitempty"`
	UDP6ZeroRx  bool       `json:"udp6ZeroRx,omitempty"`
	LocalBypass bool       `json:"localbypass"` // deliver to a local VTEP without encapsulation
}

// Bridge is the configuration of a bridge device.
type Bridge struct {
	STP           bool   `json:"stp,omitempty"`
	VLANFiltering bool   `json:"vlanFiltering,omitempty"`
	Ageing        int    `json:"ageing"` // seconds
	DefaultPVID   uint16 `json:"defaultPVID,omitempty"`
	VLANs         []VLAN `json:"vlans,omitempty"`          // that the bridge itself is in (bridge vlan … self)
	NFCallIP      bool   `json:"nfCallIptables,omitempty"` // the bridge's own switch, beside the sysctl
	NFCallIP6     bool   `json:"nfCallIp6tables,omitempty"`
	NFCallARP     bool   `json:"nfCallArptables,omitempty"`
}

// BridgePort is the state of an interface as a port of its bridge (IFLA_BRPORT_*).
type BridgePort struct {
	No            uint16 `json:"no"`
	State         string `json:"state"` // "disabled", "listening", "learning", "forwarding", "blocking"
	Hairpin       bool   `json:"hairpin,omitempty"`
	Guard         bool   `json:"guard,omitempty"`
	Isolated      bool   `json:"isolated,omitempty"`
	Learning      bool   `json:"learning"`
	Flood         bool   `json:"flood"`
	MulticastFl   bool   `json:"mcastFlood"`
	BroadcastFl   bool   `json:"bcastFlood"`
	ProxyARP      bool   `json:"proxyArp,omitempty"`
	NeighSuppress bool   `json:"neighSuppress,omitempty"`
	Locked        bool   `json:"locked,omitempty"`
	VLANs         []VLAN `json:"vlans,omitempty"`
}

// VLAN is one entry of the VLAN table of a bridge or of one of its ports.
type VLAN struct {
	ID       uint16 `json:"id"`
	PVID     bool   `json:"pvid,omitempty"`
	Untagged bool   `json:"untagged,omitempty"`
}

// Stats are the counters of IFLA_STATS64 that bear on loss, in packets.
type Stats struct {
	RxPackets     uint64 `json:"rxPackets"`
	TxPackets     uint64 `json:"txPackets"`
	RxErrors      uint64 `json:"rxErrors"`
	TxErrors      uint64 `json:"txErrors"`
	RxDropped     uint64 `json:"rxDropped"`
	TxDropped     uint64 `json:"txDropped"`
	TxCarrier     uint64 `json:"txCarrierErrors"`
	RxNoHandler   uint64 `json:"rxNohandler,omitempty"`
	RxMissed      uint64 `json:"rxMissed,omitempty"`
	RxOverErrors  uint64 `json:"rxOverErrors,omitempty"`
	RxFrameErrors uint64 `json:"rxFrameErrors,omitempty"`
	RxCRCErrors   uint64 `json:"rxCrcErrors,omitempty"`
}

// Addr is one address of an interface.
type Addr struct {
	Index     Ifindex      `json:"index"`
	Prefix    netip.Prefix `json:"prefix"` // the address with the length of its subnet, unmasked
	Peer      netip.Prefix `json:"peer,omitzero"`
	Broadcast netip.Addr   `json:"broadcast,omitzero"`
	Scope     uint8        `json:"scope"`           // RT_SCOPE_*: 0 universe, 253 link, 254 host
	Flags     uint32       `json:"flags,omitempty"` // IFA_F_*: tentative, deprecated, dadfailed, noprefixroute
}

// Rule is one policy routing rule (ip-rule(8)). Zero-valued selectors match everything.
type Rule struct {
	Family   uint8        `json:"family"` // AF_INET or AF_INET6 as Linux numbers them: 2, 10
	Priority uint32       `json:"priority"`
	Invert   bool         `json:"not,omitempty"`
	Src      netip.Prefix `json:"from,omitzero"`
	Dst      netip.Prefix `json:"to,omitzero"`
	IIF      string       `json:"iif,omitempty"`
	OIF      string       `json:"oif,omitempty"`
	TOS      uint8        `json:"tos,omitempty"`
	Mark     uint32       `json:"fwmark,omitempty"`
	Mask     uint32       `json:"fwmask,omitempty"` // 0 when no mark is asked for
	IPProto  uint8        `json:"ipproto,omitempty"`
	SPort    *PortRange   `json:"sport,omitempty"`
	DPort    *PortRange   `json:"dport,omitempty"`
	UIDRange *UIDRange    `json:"uidrange,omitempty"`
	TunID    uint64       `json:"tunId,omitempty"`
	L3MDev   bool         `json:"l3mdev,omitempty"`
	Action   RuleAction   `json:"action"`
	Table    uint32       `json:"table,omitempty"`
	Goto     uint32       `json:"goto,omitempty"` // priority that a goto jumps to
	// SuppressPrefixLen makes the rule ignore routes of at most this length; -1: off.
	SuppressPrefixLen int    `json:"suppressPrefixlength"`
	SuppressIfGroup   int    `json:"suppressIfgroup"` // -1: off
	Protocol          uint8  `json:"protocol,omitempty"`
	Unknown           string `json:"unknown,omitempty"` // attributes that this reader does not know
}

// PortRange is an inclusive range of ports.
type PortRange struct {
	Lo uint16 `json:"lo"`
	Hi uint16 `json:"hi"`
}

// UIDRange is an inclusive range of user ids.
type UIDRange struct {
	Lo uint32 `json:"lo"`
	Hi uint32 `json:"hi"`
}

// RuleAction is FR_ACT_* of linux/fib_rules.h by name.
type RuleAction string

// The actions of a policy rule.
const (
	RuleTable       RuleAction = "lookup"
	RuleGoto        RuleAction = "goto"
	RuleNop         RuleAction = "nop"
	RuleBlackhole   RuleAction = "blackhole"
	RuleUnreachable RuleAction = "unreachable"
	RuleProhibit    RuleAction = "prohibit"
)

// RouteType is RTN_* by the name of ip-route(8).
type RouteType string

// The types of route.
const (
	RouteUnicast     RouteType = "unicast"
	RouteLocal       RouteType = "local"
	RouteBroadcast   RouteType = "broadcast"
	RouteAnycast     RouteType = "anycast"
	RouteMulticast   RouteType = "multicast"
	RouteBlackhole   RouteType = "blackhole"
	RouteUnreachable RouteType = "unreachable"
	RouteProhibit    RouteType = "prohibit"
	RouteThrow       RouteType = "throw"
)

// Table numbers that every kernel has (rtnetlink(7)).
const (
	TableDefault uint32 = 253
	TableMain    uint32 = 254
	TableLocal   uint32 = 255
)

// PrefMain is the preference of the kernel's own rule for table main (net/ipv4/fib_rules.c).
const PrefMain = 32766

// Route is one entry of a routing table.
type Route struct {
	Table    uint32       `json:"table"`
	Type     RouteType    `json:"type"`
	Dst      netip.Prefix `json:"dst"`          // masked; a default route is 0.0.0.0/0 or ::/0
	Src      netip.Prefix `json:"src,omitzero"` // IPv6 source routing (ip route add from)
	Metric   uint32       `json:"metric,omitempty"`
	TOS      uint8        `json:"tos,omitempty"`
	Protocol uint8        `json:"protocol,omitempty"` // RTPROT_*
	Scope    uint8        `json:"scope"`
	PrefSrc  netip.Addr   `json:"prefsrc,omitzero"`
	MTU      uint32       `json:"mtu,omitempty"` // RTAX_MTU, bytes
	MTULock  bool         `json:"mtuLock,omitempty"`
	// NextHops has one element for an ordinary route, several for a multipath one, and none for the
	// types that lead nowhere.
	NextHops  []NextHop `json:"nexthops,omitempty"`
	NexthopID uint32    `json:"nhid,omitempty"` // RTA_NH_ID, with NextHops as the kernel resolved them
	Pref      uint8     `json:"pref,omitempty"` // IPv6 router preference
	Flags     uint32    `json:"flags,omitempty"`
	Expires   uint32    `json:"expires,omitempty"` // seconds; exceptions of IPv6
}

// RouteQuestion is what a packet asks the routing tables (struct flowi4, flowi6).
type RouteQuestion struct {
	Dst   netip.Addr `json:"dst"`
	Src   netip.Addr `json:"src,omitzero"`  // invalid: not chosen yet
	IIF   Ifindex    `json:"iif,omitempty"` // 0: a packet of local origin
	OIF   Ifindex    `json:"oif,omitempty"` // 0: any
	TOS   uint8      `json:"tos,omitempty"`
	Mark  uint32     `json:"mark,omitempty"`
	Proto uint8      `json:"proto,omitempty"`
	SPort uint16     `json:"sport,omitempty"`
	DPort uint16     `json:"dport,omitempty"`
}

// NextHop is one way out of a route.
type NextHop struct {
	Gateway netip.Addr `json:"via,omitzero"` // invalid: the destination is on the link; may be IPv6 for an IPv4 route
	Index   Ifindex    `json:"dev,omitempty"`
	Weight  int        `json:"weight,omitempty"` // 1 and up
	Onlink  bool       `json:"onlink,omitempty"`
	Dead    bool       `json:"dead,omitempty"`     // RTNH_F_DEAD
	LinkDn  bool       `json:"linkdown,omitempty"` // RTNH_F_LINKDOWN
	Encap   string     `json:"encap,omitempty"`    // lightweight tunnel, as ip(8) names it
}

// Nexthop is a nexthop object.
type Nexthop struct {
	ID        uint32   `json:"id"`
	Hop       NextHop  `json:"hop"`
	Blackhole bool     `json:"blackhole,omitempty"`
	Group     []uint32 `json:"group,omitempty"`
}

// NeighState is NUD_* of linux/neighbour.h.
type NeighState uint16

// States of a neighbour entry, one bit each.
const (
	NUDIncomplete NeighState = 0x01
	NUDReachable  NeighState = 0x02
	NUDStale      NeighState = 0x04
	NUDDelay      NeighState = 0x08
	NUDProbe      NeighState = 0x10
	NUDFailed     NeighState = 0x20
	NUDNoARP      NeighState = 0x40
	NUDPermanent  NeighState = 0x80
)

// Valid reports whether the entry's address may be used to send (NUD_VALID).
func (s NeighState) Valid() bool {
	return s&(NUDPermanent|NUDNoARP|NUDReachable|NUDProbe|NUDStale|NUDDelay) != 0
}

// String gives the name that ip-neighbour(8) prints.
func (s NeighState) String() string {
	names := []struct {
		bit  NeighState
		name string
	}{
		{NUDPermanent, "PERMANENT"}, {NUDNoARP, "NOARP"}, {NUDReachable, "REACHABLE"}, {NUDStale, "STALE"},
		{NUDDelay, "DELAY"}, {NUDProbe, "PROBE"}, {NUDFailed, "FAILED"}, {NUDIncomplete, "INCOMPLETE"},
	}
	for _, n := range names {
		if s&n.bit != 0 {
			return n.name
		}
	}
	return "NONE"
}

// Neigh is one entry of the ARP or ND cache.
type Neigh struct {
	Index  Ifindex    `json:"index"`
	IP     netip.Addr `json:"ip"`
	MAC    ether.MAC  `json:"mac"`
	State  NeighState `json:"state"`
	Router bool       `json:"router,omitempty"`
	Proxy  bool       `json:"proxy,omitempty"` // a proxy entry (ip neigh add proxy): podtrace's kernel answers for it
	ExtLrn bool       `json:"externLearn,omitempty"`
}

// FDB is one row of a bridge's or a vxlan device's forwarding database (bridge-fdb(8)).
type FDB struct {
	Index  Ifindex    `json:"index"`            // the port, or the vxlan device itself
	Master Ifindex    `json:"master,omitempty"` // the bridge whose table it is ("master"); 0 for a "self" row
	MAC    ether.MAC  `json:"mac"`              // all zero in a vxlan device: the default destination
	VLAN   uint16     `json:"vlan,omitempty"`
	State  NeighState `json:"state"`          // permanent, reachable (dynamic), noarp (static), stale
	Dst    netip.Addr `json:"dst,omitzero"`   // vxlan: the remote VTEP's underlay address
	Port   uint16     `json:"port,omitempty"` // vxlan: overrides the device's port
	VNI    VNI        `json:"vni,omitempty"`  // vxlan: overrides the device's VNI
	SrcVNI VNI        `json:"srcVni,omitempty"`
	Via    Ifindex    `json:"via,omitempty"` // vxlan: overrides the lower device
	NHID   uint32     `json:"nhid,omitempty"`
	Sticky bool       `json:"sticky,omitempty"`
	ExtLrn bool       `json:"externLearn,omitempty"`
	Local  bool       `json:"local,omitempty"` // an address of the bridge or of the port itself
	// Updated is the age in seconds since the row was last refreshed (NDA_CACHEINFO).
	Updated uint32 `json:"updated,omitempty"`
}
