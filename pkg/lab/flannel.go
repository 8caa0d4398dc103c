package lab

import "net/netip"

// tunName is the device of flannel's UDP backend, udpPort where its proxies listen.
const (
	tunName = "flannel0"
	udpPort = 8285
)

// planFlannelNode is a node as flanneld and the CNI plugins flannel and bridge leave it.
func (c *cluster) planFlannelNode(n node) *plan {
	p := c.planHost(n)
	switch c.spec.Datapath {
	case FlannelHostGW:
	case FlannelUDP:
		c.addTUN(p, n)
	default:
		for _, is6 := range c.families() {
			c.addVXLAN(p, n, is6)
		}
	}
	for _, is6 := range c.families() {
		for _, l := range c.leasesOf(n, is6) {
			c.addLease(p, n, l)
		}
	}
	for _, f := range n.staleFDB {
		f.dev = c.vtepName(false)
		if c.spec.isVXLAN() {
			p.fdb = append(p.fdb, f)
		}
	}
	c.addPodBridge(p, n)
	c.addSurroundings(p, n, c.number(n))
	c.setSysctls(p, "1")
	c.setFlannelSysctls(p)
	for _, is6 := range c.families() {
		p.tables = append(p.tables, c.flannelTables(n, is6)...)
	}
	if !c.v4 { // Docker's is there all the same
		p.tables = append(p.tables, natTable(familyIPv4, c.dockerMasquerade()))
	}
	if c.spec.Datapath == K3s {
		p.netpol = c.k3sPolicies(n)
	}
	c.addProxies(p, n)
	return p
}

// number counts nodes from 1.
func (c *cluster) number(n node) int {
	for i, m := range c.nodes {
		if m.name == n.name {
			return i + 1
		}
	}
	return 0
}

func (c *cluster) addVXLAN(p *plan, n node, is6 bool) {
	index := 4
	if is6 && c.v4 {
		index = 6
	}
	a := addr{prefix: host(n.vtep(is6))}
	if c.spec.Datapath == FlannelVXLAN || c.spec.Datapath == FlannelNAT {
		a.broadcast = n.vtep(is6) // of an older flanneld, as documents 000 and 001 show; v0.28 sets none
	}
	p.links = append(p.links, link{
		name: c.vtepName(is6), kind: kindVXLAN, index: index, mtu: c.vxlanMTU(is6), mac: n.mac(is6), addrs: []addr{a}, noQueue: true,
		vxlan: vxlan{
			vni: c.spec.VNI, port: c.spec.Port, local: of(n.ips, is6), dev: n.uplink, gbp: c.spec.GBP, learning: c.spec.Learning,
		},
	})
	if is6 { // the kernel's own, of the /128
		p.routes = append(p.routes, connected(host(n.vtep(true)), n.vtep(true), c.vtepName(true)))
	}
}

// addTUN is the device of the UDP backend (flannel's pkg/backend/udp): the whole pod network leads
// there, and the proxy knows whose each part is.
func (c *cluster) addTUN(p *plan, n node) {
	p.links = append(p.links, link{name: tunName, kind: kindTUN, mtu: c.podMTU(), addrs: []addr{{prefix: host(n.vtep(false))}}})
	p.routes = append(p.routes, route{dst: c.podNet, dev: tunName})
}

// addLease is what flanneld does for each lease of another node.
func (c *cluster) addLease(p *plan, n node, l lease) {
	is6 := l.ip.Is6()
	direct := c.spec.Datapath == FlannelDirectRouting && n.lan.Contains(l.ip)
	switch {
	case c.spec.Datapath == FlannelUDP:
	case direct, c.spec.Datapath == FlannelHostGW:
		p.routes = append(p.routes, route{dst: l.podCIDR, via: l.ip, dev: n.uplink})
	default:
		dev := c.vtepName(is6)
		p.routes = append(p.routes, route{dst: l.podCIDR, via: l.podCIDR.Addr(), dev: dev, onlink: true})
		p.neighs = append(p.neighs, neigh{ip: l.podCIDR.Addr(), mac: l.vtepMAC, dev: dev})
		p.fdb = append(p.fdb, fdbRow{mac: l.vtepMAC, dst: l.ip, dev: dev})
	}
}

func (c *cluster) addPodBridge(p *plan, n node) {
	bridge := link{name: bridgeName, kind: kindBridge, index: 5, mtu: c.podMTU(), mac: n.bridgeMAC}
	for _, cidr := range n.podCIDRs {
		ip := n.bridgeIP(cidr.Addr().Is6())
		bridge.addrs = append(bridge.addrs, addr{prefix: netip.PrefixFrom(ip, cidr.Bits())})
		p.routes = append(p.routes, connected(cidr, ip, bridgeName))
	}
	p.links = append(p.links, bridge)
	for _, pod := range c.podsOn(n) {
		p.links = append(p.links, link{
			name: pod.hostVeth, kind: kindVeth, index: pod.hostIndex, mtu: c.podMTU(), mac: pod.hostMAC,
			master: bridgeName, hairpin: true, noQueue: true, peerNetns: pod.name, peer: "eth0",
		})
	}
}

