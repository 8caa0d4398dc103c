package diagnose

import (
	"fmt"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netfilter"
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
	"ip-forward-off":           "set net.ipv4.ip_forward = 1 in /etc/sysctl.d, after whatever file turns it off",
	"v6-forward-off":           "set net.ipv6.conf.all.forwarding = 1 in /etc/sysctl.d",
	"rp-filter-strict":         "set rp_filter to 0 or 2 on the device in /etc/sysctl.d, or mend the route back",
	"vxlan-down":               "restart flanneld on the node",
	"vxlan-dev-gone":           "restart flanneld on the node: it makes the device and its routes anew",
	"vni-mismatch":             "give all nodes the same VNI in net-conf.json, and restart flanneld",
	"vxlan-port-mismatch":      "give all nodes the same Port in net-conf.json, and restart flanneld",
	"policy-rule-hijack":       "keep the pod network out of that table (a throw route), or remove the rule's owner (nm-cloud-setup, a VPN client)",
	"masq-pod-to-pod":          "put the RETURN for the cluster's CIDR before the masquerade (FLANNEL-POSTRTG), e.g. by restarting flanneld",
	"forward-policy-drop":      "keep the FLANNEL-FWD accept rules, or set the policy to ACCEPT after Docker starts",
	"forward-reject-order":     "put the pod network's devices into a trusted zone of the firewall: an accept elsewhere does not stop a later chain",
	"iptables-backend-split":   "use one iptables backend on the node and flush the other",
	"vxlan-port-input-drop":    "allow the VXLAN port between the nodes in the host firewall",
	"pod-to-node-input-drop":   "allow traffic from the pods' bridge in the host firewall",
	"netpol-drop":              "compare the network policy with the pods' labels",
	"cni0-down":                "see what set it down (NetworkManager, networkd)",
	"blackhole-route":          "see who adds it (its proto), and restart the CNI's agent",
	"pod-host-route-missing":   "restart the CNI's agent on the node",
	"vxlan-port-underlay-drop": "allow the VXLAN port between the nodes, both ways, in the security group or fabric",
}

// remedy is the command that mends the entry now, and what keeps it so.
func (c *leg) remedy(cause string, s *forward.Step, ck *verify.Check) string {
	now := c.mend(cause, s, ck)
	lasting := keep[cause]
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
	if s.Rule != nil {
		return command(ns, mendRule(s.Rule))
	}
	switch cause {
	case "fdb-wrong-dst", "fdb-missing":
		if want == "" {
			return ""
		}
		return run("bridge fdb replace %s dev %s dst %s self permanent", s.MAC, dev, want)
	case "neigh-wrong-mac", "neigh-missing":
		if want == "" {
			return ""
		}
		return run("ip neigh replace %s lladdr %s dev %s nud permanent", s.Target, want, dev)
	case "pod-neigh-stale":
		return run("ip neigh del %s dev %s", s.Target, dev)
	case "route-missing", "direct-route-lost", "nexthop-stale":
		return c.mendRoute(ns.Exec, ck)
	case "blackhole-route":
		if s.Route != nil {
			return run("ip route del %s %s", s.Route.Type, s.Route.Dst)
		}
	case "ip-forward-off", "v6-forward-off":
		name, _, _ := strings.Cut(s.Entry, " = ")
		return run("sysctl -w %s=1", name)
	case "rp-filter-strict":
		name, _, _ := strings.Cut(s.Entry, " = ")
		return run("sysctl -w %s=2", name)
	case "vxlan-down", "pod-link-down", "cni0-down", "link-down":
		if dev != "" {
			return run("ip link set %s up", dev)
		}
	}
	return ""
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
