package trace_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
	return lab.Options{
		Prefix: "podtrace-tt-", StateDir: filepath.Join(os.TempDir(), "podtrace-trace-test"), Server: []string{exe},
	}
}

// up brings the lab up and takes it down when the test ends.
func up(t testing.TB) *inventory.Inventory {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the lab needs root, and CI must not skip it")
		}
		t.Skip("the lab needs root")
	}
	t.Setenv(serveEnv, "1")
	o := labOptions()
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

func options(inv *inventory.Inventory, a, b, how string) trace.Options {
	spec, err := probe.ParseSpec(how)
	if err != nil {
		panic(err)
	}
	return trace.Options{
		Inventory: inv, Source: a, Destination: b, Namespace: "default", Probe: spec,
		Count: 3, Interval: 20 * time.Millisecond, Timeout: 500 * time.Millisecond,
	}
}

func path(t testing.TB, inv *inventory.Inventory, a, b, how string) *report.Report {
	t.Helper()
	r, err := trace.Path(t.Context(), options(inv, a, b, how))
	if err != nil {
		t.Fatalf("%s to %s by %s: %v", a, b, how, err)
	}
	return r
}

func text(r *report.Report) string {
	var b strings.Builder
	_ = report.Write(&b, r, report.FormatText, report.Options{Width: 160})
	return b.String()
}

func healthy(t *testing.T, r *report.Report, hops int) {
	t.Helper()
	if r.Verdict.Status != report.Healthy {
		t.Fatalf("not healthy:\n%s", text(r))
	}
	for _, l := range r.Legs {
		if len(l.Hops) != hops {
			t.Errorf("%s has %d hops, want %d:\n%s", l.Name, len(l.Hops), hops, text(r))
		}
		for _, h := range l.Hops {
			if h.State != report.StateOK || h.Packets == 0 || len(h.Checks) == 0 {
				t.Errorf("%s hop %d %s %s: %s, %d packets, %d checks: %s", l.Name, h.Index, h.Node, h.Interface, h.State, h.Packets, len(h.Checks), h.Note)
			}
		}
	}
	for _, f := range r.Findings {
		if f.Severity != report.SeverityNote {
			t.Errorf("finding on a healthy path: %+v", f)
		}
	}
}

func TestHealthyPaths(t *testing.T) {
	inv := up(t)
	for _, how := range []string{"icmp", "tcp:8080", "udp:7"} {
		t.Run(how, func(t *testing.T) {
			healthy(t, path(t, inv, "coffee-1", "coffee-2", how), 10)
			healthy(t, path(t, inv, "coffee-2", "coffee-1", how), 10)
			healthy(t, path(t, inv, "coffee-1", "tea-1", how), 5)
		})
	}
}

// fault is what the report must say of a break: cause, node and interface, and the leg it hits.
type fault struct {
	id, on           string // on: where it is put
	from, to         string
	cause            string
	node, iface, leg string
}

const (
	fl  = "flannel.1"
	up1 = "ens192"
	up2 = "eno16780032"
)

// Each fault on the sender's and on the receiver's side: the second hits the reply where the entry is
// used for sending.
var faults = []fault{
	{"fdb-wrong-dst", "node1", "coffee-1", "coffee-2", "fdb-wrong-dst", "node1", fl, "request"},
	{"fdb-wrong-dst", "node2", "coffee-1", "coffee-2", "fdb-wrong-dst", "node2", fl, "reply"},
	{"fdb-missing", "node1", "coffee-1", "coffee-2", "fdb-missing", "node1", fl, "request"},
	{"fdb-missing", "node2", "coffee-1", "coffee-2", "fdb-missing", "node2", fl, "reply"},
	{"neigh-wrong-mac", "node1", "coffee-1", "coffee-2", "neigh-wrong-mac", "node1", fl, "request"},
	{"neigh-wrong-mac", "node2", "coffee-1", "coffee-2", "neigh-wrong-mac", "node2", fl, "reply"},
	{"route-missing", "node1", "coffee-1", "coffee-2", "route-missing", "node1", "cni0", "request"},
	{"route-missing", "node2", "coffee-1", "coffee-2", "route-missing", "node2", "cni0", "reply"},
	{"vxlan-port-input-drop", "node2", "coffee-1", "coffee-2", "vxlan-port-input-drop", "node2", up2, "request"},
	{"vxlan-port-input-drop", "node1", "coffee-1", "coffee-2", "vxlan-port-input-drop", "node1", up1, "reply"},
	{"ip-forward-off", "node1", "coffee-1", "coffee-2", "ip-forward-off", "node1", "cni0", "request"},
	{"ip-forward-off", "node2", "coffee-1", "coffee-2", "ip-forward-off", "node2", fl, "request"},
	{"veth-no-master", "node1", "coffee-1", "coffee-2", "veth-no-master", "node1", "", ""},
	{"veth-no-master", "node2", "coffee-1", "coffee-2", "veth-no-master", "node2", "", "request"},
	{"vtep-mac-changed", "node2", "coffee-1", "coffee-2", "vtep-mac-changed", "node2", fl, "request"},
	{"vtep-mac-changed", "node1", "coffee-1", "coffee-2", "vtep-mac-changed", "node1", fl, "reply"},
	{"neigh-missing", "node1", "coffee-1", "coffee-2", "neigh-missing", "node1", fl, "request"},
}

func TestFaults(t *testing.T) {
	inv := up(t)
	ctx, o := context.Background(), labOptions()
	for _, f := range faults {
		t.Run(f.id+"/"+f.on, func(t *testing.T) {
			if err := lab.Break(ctx, o, f.id, f.on); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			r := path(t, inv, f.from, f.to, "icmp")
			took := time.Since(began)
			if err := lab.Mend(ctx, o, f.id); err != nil {
				t.Fatal(err)
			}
			v := r.Verdict
			if v.Status != report.Broken || v.Cause != f.cause || v.Node != f.node ||
				f.iface != "" && v.Interface != f.iface || f.leg != "" && v.Leg != f.leg {
				t.Errorf("verdict %s %s at %s %s (%s), want broken %s at %s %s (%s)\n%s",
					v.Status, v.Cause, v.Node, v.Interface, v.Leg, f.cause, f.node, f.iface, f.leg, text(r))
			}
			if took > 3*time.Second {
				t.Errorf("the verdict took %s", took)
			}
			if after := path(t, inv, f.from, f.to, "icmp"); after.Verdict.Status != report.Healthy {
				t.Errorf("after mend:\n%s", text(after))
			}
		})
	}
}

// BenchmarkPath is the time from Enter to the verdict on a healthy path with the command's defaults, and
// how much of it passes until the last tap is armed.
func BenchmarkPath(b *testing.B) {
	inv := up(b)
	o := options(inv, "coffee-1", "coffee-2", "icmp")
	o.Interval, o.Timeout = 50*time.Millisecond, time.Second
	var armed time.Duration
	for b.Loop() {
		r, err := trace.Path(context.Background(), o)
		if err != nil || r.Verdict.Status != report.Healthy {
			b.Fatal(err, r.Verdict)
		}
		armed += time.Duration(r.Capture.ArmNanos)
	}
	b.ReportMetric(float64(armed.Milliseconds())/float64(b.N), "ms-armed/op")
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms-verdict/op")
}
