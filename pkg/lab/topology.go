package lab

import (
	"fmt"
	"net/netip"
	"slices"
)

// Numbers that flanneld was configured with in document 000 (its net-conf.json).
const (
	vtepName   = "flannel.1"
	bridgeName = "cni0"
	vxlanVNI   = 1
	vxlanPort  = 8472
	overlayMTU = 1450 // 1500 less 50: outer Ethernet, IPv4, UDP and VXLAN headers
	uplinkMTU  = 1500

	httpPort = 8080
	echoPort = 7 // RFC 862, TCP and UDP
)

var (
	clusterCIDR = netip.MustParsePrefix("10.244.0.0/16")
	underlay    = netip.MustParsePrefix("10.1.11.0/24")
	gateway     = netip.MustParseAddr("10.1.11.1")
	deadHost    = netip.MustParseAddr("10.1.11.99") // nobody has it: for faults
	dockerNet   = netip.MustParsePrefix("172.17.0.1/16")
)

// switchName is the namespace of the underlay: a bridge between the uplinks, and the default
// gateway of the nodes, which forwards nothing.
const switchName = "switch"

const (
	switchBridge = "underlay"
	switchMAC    = "00:50:56:ab:00:01"
)

// node is one machine of the cluster.
type node struct {
	name      string
	ip        netip.Addr
	uplink    string
	uplinkMAC string
	dockerMAC string
	podCIDR   netip.Prefix
	vtepMAC   string
	bridgeMAC string
	// staleFDB are rows of VTEPs that are gone; they do no harm (document 000 lists two).
	staleFDB []fdbRow
}

// vtep is the address of the node's VXLAN device, the first of its podCIDR.
func (n node) vtep() netip.Addr { return n.podCIDR.Addr() }

// gateway is the address of the node's bridge, the pods' default gateway.
func (n node) gateway() netip.Addr { return n.podCIDR.Addr().Next() }

// switchPort is the name of the switch's end of the node's uplink.
func (n node) switchPort() string { return "port-" + n.name }

// pod is one pod of the cluster.
type pod struct {
	name, app, node string
	ip              netip.Addr
	mac             string
	hostVeth        string
	hostMAC         string
	hostIndex       int // ifindex of the host's end; eth0 has podIndex
}

// podIndex is the ifindex of every pod's eth0, as in document 000 (eth0@if33 is 3).
const podIndex = 3

// nodes and pods are the cluster of document 000. What the document does not show (tea-1, the
// devices of coffee-2) is chosen in its manner.
var nodes = []node{
	{
		name: "node1", ip: netip.MustParseAddr("10.1.11.91"),
		uplink: "ens192", uplinkMAC: "00:50:56:ab:81:34", dockerMAC: "02:42:ae:ed:49:a1",
		podCIDR: netip.MustParsePrefix("10.244.1.0/24"),
		vtepMAC: "1e:0f:7e:bb:26:2b", bridgeMAC: "8e:62:4b:7f:4b:ab",
		staleFDB: []fdbRow{
			{mac: "06:ee:53:fd:1a:a9", dst: netip.MustParseAddr("10.1.11.92"), dev: vtepName},
			{mac: "36:36:40:76:1c:9f", dst: netip.MustParseAddr("10.1.11.90"), dev: vtepName},
		},
	},
	{
		name: "node2", ip: netip.MustParseAddr("10.1.11.92"),
		uplink: "eno16780032", uplinkMAC: "00:50:56:ab:00:3b", dockerMAC: "02:42:44:44:ad:a8",
		podCIDR: netip.MustParsePrefix("10.244.2.0/24"),
		vtepMAC: "ce:b8:fc:a6:06:d2", bridgeMAC: "4a:ab:da:9d:27:34",
	},
}

var pods = []pod{
	{
		name: "coffee-1", app: "coffee", node: "node1", ip: netip.MustParseAddr("10.244.1.32"),
		mac: "4a:9e:70:55:74:ac", hostVeth: "veth33136931", hostMAC: "4a:28:d3:7d:dd:3f", hostIndex: 33,
	},
	{
		name: "tea-1", app: "tea", node: "node1", ip: netip.MustParseAddr("10.244.1.33"),
		mac: "7e:5d:02:c8:41:9b", hostVeth: "veth7e2ad0c4", hostMAC: "be:13:6f:a0:27:58", hostIndex: 34,
	},
	{
		name: "coffee-2", app: "coffee", node: "node2", ip: netip.MustParseAddr("10.244.2.40"),
		mac: "0e:81:c4:3a:96:d7", hostVeth: "vethb81f02da", hostMAC: "c6:4f:58:e2:0b:71", hostIndex: 41,
	},
}

