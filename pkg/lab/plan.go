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
	rules   []rule
	tables  []nftTable
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
)

// link is one interface with all that hangs on it.
type link struct {
	name  string
	kind  linkKind
	index int // wanted ifindex; given up where the kernel has already taken it
	mtu   int
	mac   string
	addrs []addr
	down  bool

	master  string // name of the bridge; of the next two only a port makes use
	hairpin bool
	blocked bool // port state "disabled" instead of "forwarding"

	peerNetns, peer string // of a veth: name of the other namespace (without prefix) and device
	vxlan           vxlan
}

// vxlan is what only a VXLAN device has.
type vxlan struct {
	vni   int
	port  int // UDP, host byte order
	local netip.Addr
	dev   string // the lower device
}

type addr struct {
	prefix    netip.Prefix
	broadcast netip.Addr // zero: the last address of the prefix
	// noPrefixRoute: the kernel adds no connected route, as NetworkManager has it.
	noPrefixRoute bool
}

// Values of route.typ, rtnetlink(7) rtm_type.
const (
	routeUnicast   = 1
	routeBlackhole = 6
)

// route is one IPv4 route; numbers as in rtnetlink(7).
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
	scope  int // 253 is link, 0 global
}

const (
	protoKernel = 2
	protoBoot   = 3
	protoStatic = 4
	scopeLink   = 253
	tableMain   = 254
)

// neigh is one permanent neighbour.
type neigh struct {
	ip  netip.Addr
	mac string
	dev string
}

// fdbRow is one permanent "self" row of a VXLAN device.
type fdbRow struct {
	mac string
	dst netip.Addr
	dev string
}

// rule is one policy rule beside the three that every namespace has.
type rule struct {
	pref, table int
}

// Families, numbered as in nfproto (linux/netfilter.h).
const (
	familyINet   = 1
	familyIPv4   = 2
	familyBridge = 7
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
	udpPort        int    // destination port, host byte order
	mark           uint32 // mark and mask are this same value, as in --mark 0x4000/0x4000
	action         action
	jump           string // chain, of actionJump
	comment        string
}

type action int

const (
	actionAccept action = iota
	actionDrop
	actionReturn
	actionJump
	actionMasquerade // --random-fully
	actionReject     // icmpx admin-prohibited
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

func (t *nftTable) chain(name string) *nftChain {
	for i := range t.chains {
		if t.chains[i].name == name {
			return &t.chains[i]
		}
	}
	return nil
}

// plans is the whole lab: the switch, the nodes, the pods.
type plans []*plan

func (ps plans) get(name string) *plan {
	for _, p := range ps {
		if p.name == name {
			return p
		}
	}
	return nil
}
