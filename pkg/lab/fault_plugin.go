package lab

import "slices"

// pluginDamages are the faults of Calico and of Cilium.
func pluginDamages() []damage {
	return []damage{
		{id: "pod-host-route-missing", summary: "the node has no route to the pod", in: colCalico | colCilium | colKind, leg: onReply,
			do: func(w *world) {
				ip := host(w.podIP(w.on))
				w.here().dropRoutes(func(r route) bool { return r.dst == ip })
			}},
		{id: "proxy-arp-off", summary: "the pod's host end answers no ARP for the pod's gateway", in: colCalico, leg: onRequest,
			do: func(w *world) {
				w.here().setSysctl("ipv4/conf/"+w.podOn(w.on).hostVeth+"/proxy_arp", "0")
			}},
		{id: "eni-rule-missing", summary: "no policy rule sends pods of the second ENI out by it", in: colCilium, leg: onRequest, from: "tea-1",
			do: func(w *world) { w.dropRules(prefFromPod) }},
		{id: "eni-to-pod-rule-missing", summary: "no policy rule keeps traffic to the node's own pods on the node", in: colCilium, leg: onRequest,
			from: "tea-1", to: "coffee-1", // out by the second ENI, in by the first, and out again
			do: func(w *world) { w.dropRules(prefToPod) }},
	}
}

func (w *world) dropRules(pref int) {
	p := w.here()
	p.rules = slices.DeleteFunc(p.rules, func(r rule) bool { return r.pref == pref })
}
