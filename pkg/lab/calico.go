package lab

import (
	"net/netip"
	"slices"
)

// Numbers of Calico's defaults.
const (
	calicoVTEP  = "vxlan.calico"
	calicoVNI   = 4096
	calicoPort  = 4789
	calicoMAC   = "ee:ee:ee:ee:ee:ee" // of every host end
	calicoBlock = 26                  // bits of an IPAM block
	protoCalico = 80                  // Felix's RouteProtocol
)

// linkLocalGateway is the pods' next hop, which nobody has: the host end answers for it (proxy_arp).
var linkLocalGateway = netip.MustParseAddr("169.254.1.1")

// calicoNames renames the host ends and gives them the one MAC.
func (c *cluster) calicoNames() {
	for i := range c.pods {
		p := &c.pods[i]
		p.hostVeth, p.hostMAC = "cali"+hexName(p.name, 11), calicoMAC
	}
	for i := range c.nodes {
		c.nodes[i].staleFDB = nil
	}
}

// blocksOf are the IPAM blocks of a node: the first of its range, of which the VTEP has the first
// address, and those of its pods.
func (c *cluster) blocksOf(n node) []netip.Prefix {
	blocks := []netip.Prefix{netip.PrefixFrom(n.vtep(false), calicoBlock)}
	for _, p := range c.podsOn(n) {
		if b, err := p.ip().Prefix(calicoBlock); err == nil && !slices.Contains(blocks, b) {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// planCalicoNode is a node as Felix and the Calico CNI plugin leave it: no bridge, a route to each
// pod, a blackhole for what is left of its blocks.
func (c *cluster) planCalicoNode(n node) *plan {
	p := c.planHost(n)
	p.links = append(p.links, link{
		name: calicoVTEP, kind: kindVXLAN, index: 4, mtu: c.vxlanMTU(false), mac: n.vtepMAC,
		addrs: []addr{{prefix: host(n.vtep(false))}},
		vxlan: vxlan{vni: calicoVNI, port: calicoPort, local: n.ip(), dev: n.uplink},
	})
	for _, b := range c.blocksOf(n) {
		p.routes = append(p.routes, route{dst: b, typ: routeBlackhole, proto: protoCalico})
	}
	for _, m := range c.nodes {
		if m.name == n.name {
			continue
		}
		for _, b := range c.blocksOf(m) {
			p.routes = append(p.routes, route{dst: b, via: m.vtep(false), dev: calicoVTEP, onlink: true, proto: protoCalico})
		}
		p.neighs = append(p.neighs, neigh{ip: m.vtep(false), mac: m.vtepMAC, dev: calicoVTEP})
		p.fdb = append(p.fdb, fdbRow{mac: m.vtepMAC, dst: m.ip(), dev: calicoVTEP})
	}
	pods := c.podsOn(n)
	for _, pod := range pods {
		p.links = append(p.links, link{
			name: pod.hostVeth, kind: kindVeth, index: pod.hostIndex, mtu: c.podMTU(), mac: pod.hostMAC, peerNetns: pod.name, peer: "eth0",
		})
		p.routes = append(p.routes, route{dst: host(pod.ip()), dev: pod.hostVeth, scope: scopeLink})
	}
	c.addSurroundings(p, n, c.number(n))
	c.setSysctls(p, "1")
	for _, pod := range pods {
		p.setSysctl("ipv4/conf/"+pod.hostVeth+"/proxy_arp", "1")
		p.setSysctl("ipv4/conf/"+pod.hostVeth+"/route_localnet", "1")
		p.setSysctl("ipv4/neigh/"+pod.hostVeth+"/proxy_delay", "0")
	}
	p.tables = c.calicoTables()
	return p
}

// calicoPod gives the address and routes of a pod.
func calicoPod(p pod) ([]addr, []route) {
	return []addr{{prefix: host(p.ip())}}, []route{
		{via: linkLocalGateway, dev: "eth0"},
		{dst: host(linkLocalGateway), dev: "eth0", scope: scopeLink},
	}
}

// calicoTables are Felix's rules as far as they decide where nothing has a policy: pods' traffic is
// accepted, and masqueraded when it leaves the pool.
func (c *cluster) calicoTables() []nftTable {
	forward := nftChain{name: "cali-FORWARD", rules: []nftRule{
		{src: c.podNet, action: actionAccept, comment: "cali:pods"},
		{dst: c.podNet, action: actionAccept, comment: "cali:pods"},
	}}
	outgoing := nftChain{name: "cali-nat-outgoing", rules: []nftRule{
		{src: c.podNet, dst: c.podNet, notDst: true, action: actionMasquerade, comment: "cali:nat-outgoing"},
	}}
	return []nftTable{
		{family: familyIPv4, name: "filter", chains: []nftChain{
			{name: "INPUT", typ: "filter", hook: "input"},
			{name: "FORWARD", typ: "filter", hook: "forward", rules: []nftRule{{action: actionJump, jump: forward.name, comment: "cali:forward"}}},
			{name: "OUTPUT", typ: "filter", hook: "output"}, forward,
		}},
		{family: familyIPv4, name: "nat", chains: []nftChain{
			{name: "PREROUTING", typ: "nat", hook: "prerouting", priority: -100},
			{name: "INPUT", typ: "nat", hook: "input", priority: 100},
			{name: "OUTPUT", typ: "nat", hook: "output", priority: -100},
			{name: "POSTROUTING", typ: "nat", hook: "postrouting", priority: 100, rules: []nftRule{
				{action: actionJump, jump: outgoing.name, comment: "cali:postrouting"},
			}}, outgoing,
		}},
	}
}
