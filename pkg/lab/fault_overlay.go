package lab

import (
	"net/netip"
	"slices"
)

const (
	vxlans   = colVXLAN | colVXLAN6 | colCalico
	flannels = colVXLAN | colVXLAN6
)

// overlayDamages are the faults of the tunnel and of the network below it.
func overlayDamages() []damage {
	return []damage{
		{id: "fdb-wrong-dst", summary: "FDB row of the peer's VTEP points to a dead address", in: vxlans, leg: onRequest,
			do: func(w *world) { w.editFDB(func(f *fdbRow) { f.dst = w.deadHost() }) }},
		{id: "fdb-missing", summary: "FDB row of the peer's VTEP is gone", in: vxlans, leg: onRequest,
			do: func(w *world) { w.dropFDB() }},
		{id: "neigh-wrong-mac", summary: "neighbour entry of the peer's VTEP has a wrong MAC", in: vxlans, leg: onRequest,
			do: func(w *world) {
				p := w.here()
				for i := range p.neighs {
					if p.neighs[i].ip == w.peer.vtep(w.is6) {
						p.neighs[i].mac = "0a:0a:00:00:00:99"
					}
				}
			}},
		{id: "neigh-missing", summary: "neighbour entry of the peer's VTEP is gone", in: vxlans, leg: onRequest,
			do: func(w *world) { w.dropNeigh() }},
		{id: "vtep-mac-changed", summary: "the VXLAN device has another MAC than was announced", side: receiver, in: vxlans, leg: onRequest,
			do: func(w *world) { w.editLink(w.on.name, w.vtepDev(), func(l *link) { l.mac = "0a:0a:00:00:00:77" }) }},
		{id: "vxlan-port-input-drop", summary: "the node drops UDP to the VXLAN port", side: receiver, in: vxlans, leg: onRequest,
			do: func(w *world) {
				w.addTable(w.on.name, familyINet, "fw", nftChain{
					name: "input", typ: "filter", hook: "input",
					rules: []nftRule{{udpPort: w.vxlanPort(), action: actionDrop}},
				})
			}},
		{id: "vxlan-port-underlay-drop", summary: "the network between the nodes drops what the node sends to the VXLAN port", in: vxlans, leg: onRequest,
			do: func(w *world) {
				w.underlayRule(w.on, "sg", nftRule{udpPort: w.vxlanPort(), action: actionDrop})
			}},
		{id: "underlay-route-missing", summary: "no route to the peer's node", in: vxlans | colUDP, leg: onRequest,
			do: func(w *world) { w.here().dropRoutes(func(r route) bool { return r.dev == w.on.uplink }) }},
		{id: "vxlan-down", summary: "the VXLAN device is down", side: receiver, in: vxlans, leg: onBoth,
			do: func(w *world) { w.editLink(w.on.name, w.vtepDev(), func(l *link) { l.down = true }) }},
		{id: "vxlan-dev-gone", summary: "the VXLAN device is gone, and with it all that hung on it", in: vxlans, leg: onBoth,
			do: func(w *world) { removeLink(w.here(), w.vtepDev()) }},
		{id: "vni-mismatch", summary: "the VXLAN device has another VNI than the peer's", side: receiver, in: vxlans, leg: onBoth,
			do: func(w *world) {
				w.editLink(w.on.name, w.vtepDev(), func(l *link) {
					l.vxlan.vni += 4095
					for slices.ContainsFunc(w.here().links, func(o link) bool { return o.name != l.name && o.vxlan.vni == l.vxlan.vni }) {
						l.vxlan.vni++ // another program's device has it
					}
				})
			}},
		{id: "vxlan-port-mismatch", summary: "the VXLAN device uses another UDP port than the peer's", side: receiver, in: vxlans, leg: onBoth,
			do: func(w *world) {
				w.editLink(w.on.name, w.vtepDev(), func(l *link) {
					l.vxlan.port = calicoPort
					if w.vxlanPort() == calicoPort {
						l.vxlan.port = vxlanPort
					}
				})
			}},
		{id: "fdb-aged", summary: "FDB row of the peer's VTEP is dynamic and ages while nothing is sent (within 12 seconds)", in: colVXLAN, leg: onRequest,
			do: func(w *world) {
				w.editLink(w.on.name, w.vtepDev(), func(l *link) { l.vxlan.ageing = 1 })
				w.editFDB(func(f *fdbRow) { f.dynamic = true })
			}},
		{id: "wrong-iface", summary: "the VXLAN device sends from another interface's address, which peers have learnt and cannot reach",
			in: colVXLAN | colCalico, leg: onReply, do: func(w *world) { w.wrongInterface() }},
		{id: "vxlan-csum-offload", summary: "the outer UDP checksum of what the node sends is wrong (an offload that computes it badly)",
			in: colVXLAN | colCalico, leg: onRequest,
			do: func(w *world) {
				w.noOffload(w.on)
				w.underlayRule(w.on, "nic", nftRule{udpPort: w.vxlanPort(), action: actionBadChecksum})
			}},
		{id: "mtu-path-blackhole", summary: "the network between the nodes passes no more than 1400 bytes, and says nothing",
			in: colVXLAN | colHostGW | colCalico | colKind, leg: onLarge, fits: func(c *cluster) bool { return c.nodes[1].hub == switchName },
			do: func(w *world) {
				for _, n := range []node{w.on, w.peer} {
					w.noOffload(n)
					w.editLink(n.hub, n.hubPort(), func(l *link) { l.mtu = w.uplinkMTU() - 100 })
				}
			}},
		{id: "src-dst-check", summary: "the network drops what the node sends with an address that is not its own", in: colHostGW | colDirect | colCilium | colKind, leg: onRequest,
			do: func(w *world) {
				w.underlayRule(w.on, "antispoof", nftRule{src: host(w.on.ip()), notSrc: true, action: actionDrop})
			}},
		{id: "v6-overlay-missing", summary: "the IPv6 neighbour entry of the peer's VTEP is gone, that of IPv4 is not", in: colV6, leg: onRequest,
			do: func(w *world) { w.dropNeigh() }},
	}
}

