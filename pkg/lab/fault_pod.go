package lab

import "net/netip"

// podDamages are the faults of a pod, its veth and its bridge.
func podDamages() []damage {
	return []damage{
		{id: "cni0-down", summary: "the pods' bridge is down", in: colBridge, leg: onBoth,
			do: func(w *world) { w.editLink(w.on.name, bridgeName, func(l *link) { l.down = true }) }},
		{id: "cni0-wrong-address", summary: "the pods' bridge has the address of another subnet", in: colBridge, leg: onBoth,
			do: func(w *world) {
				wrong := netip.MustParsePrefix("10.244.7.1/24")
				if w.is6 {
					wrong = netip.MustParsePrefix("fd44:0:0:77::1/64")
				}
				w.editLink(w.on.name, bridgeName, func(l *link) { l.replaceAddr(w.is6, wrong) })
				w.replaceRoute(rangeOf(w.on.podCIDRs, w.is6), connected(wrong, wrong.Addr(), bridgeName))
			}},
		// The node still answers ARP for the pods' gateway on the loose veth and forwards what comes in by
		// it (arp_ignore and rp_filter are 0): what the pod sends arrives, what is sent to it is lost. In
		// IPv6 the address has to be the device's own to be answered for.
		{id: "veth-no-master", summary: "the pod's veth is no port of the bridge", in: colBridge, leg: onReply, leg6: onBoth,
			do: func(w *world) { w.editLink(w.on.name, w.podOn(w.on).hostVeth, func(l *link) { l.master = "" }) }},
		{id: "bridge-port-blocked", summary: "the pod's bridge port does not forward", in: colBridge, leg: onBoth,
			do: func(w *world) { w.editLink(w.on.name, w.podOn(w.on).hostVeth, func(l *link) { l.blocked = true }) }},
		{id: "pod-link-down", summary: "the pod's eth0 is down", side: receiver, in: colBridge | colCalico | colCilium | colKind, leg: onBoth,
			do: func(w *world) { w.editLink(w.podOn(w.on).name, "eth0", func(l *link) { l.down = true }) }},
		{id: "pod-default-route-missing", summary: "the pod has no route out of its subnet", in: colBridge | colCalico | colCilium | colKind, leg: onRequest,
			do: func(w *world) {
				w.get(w.podOn(w.on).name).dropRoutes(func(r route) bool { return r.via.IsValid() })
			}},
		{id: "pod-neigh-stale", summary: "the node has the MAC of an earlier pod for the pod's address", side: receiver, in: colBridge, leg: onRequest,
			do: func(w *world) {
				p := w.here()
				p.neighs = append(p.neighs, neigh{ip: w.podIP(w.on), mac: "02:de:ad:00:00:01", dev: bridgeName})
			}},
		{id: "duplicate-pod-ip", summary: "another pod of the node has the pod's address too, and the node has learnt its MAC", in: colBridge, two: true,
			fits: hasV4, leg: onRequest, from: "coffee-2", to: "coffee-1",
			do: func(w *world) { w.duplicateIP() }},
		{id: "tc-bpf-drop", summary: "a tc program at the pod's host end drops what is for the peer's pod", fits: hasV4,
			in: colBridge | colCalico | colCilium | colKind, leg: onRequest,
			do: func(w *world) {
				w.editLink(w.on.name, w.podOn(w.on).hostVeth, func(l *link) {
					prog := program{name: "edr.o:[filter]"}
					if l.ingress != nil {
						prog = *l.ingress
					}
					prog.drop = of(w.podOn(w.peer).ips, false)
					l.ingress = &prog
				})
			}},
	}
}

// duplicateIP gives the second pod of the node the address of the first.
func (w *world) duplicateIP() {
	pods := w.podsOn(w.on)
	first, second := pods[0], pods[1]
	p := w.get(second.name)
	w.editLink(p.name, "eth0", func(l *link) {
		for i, a := range l.addrs {
			if a.prefix.Addr() == second.ip() {
				l.addrs[i].prefix = netip.PrefixFrom(first.ip(), a.prefix.Bits())
			}
		}
	})
	for i := range p.routes {
		if p.routes[i].src == second.ip() {
			p.routes[i].src = first.ip()
		}
	}
	w.here().neighs = append(w.here().neighs, neigh{ip: first.ip(), mac: second.mac, dev: bridgeName, stale: true})
}
