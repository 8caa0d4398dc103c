package trace_test

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// TestFaultMatrix puts in every fault of the default lab, on either node, and asks both commands: check, which
// sees tables alone, and path. "make faults" prints the table.
func TestFaultMatrix(t *testing.T) {
	ofFaults(t)
	matrixOf(t, lab.Spec{}, true)
}

// ofFaults leaves the long matrices to "make faults", which "make test" runs as well.
func ofFaults(t *testing.T) {
	t.Helper()
	if os.Getenv("FAULTS") == "" {
		t.Skip("make faults runs it, and make test runs that")
	}
}

// matrixOf tries every fault of a lab, on the nodes of its path or only where the lab puts it by default.
func matrixOf(t *testing.T, spec lab.Spec, both bool) {
	inv := upSpec(t, spec)
	faults, err := lab.FaultsOf(spec)
	if err != nil {
		t.Fatal(err)
	}
	m := &runner{spec: spec, inv: inv}
	var out strings.Builder
	m.out = tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(m.out, "FAULT\tON\tPATH\tVERDICT\tNODE\tINTERFACE\tLEG\tTIME\tBY TABLES\tRIGHT")
	for _, f := range faults {
		if spec.Services != "" && !slices.Contains(f.Datapaths, "services") || slices.Contains(slow, f.ID) {
			continue
		}
		m.all(t, f, both)
	}
	_ = m.out.Flush()
	t.Logf("\n%s", &out)
}

// runner tries the faults of one lab.
type runner struct {
	spec lab.Spec
	inv  *inventory.Inventory
	out  *tabwriter.Writer
}

// all tries a fault on every node that shows it.
func (m *runner) all(t *testing.T, f lab.Fault, both bool) {
	row, has := rowOf(f.ID)
	tries := slices.Clone(ownPaths[f.ID])
	if has {
		p := m.places(f)
		tries = append(tries, try{on: p.end(near), want: row.near}, try{on: p.end(far), want: row.far})
	}
	if len(tries) == 0 {
		t.Errorf("the lab's fault %s has no row in the matrix", f.ID)
	}
	for _, y := range tries {
		if y.want == nowhere || !both && y.on != f.Node || m.place(f.ID, m.places(f).which(y.on), y.want) == nowhere {
			continue
		}
		on, err := lab.FaultOn(m.spec, f.ID, y.on)
		if err != nil {
			t.Fatal(err)
		}
		on.From, on.To = cmp.Or(y.from, on.From), cmp.Or(y.to, on.To)
		t.Run(strings.TrimRight(f.ID+"/"+y.on+"/"+y.from, "/"), func(t *testing.T) { m.try(t, row, on, y.want) })
	}
}

func (m *runner) places(f lab.Fault) places {
	p := places{datapath: m.spec.Datapath, inv: m.inv, from: f.From, to: f.To, id: f.ID}
	if m.inv.Pod("default", p.from) == nil {
		p.from = "coffee-1"
	}
	if m.inv.Pod("default", p.to) == nil {
		p.to = "coffee-2"
	}
	return p
}

// try puts one fault in, asks, and mends.
func (m *runner) try(t *testing.T, row fault, f lab.Fault, want said) {
	o := labOptions()
	o.Spec = m.spec
	p := m.places(f)
	node, end := f.Node, p.which(f.Node)
	want = m.place(f.ID, end, want)
	if want.node != "" {
		node = p.end(want.node)
	}
	dev := ""
	if want.role != "" {
		dev = p.device(t, node, want.role) // before the fault takes it away
	}
	if err := lab.Break(t.Context(), o, f.ID, f.Node); err != nil {
		t.Fatal(err)
	}
	mended := false
	mend := func() {
		if err := lab.Mend(t.Context(), o, f.ID); err != nil && !mended {
			t.Fatal(err)
		}
		mended = true
	}
	defer mend()
	opts := m.question(t, f)
	byTables, err := trace.Check(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r, err := trace.Path(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	mend()
	v, bv := r.Verdict, byTables.Verdict
	cause := m.cause(f.ID, end)
	status := cmp.Or(m.status(f.ID), row.status, report.Broken)
	bad := wrong(v, status, cause, node, dev, want.leg)
	fmt.Fprintf(m.out, "%s\t%s\t%s → %s\t%s %s\t%s\t%s\t%s\t%s\t%s\t%v\n", f.ID, f.Node, f.From, f.To, v.Status, v.Cause, v.Node, v.Interface, v.Leg,
		took.Round(time.Millisecond), strings.TrimSpace(bv.Status+" "+bv.Cause), bad == "")
	if bad != "" {
		t.Errorf("path: %s\n%s", bad, text(r))
	}
	if m.wireOnly(row) || m.wireOnly(fault{id: f.ID}) {
		if bv.Status == report.Broken {
			t.Errorf("tables can't show it, and say %s %s", bv.Status, bv.Cause)
		}
	} else if bad := wrong(bv, cmp.Or(m.shown(f), row.byTables, status), cause, node, dev, want.leg); bad != "" {
		t.Errorf("check: %s\n%s", bad, text(byTables))
	}
	after, err := trace.Path(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if after.Verdict.Status != report.Healthy {
		t.Errorf("after mend:\n%s", text(after))
	}
}

// wrong says what a verdict gets wrong, "" when nothing. No interface and no leg: any is right.
func wrong(v report.Verdict, status, cause, node, dev, leg string) string {
	var bad []string
	expect := func(what, got, want string) {
		if got != want {
			bad = append(bad, fmt.Sprintf("%s %q, want %q", what, got, want))
		}
	}
	expect("status", v.Status, status)
	expect("cause", v.Cause, cause)
	expect("node", v.Node, node)
	if dev != "" {
		expect("interface", v.Interface, dev)
	}
	if leg != "" {
		expect("leg", v.Leg, leg)
	}
	return strings.Join(bad, ", ")
}

// question is the trace that shows a fault.
func (m *runner) question(t *testing.T, f lab.Fault) trace.Options {
	t.Helper()
	from, how := f.From, "icmp"
	if from == "client" {
		from = m.inv.Hosts[0].IPs[0].String()
	}
	switch {
	case f.ID == "nat-port-race": // of connections: another one has the port
		how = "tcp:8080"
		c := connection(t, m.inv, "tea-1", f.To)
		t.Cleanup(func() { _ = c.Close() })
	case strings.HasPrefix(f.To, "svc/") || from != f.From:
		how = "tcp"
	}
	opts := options(m.inv, from, f.To, how)
	if f.ID == "ct-stale-udp" { // the flow that the lab's entry holds
		opts.SourcePort, opts.Probe.Proto = 40000, probe.UDP
	}
	return opts
}
