package lab

import (
	"fmt"
	"net/netip"
	"slices"
)

// switchName is the namespace of the underlay: a bridge between the uplinks, and, unless there is a
// router, the default gateway of the nodes, which forwards nothing. routerName is the namespace
// between subnets.
const (
	switchName = "switch"
	routerName = "router"
	clientName = "client"
)

const (
	underlayName = "underlay" // the switch's bridge, unless it is Docker's
	switchMAC    = "00:50:56:ab:00:01"
	routerPort   = "port-router" // of the switch
	switchPort   = "port-switch" // of the router
	clientPort   = "port-client" // of the switch
)

// clientPrefixes are the addresses of the machine outside of the cluster, as in document 004, which comes in by
// NodePorts: one of the nodes' own network, or of one beyond the router that translates them.
func (c *cluster) clientPrefixes() (list []netip.Prefix) {
	switch c.spec.Datapath {
	case FlannelNAT:
		return prefixes("203.0.113.35/24")
	case Kind:
		return prefixes("172.18.0.35/16")
	}
	if c.v4 {
		list = prefixes("10.1.11.35/24")
	}
	if c.v6 {
		list = append(list, prefixes("fd00:10:1:11::35/64")...)
	}
	return list
}

// clientGateway is its router of a family.
func (c *cluster) clientGateway(p netip.Prefix) netip.Addr {
	if p.Addr().Is6() {
		return gateway6
	}
	return p.Masked().Addr().Next()
}

// switchBridge is the name of the switch's bridge, switchPrefix its IPv4 address.
func (c *cluster) switchBridge() string {
	if c.spec.Datapath == Kind {
		return dockerBridge
	}
	return underlayName
}

func (c *cluster) switchPrefix() netip.Prefix {
	if c.spec.Datapath == Kind {
		return netip.PrefixFrom(kindGateway, kindNet.Bits())
	}
	return netip.PrefixFrom(gateway, underlay.Bits())
}

// plans makes the plans of the whole lab without faults.
func (c *cluster) plans() plans {
	var ps plans
	if slices.ContainsFunc(c.nodes, func(n node) bool { return n.hub == switchName }) {
		ps = append(ps, c.planSwitch())
	}
	switch c.spec.Datapath {
	case FlannelDirectRouting:
		ps = append(ps, c.planRouter())
	case FlannelNAT:
		ps = append(ps, c.planNATRouter())
	case CiliumENI:
		ps = append(ps, c.planVPC())
	}
	if c.hasClient() {
		ps = append(ps, c.planClient())
	}
	for _, n := range c.nodes {
		switch c.spec.Datapath {
		case CalicoVXLAN:
			ps = append(ps, c.planCalicoNode(n))
		case CiliumENI:
			ps = append(ps, c.planCiliumNode(n))
		case Kind:
			ps = append(ps, c.planKindNode(n))
		default:
			ps = append(ps, c.planFlannelNode(n))
		}
	}
	for _, p := range c.pods {
		ps = append(ps, c.planPod(p))
	}
	return ps
}

// hasClient reports whether the lab has a machine outside of the cluster.
func (c *cluster) hasClient() bool { return c.spec.Services != "" }

