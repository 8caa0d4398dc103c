package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// keep says what keeps a mended entry from going wrong again.
var keep = map[string]string{
	"fdb-wrong-dst":            "restart flanneld on the node, or refresh the far node's public-ip annotation",
	"fdb-missing":              "restart flanneld on the node",
	"neigh-wrong-mac":          "restart flanneld on the node",
	"neigh-missing":            "restart flanneld on the node",
	"vtep-mac-changed":         "restart flanneld on that node, and set MACAddressPolicy=none for the device in a systemd .link file",
	"route-missing":            "restart flanneld on the node",
	"direct-route-lost":        "restart flanneld, and mark the uplink's routes unmanaged in NetworkManager",
	"nexthop-stale":            "restart flanneld on the node",
	"netfilter-drop":           "see who adds the rule",
	"ip-forward-off":           "set net.ipv4.ip_forward = 1 in /etc/sysctl.d, after whatever file turns it off",
	"v6-forward-off":           "set net.ipv6.conf.all.forwarding = 1 in /etc/sysctl.d",
	"bridge-nf-off":            "sysctl -w net.bridge.bridge-nf-call-iptables=1 on the node (modprobe br_netfilter), and keep it in /etc/sysctl.d",
	"wrong-iface":              "start flanneld with the right interface (flannel: --iface=DEVICE or --iface-can-reach), and restart it; a public address that a router translates belongs into the node's annotation flannel.alpha.coreos.com/public-ip-overwrite, not into --public-ip",
	"pod-route-wrong":          "restart the pod, so that the CNI plugin sets its routes anew",
	"dnat-dead-endpoint":       "let kube-proxy write its rules anew (restart it); see the service's EndpointSlices",
	"cilium-ipcache-stale":     "restart cilium-agent on the node, which writes the map anew; compare the CiliumEndpoint and CiliumNode objects",
	"ipvs-backend":             "let kube-proxy write its virtual servers anew (restart it); see the service's EndpointSlices",
	"ipsec-policy":             "see who sets it (strongSwan, a VPN client, the CNI's IPsec mode)",
	"nat-port-race":            "give the translation more ports (masquerade --random-fully, without --to-ports); for DNS a cache on each node",
	"ct-table-full":            "raise net.netfilter.nf_conntrack_max, and see who opens so many connections: conntrack -L | awk '{print $4}' | sort | uniq -c | sort -n",
	"neigh-table-overflow":     "raise net.ipv4.neigh.default.gc_thresh1, 2 and 3 (net.ipv6 as well)",
	"link-flap":                "see who takes the interface down (ip monitor link; NetworkManager, networkd, the driver's messages)",
	"nodeport-no-masq":         "let kube-proxy write its rules anew (restart it; see its clusterCIDR): what comes from outside for another node's pod has to be masqueraded",
	"etp-local-no-endpoint":    "send to a node that has an endpoint (mend the load balancer's health check), or set externalTrafficPolicy: Cluster",
	"ct-stale-udp":             "the connection outlived its endpoint: kube-proxy should have deleted it",
	"ct-stale":                 "the connection outlived its endpoint",
	"duplicate-pod-ip":         "restart the pod that took the address, and mend the IPAM's state",
	"vxlan-csum-offload":       "turn the sender's checksum offload off: ethtool -K DEVICE tx-checksum-ip-generic off",
	"tc-bpf-drop":              "see \"tc filter show dev DEVICE ingress\" (egress), and restart the agent that put the program there",
	"qdisc-drop":               "see \"tc -s qdisc show dev DEVICE\", and take out the queueing discipline",
	"rp-filter-strict":         "set rp_filter to 0 or 2 on the device in /etc/sysctl.d, or mend the route back",
	"vxlan-down":               "restart flanneld on the node",
	"vxlan-dev-gone":           "restart flanneld on the node: it makes the device and its routes anew",
	"vni-mismatch":             "give all nodes the same VNI in net-conf.json, and restart flanneld",
	"vxlan-port-mismatch":      "give all nodes the same Port in net-conf.json, and restart flanneld",
	"policy-rule-hijack":       "keep the pod network out of that table (a throw route), or remove the rule's owner (nm-cloud-setup, a VPN client)",
	"eni-rule-missing":         "restart the CNI's agent; systemd-networkd: ManageForeignRoutingPolicyRules=no",
	"eni-to-pod-rule-missing":  "restart the CNI's agent; systemd-networkd: ManageForeignRoutingPolicyRules=no",
	"masq-pod-to-pod":          "put the RETURN for the cluster's CIDR before the masquerade (FLANNEL-POSTRTG), e.g. by restarting flanneld",
	"forward-policy-drop":      "keep the FLANNEL-FWD accept rules, or set the policy to ACCEPT after Docker starts",
	"forward-reject-order":     "put the pod network's devices into a trusted zone of the firewall: an accept elsewhere does not stop a later chain",
	"iptables-backend-split":   "use one iptables backend on the node and flush the other",
	"vxlan-port-input-drop":    "allow the VXLAN port between the nodes in the host firewall",
	"pod-to-node-input-drop":   "allow traffic from the pods' bridge in the host firewall",
	"service-no-endpoints":     "see the service's selector, and why no pod that it selects is ready",
	"netpol-drop":              "compare the network policy with the pods' labels",
	"cni0-down":                "see what set it down (NetworkManager, networkd)",
	"blackhole-route":          "see who adds it (its proto), and restart the CNI's agent",
	"pod-host-route-missing":   "restart the CNI's agent on the node",
	"vxlan-port-underlay-drop": "allow the VXLAN port between the nodes, both ways, in the security group or fabric",
}

