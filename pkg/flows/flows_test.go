package flows_test

import (
	"flag"
	"path/filepath"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/flows/flowstest"
)

// seed is of the random captures; -args -seed=N repeats or varies them.
var seed = flag.Uint64("seed", 1, "of the generated captures")

// run compares the generated files in dir.
func run(t *testing.T, dir string, change func(*flows.Config)) *flows.Result {
	t.Helper()
	cfg := flows.Config{TempDir: t.TempDir()}
	for i := range flowstest.Points {
		cfg.Points = append(cfg.Points, flows.Point{Path: filepath.Join(dir, flowstest.FileName(i))})
	}
	if change != nil {
		change(&cfg)
	}
	res, err := flows.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestTruth: what the generator did is found, packet by packet.
func TestTruth(t *testing.T) {
	faults := flowstest.Config{Packets: 20000, Flows: 200, Loss: 0.004, Duplicates: 0.002, WrongVNI: 0.002, NAT: 0.1}
	for name, change := range map[string]func(*flowstest.Config){
		"plain":    func(*flowstest.Config) {},
		"healthy":  func(c *flowstest.Config) { c.Loss, c.Duplicates, c.WrongVNI = 0, 0, 0 },
		"no nat":   func(c *flowstest.Config) { c.NAT, c.WrongAddress = 0, 0.003 },
		"address":  func(c *flowstest.Config) { c.WrongAddress = 0.003 },
		"gso":      func(c *flowstest.Config) { c.GSO = true },
		"partial":  func(c *flowstest.Config) { c.Partial, c.Corrupt = true, 0.003 },
		"skew":     func(c *flowstest.Config) { c.Skew, c.Drift = 300*time.Millisecond, 50_000 },
		"behind":   func(c *flowstest.Config) { c.Skew = -5 * time.Second },
		"ipv6":     func(c *flowstest.Config) { c.IPv6 = 0.5 },
		"no id":    func(c *flowstest.Config) { c.NoID = 0.5 },
		"resent":   func(c *flowstest.Config) { c.Retransmit = 0.01 },
		"fragment": func(c *flowstest.Config) { c.Fragments = true },
		"cut":      func(c *flowstest.Config) { c.Cut = true },
		"headers":  func(c *flowstest.Config) { c.SnapLen = 128 },
		"big":      func(c *flowstest.Config) { c.BigEndian, c.Nano = true, true },
		"pcapng":   func(c *flowstest.Config) { c.PcapNG = true },
		"all": func(c *flowstest.Config) {
			c.WrongAddress, c.Corrupt, c.Retransmit, c.IPv6, c.NoID = 0.002, 0.002, 0.004, 0.2, 0.2
			c.GSO, c.Partial, c.Fragments, c.Nano, c.Skew = true, true, true, true, -40*time.Millisecond
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := faults
			cfg.Dir, cfg.Seed = t.TempDir(), *seed
			change(&cfg)
			truth, err := flowstest.Generate(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if d := truth.Diff(run(t, cfg.Dir, nil)); d != "" {
				t.Error(d)
			}
		})
	}
}
