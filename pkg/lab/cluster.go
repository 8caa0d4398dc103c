package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
)

// cluster is what a Spec asks for: the machines, their pods and the network between them. All else
// (plans, cluster.yaml) follows from it.
type cluster struct {
	spec   Spec
	nodes  []node
	pods   []pod
	absent []lease
	v4, v6 bool // families of the pods
	// podNet and podNet6 are the address ranges of all pods; zero where there is none of the family.
	podNet, podNet6 netip.Prefix
}

// node is one machine of the cluster.
type node struct {
	name      string
	ips       []netip.Addr // on the uplink, the primary family first
	public    netip.Addr   // announced instead of the first, by a node behind NAT
	uplink    string
	uplinkMAC string
	dockerMAC string
	bridgeMAC string
	podCIDRs  []netip.Prefix // the primary family first
	vtepMAC   string         // of the IPv4 VXLAN device
	vtepMAC6  string         // of the IPv6 one
	// staleFDB are rows of VTEPs that are gone; they do no harm (document 000 lists two).
	staleFDB []fdbRow
	// hub is the namespace that the uplink leads to: the switch, or a router.
	hub string
	// lan is the subnet of the uplink, gateway its router.
	lan     netip.Prefix
	gateway netip.Addr

	eni eni // of Cilium alone
}

// of gives the first address or range of a family; zero if there is none.
func of(addrs []netip.Addr, is6 bool) netip.Addr {
	for _, a := range addrs {
		if a.Is6() == is6 {
			return a
		}
	}
	return netip.Addr{}
}

func rangeOf(prefixes []netip.Prefix, is6 bool) netip.Prefix {
	for _, p := range prefixes {
		if p.Addr().Is6() == is6 {
			return p
		}
	}
	return netip.Prefix{}
}

// ip is the node's primary address.
func (n node) ip() netip.Addr { return n.ips[0] }

// podCIDR is the range of the node's pods, of the primary family.
func (n node) podCIDR() netip.Prefix { return n.podCIDRs[0] }

// announced is where the other nodes send to for the family.
func (n node) announced(is6 bool) netip.Addr {
	if !is6 && n.public.IsValid() {
		return n.public
	}
	return of(n.ips, is6)
}

// vtep is the address of the node's VXLAN device, the first of its podCIDR.
func (n node) vtep(is6 bool) netip.Addr { return rangeOf(n.podCIDRs, is6).Addr() }

// bridgeIP is the address of the node's bridge, the pods' default gateway.
func (n node) bridgeIP(is6 bool) netip.Addr { return n.vtep(is6).Next() }

func (n node) mac(is6 bool) string {
	if is6 {
		return n.vtepMAC6
	}
	return n.vtepMAC
}

// hubPort is the name of the other end of the node's uplink.
func (n node) hubPort() string { return "port-" + n.name }

// pod is one pod of the cluster.
type pod struct {
	name, app, node string
	ips             []netip.Addr
	mac             string
	hostVeth        string
	hostMAC         string
	index           int  // ifindex of eth0; 0: podIndex
	hostIndex       int  // of the host's end
	second          bool // its address is of the node's second ENI
}

func (p pod) ip() netip.Addr { return p.ips[0] }

// podIndex is the ifindex of every pod's eth0, as in document 000 (eth0@if33 is 3).
const podIndex = 3

// lease is a member of the overlay that the lab does not run: the nodes hold its route, neighbour
// and FDB row like those of each other.
type lease struct {
	podCIDR netip.Prefix
	vtepMAC string
	ip      netip.Addr
}

