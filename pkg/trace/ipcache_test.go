package trace

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

// TestIPCache: an entry that leads elsewhere is the fault where Cilium tunnels, and nothing where it does not.
func TestIPCache(t *testing.T) {
	entry := func(tunnel string, skip bool) tables.IPCacheEntry {
		e := tables.IPCacheEntry{Addr: tablestest.Coffee2IP, Identity: 1234, Skip: skip}
		if tunnel != "" {
			e.Tunnel = netip.MustParseAddr(tunnel)
		}
		return e
	}
	for name, v := range map[string]struct {
		entry  tables.IPCacheEntry
		tunnel bool
		cause  string
		says   string
	}{
		"right":            {entry("10.1.11.92", false), true, "", ""},
		"nobody's":         {entry("10.1.11.99", false), true, "cilium-ipcache-stale", "no node's"},
		"the sender's own": {entry("10.1.11.91", false), true, "cilium-ipcache-stale", "node1's"},
		"not by tunnel":    {entry("10.1.11.99", true), true, "", ""},
		"no endpoint":      {entry("", false), true, "", ""},
		"native routing":   {entry("10.1.11.99", false), false, "", ""},
	} {
		k := docCase(tablestest.Cluster())
		n := k.Snapshot.Netns[0]
		n.IPCache = []tables.IPCacheEntry{v.entry}
		if v.tunnel {
			n.Links = append(n.Links, tables.Link{Index: 70, Name: "cilium_vxlan", Kind: "vxlan", Up: true, VXLAN: &tables.VXLAN{FlowBased: true, Port: 8473}})
		}
		got := Judge(k).Verdict
		if got.Cause != v.cause || !strings.Contains(got.Summary, v.says) || (got.Status == report.Healthy) != (v.cause == "") {
			t.Errorf("%s: %+v", name, got)
		}
		if v.cause != "" && (got.Node != "node1" || got.Interface != "cilium_vxlan") {
			t.Errorf("%s: on %s %s", name, got.Node, got.Interface)
		}
	}
}