func (c *cluster) planSwitch() *plan {
	bridge := link{name: c.switchBridge(), kind: kindBridge, mtu: c.uplinkMTU(), mac: switchMAC}
	p := &plan{name: switchName}
	if c.spec.Datapath != FlannelDirectRouting { // there the router is the gateway
		if c.v4 {
			bridge.addrs = append(bridge.addrs, addr{prefix: c.switchPrefix()})
			p.routes = append(p.routes, connected(c.switchPrefix(), c.switchPrefix().Addr(), bridge.name))
		}
		if c.v6 {
			bridge.addrs = append(bridge.addrs, addr{prefix: netip.PrefixFrom(gateway6, underlay6.Bits())})
			p.routes = append(p.routes, connected(underlay6, gateway6, bridge.name))
		}
	}
	p.links = append(p.links, bridge)
	port := func(name string, mac string, netns, peer string) {
		p.links = append(p.links, link{
			name: name, kind: kindVeth, mtu: c.uplinkMTU(), mac: mac, master: bridge.name, peerNetns: netns, peer: peer,
		})
	}
	for i, n := range c.nodes {
		if n.hub == switchName {
			port(n.hubPort(), fmt.Sprintf("02:50:56:ab:00:%02x", i+1), n.name, n.uplink)
		}
	}
	if c.spec.Datapath == FlannelDirectRouting {
		port(routerPort, "02:50:56:ab:00:fe", routerName, switchPort)
	}
	if c.hasClient() && c.spec.Datapath != FlannelNAT { // there it is the router's
		port(clientPort, "02:50:56:ab:00:fd", clientName, "eth0")
	}
	c.setSysctls(p, "0")
	p.setSysctl("bridge/bridge-nf-call-iptables", "0") // a switch has no netfilter
	if c.v6 {
		p.setSysctl("bridge/bridge-nf-call-ip6tables", "0")
	}
	if c.spec.Datapath == Kind {
		makeDockerHost(p)
	}
	return p
}

// planRouter is the router of direct routing, between the switch and the subnet of node3.
func (c *cluster) planRouter() *plan {
	p := &plan{name: routerName}
	p.addPort(link{name: switchPort, mac: "00:50:56:ab:00:02", peerNetns: switchName, peer: routerPort},
		netip.PrefixFrom(gateway, underlay.Bits()), c.uplinkMTU())
	for i, n := range c.nodes {
		if n.hub == routerName {
			p.addPort(c.routerPort(n, i), netip.PrefixFrom(n.gateway, n.lan.Bits()), c.uplinkMTU())
		}
	}
	c.setSysctls(p, "1")
	return p
}

// planNATRouter is the Internet of document 001, and the provider's one-to-one translation at both
// ends of it: a node is reached by its public address, and seen with it.
func (c *cluster) planNATRouter() *plan {
	p := &plan{name: routerName}
	pre := nftChain{name: "prerouting", typ: "nat", hook: "prerouting", priority: -100}
	post := nftChain{name: "postrouting", typ: "nat", hook: "postrouting", priority: 100}
	for i, n := range c.nodes {
		p.addPort(c.routerPort(n, i), netip.PrefixFrom(n.gateway, n.lan.Bits()), c.uplinkMTU())
		pre.rules = append(pre.rules, nftRule{dst: host(n.public), action: actionDNAT, to: n.ip()})
		post.rules = append(post.rules, nftRule{src: host(n.ip()), oif: n.hubPort(), notOif: true, action: actionSNAT, to: n.public})
	}
	if c.hasClient() {
		client := c.clientPrefixes()[0]
		p.addPort(link{name: clientPort, mac: "02:50:56:ab:00:fd", peerNetns: clientName, peer: "eth0"},
			netip.PrefixFrom(c.clientGateway(client), client.Bits()), c.uplinkMTU())
	}
	p.tables = []nftTable{{family: familyIPv4, name: "provider", chains: []nftChain{pre, post}}}
	c.setSysctls(p, "1")
	return p
}

func (c *cluster) routerPort(n node, i int) link {
	return link{name: n.hubPort(), mac: fmt.Sprintf("00:50:56:ab:01:%02x", i+1), peerNetns: n.name, peer: n.uplink}
}

// addPort gives a router one of its interfaces.
func (p *plan) addPort(l link, address netip.Prefix, mtu int) {
	l.kind, l.mtu, l.addrs = kindVeth, mtu, []addr{{prefix: address}}
	p.links = append(p.links, l)
	p.routes = append(p.routes, connected(address.Masked(), address.Addr(), l.name))
}

func (c *cluster) planClient() *plan {
	p := &plan{name: clientName}
	hub := switchName
	if c.spec.Datapath == FlannelNAT {
		hub = routerName
	}
	p.links = []link{{
		name: "eth0", kind: kindVeth, mtu: c.uplinkMTU(), mac: "00:50:56:ab:00:23", peerNetns: hub, peer: clientPort,
	}}
	for _, prefix := range c.clientPrefixes() {
		p.links[0].addrs = append(p.links[0].addrs, addr{prefix: prefix})
		p.routes = append(p.routes, connected(prefix, prefix.Addr(), "eth0"), route{via: c.clientGateway(prefix), dev: "eth0"})
	}
	c.setSysctls(p, "0")
	return p
}