// newCluster makes the cluster of a completed Spec.
func newCluster(s Spec) *cluster {
	c := &cluster{spec: s, v4: true, podNet: clusterCIDR}
	switch s.Datapath {
	case FlannelNAT:
		c.nodes, c.pods, c.absent = document001()
	case CiliumENI:
		c.nodes, c.pods = document003()
		c.podNet = vpcNet
	case CalicoVXLAN:
		c.nodes, c.pods = document000()
		c.calicoNames()
	default:
		c.nodes, c.pods = document000()
		c.absent = absent
	}
	for i := len(c.nodes) + 1; i <= s.Nodes; i++ {
		c.nodes = append(c.nodes, moreNode(i))
	}
	for i := len(c.pods) + 1; i <= s.Pods; i++ {
		c.pods = append(c.pods, c.morePod(i))
	}
	switch s.Datapath {
	case FlannelDirectRouting:
		c.moveBehindRouter(&c.nodes[2])
	case FlannelHostGW, FlannelUDP:
		c.absent = absent[:1] // the BIG-IP takes part in VXLAN alone
	case FlannelDual:
		c.addIPv6()
	case FlannelV6:
		c.addIPv6()
		c.dropIPv4()
	case K3s:
		c.moveToK3s()
	case Kind:
		c.moveToKind()
	}
	return c
}

// moreNode is a node beyond those of the documents; i counts from 1. The third /24 is another
// lease's, so their ranges begin with the fourth.
func moreNode(i int) node {
	at := byte(i)
	return node{
		name: fmt.Sprintf("node%d", i), ips: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 11, 90 + at})},
		uplink: "ens192", uplinkMAC: makeMAC(0x50, i), dockerMAC: makeMAC(0x42, i), bridgeMAC: makeMAC(0xc0, i),
		podCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, at + 1, 0}), 24)},
		vtepMAC:  makeMAC(0xe0, i), hub: switchName, lan: underlay, gateway: gateway,
	}
}

// morePod is a pod beyond those of the documents, on the nodes in turn, the last ones first to get
// theirs; i counts from 1.
func (c *cluster) morePod(i int) pod {
	n := c.nodes[(i-2)%len(c.nodes)]
	p := pod{
		name: fmt.Sprintf("coffee-%d", i-1), app: "coffee", node: n.name,
		mac: makeMAC(0xa0, i), hostMAC: makeMAC(0xb0, i), hostIndex: 60 + i,
	}
	if c.spec.Datapath == CiliumENI {
		p.ips = []netip.Addr{netip.AddrFrom4([4]byte{10, 5, 2, byte(60 + i)})}
		p.hostVeth = "lxc" + hexName(p.name, 12)
		return p
	}
	ip := n.podCIDR().Addr().As4()
	ip[3] = byte(50 + len(c.podsOn(n)))
	p.ips, p.hostVeth = []netip.Addr{netip.AddrFrom4(ip)}, "veth"+hexName(p.name, 8)
	if c.spec.Datapath == CalicoVXLAN {
		p.hostVeth, p.hostMAC = "cali"+hexName(p.name, 11), calicoMAC
	}
	return p
}

// makeMAC makes a locally administered address; kind keeps the uses apart.
func makeMAC(kind byte, i int) string {
	return fmt.Sprintf("02:%02x:0a:f4:%02x:%02x", kind, byte(i>>8), byte(i))
}

// hexName is a name as container runtimes make them up.
func hexName(name string, digits int) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])[:digits]
}

// moveBehindRouter gives a node a subnet of its own.
func (c *cluster) moveBehindRouter(n *node) {
	n.hub, n.lan, n.gateway = routerName, netip.MustParsePrefix("10.1.12.0/24"), netip.MustParseAddr("10.1.12.1")
	ip := n.ips[0].As4()
	ip[2] = 12
	n.ips = []netip.Addr{netip.AddrFrom4(ip)}
}

// addIPv6 gives every node and pod an IPv6 address beside its own: 10.1.11.91 gets fd00:10:1:11::91,
// 10.244.1.32 gets fd44:0:0:1::20.
func (c *cluster) addIPv6() {
	c.v6, c.podNet6 = true, clusterCIDR6
	for i := range c.nodes {
		n := &c.nodes[i]
		last, third := n.ips[0].As4()[3], n.podCIDR().Addr().As4()[2]
		n.ips = append(n.ips, netip.MustParseAddr(fmt.Sprintf("fd00:10:1:11::%d", last)))
		n.podCIDRs = append(n.podCIDRs, netip.MustParsePrefix(fmt.Sprintf("fd44:0:0:%x::/64", third)))
		n.vtepMAC6 = makeMAC(0xe6, i+1)
	}
	for i := range c.pods {
		p := &c.pods[i]
		last, third := p.ips[0].As4()[3], p.ips[0].As4()[2]
		p.ips = append(p.ips, netip.MustParseAddr(fmt.Sprintf("fd44:0:0:%x::%x", third, last)))
	}
}

