package lab

import (
	"fmt"
	"net/netip"
)

// vpcMTU is the MTU of a VPC, in bytes.
const vpcMTU = 9001

// vpcNet is the subnet of document 003, vpcGateway its router.
var (
	vpcNet     = netip.MustParsePrefix("10.5.2.0/24")
	vpcGateway = netip.MustParseAddr("10.5.2.1")
)

// eni is what a node of document 003 has besides its first interface.
type eni struct {
	dev, mac string     // the second ENI
	ip       netip.Addr // its primary address
	router   netip.Addr // of cilium_host: the pods' gateway
	hostMAC  string     // of cilium_host
	netMAC   string     // of cilium_net
}

// Numbers of Cilium's routing.
const (
	ciliumHost     = "cilium_host"
	ciliumNet      = "cilium_net"
	tableProxy     = 2004 // what the proxy marked is for this machine
	tableENI       = 11   // 10 and the number of the ENI
	prefProxy      = 9
	prefToPod      = 20
	prefLocal      = 100
	prefFromPod    = 111
	markProxy      = 0x200
	maskProxy      = 0xf00
	programFrom    = "bpf_lxc.o:[from-container]"
	programTo      = "bpf_lxc.o:[to-container]"
	eniPortSuffix  = "-eni1"
	vpcPortMACBase = "00:50:56:ab:02:%02x"
)

// document003 is the cluster of document 003, with a second ENI on each node and a pod on it: the
// document describes that case in words.
func document003() ([]node, []pod) {
	nodes := []node{
		{
			name: "node1", ips: addrs("10.5.2.48"), uplink: "eth0", uplinkMAC: "0a:48:05:02:00:48", dockerMAC: "02:42:05:02:00:48",
			hub: routerName, lan: vpcNet, gateway: vpcGateway,
			eni: eni{
				dev: "eth1", mac: "0a:48:05:02:00:49", ip: netip.MustParseAddr("10.5.2.49"),
				router: netip.MustParseAddr("10.5.2.191"), hostMAC: "0a:ee:d6:5f:6c:32", netMAC: "0a:ee:d6:5f:6c:33",
			},
		},
		{
			name: "node2", ips: addrs("10.5.2.58"), uplink: "eth0", uplinkMAC: "0a:48:05:02:00:58", dockerMAC: "02:42:05:02:00:58",
			hub: routerName, lan: vpcNet, gateway: vpcGateway,
			eni: eni{
				dev: "eth1", mac: "0a:48:05:02:00:59", ip: netip.MustParseAddr("10.5.2.59"),
				router: netip.MustParseAddr("10.5.2.192"), hostMAC: "0a:ee:d6:5f:6c:42", netMAC: "0a:ee:d6:5f:6c:43",
			},
		},
	}
	pods := []pod{
		{
			name: "coffee-1", app: "coffee", node: "node1", ips: addrs("10.5.2.11"), mac: "ee:14:d3:9a:62:42", index: 42,
			hostVeth: "lxc050ba70e11a8", hostMAC: "86:05:d4:99:a9:f5", hostIndex: 43,
		},
		{
			name: "tea-1", app: "tea", node: "node1", ips: addrs("10.5.2.12"), mac: "ee:14:d3:9a:62:44", index: 44, second: true,
			hostVeth: "lxc7b20e9d1c364", hostMAC: "86:05:d4:99:a9:f6", hostIndex: 45,
		},
		{
			name: "coffee-2", app: "coffee", node: "node2", ips: addrs("10.5.2.22"), mac: "ee:14:d3:9a:62:52", index: 52,
			hostVeth: "lxcd86fc95bf974", hostMAC: "86:05:d4:99:b9:f5", hostIndex: 53,
		},
		{
			name: "tea-2", app: "tea", node: "node2", ips: addrs("10.5.2.23"), mac: "ee:14:d3:9a:62:54", index: 54, second: true,
			hostVeth: "lxce03af51b88d0", hostMAC: "86:05:d4:99:b9:f6", hostIndex: 55,
		},
	}
	return nodes, pods
}

// planVPC is the fabric: a router that answers ARP for every address of the subnet, knows which ENI has it,
// also as a secondary one, and takes from an ENI only what comes from one of its own.
func (c *cluster) planVPC() *plan {
	p := &plan{name: routerName}
	fabric := nftChain{name: "source-check", typ: "filter", hook: "forward"}
	for i, n := range c.nodes {
		first, second := n.hubPort(), n.hubPort()+eniPortSuffix
		for k, l := range []link{
			{name: first, mac: fmt.Sprintf(vpcPortMACBase, 2*i+1), peer: n.uplink},
			{name: second, mac: fmt.Sprintf(vpcPortMACBase, 2*i+2), peer: n.eni.dev},
		} {
			l.kind, l.mtu, l.peerNetns, l.addrs = kindVeth, vpcMTU, n.name, []addr{{prefix: host(vpcGateway)}}
			p.links = append(p.links, l)
			mac := n.uplinkMAC
			if k == 1 {
				mac = n.eni.mac
			}
			for _, a := range c.addressesOf(n, k == 1) {
				p.routes = append(p.routes, route{dst: host(a), src: vpcGateway, dev: l.name, scope: scopeLink})
				p.neighs = append(p.neighs, neigh{ip: a, mac: mac, dev: l.name})
				fabric.rules = append(fabric.rules, nftRule{iif: l.name, src: host(a), action: actionAccept})
			}
			fabric.rules = append(fabric.rules, nftRule{iif: l.name, action: actionDrop})
		}
	}
	p.tables = []nftTable{{family: familyIPv4, name: "vpc", chains: []nftChain{fabric}}}
	c.setSysctls(p, "1")
	for _, l := range p.links {
		p.setSysctl("ipv4/conf/"+l.name+"/proxy_arp", "1")
		p.setSysctl("ipv4/neigh/"+l.name+"/proxy_delay", "0")
	}
	return p
}