// planHost is what every node of a switched or routed underlay has: uplink, docker0, and the devices
// of others.
func (c *cluster) planHost(n node) *plan {
	p := &plan{name: n.name}
	uplink := link{
		name: n.uplink, kind: kindVeth, index: 2, mtu: c.uplinkMTU(), mac: n.uplinkMAC, peerNetns: n.hub, peer: n.hubPort(),
	}
	for _, ip := range n.ips {
		if ip.Is6() {
			uplink.addrs = append(uplink.addrs, addr{prefix: netip.PrefixFrom(ip, underlay6.Bits())})
			p.routes = append(p.routes, route{via: gateway6, dev: n.uplink}, connected(underlay6, ip, n.uplink))
			continue
		}
		uplink.addrs = append(uplink.addrs, addr{prefix: netip.PrefixFrom(ip, n.lan.Bits()), noPrefixRoute: true})
		lan := connected(n.lan, ip, n.uplink)
		lan.metric = 100
		p.routes = append(p.routes, route{via: n.gateway, dev: n.uplink, metric: 100, proto: protoStatic}, lan)
	}
	p.links = append(p.links, uplink)
	if c.hasDocker() {
		c.addBridge(p, link{name: "docker0", index: 3, mac: n.dockerMAC}, c.dockerNet())
	}
	return p
}

// hasDocker reports whether nodes have a Docker of their own: k3s and kind bring another runtime along.
func (c *cluster) hasDocker() bool { return c.spec.Datapath != K3s && c.spec.Datapath != Kind }

// dockerNet is the address of docker0. In document 001 the machines themselves have addresses of
// Docker's first choice, so there it took the second.
func (c *cluster) dockerNet() netip.Prefix {
	if c.spec.Datapath == FlannelNAT {
		return netip.MustParsePrefix("172.18.0.1/16")
	}
	return dockerNet
}

// addBridge gives a node a bridge without ports that has nothing to do with the cluster.
func (c *cluster) addBridge(p *plan, l link, address netip.Prefix) {
	l.kind, l.mtu, l.addrs = kindBridge, 1500, []addr{{prefix: address}}
	p.links = append(p.links, l)
	p.routes = append(p.routes, connected(address, address.Addr(), l.name))
}

// addSurroundings puts devices of other programs on a node, which must not confuse anyone.
func (c *cluster) addSurroundings(p *plan, n node, number int) {
	for _, w := range slices.Compact(slices.Sorted(slices.Values(c.spec.With))) {
		switch w {
		case "kind": // a Docker network of its own
			c.addBridge(p, link{name: "br-" + hexName("kind", 12), mac: makeMAC(0x43, number)}, netip.MustParsePrefix("172.19.0.1/16"))
		case "libvirt": // as in document 004
			c.addBridge(p, link{name: "virbr0", mac: makeMAC(0x44, number)}, netip.MustParsePrefix("192.168.122.1/24"))
		case "k3s":
			c.addK3s(p, n, number)
		}
	}
}

// addK3s leaves what a cluster that was removed left behind: a bridge, and a VXLAN device on the same
// UDP port with a route, a neighbour and an FDB row of a machine that is gone.
func (c *cluster) addK3s(p *plan, n node, number int) {
	const dev = "flannel.4096"
	c.addBridge(p, link{name: "kube-bridge", mac: makeMAC(0x45, number)}, netip.MustParsePrefix("10.42.0.1/24"))
	local := of(n.ips, false)
	if !local.IsValid() {
		return // an IPv6 device of that port would be another socket
	}
	gone := netip.MustParsePrefix("10.42.1.0/24")
	p.links = append(p.links, link{
		name: dev, kind: kindVXLAN, mtu: min(1450, c.uplinkMTU()-50), mac: makeMAC(0x46, number),
		addrs: []addr{{prefix: netip.MustParsePrefix("10.42.0.0/32")}},
		// devices of one port share a socket, which has the extension or has it not
		vxlan: vxlan{vni: 4096, port: vxlanPort, local: local, dev: n.uplink, gbp: c.spec.GBP && c.spec.Port == vxlanPort},
	})
	p.routes = append(p.routes, route{dst: gone, via: gone.Addr(), dev: dev, onlink: true})
	p.neighs = append(p.neighs, neigh{ip: gone.Addr(), mac: "5e:0c:11:aa:00:09", dev: dev})
	p.fdb = append(p.fdb, fdbRow{mac: "5e:0c:11:aa:00:09", dst: netip.MustParseAddr("10.1.11.77"), dev: dev})
}