// lease is a member of the overlay that the lab does not run: the nodes hold its route, neighbour
// and FDB row like those of each other.
type lease struct {
	podCIDR netip.Prefix
	vtepMAC string
	ip      netip.Addr
}

// absent are the other two leases of document 000: the control plane node and the BIG-IP, a VTEP
// that is no Linux machine at all.
var absent = []lease{
	{netip.MustParsePrefix("10.244.0.0/24"), "5a:1c:17:98:e6:eb", netip.MustParseAddr("10.1.11.90")},
	{netip.MustParsePrefix("10.244.3.0/24"), "00:50:56:ab:9e:f8", netip.MustParseAddr("10.1.11.89")},
}

// peersOf are the leases that node n has learnt.
func peersOf(n node) []lease {
	leases := slices.Clone(absent)
	for _, m := range nodes {
		if m.name != n.name {
			leases = append(leases, lease{m.podCIDR, m.vtepMAC, m.ip})
		}
	}
	return leases
}

// topology makes the plans of a whole lab without faults.
func topology() plans {
	ps := plans{planSwitch()}
	for _, n := range nodes {
		ps = append(ps, planNode(n))
	}
	for _, p := range pods {
		ps = append(ps, planPod(p))
	}
	return ps
}

func planSwitch() *plan {
	p := &plan{name: switchName, links: []link{{
		name: switchBridge, kind: kindBridge, mtu: uplinkMTU, mac: switchMAC,
		addrs: []addr{{prefix: netip.PrefixFrom(gateway, underlay.Bits())}},
	}}}
	p.routes = []route{connected(underlay, gateway, switchBridge)}
	for i, n := range nodes {
		p.links = append(p.links, link{
			name: n.switchPort(), kind: kindVeth, mtu: uplinkMTU, mac: fmt.Sprintf("02:50:56:ab:00:%02x", i+1),
			master: switchBridge, peerNetns: n.name, peer: n.uplink,
		})
	}
	p.sysctls = baseSysctls("0", p.links)
	p.setSysctl("bridge/bridge-nf-call-iptables", "0") // a switch has no netfilter
	return p
}

func planNode(n node) *plan {
	p := &plan{name: n.name, links: nodeLinks(n), routes: nodeRoutes(n), tables: nodeTables(n)}
	for _, l := range peersOf(n) {
		p.routes = append(p.routes, route{dst: l.podCIDR, via: l.podCIDR.Addr(), dev: vtepName, onlink: true})
		p.neighs = append(p.neighs, neigh{l.podCIDR.Addr(), l.vtepMAC, vtepName})
		p.fdb = append(p.fdb, fdbRow{l.vtepMAC, l.ip, vtepName})
	}
	p.fdb = append(p.fdb, n.staleFDB...)
	p.sysctls = baseSysctls("1", p.links)
	return p
}

func nodeLinks(n node) []link {
	links := []link{
		{
			name: n.uplink, kind: kindVeth, index: 2, mtu: uplinkMTU, mac: n.uplinkMAC,
			addrs:     []addr{{prefix: netip.PrefixFrom(n.ip, underlay.Bits()), noPrefixRoute: true}},
			peerNetns: switchName, peer: n.switchPort(),
		},
		{name: "docker0", kind: kindBridge, index: 3, mtu: 1500, mac: n.dockerMAC, addrs: []addr{{prefix: dockerNet}}},
		{
			name: vtepName, kind: kindVXLAN, index: 4, mtu: overlayMTU, mac: n.vtepMAC,
			// flanneld gives the /32 its own address as broadcast, as the document's listing shows.
			addrs: []addr{{prefix: netip.PrefixFrom(n.vtep(), 32), broadcast: n.vtep()}},
			vxlan: vxlan{vni: vxlanVNI, port: vxlanPort, local: n.ip, dev: n.uplink},
		},
		{
			name: bridgeName, kind: kindBridge, index: 5, mtu: overlayMTU, mac: n.bridgeMAC,
			addrs: []addr{{prefix: netip.PrefixFrom(n.gateway(), n.podCIDR.Bits())}},
		},
	}
	for _, pod := range pods {
		if pod.node == n.name {
			links = append(links, link{
				name: pod.hostVeth, kind: kindVeth, index: pod.hostIndex, mtu: overlayMTU, mac: pod.hostMAC,
				master: bridgeName, hairpin: true, peerNetns: pod.name, peer: "eth0",
			})
		}
	}
	return links
}

func nodeRoutes(n node) []route {
	uplink := connected(underlay, n.ip, n.uplink)
	uplink.metric = 100
	return []route{
		{via: gateway, dev: n.uplink, metric: 100, proto: protoStatic},
		uplink,
		connected(n.podCIDR, n.gateway(), bridgeName),
		connected(dockerNet, dockerNet.Addr(), "docker0"),
	}
}