// addressesOf are those of an ENI, the secondary ones too: the fabric sends whatever is for them to the
// ENI's MAC, without asking.
func (c *cluster) addressesOf(n node, second bool) []netip.Addr {
	addresses := []netip.Addr{n.ip(), n.eni.router}
	if second {
		addresses = []netip.Addr{n.eni.ip}
	}
	for _, p := range c.podsOn(n) {
		if p.second == second {
			addresses = append(addresses, p.ip())
		}
	}
	return addresses
}

// planCiliumNode is a node as cilium-agent leaves it in ENI mode.
func (c *cluster) planCiliumNode(n node) *plan {
	p := &plan{name: n.name, localPref: prefLocal}
	p.links = []link{
		{
			name: n.uplink, kind: kindVeth, index: 2, mtu: vpcMTU, mac: n.uplinkMAC, peerNetns: routerName, peer: n.hubPort(),
			addrs: []addr{{prefix: netip.PrefixFrom(n.ip(), vpcNet.Bits())}},
		},
		{
			name: n.eni.dev, kind: kindVeth, index: 3, mtu: vpcMTU, mac: n.eni.mac, peerNetns: routerName, peer: n.hubPort() + eniPortSuffix,
			addrs: []addr{{prefix: netip.PrefixFrom(n.eni.ip, vpcNet.Bits()), noPrefixRoute: true}},
		},
		{name: ciliumNet, kind: kindVeth, index: 30, mtu: vpcMTU, mac: n.eni.netMAC, peerNetns: n.name, peer: ciliumHost},
		{
			name: ciliumHost, kind: kindVeth, index: 31, mtu: vpcMTU, mac: n.eni.hostMAC, peerNetns: n.name, peer: ciliumNet,
			addrs: []addr{{prefix: host(n.eni.router), scope: scopeLink}},
		},
	}
	p.routes = []route{
		{via: vpcGateway, dev: n.uplink},
		connected(vpcNet, n.ip(), n.uplink),
		{typ: routeLocal, dev: "lo", table: tableProxy, scope: scopeHost},
		{via: vpcGateway, dev: n.eni.dev, table: tableENI},
		{dst: host(vpcGateway), dev: n.eni.dev, table: tableENI, scope: scopeLink},
	}
	p.rules = []rule{{pref: prefProxy, table: tableProxy, mark: markProxy, mask: maskProxy}}
	pods := c.podsOn(n)
	for _, pod := range pods {
		p.links = append(p.links, link{
			name: pod.hostVeth, kind: kindVeth, index: pod.hostIndex, mtu: vpcMTU, mac: pod.hostMAC, peerNetns: pod.name, peer: "eth0",
			ingress: fromContainer(pod, pods), egress: &program{name: programTo},
		})
		p.routes = append(p.routes, route{dst: host(pod.ip()), dev: pod.hostVeth, scope: scopeLink})
		p.rules = append(p.rules, rule{pref: prefToPod, table: tableMain, dst: host(pod.ip())})
		if pod.second {
			p.rules = append(p.rules, rule{pref: prefFromPod, table: tableENI, src: host(pod.ip())})
		}
	}
	c.addBridge(p, link{name: "docker0", index: 4, mac: n.dockerMAC}, c.dockerNet())
	c.addSurroundings(p, n, c.number(n))
	c.setSysctls(p, "1")
	return p
}

// fromContainer is the program at a pod's host end. That of a coffee pod delivers to the pods of the
// node by bpf_redirect_peer, past routes and host ends, as Cilium does since 1.9; that of a tea pod
// leaves all to the routes, as before.
func fromContainer(p pod, pods []pod) *program {
	prog := &program{name: programFrom}
	if p.app == "tea" {
		return prog
	}
	for _, other := range pods {
		if other.name != p.name {
			prog.peers = append(prog.peers, peer{ip: other.ip(), dev: other.hostVeth, mac: other.mac, hostMAC: other.hostMAC})
		}
	}
	return prog
}

// ciliumPod gives the address and routes of a pod.
func ciliumPod(n node, p pod) ([]addr, []route) {
	return []addr{{prefix: host(p.ip())}}, []route{
		{via: n.eni.router, dev: "eth0"},
		{dst: host(n.eni.router), dev: "eth0", scope: scopeLink},
	}
}