// setFlannelSysctls are those that flanneld sets of its VXLAN devices, and the plugin bridge of the bridge and its ports.
func (c *cluster) setFlannelSysctls(p *plan) {
	for _, l := range p.links {
		ours := l.kind == kindVXLAN && (l.name == c.vtepName(false) || l.name == c.vtepName(true)) || l.name == bridgeName || l.master == bridgeName
		if ours {
			p.setSysctl("ipv6/conf/"+l.name+"/accept_ra", "0")
		}
	}
}

// setFlannelPodSysctls are those that the plugin bridge sets in a pod.
func setFlannelPodSysctls(p *plan) {
	p.setSysctl("ipv4/conf/eth0/arp_notify", "1")
	p.setSysctl("ipv6/conf/eth0/accept_dad", "0")
}

// flannelPod gives the addresses and routes of a pod.
func (c *cluster) flannelPod(n node, p pod) (a []addr, r []route) {
	for _, ip := range p.ips {
		cidr := rangeOf(n.podCIDRs, ip.Is6())
		gw := n.bridgeIP(ip.Is6())
		a = append(a, addr{prefix: netip.PrefixFrom(ip, cidr.Bits())})
		r = append(r,
			route{via: gw, dev: "eth0"},
			route{dst: c.podNetOf(ip.Is6()), via: gw, dev: "eth0"},
			connected(cidr, ip, "eth0"))
	}
	return a, r
}

// flannelTables are the netfilter rules as flanneld (its pkg/trafficmngr/iptables) and Docker's
// default bridge leave them behind iptables-nft.
func (c *cluster) flannelTables(n node, is6 bool) []nftTable {
	const masq, fwd = "flanneld masq", "flanneld forward"
	all, own := c.podNetOf(is6), rangeOf(n.podCIDRs, is6)
	multicast, family := netip.MustParsePrefix("224.0.0.0/4"), familyIPv4
	if is6 {
		multicast, family = netip.MustParsePrefix("ff00::/8"), familyIPv6
	}
	postrtg := nftChain{name: "FLANNEL-POSTRTG", rules: []nftRule{
		{mark: 0x4000, action: actionReturn, comment: masq},
		{src: own, dst: all, action: actionReturn, comment: masq},
		{src: all, dst: own, action: actionReturn, comment: masq},
		{src: all, notSrc: true, dst: own, action: actionReturn, comment: masq},
		{src: all, dst: multicast, notDst: true, action: actionMasquerade, comment: masq},
		{src: all, notSrc: true, dst: all, action: actionMasquerade, comment: masq},
	}}
	var postrouting []nftRule
	if !is6 && c.hasDocker() {
		postrouting = append(postrouting, c.dockerMasquerade())
	}
	nat := natTable(family, append(postrouting, nftRule{action: actionJump, jump: postrtg.name, comment: masq})...)
	nat.chains = append(nat.chains, postrtg)
	flannelFwd := nftChain{name: "FLANNEL-FWD", rules: []nftRule{
		{src: all, action: actionAccept, comment: fwd},
		{dst: all, action: actionAccept, comment: fwd},
	}}
	forward := nftChain{name: "FORWARD", typ: "filter", hook: "forward", rules: []nftRule{
		{action: actionJump, jump: flannelFwd.name, comment: fwd},
	}}
	return []nftTable{
		{family: family, name: "filter", chains: []nftChain{
			{name: "INPUT", typ: "filter", hook: "input"}, forward, {name: "OUTPUT", typ: "filter", hook: "output"}, flannelFwd,
		}},
		nat,
	}
}

// natTable is iptables' table nat, with rules in POSTROUTING alone.
func natTable(family int, postrouting ...nftRule) nftTable {
	return nftTable{family: family, name: "nat", chains: []nftChain{
		{name: "PREROUTING", typ: "nat", hook: "prerouting", priority: -100},
		{name: "INPUT", typ: "nat", hook: "input", priority: 100},
		{name: "OUTPUT", typ: "nat", hook: "output", priority: -100},
		{name: "POSTROUTING", typ: "nat", hook: "postrouting", priority: 100, rules: postrouting},
	}}
}

// dockerMasquerade is Docker's rule for its default bridge.
func (c *cluster) dockerMasquerade() nftRule {
	return nftRule{src: c.dockerNet().Masked(), oif: "docker0", notOif: true, action: actionMasquerade, inOrder: true}
}
