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
		{id: "veth-no-master", summary: "the pod's veth is no port of the bridge", in: colBridge, leg: onReply,
			do: func(w *world) { w.editLink(w.on.name, w.podOn(w.on).hostVeth, func(l *link) { l.master = "" }) }},
		{id: "bridge-port-blocked", summary: "the pod's bridge port does not forward", in: colBridge, leg: onBoth,
			do: func(w *world) { w.editLink(w.on.name, w.podOn(w.on).hostVeth, func(l *link) { l.blocked = true }) }},
		{id: "pod-link-down", summary: "the pod's eth0 is down", side: receiver, in: colBridge | colCalico | colCilium, leg: onBoth,
			do: func(w *world) { w.editLink(w.podOn(w.on).name, "eth0", func(l *link) { l.down = true }) }},
		{id: "pod-default-route-missing", summary: "the pod has no route out of its subnet", in: colBridge | colCalico | colCilium, leg: onRequest,
			do: func(w *world) {
				w.get(w.podOn(w.on).name).dropRoutes(func(r route) bool { return r.via.IsValid() })
			}},
		{id: "pod-neigh-stale", summary: "the node has the MAC of an earlier pod for the pod's address", side: receiver, in: colBridge, leg: onRequest,
			do: func(w *world) {
				p := w.here()
				p.neighs = append(p.neighs, neigh{ip: w.podIP(w.on), mac: "02:de:ad:00:00:01", dev: bridgeName})
			}},
	}
}