// agent is the process that writes a node's routes and tunnels.
func (c *leg) agent() string {
	of := func(plugin string) bool {
		return c.intent != nil && slices.ContainsFunc(c.intent.Nodes, func(n inventory.Node) bool { return n.Network() == plugin })
	}
	switch {
	case of("calico"):
		return "calico-node"
	case of("cilium"):
		return "cilium-agent"
	default:
		return "flanneld"
	}
}

// remedy is the command that mends the entry now, and what keeps it so.
func (c *leg) remedy(cause string, s *forward.Step, ck *verify.Check) string {
	now := c.mend(cause, s, ck)
	if cause == "etp-local-no-endpoint" { // kube-proxy meant it, and would write the rule again
		now = ""
	}
	lasting := strings.ReplaceAll(keep[cause], "flanneld", c.agent())
	switch {
	case now == "":
		return lasting
	case lasting == "":
		return now
	default:
		return now + "; then: " + lasting
	}
}

func (c *leg) mend(cause string, s *forward.Step, ck *verify.Check) string {
	if s == nil || c.intent == nil {
		return ""
	}
	ns := c.intent.Snapshot.ByID(s.Netns)
	if ns == nil {
		return ""
	}
	dev := ""
	if l := ns.Link(s.Ifindex); l != nil {
		dev = l.Name
	}
	want := ""
	if ck != nil {
		want = firstWord(ck.Expected)
	}
	run := func(format string, args ...any) string { return command(ns, fmt.Sprintf(format, args...)) }
	if cause == "service-no-endpoints" { // the rule is right
		return ""
	}
	switch {
	case s.Real != nil:
		return run("ipvsadm -d %s -r %s", s.Virtual.Option(), s.Real.Addr)
	case s.Virtual != nil:
		return ""
	case s.Rule != nil:
		return command(ns, mendRule(s.Rule))
	}
	switch cause {
	case "fdb-wrong-dst", "fdb-missing":
		if want == "" {
			return ""
		}
		if s.FDB != nil && s.Target.String() == want { // replace keeps what it does not name
			return run("bridge fdb del %s dev %s && %s", s.MAC, dev, run("bridge fdb add %s dev %s dst %s self permanent", s.MAC, dev, want))
		}
		return run("bridge fdb replace %s dev %s dst %s self permanent", s.MAC, dev, want)
	case "neigh-wrong-mac", "neigh-missing":
		if want == "" {
			return ""
		}
		return run("ip neigh replace %s lladdr %s dev %s nud permanent", s.Target, want, dev)
	case "policy-rule-hijack":
		if r := s.PolicyRule; r != nil {
			return run("ip %srule del pref %d", v6Flag(s), r.Priority)
		}
	case "eni-to-pod-rule-missing":
		if r := s.PolicyRule; r != nil && r.Priority > 1 {
			return run("ip %srule add pref %d to %s lookup main", v6Flag(s), r.Priority-1, s.Target)
		}
	case "wrong-destination":
		if s.Route != nil && s.Route.Type == tables.RouteLocal {
			for _, a := range ns.Addrs {
				if a.Prefix.Addr() == s.Target {
					return run("ip addr del %s dev %s", a.Prefix, dev)
				}
			}
			return run("ip %sroute del local %s dev %s table %d", v6Flag(s), s.Route.Dst, dev, s.Route.Table)
		}
	case "dropped-local-source":
		return delAddr(ns, s.Target)
	case "ipsec-policy":
		return run("ip xfrm policy delete %s", s.IPsec.Selector())
	case "neigh-unanswered", "underlay-neigh-failed", "arp-off":
		return mendSilence(ns, s, dev)
	case "pod-neigh-stale", "underlay-neigh-wrong":
		return run("ip neigh del %s dev %s", s.Target, dev)
	case "route-missing", "direct-route-lost", "nexthop-stale":
		switch {
		case s.Thrown != nil:
			return run("%s", delRoute(ns, s, s.Thrown))
		case s.Route != nil && s.Route.Dst.Bits() > 0 && c.mainRoute(ns, s, s.Route) != nil:
			return run("%s", delRoute(ns, s, s.Route)) // the right one stands behind it
		}
		return c.mendRoute(ns.Exec, ck)
	case "blackhole-route":
		if s.Route != nil {
			return run("%s", delRoute(ns, s, s.Route))
		}
	case "ip-forward-off", "v6-forward-off":
		name, _, _ := strings.Cut(s.Entry, " = ")
		return run("sysctl -w %s=1", name)
	case "rp-filter-strict":
		name, v, _ := strings.Cut(s.Entry, " = ")
		if v == "2" {
			return "" // loose already: the route back is missing
		}
		return run("sysctl -w %s=2", name)
	case "vxlan-down", "pod-link-down", "cni0-down", "link-down":
		if dev != "" {
			return run("ip link set %s up", dev)
		}
	}
	return ""
}

