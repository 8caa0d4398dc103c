package lab

import (
	"fmt"
	"strings"
)

// nftables gives the rules as kube-proxy writes them (pkg/proxy/nftables of Kubernetes 1.33), for
// nft -f.
func (k *kubeProxy) nftables() string {
	var w strings.Builder
	fmt.Fprintf(&w, nftablesBase, k.serviceNet)
	fmt.Fprintf(&w, "add element ip kube-proxy nodeport-ips { %s }\n", k.nodeIP)
	for _, s := range k.services {
		fmt.Fprintf(&w, "add element ip kube-proxy cluster-ips { %s }\n", s.clusterIP)
		for _, p := range s.ports {
			k.nftablesPort(&w, s, p)
		}
	}
	if k.is6 {
		return nftablesTo6.Replace(w.String())
	}
	return w.String()
}

// nftablesTo6 makes the text that of the other family, whose table is another.
var nftablesTo6 = strings.NewReplacer(" ip kube-proxy", " ip6 kube-proxy", "ip daddr", "ip6 daddr", "ip saddr", "ip6 saddr", "ipv4_addr", "ipv6_addr")

const nftablesBase = `add table ip kube-proxy { comment "rules for kube-proxy" ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; comment "Active ClusterIPs" ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; comment "IPs that accept NodePort traffic" ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "destinations that are subject to LoadBalancerSourceRanges" ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to service nodeports with no endpoints" ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to services with no endpoints" ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "ClusterIP, ExternalIP and LoadBalancer IP traffic" ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; comment "NodePort traffic" ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy firewall-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain { comment "helper for @no-endpoint-services / @no-endpoint-nodeports" ; }
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
add rule ip kube-proxy cluster-ips-check ip daddr { %s } drop comment "Drop traffic to unallocated ClusterIPs"
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
`

// nftablesPort writes the rules of one port of a service.
func (k *kubeProxy) nftablesPort(w *strings.Builder, s service, p servicePort) {
	name := fmt.Sprintf("default/%s/%s/%s", s.name, p.proto, p.name)
	comment := "default/" + s.name + ":" + p.name
	if len(s.endpoints) == 0 {
		fmt.Fprintf(w, "add element ip kube-proxy no-endpoint-services { %s . %s . %d comment %q : goto reject-chain }\n", s.clusterIP, p.proto, p.port, comment)
		return
	}
	svc := hashedName("service-", name)
	for _, e := range s.endpoints {
		k.nftablesEndpoint(w, s, p, e, name)
	}
	fmt.Fprintf(w, "add chain ip kube-proxy %s\n", svc)
	if !k.noMasquerade {
		fmt.Fprintf(w, "add rule ip kube-proxy %s ip daddr %s ip saddr != %s jump mark-for-masquerade\n", svc, s.clusterIP, k.podNet)
	}
	nftablesChoice(w, svc, name, s, p, s.endpoints)
	fmt.Fprintf(w, "add element ip kube-proxy service-ips { %s . %s . %d : goto %s }\n", s.clusterIP, p.proto, p.port, svc)
	if p.nodePort != 0 {
		k.nftablesNodePort(w, svc, name, comment, s, p)
	}
}

func (k *kubeProxy) nftablesEndpoint(w *strings.Builder, s service, p servicePort, e endpoint, name string) {
	chain := endpointChain(name, p, e)
	if s.affinity != 0 {
		fmt.Fprintf(w, "add set ip kube-proxy %s { type ipv4_addr ; flags dynamic,timeout ; timeout %ds ; }\n", affinitySet(name, p, e), s.affinity)
	}
	fmt.Fprintf(w, "add chain ip kube-proxy %s\n", chain)
	fmt.Fprintf(w, "add rule ip kube-proxy %s ip saddr %s jump mark-for-masquerade\n", chain, e.ip)
	if s.affinity != 0 {
		fmt.Fprintf(w, "add rule ip kube-proxy %s update @%s { ip saddr }\n", chain, affinitySet(name, p, e))
	}
	fmt.Fprintf(w, "add rule ip kube-proxy %s meta l4proto %s dnat to %s\n", chain, p.proto, p.at(e.ip))
}

// nftablesChoice chooses one of the endpoints: the client's last one, else any with equal chance.
func nftablesChoice(w *strings.Builder, chain, name string, s service, p servicePort, endpoints []endpoint) {
	if s.affinity != 0 {
		for _, e := range endpoints {
			fmt.Fprintf(w, "add rule ip kube-proxy %s ip saddr @%s goto %s\n", chain, affinitySet(name, p, e), endpointChain(name, p, e))
		}
	}
	var targets []string
	for i, e := range endpoints {
		targets = append(targets, fmt.Sprintf("%d : goto %s", i, endpointChain(name, p, e)))
	}
	fmt.Fprintf(w, "add rule ip kube-proxy %s numgen random mod %d vmap { %s }\n", chain, len(endpoints), strings.Join(targets, " , "))
}

// nftablesNodePort writes what a service does with traffic from outside.
func (k *kubeProxy) nftablesNodePort(w *strings.Builder, svc, name, comment string, s service, p servicePort) {
	ext := hashedName("external-", name)
	rule := func(format string, args ...any) {
		fmt.Fprintf(w, "add rule ip kube-proxy "+ext+" "+format+"\n", args...)
	}
	fmt.Fprintf(w, "add chain ip kube-proxy %s\n", ext)
	local := k.localEndpoints(s)
	switch {
	case !s.local:
		if !k.noMasquerade {
			rule("jump mark-for-masquerade")
		}
		rule("goto %s", svc)
	default:
		rule(`ip saddr %s goto %s comment "short-circuit pod traffic"`, k.podNet, svc)
		rule(`fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"`)
		rule(`fib saddr type local goto %s comment "short-circuit local traffic"`, svc)
		if len(local) > 0 {
			nftablesChoice(w, ext, name, s, p, local)
		}
	}
	fmt.Fprintf(w, "add element ip kube-proxy service-nodeports { %s . %d : goto %s }\n", p.proto, p.nodePort, ext)
	if s.local && len(local) == 0 {
		fmt.Fprintf(w, "add element ip kube-proxy no-endpoint-nodeports { %s . %d comment %q : drop }\n", p.proto, p.nodePort, comment)
	}
}

// endpointChain is "endpoint-" and the name that kube-proxy gives an endpoint; hashedName prefixes a
// name with eight characters of its hash, as names are cut off where they are too long.
func endpointChain(name string, p servicePort, e endpoint) string {
	return hashedName("endpoint-", endpointName(name, p, e))
}

func affinitySet(name string, p servicePort, e endpoint) string {
	return hashedName("affinity-", endpointName(name, p, e))
}

func endpointName(name string, p servicePort, e endpoint) string {
	return fmt.Sprintf("%s__%s/%d", name, strings.ReplaceAll(e.ip.String(), ":", "."), p.target) // nft takes no colon in a name
}

func hashedName(prefix, name string) string { return prefix + hash32(name)[:8] + "-" + name }
