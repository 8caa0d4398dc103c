package lab

import (
	"fmt"
	"net/netip"
	"slices"
)

// damage is a fault and what it changes. It gets the plans of the whole lab, and the node that it
// is put on with the other one; it leaves plans that the kernel can be made to hold.
type damage struct {
	Fault
	do func(ps plans, on, peer node)
}

// podOn is the pod of the path coffee-1 → coffee-2 that runs on a node.
func podOn(n node) pod {
	i := slices.IndexFunc(pods, func(p pod) bool { return p.node == n.name })
	return pods[i]
}

var (
	overlay = []string{"vxlan"}
	both    = []string{"vxlan", "bridge"}
)

const (
	sender   = "node1" // where coffee-1, the source of the examples, lives
	receiver = "node2"
)

// damages are the faults of the catalogue that the lab can have. Request and reply are seen from
// coffee-1 → coffee-2 with the fault on its default node.
var damages = []damage{
	{Fault{"fdb-wrong-dst", "FDB row of the peer's VTEP points to a dead address", sender, overlay, "request"}, func(ps plans, on, peer node) {
		editFDB(ps, on, peer, func(f *fdbRow) { f.dst = deadHost })
	}},
	{Fault{"fdb-missing", "FDB row of the peer's VTEP is gone", sender, overlay, "request"}, func(ps plans, on, peer node) {
		p := ps.get(on.name)
		p.fdb = slices.DeleteFunc(p.fdb, func(f fdbRow) bool { return f.mac == peer.vtepMAC })
	}},
	{Fault{"neigh-wrong-mac", "neighbour entry of the peer's VTEP has a wrong MAC", sender, overlay, "request"}, func(ps plans, on, peer node) {
		p := ps.get(on.name)
		for i := range p.neighs {
			if p.neighs[i].ip == peer.vtep() {
				p.neighs[i].mac = "0a:0a:00:00:00:99"
			}
		}
	}},
	{Fault{"neigh-missing", "neighbour entry of the peer's VTEP is gone", sender, overlay, "request"}, func(ps plans, on, peer node) {
		p := ps.get(on.name)
		p.neighs = slices.DeleteFunc(p.neighs, func(n neigh) bool { return n.ip == peer.vtep() })
	}},
	{Fault{"vtep-mac-changed", "the VXLAN device has another MAC than was announced", receiver, overlay, "request"}, func(ps plans, on, _ node) {
		editLink(ps, on.name, vtepName, func(l *link) { l.mac = "0a:0a:00:00:00:77" })
	}},
	{Fault{"route-missing", "route to the peer's pods is gone", sender, overlay, "request"}, func(ps plans, on, peer node) {
		ps.get(on.name).dropRoutes(func(r route) bool { return r.dst == peer.podCIDR })
	}},
	{Fault{"blackhole-route", "route to the peer's pods is a blackhole", sender, overlay, "request"}, func(ps plans, on, peer node) {
		replaceRoute(ps, on, peer.podCIDR, route{dst: peer.podCIDR, typ: routeBlackhole})
	}},
	{Fault{"vxlan-port-input-drop", "the node drops UDP to the VXLAN port", receiver, overlay, "request"}, func(ps plans, on, _ node) {
		addTable(ps, on.name, familyINet, "fw", nftChain{
			name: "input", typ: "filter", hook: "input",
			rules: []nftRule{{udpPort: vxlanPort, action: actionDrop}},
		})
	}},
	{Fault{"vxlan-port-underlay-drop", "the network between the nodes drops what the node sends to the VXLAN port", sender, overlay, "request"}, func(ps plans, on, _ node) {
		addTable(ps, switchName, familyBridge, "sg", nftChain{
			name: "forward", typ: "filter", hook: "forward",
			rules: []nftRule{{iif: on.switchPort(), udpPort: vxlanPort, action: actionDrop}},
		})
	}},
	{Fault{"forward-policy-drop", "policy of chain FORWARD is DROP and nothing accepts pod traffic", receiver, both, "both"}, func(ps plans, on, _ node) {
		p := ps.get(on.name)
		if t := p.table(familyIPv4, "filter"); t != nil {
			c := t.chain("FORWARD")
			c.drop, c.rules = true, nil
		}
	}},
	{Fault{"forward-reject-order", "a later forward chain rejects what FLANNEL-FWD accepted", receiver, overlay, "request"}, func(ps plans, on, _ node) {
		addTable(ps, on.name, familyINet, "firewalld", nftChain{
			name: "filter_FORWARD", typ: "filter", hook: "forward", priority: 10,
			rules: []nftRule{{iif: vtepName, action: actionReject}},
		})
	}},
	{Fault{"masq-pod-to-pod", "traffic between pods is masqueraded", sender, overlay, "request"}, func(ps plans, on, _ node) {
		if t := ps.get(on.name).table(familyIPv4, "nat"); t != nil {
			c := t.chain("POSTROUTING")
			c.rules = append([]nftRule{{
				src: clusterCIDR, dst: netip.MustParsePrefix("224.0.0.0/4"), notDst: true, action: actionMasquerade,
			}}, c.rules...)
		}
	}},
	{Fault{"ip-forward-off", "net.ipv4.ip_forward is 0", sender, overlay, "both"}, func(ps plans, on, _ node) {
		p := ps.get(on.name)
		for i := range p.sysctls {
			if isForwarding(p.sysctls[i].path) {
				p.sysctls[i].value = "0"
			}
		}
	}},
	{Fault{"rp-filter-strict", "strict reverse path filter, and the route back leads elsewhere", receiver, overlay, "request"}, func(ps plans, on, peer node) {
		ps.get(on.name).setSysctl("ipv4/conf/all/rp_filter", "1")
		replaceRoute(ps, on, peer.podCIDR, route{dst: peer.podCIDR, via: peer.ip, dev: on.uplink})
	}},
	{Fault{"policy-rule-hijack", "a policy rule before main sends everything to the default gateway", sender, overlay, "both"}, func(ps plans, on, _ node) {
		p := ps.get(on.name)
		p.rules = append(p.rules, rule{pref: 5270, table: 52})
		p.routes = append(p.routes, route{via: gateway, dev: on.uplink, table: 52})
	}},
	{Fault{"underlay-route-missing", "no route to the peer's node", sender, overlay, "request"}, func(ps plans, on, _ node) {
		ps.get(on.name).dropRoutes(func(r route) bool { return r.dev == on.uplink })
	}},
	{Fault{"vxlan-down", "the VXLAN device is down", receiver, overlay, "both"}, func(ps plans, on, _ node) {
		editLink(ps, on.name, vtepName, func(l *link) { l.down = true })
	}},
	{Fault{"vxlan-dev-gone", "the VXLAN device is gone, and with it all that hung on it", sender, overlay, "both"}, func(ps plans, on, _ node) {
		removeLink(ps.get(on.name), vtepName)
	}},
	{Fault{"vni-mismatch", "the VXLAN device has another VNI than the peer's", receiver, overlay, "both"}, func(ps plans, on, _ node) {
		editLink(ps, on.name, vtepName, func(l *link) { l.vxlan.vni = 4096 })
	}},
	{Fault{"vxlan-port-mismatch", "the VXLAN device uses another UDP port than the peer's", receiver, overlay, "both"}, func(ps plans, on, _ node) {
		editLink(ps, on.name, vtepName, func(l *link) { l.vxlan.port = 4789 })
	}},
	{Fault{"cni0-down", "the pods' bridge is down", sender, both, "both"}, func(ps plans, on, _ node) {
		editLink(ps, on.name, bridgeName, func(l *link) { l.down = true })
	}},
	{Fault{"cni0-wrong-address", "the pods' bridge has the address of another subnet", sender, overlay, "both"}, func(ps plans, on, _ node) {
		wrong := netip.MustParsePrefix("10.244.7.1/24")
		editLink(ps, on.name, bridgeName, func(l *link) { l.addrs = []addr{{prefix: wrong}} })
		replaceRoute(ps, on, on.podCIDR, connected(wrong, wrong.Addr(), bridgeName))
	}},
	// The node still answers ARP for the pods' gateway on the loose veth and forwards what comes in by
	// it (arp_ignore and rp_filter are 0): what the pod sends arrives, what is sent to it is lost.
	{Fault{"veth-no-master", "the pod's veth is no port of the bridge", sender, both, "reply"}, func(ps plans, on, _ node) {
		editLink(ps, on.name, podOn(on).hostVeth, func(l *link) { l.master = "" })
	}},
	{Fault{"bridge-port-blocked", "the pod's bridge port does not forward", sender, both, "both"}, func(ps plans, on, _ node) {
		editLink(ps, on.name, podOn(on).hostVeth, func(l *link) { l.blocked = true })
	}},
	{Fault{"pod-link-down", "the pod's eth0 is down", receiver, both, "both"}, func(ps plans, on, _ node) {
		editLink(ps, podOn(on).name, "eth0", func(l *link) { l.down = true })
	}},
	{Fault{"pod-default-route-missing", "the pod has no route out of its subnet", sender, overlay, "request"}, func(ps plans, on, _ node) {
		ps.get(podOn(on).name).dropRoutes(func(r route) bool { return r.via.IsValid() })
	}},
	{Fault{"pod-neigh-stale", "the node has the MAC of an earlier pod for the pod's address", receiver, overlay, "request"}, func(ps plans, on, _ node) {
		p := ps.get(on.name)
		p.neighs = append(p.neighs, neigh{podOn(on).ip, "02:de:ad:00:00:01", bridgeName})
	}},
}

