package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// The Docker network of kind's nodes, which are containers, and its bridge on the machine.
var (
	kindNet      = netip.MustParsePrefix("172.18.0.0/16")
	kindGateway  = netip.MustParseAddr("172.18.0.1")
	dockerBridge = "br-" + hexName("kind", 12)
)

// dockerDNS is where Docker's own name server listens in a container.
const (
	dockerDNS    = "127.0.0.11"
	dockerDNSTCP = 36323
	dockerDNSUDP = 41957
)

// moveToKind makes containers of the machines: eth0 in the Docker network, no Docker of their own, and the ranges of
// kindnet, which gives node1 the first.
func (c *cluster) moveToKind() {
	c.absent = nil
	for i := range c.nodes {
		n := &c.nodes[i]
		b := kindNet.Addr().As4()
		b[3] = byte(2 + i)
		n.ips, n.uplink, n.uplinkMAC = []netip.Addr{netip.AddrFrom4(b)}, "eth0", fmt.Sprintf("02:42:ac:12:00:%02x", b[3])
		n.lan, n.gateway, n.staleFDB = kindNet, kindGateway, nil
	}
	c.renumber(clusterCIDR)
}

// planKindNode is a node as kindnetd and the CNI plugin ptp leave it: no bridge, a veth for each pod with the gateway's
// address on the node's end, and routes to the other nodes by their addresses.
func (c *cluster) planKindNode(n node) *plan {
	p := c.planHost(n)
	for _, m := range c.nodes {
		if m.name != n.name {
			p.routes = append(p.routes, route{dst: m.podCIDR(), via: m.ip(), dev: n.uplink})
		}
	}
	for _, pod := range c.podsOn(n) {
		p.links = append(p.links, link{
			name: pod.hostVeth, kind: kindVeth, index: pod.hostIndex, mtu: c.podMTU(), mac: pod.hostMAC, peerNetns: pod.name, peer: "eth0",
			addrs: []addr{{prefix: host(n.bridgeIP(false))}},
		})
		p.routes = append(p.routes, route{dst: host(pod.ip()), dev: pod.hostVeth, scope: scopeHost})
	}
	c.addSurroundings(p, n, c.number(n))
	c.setSysctls(p, "1")
	p.tables = emptyTables()
	p.restore = c.kindRules()
	c.addProxies(p, n)
	return p
}

// kindPod gives the address and routes of a pod: all of it goes by the gateway, its own subnet too.
func kindPod(n node, p pod) ([]addr, []route) {
	gw, ip := n.bridgeIP(false), p.ip()
	return []addr{{prefix: netip.PrefixFrom(ip, n.podCIDR().Bits()), noPrefixRoute: true}}, []route{
		{via: gw, dev: "eth0"},
		{dst: n.podCIDR(), via: gw, src: ip, dev: "eth0"},
		{dst: host(gw), src: ip, dev: "eth0", scope: scopeLink},
	}
}

// kindRules are kind's in a node: Docker's name server, which kind's entrypoint moved from a loopback address to the
// gateway's, so that pods reach it; and the masquerade of what leaves the cluster.
func (c *cluster) kindRules() string {
	var w strings.Builder
	w.WriteString("*nat\n:DOCKER_OUTPUT - [0:0]\n:DOCKER_POSTROUTING - [0:0]\n:KIND-MASQ-AGENT - [0:0]\n")
	fmt.Fprintf(&w, "-A PREROUTING -d %[1]s/32 -j DOCKER_OUTPUT\n-A OUTPUT -d %[1]s/32 -j DOCKER_OUTPUT\n-A POSTROUTING -d %[1]s/32 -j DOCKER_POSTROUTING\n", kindGateway)
	w.WriteString(`-A POSTROUTING -m comment --comment "kind-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom KIND-MASQ-AGENT chain" -m addrtype ! --dst-type LOCAL -j KIND-MASQ-AGENT` + "\n")
	for _, l := range []struct {
		proto string
		port  int
	}{{"tcp", dockerDNSTCP}, {"udp", dockerDNSUDP}} {
		match := fmt.Sprintf("-p %[1]s -m %[1]s", l.proto)
		fmt.Fprintf(&w, "-A DOCKER_OUTPUT -d %s/32 %s --dport 53 -j DNAT --to-destination %s:%d\n", kindGateway, match, dockerDNS, l.port)
		fmt.Fprintf(&w, "-A DOCKER_POSTROUTING -s %s/32 %s --sport %d -j SNAT --to-source %s:53\n", dockerDNS, match, l.port, kindGateway)
	}
	fmt.Fprintf(&w, `-A KIND-MASQ-AGENT -d %s -m comment --comment "kind-masq-agent: local traffic is not subject to MASQUERADE" -j RETURN`+"\n", c.podNet)
	w.WriteString(`-A KIND-MASQ-AGENT -m comment --comment "kind-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)" -j MASQUERADE` + "\nCOMMIT\n")
	return w.String()
}

// makeDockerHost makes the switch the machine that runs the containers: Docker lets a network's own packets through its
// FORWARD chain, which frames of its bridge pass as well, and masquerades what leaves it.
func makeDockerHost(p *plan) {
	p.setSysctl("bridge/bridge-nf-call-iptables", "1")
	p.setSysctl("ipv4/ip_forward", "1")
	p.tables = emptyTables()
	p.restore = strings.NewReplacer("BRIDGE", dockerBridge, "NET", kindNet.String()).Replace(`*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o BRIDGE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o BRIDGE -j DOCKER
-A FORWARD -i BRIDGE ! -o BRIDGE -j ACCEPT
-A FORWARD -i BRIDGE -o BRIDGE -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i BRIDGE ! -o BRIDGE -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o BRIDGE -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s NET ! -o BRIDGE -j MASQUERADE
-A DOCKER -i BRIDGE -j RETURN
COMMIT
`)
}

// emptyTables are iptables' own of IPv4, without a rule.
func emptyTables() []nftTable {
	return []nftTable{
		{family: familyIPv4, name: "filter", chains: []nftChain{
			{name: "INPUT", typ: "filter", hook: "input"}, {name: "FORWARD", typ: "filter", hook: "forward"}, {name: "OUTPUT", typ: "filter", hook: "output"},
		}},
		natTable(familyIPv4),
	}
}
