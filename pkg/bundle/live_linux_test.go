package bundle

import (
	"context"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// The startup thread stays out of other namespaces: it can't be thrown away.
func init() { runtime.LockOSThread() }

var record = flag.Bool("record", false, "record the bundles under testdata anew, from the lab")

// serveEnv makes this test binary the lab's server.
const serveEnv = "PODTRACE_TEST_LAB_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) != "" {
		if err := lab.Serve(context.Background(), labOptions()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// labOptions is a lab of the tests' own, beside one that may be running.
func labOptions() lab.Options {
	exe, _ := os.Executable()
	prefix := os.Getenv(serveEnv)
	if prefix == "" && *record {
		prefix = "podtrace-bt-" // what is kept has the same names each time
	}
	if prefix == "" { // another for each checkout: they may be tested at the same time
		dir, _ := os.Getwd()
		prefix = fmt.Sprintf("podtrace-b%04x-", crc32.ChecksumIEEE([]byte(dir))&0xffff)
	}
	return lab.Options{Prefix: prefix, StateDir: filepath.Join(os.TempDir(), prefix+"bundle-test"), Server: []string{exe}}
}

// up brings the default lab up.
func up(t *testing.T) *inventory.Inventory {
	t.Helper()
	return upLab(t, labOptions())
}

// live are the traces that are recorded: of a fault of the lab, on a node, and the cause that is found.
var live = []struct{ fault, node, probe, status, cause string }{
	{"", "", "icmp", report.Healthy, ""},
	{"", "", "tcp:8080", report.Healthy, ""},
	{"", "", "udp:7", report.Healthy, ""},
	{"fdb-missing", "node1", "icmp", report.Broken, "fdb-missing"},
	{"fdb-wrong-dst", "node2", "tcp:8080", report.Broken, "fdb-wrong-dst"},
	{"vxlan-port-underlay-drop", "node1", "icmp", report.Broken, "vxlan-port-underlay-drop"},
	{"masq-pod-to-pod", "node1", "icmp", report.Degraded, "masq-pod-to-pod"},
	{"mtu-path-blackhole", "node1", "icmp", report.Degraded, "mtu-path-blackhole"},
	{"pod-link-down", "node2", "icmp", report.Broken, "pod-link-down"},
	{"forward-policy-drop", "node2", "udp:7", report.Broken, "forward-policy-drop"},
	{"vxlan-dev-gone", "node1", "icmp", report.Broken, "vxlan-dev-gone"},
	{"rp-filter-strict", "node2", "icmp", report.Broken, "rp-filter-strict"},
}

// TestLive records traces of the lab and judges each again from what was read back: the report is the same, byte
// for byte, and so is a bundle of the bundle.
func TestLive(t *testing.T) {
	inv := up(t)
	for _, l := range live {
		t.Run(l.fault+" "+l.probe, func(t *testing.T) {
			o := labOptions()
			if l.fault != "" {
				if err := lab.Break(t.Context(), o, l.fault, l.node); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := lab.Mend(context.Background(), o, l.fault); err != nil {
						t.Fatal(err)
					}
				}()
			}
			spec, err := probe.ParseSpec(l.probe)
			if err != nil {
				t.Fatal(err)
			}
			c, err := trace.Gather(t.Context(), trace.Options{
				Inventory: inv, Source: "coffee-1", Destination: "coffee-2", Namespace: "default", Probe: spec,
				Count: 3, Interval: 20 * time.Millisecond, Timeout: 500 * time.Millisecond, Version: "test",
			})
			if err != nil {
				t.Fatal(err)
			}
			r := trace.Judge(c)
			if r.Verdict.Status != l.status || r.Verdict.Cause != l.cause {
				t.Errorf("%s %s, want %s %s", r.Verdict.Status, r.Verdict.Cause, l.status, l.cause)
			}
			path := filepath.Join(t.TempDir(), "b.tar.gz")
			again(t, path, c, r)
			keep(t, path, l.fault, l.probe)
		})
	}
}

// again writes a case, reads it and compares all that can be.
func again(t *testing.T, path string, c *trace.Case, r *report.Report) {
	t.Helper()
	if err := Write(path, &Bundle{Case: c, Report: r}); err != nil {
		t.Fatal(err)
	}
	b, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := same(c, b.Case); d != "" {
		t.Errorf("(-live +read):\n%s", d)
	}
	sameReport(t, r, trace.Judge(b.Case))
	second := filepath.Join(t.TempDir(), "second.tar.gz")
	if err := Write(second, b); err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(path)
	if twice, _ := os.ReadFile(second); string(first) != string(twice) {
		t.Error("a bundle of what was read has other bytes")
	}
	t.Logf("%d bytes, %d frames", len(first), len(c.Observed.Frames))
}

// recorded are the bundles that are kept under testdata, by fault and probe.
var recorded = map[string]string{" icmp": "healthy", "fdb-missing icmp": "fdb-missing", "mtu-path-blackhole icmp": "mtu-path-blackhole"}

// keep copies a bundle to testdata, with -record.
func keep(t *testing.T, path, fault, how string) {
	t.Helper()
	name := recorded[fault+" "+how]
	if !*record || name == "" {
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".tar.gz"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}
