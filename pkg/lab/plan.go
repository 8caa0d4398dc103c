package lab

import (
	"net/netip"
	"slices"
)

// plan is what one network namespace of the lab should hold. Everything in it is plain data, so
// that a fault is a change of it and needs no kernel to be tested.
type plan struct {
	name    string
	sysctls []sysctl
	links   []link
	routes  []route
	neighs  []neigh
	fdb     []fdbRow
	// rules are the policy rules of IPv4 beside those of tables main and default. localPref is the
	// preference of the one of table local, which Cilium moves back.
	rules     []rule
	localPref int
	tables    []nftTable
	legacy    string       // for iptables-legacy-restore
	restore   string       // for iptables-nft-restore, beside tables
	netpol    *kubeRouter  // nil: no network policies
	proxies   []*kubeProxy // one a family; none: no services
	flows     []flow       // conntrack entries to be put in
	fullConns bool         // as many of them as the machine allows
}

// sysctl is one file below /proc/sys/net.
type sysctl struct {
	path  string // "ipv4/conf/flannel.1/rp_filter": a device name keeps its dots
	value string
	// optional: the kernel may lack it (br_netfilter is a module that the lab does not load).
	optional bool
}

type linkKind string

const (
	kindBridge linkKind = "bridge"
	kindVXLAN  linkKind = "vxlan"
	kindVeth   linkKind = "veth"
	kindTUN    linkKind = "tuntap"
)

// link is one interface with all that hangs on it.
type link struct {
	name  string
	kind  linkKind
	index int // wanted ifindex; given up where the kernel has already taken it
	mtu   int
	mac   string // empty: it has none
	addrs []addr
	down  bool
	// noQueue: a transmit queue length of 0, which flanneld and the CNI plugin bridge give their devices.
	noQueue bool
	// noOffload: no checksum and segmentation offload, as GSO frames pass links that are too small.
	noOffload bool

	master  string // name of the bridge; of the next two only a port makes use
	hairpin bool
	blocked bool // port state "disabled" instead of "forwarding"

	peerNetns, peer string // of a veth: name of the other namespace (without prefix) and device
	vxlan           vxlan

	ingress, egress *program // of tc; nil: none
}

// vxlan is what only a VXLAN device has.
type vxlan struct {
	vni   int
	port  int // UDP, host byte order
	local netip.Addr
	dev   string // the lower device
	// gbp is the group-policy extension; learning fills the FDB from what is received; ageing is in
	// seconds, 0 the kernel's default.
	gbp, learning bool
	ageing        int
}

type addr struct {
	prefix    netip.Prefix
	broadcast netip.Addr // zero: the last address of the prefix
	// noPrefixRoute: the kernel adds no connected route, as NetworkManager has it.
	noPrefixRoute bool
	scope         int // as of a route
}

// Values of route.typ, rtnetlink(7) rtm_type.
const (
	routeUnicast   = 1
	routeLocal     = 2
	routeBlackhole = 6
)

// route is one route; numbers as in rtnetlink(7).
type route struct {
	dst    netip.Prefix
	via    netip.Addr
	src    netip.Addr
	dev    string
	onlink bool
	typ    int // 0: unicast
	table  int // 0: main
	metric int
	proto  int // 0: boot, what ip-route(8) writes
	scope  int // 253 is link, 0 global; IPv6 has none
}

func (r route) is6() bool { return r.dst.Addr().Is6() || r.via.Is6() }

const (
	protoKernel = 2
	protoBoot   = 3
	protoStatic = 4
	scopeLink   = 253
	scopeHost   = 254
	tableMain   = 254

	metricKernel6 = 256  // of a connected IPv6 route
	metricUser6   = 1024 // of an IPv6 route that was added without one
)

// neigh is one neighbour, permanent unless stale.
type neigh struct {
	ip    netip.Addr
	mac   string
	dev   string
	stale bool
}

// fdbRow is one "self" row of a VXLAN device, permanent unless dynamic.
type fdbRow struct {
	mac     string
	dst     netip.Addr
	dev     string
	dynamic bool
}

// rule is one policy rule; it matches what is set.
type rule struct {
	pref, table int
	src, dst    netip.Prefix
	mark, mask  uint32
}

// flow is a conntrack entry of a UDP flow from src to dst that is answered by replySrc.
type flow struct {
	src, dst, replySrc netip.AddrPort
}

// Families, numbered as in nfproto (linux/netfilter.h).
const (
	familyINet   = 1
	familyIPv4   = 2
	familyBridge = 7
	familyIPv6   = 10
)

type nftTable struct {
	family int
	name   string
	chains []nftChain
}

// nftChain is a base chain if hook is set.
type nftChain struct {
	name     string
	typ      string // "filter" or "nat"
	hook     string // "prerouting", "input", "forward", "output", "postrouting"
	priority int
	drop     bool // policy drop instead of accept
	rules    []nftRule
}

// nftRule matches all that is set and then acts. A counter comes before the action.
type nftRule struct {
	src, dst       netip.Prefix
	notSrc, notDst bool
	iif, oif       string
	notOif         bool
	udpPort        int // destination port, host byte order
	tcp            bool
	icmp           *icmpType
	mark           uint32 // mark and mask are this same value, as in --mark 0x4000/0x4000
	action         action
	jump           string     // chain, of actionJump
	to             netip.Addr // of actionDNAT and actionSNAT
	toPort         int        // of actionMasquerade; 0: any
	inOrder        bool       // actionMasquerade without --random-fully
	comment        string
}

// icmpType is type and code of ICMP, RFC 792.
type icmpType struct{ typ, code byte }

type action int

const (
	actionAccept action = iota
	actionDrop
	actionReturn
	actionJump
	actionMasquerade // --random-fully
	actionReject     // icmpx admin-prohibited
	actionDNAT
	actionSNAT
	actionBadChecksum // sets the UDP checksum to one that is wrong
)

// link gives the link of that name, for editing; nil if there is none.
func (p *plan) link(name string) *link {
	for i := range p.links {
		if p.links[i].name == name {
			return &p.links[i]
		}
	}
	return nil
}

// isUp reports whether the plan has the device and has it up.
func (p *plan) isUp(name string) bool {
	l := p.link(name)
	return l != nil && !l.down
}

func (p *plan) setSysctl(path, value string) {
	for i := range p.sysctls {
		if p.sysctls[i].path == path {
			p.sysctls[i].value = value
			return
		}
	}
	p.sysctls = append(p.sysctls, sysctl{path: path, value: value})
}

// dropRoutes removes the routes that match.
func (p *plan) dropRoutes(match func(route) bool) { p.routes = slices.DeleteFunc(p.routes, match) }

// table gives the nft table of that family and name, for editing; nil if there is none.
func (p *plan) table(family int, name string) *nftTable {
	for i := range p.tables {
		if p.tables[i].family == family && p.tables[i].name == name {
			return &p.tables[i]
		}
	}
	return nil
}

// chain gives a chain of one of the nft tables, for editing; nil if there is none.
func (p *plan) chain(family int, table, name string) *nftChain {
	if t := p.table(family, table); t != nil {
		return t.chain(name)
	}
	return nil
}

func (t *nftTable) chain(name string) *nftChain {
	for i := range t.chains {
		if t.chains[i].name == name {
			return &t.chains[i]
		}
	}
	return nil
}

// orDefault is v, or what stands for 0.
func orDefault(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

// plans is the whole lab: the network between the nodes, the nodes, the pods.
type plans []*plan

func (ps plans) get(name string) *plan {
	for _, p := range ps {
		if p.name == name {
			return p
		}
	}
	return nil
}