func (c *cluster) dropIPv4() {
	c.v4, c.podNet, c.absent = false, netip.Prefix{}, nil
	for i := range c.nodes {
		n := &c.nodes[i]
		n.ips, n.podCIDRs, n.staleFDB = n.ips[1:], n.podCIDRs[1:], nil
	}
	for i := range c.pods {
		c.pods[i].ips = c.pods[i].ips[1:]
	}
}

// families lists those of the pods: false is IPv4, true IPv6.
func (c *cluster) families() []bool {
	var f []bool
	if c.v4 {
		f = append(f, false)
	}
	if c.v6 {
		f = append(f, true)
	}
	return f
}

func (c *cluster) podNetOf(is6 bool) netip.Prefix {
	if is6 {
		return c.podNet6
	}
	return c.podNet
}

// leasesOf are the leases of the family that node n has learnt.
func (c *cluster) leasesOf(n node, is6 bool) []lease {
	var leases []lease
	if !is6 {
		leases = slices.Clone(c.absent)
	}
	for _, m := range c.nodes {
		if m.name != n.name {
			leases = append(leases, lease{rangeOf(m.podCIDRs, is6), m.mac(is6), m.announced(is6)})
		}
	}
	return leases
}

func (c *cluster) node(name string) (node, bool) {
	i := slices.IndexFunc(c.nodes, func(n node) bool { return n.name == name })
	if i < 0 {
		return node{}, false
	}
	return c.nodes[i], true
}

// nodeOf is the node that the pod runs on.
func (c *cluster) nodeOf(p pod) node {
	n, _ := c.node(p.node) // the tables are consistent; a test sees to it
	return n
}

// podsOn are the pods of a node.
func (c *cluster) podsOn(n node) []pod {
	return slices.DeleteFunc(slices.Clone(c.pods), func(p pod) bool { return p.node != n.name })
}

// podMTU is the MTU of pods, their veths and their bridge, in bytes: what the datapath leaves of the
// uplink's.
func (c *cluster) podMTU() int {
	switch c.spec.Datapath {
	case FlannelHostGW, Kind:
		return c.uplinkMTU()
	case FlannelUDP:
		return c.uplinkMTU() - 28 // IPv4 and UDP headers
	case CiliumENI:
		return vpcMTU
	}
	return c.vxlanMTU(false) // with IPv6 too: flannel reckons with 50 bytes then as well, and flannel-v6.1 takes 20 less
}

// vxlanMTU is that of the VXLAN device: outer Ethernet, IP, UDP and VXLAN headers are 50 bytes with
// IPv4, 70 with IPv6.
func (c *cluster) vxlanMTU(is6 bool) int {
	if is6 {
		return c.uplinkMTU() - 70
	}
	return c.uplinkMTU() - 50
}

func (c *cluster) uplinkMTU() int {
	switch {
	case c.spec.Datapath == CiliumENI:
		return vpcMTU
	case c.spec.MTU != 0:
		return c.spec.MTU + 50
	}
	return uplinkMTU
}

// vtepName is the name of the VXLAN device of a family.
func (c *cluster) vtepName(is6 bool) string {
	switch {
	case c.spec.Datapath == CalicoVXLAN:
		return calicoVTEP
	case !c.spec.isVXLAN():
		return ""
	case is6:
		return fmt.Sprintf("flannel-v6.%d", c.spec.VNI)
	}
	return fmt.Sprintf("flannel.%d", c.spec.VNI)
}

// vxlanPort is the UDP port of the VXLAN devices, host byte order.
func (c *cluster) vxlanPort() int {
	if c.spec.Datapath == CalicoVXLAN {
		return calicoPort
	}
	return c.spec.Port
}

// bridged reports whether pods hang on cni0.
func (c *cluster) bridged() bool {
	return !slices.Contains([]string{CalicoVXLAN, CiliumENI, Kind}, c.spec.Datapath)
}
