package trace

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

// TestIPsec: a policy that drops is named where it does, with the command that takes it out; one that matches nothing or
// is outdone changes nothing, and what is encrypted is left open.
func TestIPsec(t *testing.T) {
	pods := func(dir string, block bool, needs int, priority uint32) tables.IPsecPolicy {
		return tables.IPsecPolicy{
			Dir: dir, Block: block, Needs: needs, Priority: priority,
			Src: netip.MustParsePrefix("10.244.1.0/24"), Dst: netip.MustParsePrefix("10.244.2.0/24"),
		}
	}
	outer := func(dir string, block bool, needs int) tables.IPsecPolicy {
		p := pods(dir, block, needs, 0)
		p.Src, p.Dst, p.Proto = netip.MustParsePrefix("10.1.11.91/32"), netip.MustParsePrefix("10.1.11.92/32"), 17
		p.DstPort = tables.PortMask{Port: 8472, Mask: 0xffff}
		return p
	}
	other := pods("fwd", true, 0, 0)
	other.Proto = 6
	for name, v := range map[string]struct {
		netns    int // in tablestest.Cluster
		policies []tables.IPsecPolicy
		sysctl   string
		status   string
		node, at string
		remedy   string
	}{
		"forwarded":           {1, []tables.IPsecPolicy{pods("fwd", true, 0, 0)}, "", report.Broken, "node2", "flannel.1", "dst 10.244.2.0/24 dir fwd"},
		"forwarded in clear":  {1, []tables.IPsecPolicy{pods("fwd", false, 1, 0)}, "", report.Broken, "node2", "flannel.1", "dir fwd"},
		"tunnel out":          {0, []tables.IPsecPolicy{outer("out", true, 0)}, "", report.Broken, "node1", "flannel.1", "proto 17 dport 8472 dir out"},
		"tunnel in":           {1, []tables.IPsecPolicy{outer("in", true, 0)}, "", report.Broken, "node2", "eno16780032", "dir in"},
		"pod":                 {4, []tables.IPsecPolicy{pods("in", true, 0, 0)}, "", report.Broken, "node2", "eth0", "dir in"},
		"another protocol":    {1, []tables.IPsecPolicy{other}, "", report.Healthy, "", "", ""},
		"another direction":   {1, []tables.IPsecPolicy{pods("in", true, 0, 0)}, "", report.Healthy, "", "", ""},
		"allowed before":      {1, []tables.IPsecPolicy{pods("fwd", true, 0, 2), pods("fwd", false, 0, 1)}, "", report.Healthy, "", "", ""},
		"allowed first":       {1, []tables.IPsecPolicy{pods("fwd", true, 0, 1), pods("fwd", false, 0, 1)}, "", report.Healthy, "", "", ""},
		"off on the device":   {1, []tables.IPsecPolicy{pods("fwd", true, 0, 0)}, "ipv4.conf.flannel.1.disable_policy", report.Healthy, "", "", ""},
		"encrypted, not seen": {0, []tables.IPsecPolicy{outer("out", false, 1)}, "", report.Inconclusive, "", "", ""},
	} {
		k := docCase(tablestest.Cluster())
		n := k.Snapshot.Netns[v.netns]
		n.IPsec = v.policies
		if v.sysctl != "" {
			n.Sysctls[v.sysctl] = "1"
		}
		got := Judge(k).Verdict
		cause := ""
		if v.status == report.Broken {
			cause = "ipsec-policy"
		}
		if got.Status != v.status || got.Cause != cause || got.Node != v.node || got.Interface != v.at || !strings.Contains(got.Remedy, v.remedy) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
