package trace_test

import (
	"context"
	"fmt"
	"hash/crc32"
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

// serveEnv makes this test binary the server of the lab with that prefix.
const serveEnv = "PODTRACE_TEST_LAB_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		serveAgent()
		return
	}
	if os.Getenv(serveEnv) != "" {
		if err := lab.Serve(context.Background(), labAt(os.Getenv(serveEnv))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// labOptions is a lab of the tests' own, beside one that may be running.
func labOptions() lab.Options { return labAt(ownPrefix("podtrace-t")) }

// ownPrefix tells the labs of two checkouts apart that are tested at the same time.
func ownPrefix(name string) string {
	dir, _ := os.Getwd()
	return fmt.Sprintf("%s%04x-", name, crc32.ChecksumIEEE([]byte(dir))&0xffff)
}

func labAt(prefix string) lab.Options {
	exe, _ := os.Executable()
	if name := os.Getenv(serveEnv); name != "" {
		prefix = name
	}
	return lab.Options{Prefix: prefix, StateDir: filepath.Join(os.TempDir(), prefix+"trace-test"), Server: []string{exe}}
}

// up brings the lab up and takes it down when the test ends.
func up(t testing.TB) *inventory.Inventory {
	t.Helper()
	return upSpec(t, lab.Spec{})
}

// upSpec is up for another lab than the default one.
func upSpec(t testing.TB, spec lab.Spec) *inventory.Inventory {
	t.Helper()
	o := labOptions()
	o.Spec = spec
	return upAt(t, o)
}

func upAt(t testing.TB, o lab.Options) *inventory.Inventory {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the lab needs root, and CI must not skip it")
		}
		t.Skip("the lab needs root")
	}
	t.Setenv(serveEnv, o.Prefix)
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