// wrongInterface gives the node a second interface in a network that leads nowhere, and makes it the
// VXLAN device's.
func (w *world) wrongInterface() {
	const dev = "eth9"
	number := w.number(w.on)
	local := netip.AddrFrom4([4]byte{192, 168, 56, byte(10 + number)})
	port := "mgmt-" + w.on.name
	p, hub := w.here(), w.get(w.on.hub)
	if p.link(dev) != nil {
		return // this fault is there already
	}
	net := netip.PrefixFrom(local, 24)
	p.links = append(p.links, link{
		name: dev, kind: kindVeth, mtu: uplinkMTU, mac: makeMAC(0x56, number), addrs: []addr{{prefix: net}}, peerNetns: hub.name, peer: port,
	})
	p.routes = append(p.routes, connected(net, local, dev))
	hub.links = append(hub.links, link{name: port, kind: kindVeth, mtu: uplinkMTU, mac: makeMAC(0x57, number), peerNetns: p.name, peer: dev})
	w.editLink(p.name, w.vtepDev(), func(l *link) { l.vxlan.local = local })
	for _, n := range w.nodes {
		other := w.get(n.name)
		for i := range other.fdb {
			if other.fdb[i].mac == w.on.vtepMAC && other.fdb[i].dev == w.vtepDev() {
				other.fdb[i].dst = local
			}
		}
	}
}

// noOffload turns checksum and segmentation offload off on all devices of a node and of its pods.
func (w *world) noOffload(n node) {
	names := []string{n.name}
	for _, p := range w.podsOn(n) {
		names = append(names, p.name)
	}
	for _, name := range names {
		p := w.get(name)
		for i := range p.links {
			p.links[i].noOffload = true
		}
	}
}

// replaceAddr gives a device other addresses of the fault's family.
func (l *link) replaceAddr(is6 bool, to netip.Prefix) {
	var kept []addr
	for _, a := range l.addrs {
		if a.prefix.Addr().Is6() != is6 {
			kept = append(kept, a)
		}
	}
	l.addrs = append(kept, addr{prefix: to})
}
