// Package tablestest builds a snapshot by hand for the tests of the pure stages: the cluster of a
// published walk through flannel's VXLAN mode, address by address, healthy. Tests change one entry and
// see what the stage makes of it.
package tablestest

import (
	"fmt"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Identities and addresses of the cluster.
var (
	Node1   = netns.ID{Dev: 1, Ino: 1}
	Node2   = netns.ID{Dev: 1, Ino: 2}
	Coffee1 = netns.ID{Dev: 1, Ino: 11}
	Tea1    = netns.ID{Dev: 1, Ino: 12}
	Coffee2 = netns.ID{Dev: 1, Ino: 21}

	Coffee1IP = netip.MustParseAddr("10.244.1.32")
	Tea1IP    = netip.MustParseAddr("10.244.1.33")
	Coffee2IP = netip.MustParseAddr("10.244.2.40")
)

type nodeSpec struct {
	id                  netns.ID
	name, uplink        string
	ip, gwPod, vtep     string
	upMAC, vxMAC, brMAC string
	farVtep, farVxMAC   string
	farNet, farIP, pods string
}

func link(i tables.Ifindex, name, kind, mac string, mtu int) tables.Link {
	l := tables.Link{Index: i, Name: name, Kind: kind, MTU: mtu, Up: true, LowerUp: true, ParentNetns: -1, HardwareTy: 1}
	if mac != "" {
		l.MAC = ether.MustParseMAC(mac)
	}
	return l
}

// Route makes a route with one next hop; via "" is a destination on the link.
func Route(table uint32, typ tables.RouteType, dst string, dev tables.Ifindex, via string) tables.Route {
	r := tables.Route{Table: table, Type: typ, Dst: netip.MustParsePrefix(dst)}
	nh := tables.NextHop{Index: dev, Weight: 1}
	if via != "" {
		nh.Gateway = netip.MustParseAddr(via)
	}
	r.NextHops = []tables.NextHop{nh}
	return r
}

func (n nodeSpec) netns() *tables.Netns {
	vx := link(4, "flannel.1", "vxlan", n.vxMAC, 1450)
	vx.VXLAN = &tables.VXLAN{VNI: 1, Port: 8472, Local: netip.MustParseAddr(n.ip), Lower: 2, LocalBypass: true}
	br := link(5, "cni0", "bridge", n.brMAC, 1450)
	br.Bridge = &tables.Bridge{Ageing: 300}
	ns := &tables.Netns{
		ID: n.id, Node: n.name, Name: tables.HostName, Exec: "ip netns exec " + n.name,
		Links: []tables.Link{link(1, "lo", "", "", 65536), link(2, n.uplink, "", n.upMAC, 1500), vx, br},
		Addrs: []tables.Addr{
			{Index: 2, Prefix: netip.MustParsePrefix(n.ip + "/24")},
			{Index: 4, Prefix: netip.MustParsePrefix(n.vtep + "/32")},
			{Index: 5, Prefix: netip.MustParsePrefix(n.gwPod + "/24")},
		},
		Routes: []tables.Route{
			Route(tables.TableLocal, tables.RouteLocal, n.ip+"/32", 2, ""),
			Route(tables.TableLocal, tables.RouteLocal, n.vtep+"/32", 4, ""),
			Route(tables.TableLocal, tables.RouteLocal, n.gwPod+"/32", 5, ""),
			Route(tables.TableMain, tables.RouteUnicast, "10.1.11.0/24", 2, ""),
			Route(tables.TableMain, tables.RouteUnicast, "0.0.0.0/0", 2, "10.1.11.1"),
			Route(tables.TableMain, tables.RouteUnicast, n.pods, 5, ""),
			Route(tables.TableMain, tables.RouteUnicast, n.farNet, 4, n.farVtep),
		},
		Neighs: []tables.Neigh{
			{Index: 4, IP: netip.MustParseAddr(n.farVtep), MAC: ether.MustParseMAC(n.farVxMAC), State: tables.NUDPermanent},
		},
		FDB:     []tables.FDB{{Index: 4, MAC: ether.MustParseMAC(n.farVxMAC), Dst: netip.MustParseAddr(n.farIP), State: tables.NUDPermanent}},
		Sysctls: map[string]string{"ipv4.ip_default_ttl": "64", "ipv4.conf.cni0.forwarding": "1", "ipv4.conf.flannel.1.forwarding": "1"},
		Peers:   map[int]netns.ID{},
	}
	ns.Links[0].Loopback = true
	return ns
}

// pod attaches a pod to its node's bridge.
func pod(node *tables.Netns, id netns.ID, name, mac, vethMAC string, ip netip.Addr, gw string, at tables.Ifindex) *tables.Netns {
	nsid := len(node.Peers)
	node.Peers[nsid] = id
	veth := link(at, fmt.Sprintf("veth%d", at), "veth", vethMAC, 1450)
	veth.Parent, veth.ParentNetns, veth.Master = 3, nsid, 5
	veth.Port = &tables.BridgePort{State: "forwarding", Hairpin: true, Learning: true, Flood: true, BroadcastFl: true}
	node.Links = append(node.Links, veth)
	eth0 := link(3, "eth0", "veth", mac, 1450)
	eth0.Parent, eth0.ParentNetns = at, 0
	lo := link(1, "lo", "", "", 65536)
	lo.Loopback = true
	return &tables.Netns{
		ID: id, Node: node.Node, Name: "default/" + name, Links: []tables.Link{lo, eth0},
		Addrs: []tables.Addr{{Index: 3, Prefix: netip.PrefixFrom(ip, 24)}},
		Routes: []tables.Route{
			Route(tables.TableLocal, tables.RouteLocal, ip.String()+"/32", 3, ""),
			Route(tables.TableMain, tables.RouteUnicast, "0.0.0.0/0", 3, gw),
			Route(tables.TableMain, tables.RouteUnicast, netip.PrefixFrom(ip, 24).Masked().String(), 3, ""),
		},
		Sysctls: map[string]string{"ipv4.ip_default_ttl": "64"},
		Peers:   map[int]netns.ID{0: node.ID},
	}
}

// Cluster gives node1, node2, coffee-1, tea-1 and coffee-2, in that order.
func Cluster() *tables.Snapshot {
	n1 := nodeSpec{
		Node1, "node1", "ens192", "10.1.11.91", "10.244.1.1", "10.244.1.0", "00:50:56:ab:81:34", "1e:0f:7e:bb:26:2b",
		"8e:62:4b:7f:4b:ab", "10.244.2.0", "ce:b8:fc:a6:06:d2", "10.244.2.0/24", "10.1.11.92", "10.244.1.0/24",
	}.netns()
	n2 := nodeSpec{
		Node2, "node2", "eno16780032", "10.1.11.92", "10.244.2.1", "10.244.2.0", "00:50:56:ab:00:3b", "ce:b8:fc:a6:06:d2",
		"4a:ab:da:9d:27:34", "10.244.1.0", "1e:0f:7e:bb:26:2b", "10.244.1.0/24", "10.1.11.91", "10.244.2.0/24",
	}.netns()
	return &tables.Snapshot{Netns: []*tables.Netns{
		n1, n2,
		pod(n1, Coffee1, "coffee-1", "4a:9e:70:55:74:ac", "4a:28:d3:7d:dd:3f", Coffee1IP, "10.244.1.1", 33),
		pod(n1, Tea1, "tea-1", "4a:9e:70:55:74:ad", "4a:28:d3:7d:dd:40", Tea1IP, "10.244.1.1", 34),
		pod(n2, Coffee2, "coffee-2", "4a:9e:70:55:74:ae", "4a:28:d3:7d:dd:41", Coffee2IP, "10.244.2.1", 41),
	}}
}