// connected is the route that the kernel adds with an address.
func connected(dst netip.Prefix, src netip.Addr, dev string) route {
	if dst.Addr().Is6() {
		return route{dst: dst.Masked(), dev: dev, proto: protoKernel, metric: metricKernel6}
	}
	return route{dst: dst.Masked(), src: src, dev: dev, proto: protoKernel, scope: scopeLink}
}

// host is the range of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// setSysctls sets whatever decides the path of a packet, as a new namespace copies most of it from the
// host's. Without pods of that family IPv6 is off: its router solicitations and duplicate address
// detection would make traffic that nobody asked for, and document 000 has none.
func (c *cluster) setSysctls(p *plan, forward string) {
	off := "1"
	if c.v6 {
		off = "0"
	}
	p.sysctls = []sysctl{
		{path: "ipv6/conf/all/disable_ipv6", value: off, optional: !c.v6},
		{path: "ipv6/conf/default/disable_ipv6", value: off, optional: !c.v6},
		{path: "ipv4/ip_forward", value: forward},
		{path: "bridge/bridge-nf-call-iptables", value: "1", optional: true},
		{path: "bridge/bridge-nf-call-arptables", value: "0", optional: true},
	}
	if c.v6 {
		p.sysctls = append(p.sysctls, sysctl{path: "bridge/bridge-nf-call-ip6tables", value: "1", optional: true})
	}
	names := []string{"all", "default"}
	for _, l := range p.links {
		names = append(names, l.name)
	}
	for _, name := range names {
		conf := "ipv4/conf/" + name + "/"
		p.sysctls = append(p.sysctls, sysctl{path: conf + "rp_filter", value: "0"}, sysctl{path: conf + "forwarding", value: forward})
		for _, key := range []string{"accept_local", "route_localnet", "arp_ignore", "arp_filter", "arp_announce", "proxy_arp", "log_martians"} {
			p.sysctls = append(p.sysctls, sysctl{path: conf + key, value: "0"})
		}
		if c.v6 {
			conf = "ipv6/conf/" + name + "/"
			p.sysctls = append(p.sysctls, sysctl{path: conf + "forwarding", value: forward})
			for _, key := range []string{"accept_ra", "accept_dad", "autoconf", "router_solicitations", "proxy_ndp"} {
				p.sysctls = append(p.sysctls, sysctl{path: conf + key, value: "0"})
			}
		}
	}
}

// planPod is the pod's side; on the node's, see planFlannelNode and the others.
func (c *cluster) planPod(p pod) *plan {
	n := c.nodeOf(p)
	eth0 := link{name: "eth0", kind: kindVeth, index: orDefault(p.index, podIndex), mtu: c.podMTU(), mac: p.mac, peerNetns: n.name, peer: p.hostVeth}
	pl := &plan{name: p.name}
	switch c.spec.Datapath {
	case CalicoVXLAN:
		eth0.addrs, pl.routes = calicoPod(p)
	case CiliumENI:
		eth0.addrs, pl.routes = ciliumPod(n, p)
	case Kind:
		eth0.addrs, pl.routes = kindPod(n, p)
	default:
		eth0.addrs, pl.routes = c.flannelPod(n, p)
	}
	eth0.noQueue = c.bridged()
	pl.links = []link{eth0}
	c.setSysctls(pl, "0")
	if c.bridged() {
		setFlannelPodSysctls(pl)
	}
	return pl
}
