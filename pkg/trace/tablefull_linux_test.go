package trace_test

import (
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// TestConntrackTableFull: new connections are dropped where the table is full, and the verdict says so in time although
// the table is long.
func TestConntrackTableFull(t *testing.T) {
	ofFaults(t)
	inv := up(t)
	began := time.Now()
	if err := lab.Break(t.Context(), labOptions(), "ct-table-full", "node1"); err != nil {
		t.Fatal(err)
	}
	broke := time.Since(began)
	began = time.Now()
	r, err := trace.Path(t.Context(), options(inv, "coffee-1", "coffee-2", "tcp:8080"))
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if v := r.Verdict; v.Status != report.Broken || v.Cause != "ct-table-full" || v.Node != "node1" || v.Leg != request {
		t.Errorf("%+v\n%s", v, text(r))
	}
	if took > 3*time.Second {
		t.Errorf("a verdict after %s, want 3 s at most", took)
	}
	t.Logf("full after %s, verdict after %s: %s", broke, took, r.Verdict.Summary)
}