// mendSilence lets a station answer for an address that it has.
func mendSilence(ns *tables.Netns, s *forward.Step, dev string) string {
	switch {
	case s.Kind == forward.StepSysctl:
		name, _, _ := strings.Cut(s.Entry, " = ")
		return command(ns, fmt.Sprintf("sysctl -w %s=0", name))
	case s.Kind == forward.StepLink:
		return command(ns, fmt.Sprintf("ip link set dev %s arp on", dev))
	case s.Kind == forward.StepBridge && strings.Contains(s.Note, "isolated"):
		return command(ns, fmt.Sprintf("bridge link set dev %s isolated off", dev))
	case s.Kind == forward.StepBridge && strings.Contains(s.Note, "bcast_flood"):
		return command(ns, fmt.Sprintf("bridge link set dev %s bcast_flood on", dev))
	case s.Kind == forward.StepRoute && s.Via.IsValid():
		return delAddr(ns, s.Via)
	default:
		return ""
	}
}

// delAddr is the command that takes an address out of a namespace.
func delAddr(ns *tables.Netns, ip netip.Addr) string {
	for _, a := range ns.Addrs {
		if l := ns.Link(a.Index); a.Prefix.Addr() == ip && l != nil {
			return command(ns, fmt.Sprintf("ip addr del %s dev %s", a.Prefix, l.Name))
		}
	}
	return ""
}

func v6Flag(s *forward.Step) string {
	if s.Target.Is6() {
		return "-6 "
	}
	return ""
}

// delRoute is the command that takes out this row and no other.
func delRoute(ns *tables.Netns, s *forward.Step, r *tables.Route) string {
	cmd := "ip " + v6Flag(s) + "route del "
	if r.Type != tables.RouteUnicast {
		cmd += string(r.Type) + " "
	}
	cmd += r.Dst.String()
	if len(r.NextHops) == 1 {
		nh := r.NextHops[0]
		if nh.Gateway.IsValid() {
			cmd += " via " + nh.Gateway.String()
		}
		if l := ns.Link(nh.Index); l != nil {
			cmd += " dev " + l.Name
		}
	}
	if r.Table != tables.TableMain {
		cmd += fmt.Sprintf(" table %d", r.Table)
	}
	if r.Metric != 0 && r.Dst.Addr().Is4() {
		cmd += fmt.Sprintf(" metric %d", r.Metric)
	}
	return cmd
}

// mendRule takes out the rule that drops, or turns the policy around.
func mendRule(r *netfilter.Ref) string {
	bin := "iptables-legacy"
	if r.Family == netfilter.FamilyIPv6 {
		bin = "ip6tables-legacy"
	}
	nft := r.Backend == netfilter.BackendNFT
	switch {
	case r.What == netfilter.WhatConn:
		return strings.Replace(r.Command, " -L ", " -D ", 1)
	case r.What == netfilter.WhatPolicy && nft:
		return fmt.Sprintf("nft chain %s %s %s '{ policy accept; }'", r.Family, r.Table, r.Chain)
	case r.What == netfilter.WhatPolicy:
		return fmt.Sprintf("%s -t %s -P %s ACCEPT", bin, r.Table, r.Chain)
	case nft:
		return fmt.Sprintf("nft delete rule %s %s %s handle %d", r.Family, r.Table, r.Chain, r.Handle)
	default:
		return fmt.Sprintf("%s -t %s -D %s %d", bin, r.Table, r.Chain, r.Rule)
	}
}

// mendRoute turns "via G dev D, the VTEP of N" into the command.
func (c *leg) mendRoute(exec string, ck *verify.Check) string {
	if ck == nil || ck.Step == nil {
		return ""
	}
	way, _, _ := strings.Cut(ck.Expected, ",")
	if !strings.HasPrefix(way, "via ") || strings.Contains(way, "?") {
		return ""
	}
	prefix := ck.Step.Target.String()
	for _, n := range c.intent.Nodes {
		for _, p := range n.PodCIDRs {
			if p.Contains(ck.Step.Target) {
				prefix = p.String()
			}
		}
	}
	cmd := "ip route replace " + prefix + " " + way
	if strings.Contains(way, " dev ") {
		cmd += " onlink"
	}
	if exec == "" {
		return cmd
	}
	return exec + " " + cmd
}
