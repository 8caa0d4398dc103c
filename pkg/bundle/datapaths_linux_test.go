package bundle

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// TestRecordDatapaths records the bundles of TestDatapathBundles, with -record: of every lab one trace without a fault and
// one with.
func TestRecordDatapaths(t *testing.T) {
	if !*record {
		t.Skip("only with -record")
	}
	for _, d := range []struct {
		name     string // empty: the datapath's
		spec     lab.Spec
		from, to string
		fault    string
		faultTo  string // of the trace with the fault; empty: to
	}{
		{"", lab.Spec{}, "coffee-1", "coffee-2", "neigh-missing", ""},
		{"flannel-vxlan-42", lab.Spec{VNI: 42, Port: 4789, GBP: true, Learning: true, MTU: 8951}, "coffee-1", "coffee-2", "vni-mismatch", ""},
		{"", lab.Spec{Datapath: lab.FlannelHostGW}, "coffee-1", "coffee-2", "nexthop-stale", ""},
		{"", lab.Spec{Datapath: lab.FlannelDirectRouting}, "coffee-1", "coffee-2", "src-dst-check", ""},
		{"", lab.Spec{Datapath: lab.FlannelUDP}, "coffee-1", "coffee-2", "underlay-route-missing", ""},
		{"", lab.Spec{Datapath: lab.FlannelDual}, "coffee-1", "fd44:0:0:2::28", "v6-overlay-missing", ""},
		{"", lab.Spec{Datapath: lab.FlannelV6}, "coffee-1", "coffee-2", "v6-forward-off", ""},
		{"", lab.Spec{Datapath: lab.FlannelNAT}, "coffee-1", "coffee-2", "vtep-mac-changed", ""},
		{"", lab.Spec{Datapath: lab.CalicoVXLAN}, "coffee-1", "coffee-2", "proxy-arp-off", ""},
		{"", lab.Spec{Datapath: lab.CiliumENI}, "coffee-1", "coffee-2", "tc-bpf-drop", ""},
		{"", lab.Spec{Datapath: lab.K3s}, "coffee-1", "coffee-2", "netpol-drop", ""},
		{"", lab.Spec{Datapath: lab.Kind}, "coffee-1", "coffee-2", "route-missing", ""},
		{"services-iptables", lab.Spec{Services: lab.ServicesIPTables}, "coffee-1", "svc/coffee:80", "dnat-dead-endpoint", "svc/tea:80"},
		{"services-nftables", lab.Spec{Services: lab.ServicesNFTables}, "coffee-1", "svc/coffee:80", "bridge-nf-off", "svc/tea:80"},
		{"services-client", lab.Spec{Services: lab.ServicesIPTables}, "10.1.11.35", "node/node1:32604", "etp-local-no-endpoint", ""},
		{"services-nodeport", lab.Spec{Services: lab.ServicesIPTables}, "10.1.11.35", "node/node2:30082", "nodeport-no-masq", ""}, // no pod on that node
		{"services-outside", lab.Spec{Services: lab.ServicesIPTables}, "coffee-1", "10.1.11.35", "ip-forward-off", ""},
		{"services-node", lab.Spec{Services: lab.ServicesIPTables}, "node/node1", "coffee-2", "forward-policy-drop", ""},
		{"services-affinity", lab.Spec{Services: lab.ServicesIPTables}, "coffee-2", "svc/cheddar:80", "fdb-missing", ""},
		{"services-dual", lab.Spec{Datapath: lab.FlannelDual, Services: lab.ServicesNFTables}, "coffee-2", "[fd00:10:96::b]:80", "v6-forward-off", ""},
		{"services-nat", lab.Spec{Datapath: lab.FlannelNAT, Services: lab.ServicesIPTables}, "203.0.113.35", "106.55.227.160:30082", "neigh-missing", ""},
	} {
		name := cmp.Or(d.name, d.spec.Datapath, lab.FlannelVXLAN)
		t.Run(name, func(t *testing.T) {
			inv := upSpec(t, d.spec)
			recordTo(t, inv, name, d.from, d.to)
			if err := lab.Break(t.Context(), labOptions(), d.fault, ""); err != nil {
				t.Fatal(err)
			}
			if r := recordTo(t, inv, name, d.from, cmp.Or(d.faultTo, d.to)); r.Verdict.Cause != d.fault {
				t.Errorf("%s %s, want %s", r.Verdict.Status, r.Verdict.Cause, d.fault)
			}
		})
	}
}

// recordTo writes a trace under the name that its verdict gives it.
func recordTo(t *testing.T, inv *inventory.Inventory, name, from, to string) *report.Report {
	t.Helper()
	spec := probe.Spec{Proto: probe.ICMP}
	if strings.HasPrefix(to, "svc/") || strings.HasPrefix(to, "node/") || strings.HasSuffix(to, ":80") || strings.HasSuffix(to, ":30082") {
		spec.Proto = probe.TCP
	}
	c, err := trace.Gather(t.Context(), trace.Options{
		Inventory: inv, Source: from, Destination: to, Namespace: "default", Probe: spec,
		Count: 2, Interval: 20 * time.Millisecond, Timeout: 500 * time.Millisecond, Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	r := trace.Judge(c)
	name += "." + r.Verdict.Status
	if r.Verdict.Cause != "" {
		name += "." + r.Verdict.Cause
	}
	path := filepath.Join(bundleDir, name+".tar.gz")
	if err := os.MkdirAll(bundleDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	again(t, path, c, r)
	return r
}

// upSpec is up for any lab.
func upSpec(t *testing.T, spec lab.Spec) *inventory.Inventory {
	t.Helper()
	o := labOptions()
	o.Spec = spec
	return upLab(t, o)
}

// upLab brings a lab up and takes it down when the test ends.
func upLab(t *testing.T, o lab.Options) *inventory.Inventory {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the lab needs root, and CI must not skip it")
		}
		t.Skip("the lab needs root")
	}
	t.Setenv(serveEnv, labOptions().Prefix)
	if err := lab.Up(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(context.Background(), o); err != nil {
			t.Error(err)
		}
	})
	inv, err := inventory.ReadFile(o.InventoryPath())
	if err != nil {
		t.Fatal(err)
	}
	return inv
}
