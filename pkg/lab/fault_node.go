package lab

import (
	"net/netip"
	"strings"
)

// routed are the datapaths where the node routes to the peer's pods by a route of their own.
const routed = flannels | colHostGW | colCalico | colKind

// nodeDamages are the faults of a node's routes, sysctls and netfilter rules.
func nodeDamages() []damage {
	return []damage{
		{id: "route-missing", summary: "route to the peer's pods is gone", in: routed | colUDP, leg: onRequest,
			do: func(w *world) {
				w.here().dropRoutes(func(r route) bool { return r.dst == w.dst() || r.dev == tunName && r.dst == w.podNet })
			}},
		{id: "blackhole-route", summary: "route to the peer's pods is a blackhole", in: routed | colUDP, leg: onRequest,
			do: func(w *world) { w.replaceRoute(w.dst(), route{dst: w.dst(), typ: routeBlackhole}) }},
		{id: "forward-policy-drop", summary: "policy of chain FORWARD is DROP and nothing accepts pod traffic", side: receiver,
			in: colVXLAN | colHostGW | colBridge | colUDP | colSvc | colCalico | colKind, leg: onBoth,
			fits: func(c *cluster) bool { return c.v4 && c.spec.Datapath != K3s }, // whose policies accept it first
			do: func(w *world) {
				if c := w.filter("FORWARD"); c != nil {
					c.drop, c.rules = true, nil
				}
			}},
		{id: "forward-reject-order", summary: "a later forward chain rejects what an earlier one accepted", side: receiver,
			in: colVXLAN | colHostGW | colUDP | colCalico, leg: onRequest,
			do: func(w *world) {
				w.addTable(w.on.name, familyINet, "firewalld", nftChain{
					name: "filter_FORWARD", typ: "filter", hook: "forward", priority: 10,
					rules: []nftRule{{iif: w.entry(), action: actionReject}},
				})
			}},
		{id: "masq-pod-to-pod", summary: "traffic between pods is masqueraded", in: colVXLAN | colHostGW | colUDP | colCalico | colKind, leg: onNone,
			do: func(w *world) {
				if c := w.chain("nat", "POSTROUTING"); c != nil {
					c.rules = append([]nftRule{{
						src: w.podNet, dst: netip.MustParsePrefix("224.0.0.0/4"), notDst: true, action: actionMasquerade,
					}}, c.rules...)
				}
			}},
		{id: "ip-forward-off", summary: "net.ipv4.ip_forward is 0", in: colVXLAN | colHostGW | colUDP | colCalico | colCilium | colKind, leg: onBoth,
			do: func(w *world) { w.setForwarding("ipv4") }},
		{id: "rp-filter-strict", summary: "strict reverse path filter, and the route back leads elsewhere", side: receiver,
			in: colVXLAN | colHostGW | colCalico | colCilium, leg: onRequest,
			do: func(w *world) {
				w.here().setSysctl("ipv4/conf/all/rp_filter", "1")
				dst := w.dst()
				if w.spec.Datapath == CiliumENI {
					dst = host(w.podIP(w.peer))
				}
				w.replaceRoute(dst, w.detour(dst))
			}},
		{id: "policy-rule-hijack", summary: "a policy rule before main sends everything elsewhere",
			in: colVXLAN | colHostGW | colUDP | colCalico | colCilium | colKind, leg: onBoth,
			do: func(w *world) {
				p := w.here()
				p.rules = append(p.rules, rule{pref: 5270, table: 52})
				hijack := route{via: w.on.gateway, dev: w.on.uplink, table: 52}
				if w.spec.Datapath == CiliumENI { // there the gateway is the right way
					hijack = route{dev: "docker0", table: 52, scope: scopeLink}
				}
				p.routes = append(p.routes, hijack)
			}},
		{id: "ct-table-full", summary: "the connection table is full: as many connections as the machine allows, none of which the kernel evicts",
			in: colVXLAN | colHostGW | colBridge | colUDP | colSvc | colCalico | colKind, side: receiver, fits: hasV4, leg: onBoth,
			do: func(w *world) { w.here().fullConns = true }},
		{id: "routing-loop", summary: "the node routes its own pods' range back to the peer", side: receiver, in: colVXLAN | colHostGW | colCalico, leg: onBoth,
			do: func(w *world) { w.loop() }},
		{id: "direct-route-lost", summary: "the routes to all nodes' pods went with a flap of the uplink; the default route came back", in: colHostGW | colDirect, leg: onRequest,
			do: func(w *world) {
				w.here().dropRoutes(func(r route) bool { return r.dev == w.on.uplink && r.dst.IsValid() && r.via.IsValid() })
			}},
		{id: "nexthop-stale", summary: "the route to the peer's pods leads to the address that its node had before", in: colHostGW | colDirect | colKind, leg: onRequest,
			do: func(w *world) {
				w.replaceRoute(w.dst(), route{dst: w.dst(), via: w.deadHost(), dev: w.on.uplink})
			}},
		{id: "iptables-backend-split", summary: "legacy iptables has a FORWARD policy of DROP beside the rules of iptables-nft", side: receiver,
			in: colVXLAN | colBridge | colSvc | colKind, fits: hasV4, leg: onBoth,
			do: func(w *world) { w.here().legacy = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n" }},
		{id: "netpol-drop", summary: "a network policy's rule drops what is for the pod", side: receiver,
			in: colVXLAN | colHostGW | colBridge | colUDP | colSvc | colCalico | colKind, leg: onRequest,
			do: func(w *world) {
				if k := w.here().netpol; k != nil {
					k.isolated[w.podOn(w.on).name] = true
					return
				}
				if c := w.filter("FORWARD"); c != nil {
					drop := nftRule{dst: host(w.podIP(w.on)), action: actionDrop, comment: "KUBE-POD-FW: no policy allows it"}
					c.rules = append([]nftRule{drop}, c.rules...)
				}
			}},
		{id: "pmtu-icmp-blocked", summary: "pods have an MTU of 1500, and the node's ICMP that says what fits is dropped", in: colVXLAN, leg: onLarge,
			fits: func(c *cluster) bool { return c.spec.Datapath != K3s }, // whose policies accept what belongs to a connection
			do:   func(w *world) { w.blockPMTU() }},
		{id: "pod-to-node-input-drop", summary: "the node drops what its own pods send to it", in: colBridge, leg: onRequest, from: placePod, to: placeNode,
			do: func(w *world) {
				if c := w.filter("INPUT"); c != nil {
					c.rules = append(c.rules, nftRule{iif: bridgeName, action: actionDrop})
				}
			}},
		{id: "v6-forward-off", summary: "net.ipv6.conf.all.forwarding is 0", in: colV6, leg: onBoth,
			do: func(w *world) { w.setForwarding("ipv6") }},
		{id: "v6-fw-drop", summary: "policy of ip6tables' chain FORWARD is DROP and nothing accepts pod traffic", side: receiver, in: colV6, leg: onBoth,
			do: func(w *world) {
				if c := w.filter("FORWARD"); c != nil {
					c.drop, c.rules = true, nil
				}
			}},
	}
}

// loop sends what is for the node's own pods to the peer, which sends it back.
func (w *world) loop() {
	p, own := w.here(), rangeOf(w.on.podCIDRs, w.is6)
	back := route{dst: own, via: w.peer.vtep(w.is6), dev: w.vtepDev(), onlink: true}
	if dev := w.direct(); dev != "" {
		back = route{dst: own, via: w.peer.ip(), dev: dev}
	}
	p.dropRoutes(func(r route) bool { return r.dst.IsValid() && own.Contains(r.dst.Addr()) })
	p.routes = append(p.routes, back)
	w.editLink(p.name, bridgeName, func(l *link) { l.addrs = nil })
}

// blockPMTU gives the node's pods, veths and bridge the uplink's MTU.
func (w *world) blockPMTU() {
	p := w.here()
	w.editLink(p.name, bridgeName, func(l *link) { l.mtu = w.uplinkMTU() })
	for _, pod := range w.podsOn(w.on) {
		w.editLink(p.name, pod.hostVeth, func(l *link) { l.mtu = w.uplinkMTU() })
		w.editLink(pod.name, "eth0", func(l *link) { l.mtu = w.uplinkMTU() })
	}
	if c := w.filter("OUTPUT"); c != nil {
		c.rules = append(c.rules, nftRule{icmp: &icmpType{3, 4}, action: actionDrop}) // RFC 792: fragmentation needed
	}
}

func hasV4(c *cluster) bool { return c.v4 }

// entry is the device of the node that the peer's packets come in by, as the FORWARD hook sees it.
func (w *world) entry() string {
	switch d := w.vtepDev(); {
	case w.spec.Datapath == FlannelUDP:
		return tunName
	case d != "" && w.direct() == "":
		return d
	}
	return w.on.uplink
}

// direct is the device of the direct route to the peer, if there is one.
func (w *world) direct() string {
	if w.spec.Datapath == FlannelHostGW || w.spec.Datapath == FlannelDirectRouting && w.on.lan.Contains(w.peer.ip()) {
		return w.on.uplink
	}
	return ""
}

// detour is a route to the peer's pods by a device that nothing comes in by: the uplink where there is a
// tunnel, else docker0.
func (w *world) detour(dst netip.Prefix) route {
	if w.entry() == w.on.uplink {
		return route{dst: dst, dev: "docker0", scope: scopeLink}
	}
	via := w.on.gateway
	if w.on.lan.Contains(w.peer.ip()) {
		via = w.peer.ip()
	}
	return route{dst: dst, via: via, dev: w.on.uplink}
}

// setForwarding turns forwarding off in all files of a family.
func (w *world) setForwarding(family string) {
	p := w.here()
	for i := range p.sysctls {
		path := p.sysctls[i].path
		if strings.HasPrefix(path, family+"/") && (strings.HasSuffix(path, "/forwarding") || path == "ipv4/ip_forward") {
			p.sysctls[i].value = "0"
		}
	}
}