// connected is the route that the kernel adds with an address.
func connected(dst netip.Prefix, src netip.Addr, dev string) route {
	return route{dst: dst.Masked(), src: src, dev: dev, proto: protoKernel, scope: scopeLink}
}

func planPod(p pod) *plan {
	n := nodeOf(p)
	links := []link{{
		name: "eth0", kind: kindVeth, index: podIndex, mtu: overlayMTU, mac: p.mac,
		addrs:     []addr{{prefix: netip.PrefixFrom(p.ip, n.podCIDR.Bits())}},
		peerNetns: n.name, peer: p.hostVeth,
	}}
	return &plan{
		name:    p.name,
		links:   links,
		sysctls: baseSysctls("0", links),
		routes: []route{
			{via: n.gateway(), dev: "eth0"},
			{dst: clusterCIDR, via: n.gateway(), dev: "eth0"},
			connected(n.podCIDR, p.ip, "eth0"),
		},
	}
}

func nodeOf(p pod) node {
	i := slices.IndexFunc(nodes, func(n node) bool { return n.name == p.node })
	return nodes[i] // the tables above are consistent; a test sees to it
}

// baseSysctls sets whatever decides the path of a packet, as a new namespace copies most of it from
// the host's. IPv6 is off: its router solicitations and duplicate address detection would make
// traffic that nobody asked for, and document 000 has none.
func baseSysctls(forward string, links []link) []sysctl {
	s := []sysctl{
		{path: "ipv6/conf/all/disable_ipv6", value: "1", optional: true},
		{path: "ipv6/conf/default/disable_ipv6", value: "1", optional: true},
		{path: "ipv4/ip_forward", value: forward},
		{path: "bridge/bridge-nf-call-iptables", value: "1", optional: true},
		{path: "bridge/bridge-nf-call-arptables", value: "0", optional: true},
	}
	names := []string{"all", "default"}
	for _, l := range links {
		names = append(names, l.name)
	}
	for _, name := range names {
		conf := "ipv4/conf/" + name + "/"
		s = append(s, sysctl{path: conf + "rp_filter", value: "0"}, sysctl{path: conf + "forwarding", value: forward})
		for _, key := range []string{"accept_local", "route_localnet", "arp_ignore", "arp_filter", "arp_announce", "proxy_arp", "log_martians"} {
			s = append(s, sysctl{path: conf + key, value: "0"})
		}
	}
	return s
}

// nodeTables are the netfilter rules as flanneld (its pkg/trafficmngr/iptables) and Docker's
// default bridge leave them behind iptables-nft.
func nodeTables(n node) []nftTable {
	const masq, fwd = "flanneld masq", "flanneld forward"
	postrtg := nftChain{name: "FLANNEL-POSTRTG", rules: []nftRule{
		{mark: 0x4000, action: actionReturn, comment: masq},
		{src: n.podCIDR, dst: clusterCIDR, action: actionReturn, comment: masq},
		{src: clusterCIDR, dst: n.podCIDR, action: actionReturn, comment: masq},
		{src: clusterCIDR, notSrc: true, dst: n.podCIDR, action: actionReturn, comment: masq},
		{src: clusterCIDR, dst: netip.MustParsePrefix("224.0.0.0/4"), notDst: true, action: actionMasquerade, comment: masq},
		{src: clusterCIDR, notSrc: true, dst: clusterCIDR, action: actionMasquerade, comment: masq},
	}}
	postrouting := nftChain{name: "POSTROUTING", typ: "nat", hook: "postrouting", priority: 100, rules: []nftRule{
		{src: dockerNet.Masked(), oif: "docker0", notOif: true, action: actionMasquerade},
		{action: actionJump, jump: postrtg.name, comment: masq},
	}}
	flannelFwd := nftChain{name: "FLANNEL-FWD", rules: []nftRule{
		{src: clusterCIDR, action: actionAccept, comment: fwd},
		{dst: clusterCIDR, action: actionAccept, comment: fwd},
	}}
	forward := nftChain{name: "FORWARD", typ: "filter", hook: "forward", rules: []nftRule{
		{action: actionJump, jump: flannelFwd.name, comment: fwd},
	}}
	return []nftTable{
		{family: familyIPv4, name: "filter", chains: []nftChain{
			{name: "INPUT", typ: "filter", hook: "input"}, forward, {name: "OUTPUT", typ: "filter", hook: "output"}, flannelFwd,
		}},
		{family: familyIPv4, name: "nat", chains: []nftChain{
			{name: "PREROUTING", typ: "nat", hook: "prerouting", priority: -100},
			{name: "INPUT", typ: "nat", hook: "input", priority: 100},
			{name: "OUTPUT", typ: "nat", hook: "output", priority: -100},
			postrouting, postrtg,
		}},
	}
}
