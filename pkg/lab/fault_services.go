package lab

import (
	"net/netip"
	"slices"
)

// staleFlowPort is the source port of the flow of ct-stale-udp, host byte order.
const staleFlowPort = 40000

// serviceDamages are the faults of kube-proxy's work.
func serviceDamages() []damage {
	return []damage{
		{id: "bridge-nf-off", summary: "bridged frames bypass netfilter, so a reply on the same node keeps the pod's address", in: colSvc, leg: onReply,
			to:   "svc/tea:80", // whose pod is beside coffee-1
			fits: (*cluster).bridged,
			do: func(w *world) {
				w.here().setSysctl("bridge/bridge-nf-call-iptables", "0")
				if w.v6 {
					w.here().setSysctl("bridge/bridge-nf-call-ip6tables", "0")
				}
			}},
		{id: "hairpin-off", summary: "the pods' bridge ports send nothing back to where it came from", in: colSvc, leg: onRequest, fits: (*cluster).bridged,
			from: "tea-1", to: "svc/tea:80", // its own service
			do: func(w *world) {
				for _, p := range w.podsOn(w.on) {
					w.editLink(w.on.name, p.hostVeth, func(l *link) { l.hairpin = false })
				}
			}},
		{id: "ct-stale-udp", summary: "a conntrack entry still sends the pod's UDP flow from port 40000 to an endpoint that is gone", in: colSvc, leg: onRequest,
			from: placePod, to: "svc/echo:7",
			do: func(w *world) {
				p := w.here()
				p.flows = append(p.flows, flow{
					src:      netip.AddrPortFrom(w.podIP(w.on), staleFlowPort),
					dst:      netip.AddrPortFrom(w.serviceIP("echo"), echoPort),
					replySrc: netip.AddrPortFrom(w.goneIP(), echoPort),
				})
			}},
		{id: "dnat-dead-endpoint", summary: "kube-proxy's rules for service tea lead to a pod that is gone", in: colSvc, leg: onRequest,
			from: placePod, to: "svc/tea:80",
			do: func(w *world) {
				w.editService("tea", func(s *service) { w.gone(s) })
			}},
		{id: "etp-local-no-endpoint", summary: "service cheddar has no endpoint on the node, and its externalTrafficPolicy is Local", in: colNodePort, leg: onRequest,
			from: clientName, to: placeNode + ":32604",
			do: func(w *world) {
				w.editService("cheddar", func(s *service) {
					s.endpoints = slices.DeleteFunc(s.endpoints, func(e endpoint) bool { return e.node == w.on.name })
				})
			}},
		{id: "nodeport-no-masq", summary: "neither kube-proxy nor flanneld masquerades what comes from outside", side: receiver, in: colNodePort, leg: onReply,
			from: clientName, to: placeNode + ":30082", // tea, whose pod is on the other node
			do: func(w *world) {
				for _, k := range w.here().proxies {
					k.noMasquerade = true
				}
				for _, is6 := range w.families() {
					if c := w.here().chain(familyOf(is6), "nat", "FLANNEL-POSTRTG"); c != nil {
						c.rules = nil
					}
				}
			}},
		{id: "nat-port-race", summary: "all connections to the peer's pod are masqueraded with one port: of two at a time one is lost", in: colSvc, leg: onNone,
			do: func(w *world) {
				if c := w.chain("nat", "POSTROUTING"); c != nil {
					race := nftRule{dst: host(w.podIP(w.peer)), tcp: true, action: actionMasquerade, toPort: staleFlowPort}
					c.rules = append([]nftRule{race}, c.rules...)
				}
			}},
	}
}

// gone leaves a service one endpoint, which nobody is.
func (w *world) gone(s *service) {
	s.endpoints = []endpoint{{numbered(rangeOf(w.peer.podCIDRs, s.clusterIP.Is6()), 249), w.peer.name}}
}

// goneIP is an address of the peer's range that no pod has.
func (w *world) goneIP() netip.Addr { return numbered(rangeOf(w.peer.podCIDRs, w.is6), 249) }

// editService changes what the node's kube-proxy knows of a service.
func (w *world) editService(name string, edit func(*service)) {
	for _, k := range w.here().proxies {
		for i := range k.services {
			if k.services[i].name == name {
				edit(&k.services[i])
			}
		}
	}
}
