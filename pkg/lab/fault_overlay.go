package lab

import "net/netip"

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
			do: func(w *world) { w.editLink(w.on.name, w.vtepDev(), func(l *link) { l.vxlan.vni += 4095 }) }},
		{id: "vxlan-port-mismatch", summary: "the VXLAN device uses another UDP port than the peer's", side: receiver, in: vxlans, leg: onBoth,
			do: func(w *world) {
				w.editLink(w.on.name, w.vtepDev(), func(l *link) {
					l.vxlan.port = calicoPort
					if w.vxlanPort() == calicoPort {
						l.vxlan.port = vxlanPort
					}
				})
			}},
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
