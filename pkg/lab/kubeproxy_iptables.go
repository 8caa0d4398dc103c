package lab

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"
)

// iptables gives the rules as kube-proxy writes them (pkg/proxy/iptables of Kubernetes 1.31), for
// iptables-restore --noflush.
func (k *kubeProxy) iptables() string {
	w := &iptablesWriter{}
	for _, s := range k.services {
		for _, p := range s.ports {
			k.iptablesPort(w, s, p)
		}
	}
	firewall := iptablesFirewall
	if k.is6 {
		firewall = "" // nothing routes ::1
	}
	return "*filter\n" + iptablesFilterChains + w.filter.String() + firewall + iptablesFilterRules + "COMMIT\n" +
		"*nat\n" + iptablesNATChains + w.chains.String() + iptablesNATRules + w.services.String() +
		`-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS` + "\n" +
		w.rules.String() + "COMMIT\n"
}

const iptablesFilterChains = `:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-I INPUT -j KUBE-FIREWALL
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I OUTPUT -j KUBE-FIREWALL
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
`

const iptablesFirewall = `-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
`

const iptablesFilterRules = `-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
`

const iptablesNATChains = `:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
`

const iptablesNATRules = `-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
`

// iptablesWriter collects the parts that stand in different places of the text.
type iptablesWriter struct {
	filter, chains, services, rules strings.Builder
}

func (w *iptablesWriter) chain(name string) { fmt.Fprintf(&w.chains, ":%s - [0:0]\n", name) }

func (w *iptablesWriter) rule(chain, format string, args ...any) {
	fmt.Fprintf(&w.rules, "-A "+chain+" "+format+"\n", args...)
}

// iptablesPort writes the rules of one port of a service.
func (k *kubeProxy) iptablesPort(w *iptablesWriter, s service, p servicePort) {
	name := "default/" + s.name + ":" + p.name
	proto := fmt.Sprintf("-p %s -m %s", p.proto, p.proto)
	if len(s.endpoints) == 0 {
		fmt.Fprintf(&w.filter, "-A KUBE-SERVICES -m comment --comment %q -d %s %s --dport %d -j REJECT\n",
			name+" has no endpoints", host(s.clusterIP), proto, p.port)
		return
	}
	svc := portChain("KUBE-SVC-", name, p.proto, "")
	w.chain(svc)
	fmt.Fprintf(&w.services, "-A KUBE-SERVICES -m comment --comment %q -d %s %s --dport %d -j %s\n",
		name+" cluster IP", host(s.clusterIP), proto, p.port, svc)
	if !k.noMasquerade {
		w.rule(svc, "-m comment --comment %q ! -s %s -d %s %s --dport %d -j KUBE-MARK-MASQ", name+" cluster IP", k.podNet, host(s.clusterIP), proto, p.port)
	}
	k.iptablesChoice(w, svc, name, s, p, s.endpoints)
	for _, e := range s.endpoints {
		sep := sepChain(name, p, e.ip)
		w.chain(sep)
		w.rule(sep, "-m comment --comment %q -s %s -j KUBE-MARK-MASQ", name, host(e.ip))
		recent := ""
		if s.affinity != 0 {
			recent = "-m recent --name " + sep + " --set "
		}
		w.rule(sep, "-m comment --comment %q %s%s -j DNAT --to-destination %s", name, recent, proto, p.at(e.ip))
	}
	if p.nodePort != 0 {
		k.iptablesNodePort(w, svc, name, s, p)
	}
}

// iptablesChoice chooses one of the endpoints: the client's last one, else any with equal chance.
func (k *kubeProxy) iptablesChoice(w *iptablesWriter, chain, name string, s service, p servicePort, endpoints []endpoint) {
	if s.affinity != 0 {
		for _, e := range endpoints {
			sep := sepChain(name, p, e.ip)
			w.rule(chain, "-m comment --comment %q -m recent --name %s --rcheck --seconds %d --reap -j %s", toEndpoint(name, p, e.ip), sep, s.affinity, sep)
		}
	}
	for i, e := range endpoints {
		chance := ""
		if left := len(endpoints) - i; left > 1 {
			chance = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		w.rule(chain, "-m comment --comment %q %s-j %s", toEndpoint(name, p, e.ip), chance, sepChain(name, p, e.ip))
	}
}

// iptablesNodePort writes what a service does with traffic from outside.
func (k *kubeProxy) iptablesNodePort(w *iptablesWriter, svc, name string, s service, p servicePort) {
	ext := portChain("KUBE-EXT-", name, p.proto, "")
	w.chain(ext)
	w.rule("KUBE-NODEPORTS", "-m comment --comment %q -p %s -m %s --dport %d -j %s", name, p.proto, p.proto, p.nodePort, ext)
	if !s.local {
		if !k.noMasquerade {
			w.rule(ext, "-m comment --comment %q -j KUBE-MARK-MASQ", "masquerade traffic for "+name+" external destinations")
		}
		w.rule(ext, "-j %s", svc)
		return
	}
	svl, local := portChain("KUBE-SVL-", name, p.proto, ""), k.localEndpoints(s)
	w.rule(ext, "-s %s -m comment --comment %q -j %s", k.podNet, "pod traffic for "+name+" external destinations", svc)
	w.rule(ext, "-m comment --comment %q -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ", "masquerade LOCAL traffic for "+name+" external destinations")
	w.rule(ext, "-m comment --comment %q -m addrtype --src-type LOCAL -j %s", "route LOCAL traffic for "+name+" external destinations", svc)
	if len(local) == 0 {
		fmt.Fprintf(&w.filter, "-A KUBE-EXTERNAL-SERVICES -m comment --comment %q -m addrtype --dst-type LOCAL -p %s -m %s --dport %d -j DROP\n",
			name+" has no local endpoints", p.proto, p.proto, p.nodePort)
		return
	}
	w.chain(svl)
	w.rule(ext, "-j %s", svl)
	k.iptablesChoice(w, svl, name, s, p, local)
}

func toEndpoint(name string, p servicePort, ip netip.Addr) string {
	return name + " -> " + p.at(ip)
}

func sepChain(name string, p servicePort, ip netip.Addr) string {
	return portChain("KUBE-SEP-", name, p.proto, p.at(ip))
}

// portChain is the name of a chain: kube-proxy's prefix, and 16 characters of base32 of SHA-256 over
// name ("default/coffee:http"), protocol and endpoint ("10.244.1.32:8080" or nothing).
func portChain(prefix, name, proto, endpoint string) string {
	return prefix + hash32(name + proto + endpoint)[:16]
}

func hash32(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base32.StdEncoding.EncodeToString(sum[:])
}
