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
			to: "10.96.0.11:80", // tea, whose pod is beside coffee-1
			do: func(w *world) { w.here().setSysctl("bridge/bridge-nf-call-iptables", "0") }},
		{id: "hairpin-off", summary: "the pods' bridge ports send nothing back to where it came from", in: colSvc, leg: onRequest,
			from: "tea-1", to: "10.96.0.11:80", // its own service
			do: func(w *world) {
				for _, p := range w.podsOn(w.on) {
					w.editLink(w.on.name, p.hostVeth, func(l *link) { l.hairpin = false })
				}
			}},
		{id: "ct-stale-udp", summary: "a conntrack entry still sends the pod's UDP flow from port 40000 to an endpoint that is gone", in: colSvc, leg: onRequest,
			from: placePod, to: "10.96.0.12:7",
			do: func(w *world) {
				p := w.here()
				p.flows = append(p.flows, flow{
					src:      netip.AddrPortFrom(w.podIP(w.on), staleFlowPort),
					dst:      netip.MustParseAddrPort("10.96.0.12:7"),
					replySrc: netip.AddrPortFrom(w.goneIP(), echoPort),
				})
			}},
		{id: "dnat-dead-endpoint", summary: "kube-proxy's rules for service tea lead to a pod that is gone", in: colSvc, leg: onRequest,
			from: placePod, to: "10.96.0.11:80",
			do: func(w *world) {
				w.editService("tea", func(s *service) { s.endpoints = []endpoint{{w.goneIP(), w.peer.name}} })
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
				if p := w.here(); p.proxy != nil {
					p.proxy.noMasquerade = true
				}
				if c := w.chain("nat", "FLANNEL-POSTRTG"); c != nil {
					c.rules = nil
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

// goneIP is an address of the peer's range that no pod has.
func (w *world) goneIP() netip.Addr {
	ip := w.peer.vtep(false).As4()
	ip[3] = 249
	return netip.AddrFrom4(ip)
}

// editService changes what the node's kube-proxy knows of a service.
func (w *world) editService(name string, edit func(*service)) {
	p := w.here()
	if p.proxy == nil {
		return
	}
	for i := range p.proxy.services {
		if p.proxy.services[i].name == name {
			edit(&p.proxy.services[i])
		}
	}
}
