package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtrace/podtrace/pkg/agent"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// agentEnv makes this test binary an agent on its standard input and output.
const agentEnv = "PODTRACE_TEST_AGENT"

// serveAgent is the agent's main.
func serveAgent() {
	if err := agent.Serve(context.Background(), os.Stdin, os.Stdout, node.NewLocal(), "test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// agents starts one process inside each node's namespace, when that node is dialled.
type agents struct {
	t   testing.TB
	inv *inventory.Inventory
	// slow is the node whose stream is late by the time, at each reading.
	slow string
	late time.Duration

	mu    sync.Mutex
	procs map[string]*agent.Process
}

func (a *agents) dial(ctx context.Context, name string) (node.Node, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n := a.inv.Node(name)
	if n == nil {
		return nil, fmt.Errorf("no node %q", name)
	}
	p, err := agent.Start("nsenter", "--net="+n.Netns, "env", agentEnv+"=1", exe)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.procs == nil {
		a.procs = make(map[string]*agent.Process)
	}
	a.procs[name] = p
	if name == a.slow {
		return agent.New(ctx, &lateStream{p, a.late}, "test")
	}
	return agent.New(ctx, p, "test")
}

// lateStream is a slow way to an agent.
type lateStream struct {
	*agent.Process
	late time.Duration
}

func (s *lateStream) Read(b []byte) (int, error) {
	n, err := s.Process.Read(b)
	time.Sleep(s.late)
	return n, err
}

// alike is a report in JSON without what no two runs have in common: times, and numbers that a kernel chose.
func alike(t *testing.T, r *report.Report) string {
	t.Helper()
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Probe; p != nil && p.SrcPort > 9999 { // of the dynamic ports, so that no other number looks like it
		raw = bytes.ReplaceAll(raw, []byte(strconv.Itoa(int(p.SrcPort))), []byte("1"))
	}
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	blank(doc)
	out, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func blank(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			switch k {
			case "generated", "armNanos", "latencyNanos", "latency", "latencyNote", "rttNanos", "clockSkewNanos", "srcPort":
				delete(v, k)
			default:
				blank(v[k])
			}
		}
	case []any:
		for _, e := range v {
			blank(e)
		}
	}
}

// TestAgents: the nodes of the lab by agent processes, one inside each node's namespace, give the report that the
// direct way gives, healthy or not.
func TestAgents(t *testing.T) {
	inv := up(t)
	for _, c := range []struct{ fault, node, probe, status, cause string }{
		{"", "", "icmp", report.Healthy, ""},
		{"", "", "tcp:8080", report.Healthy, ""},
		{"", "", "udp:7", report.Healthy, ""},
		{"fdb-wrong-dst", "node1", "icmp", report.Broken, "fdb-wrong-dst"},
		{"forward-policy-drop", "node2", "udp:7", report.Broken, "forward-policy-drop"},
		{"rp-filter-strict", "node2", "icmp", report.Broken, "rp-filter-strict"},
		{"mtu-path-blackhole", "node1", "icmp", report.Degraded, "mtu-path-blackhole"},
		// of faults that leave a neighbour unresolved, two runs find two states of its entry
		{"vni-mismatch", "node2", "icmp", report.Broken, "vni-mismatch"},
	} {
		t.Run(c.fault+" "+c.probe, func(t *testing.T) {
			if c.fault != "" {
				if err := lab.Break(t.Context(), labOptions(), c.fault, c.node); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := lab.Mend(context.Background(), labOptions(), c.fault); err != nil {
						t.Fatal(err)
					}
				}()
			}
			o := options(inv, "coffee-1", "coffee-2", c.probe)
			o.Version = "test"
			run := func(dial node.Dialer) *report.Report {
				o.Dial = dial
				r, err := trace.Path(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			run(nil) // what neighbours have to learn, they learn now
			var diff string
			for range 10 { // a neighbour entry may grow stale between two runs, and a busy machine be late with a packet
				direct := run(nil)
				remote := run((&agents{t: t, inv: inv}).dial)
				if remote.Verdict.Status != c.status || remote.Verdict.Cause != c.cause || len(remote.Capture.Points) < 3 {
					t.Fatalf("by agents:\n%s", text(remote))
				}
				if diff = cmp.Diff(alike(t, direct), alike(t, remote)); diff == "" {
					return
				}
			}
			t.Errorf("(-direct +by agents):\n%s", diff)
		})
	}
}

// TestAgentLost: what one agent can't say any more is missing, the report says so, and claims no health.
func TestAgentLost(t *testing.T) {
	inv := up(t)
	refused := errors.New("refused")
	tests := []struct {
		name string
		dead string
		dial func(*agents) node.Dialer
	}{
		{"never there, far node", "node2", func(a *agents) node.Dialer { return except(a.dial, "node2", refused) }},
		{"never there, sender's node", "node1", func(a *agents) node.Dialer { return except(a.dial, "node1", refused) }},
		{"killed in the middle", "node2", func(a *agents) node.Dialer { return a.dial }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := &agents{t: t, inv: inv}
			o := options(inv, "coffee-1", "coffee-2", "icmp")
			o.Dial, o.Count, o.Interval = tt.dial(a), 5, 100*time.Millisecond
			o.Progress = func(format string, args ...any) {
				if strings.HasPrefix(format, "sending %d") {
					a.mu.Lock()
					defer a.mu.Unlock()
					if p := a.procs[tt.dead]; p != nil {
						_ = p.Kill()
					}
				}
			}
			begin := time.Now()
			r, err := trace.Path(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			all := text(r)
			if r.Verdict.Status != report.Inconclusive || !strings.Contains(strings.Join(r.Incomplete, "\n"), "node \""+tt.dead+"\"") {
				t.Errorf("verdict %+v, incomplete %q:\n%s", r.Verdict, r.Incomplete, all)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			t.Logf("%s", all)
		})
	}
	t.Run("all killed while it watches", func(t *testing.T) {
		a := &agents{t: t, inv: inv}
		o := options(inv, "coffee-1", "coffee-2", "none")
		o.Dial, o.Timeout = a.dial, time.Minute
		o.Progress = func(format string, args ...any) {
			if strings.HasPrefix(format, "watching") {
				a.mu.Lock()
				defer a.mu.Unlock()
				for _, p := range a.procs {
					_ = p.Kill()
				}
			}
		}
		begin := time.Now()
		r, err := trace.Path(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 15*time.Second || r.Verdict.Summary != `node "node1": the agent ended; node "node2": the agent ended` {
			t.Errorf("after %s: %+v", took, r.Verdict)
		}
	})
	t.Run("fault on the node that is not there", func(t *testing.T) {
		if err := lab.Break(t.Context(), labOptions(), "forward-policy-drop", "node2"); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := lab.Mend(context.Background(), labOptions(), "forward-policy-drop"); err != nil {
				t.Fatal(err)
			}
		}()
		o := options(inv, "coffee-1", "coffee-2", "icmp")
		o.Dial = except((&agents{t: t, inv: inv}).dial, "node2", refused)
		r, err := trace.Path(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Verdict.Status != report.Inconclusive {
			t.Errorf("what nobody saw is claimed:\n%s", text(r))
		}
		t.Log(text(r))
	})
	t.Run("the far node drops what belongs to no connection", func(t *testing.T) {
		rule := func(how string) {
			t.Helper()
			argv := []string{"iptables", how, "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"}
			if status, err := lab.Exec(context.Background(), labOptions(), "node2", argv, lab.Stdio{Out: t.Output(), Err: t.Output()}); err != nil || status != 0 {
				t.Fatal(status, err)
			}
		}
		rule("-I")
		defer rule("-D")
		for _, p := range []string{"icmp", "tcp:8080"} {
			o := options(inv, "coffee-1", "coffee-2", p)
			o.Dial = except((&agents{t: t, inv: inv}).dial, "node1", refused)
			r, err := trace.Path(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Verdict.Status != report.Inconclusive || len(r.Findings) > 0 {
				t.Errorf("%s: a drop is claimed that only the question makes:\n%s", p, text(r))
			}
		}
	})
	t.Run("none there", func(t *testing.T) {
		o := options(inv, "coffee-1", "coffee-2", "icmp")
		o.Dial = func(context.Context, string) (node.Node, error) { return nil, refused }
		if r, err := trace.Path(t.Context(), o); r != nil || !errors.Is(err, refused) {
			t.Errorf("%v, %v", r, err)
		}
	})
}

func except(dial node.Dialer, name string, err error) node.Dialer {
	return func(ctx context.Context, n string) (node.Node, error) {
		if n == name {
			return nil, err
		}
		return dial(ctx, n)
	}
}