// broken gives the plans of the lab with the faults in it.
func broken(faults []Broken) (plans, error) {
	ps := topology()
	for _, f := range faults {
		d, on, peer, err := findDamage(f.ID, f.Node)
		if err != nil {
			return nil, err
		}
		d.do(ps, on, peer)
	}
	return ps, nil
}

// findDamage looks a fault and its node up; an empty name stands for the fault's default node.
func findDamage(id, name string) (d damage, on, peer node, err error) {
	i := slices.IndexFunc(damages, func(d damage) bool { return d.ID == id })
	if i < 0 {
		return d, on, peer, fmt.Errorf("fault %q: %w", id, ErrNoFault)
	}
	d = damages[i]
	name = firstOf(name, d.Node)
	for k, n := range nodes {
		if n.name == name {
			return d, n, nodes[1-k], nil
		}
	}
	return d, on, peer, fmt.Errorf("node %q: %w", name, ErrNoName)
}

func isForwarding(path string) bool {
	return path == "ipv4/ip_forward" || len(path) > 11 && path[len(path)-11:] == "/forwarding"
}

func editLink(ps plans, netns, name string, edit func(*link)) {
	if l := ps.get(netns).link(name); l != nil { // an earlier fault may have removed it
		edit(l)
	}
}

func editFDB(ps plans, on, peer node, edit func(*fdbRow)) {
	p := ps.get(on.name)
	for i := range p.fdb {
		if p.fdb[i].mac == peer.vtepMAC {
			edit(&p.fdb[i])
		}
	}
}

func replaceRoute(ps plans, on node, dst netip.Prefix, r route) {
	p := ps.get(on.name)
	p.dropRoutes(func(old route) bool { return old.dst == dst })
	p.routes = append(p.routes, r)
}

func removeLink(p *plan, name string) {
	p.links = slices.DeleteFunc(p.links, func(l link) bool { return l.name == name })
	p.dropRoutes(func(r route) bool { return r.dev == name })
	p.neighs = slices.DeleteFunc(p.neighs, func(n neigh) bool { return n.dev == name })
	p.fdb = slices.DeleteFunc(p.fdb, func(f fdbRow) bool { return f.dev == name })
}

func addTable(ps plans, netns string, family int, name string, chains ...nftChain) {
	p := ps.get(netns)
	p.tables = append(p.tables, nftTable{family: family, name: name, chains: chains})
}
