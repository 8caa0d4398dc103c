package captures

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/flows/flowstest"
	"github.com/podtrace/podtrace/pkg/report"
)

// generated makes captures of a path, and gives them in another order than that of the path.
func generated(t *testing.T, c flowstest.Config) []Source {
	t.Helper()
	c.Dir = t.TempDir()
	if _, err := flowstest.Generate(c); err != nil {
		t.Fatal(err)
	}
	var out []Source
	for _, i := range []int{3, 0, 4, 2, 1} {
		out = append(out, Source{Path: filepath.Join(c.Dir, flowstest.FileName(i))})
	}
	return out
}

// TestConclusions: order, nodes and encapsulation are found out from the frames.
func TestConclusions(t *testing.T) {
	for name, c := range map[string]flowstest.Config{
		"plain": {Packets: 600, Flows: 5, Seed: 3}, "nat": {Packets: 600, Flows: 5, Seed: 4, NAT: 1},
		"ahead": {Packets: 600, Flows: 5, Seed: 5, Skew: 2e9}, "pcapng": {Packets: 600, Flows: 5, Seed: 6, PcapNG: true},
		"another port": {Packets: 600, Flows: 5, Seed: 9, VXLANPort: 4444},
		"ipv6":         {Packets: 600, Flows: 5, Seed: 7, IPv6: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Judge(t.Context(), generated(t, c), "test")
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Conclusions) != flowstest.Points || r.Verdict.Status != report.Healthy {
				t.Fatalf("%+v %+v", r.Verdict, r.Conclusions)
			}
			for i, c := range r.Conclusions {
				if c.Point != flowstest.FileName(i) || r.Points[i].Name != c.Point || c.Encapsulated != (i == 2) {
					t.Errorf("point %d: %+v", i, c)
				}
				want := []string{"before its routing", "before its routing", "network between the nodes", "behind its routing", "behind its routing"}[i]
				if !strings.HasPrefix(c.Place, want) {
					t.Errorf("%s: %q, want %q", c.Point, c.Place, want)
				}
				if wire := r.Conclusions[2]; i < 2 && c.Node != wire.OuterSrc.String() || i > 2 && c.Node != wire.OuterDst.String() {
					t.Errorf("%s: node %q", c.Point, c.Node)
				}
			}
		})
	}
}

// TestFormats: losses, wrong networks and wrong addresses are in every format.
func TestFormats(t *testing.T) {
	r, err := Judge(t.Context(), generated(t, flowstest.Config{Packets: 3000, Flows: 9, Seed: 8, Loss: 0.02, WrongVNI: 0.01, WrongAddress: 0.01, NAT: 0.3}), "test")
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict.Status != report.Degraded || r.Verdict.Lost == 0 || r.Verdict.Rewritten == 0 {
		t.Fatalf("%+v", r.Verdict)
	}
	for format, want := range map[string][]string{
		report.FormatText: {" after hop", "to VNI ", "\nDEGRADED  ", "10.1.11.91"}, report.FormatWide: {"SENT AGAIN"},
		report.FormatJSON: {`"kind": "FlowsReport"`, `"nat": [`, `"rewrites": [`}, report.FormatYAML: {"kind: FlowsReport"},
		report.FormatJUnit:    {`message="headers differ"`, "packets: "},
		report.FormatMarkdown: {"**degraded** ", "lost-after-hop"}, report.FormatSARIF: {`"ruleId": "wrong-vni"`, `"ruleId": "wrong-address"`},
		report.FormatHTML: {"DEGRADED"},
	} {
		var b bytes.Buffer
		if err := Write(&b, r, format, report.Options{}); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("%s: no %q in\n%.2000s", format, w, b.String())
			}
		}
	}
	subjects := r.Subjects()
	faulty := 0
	for _, s := range subjects {
		if len(s.Faults) > 0 {
			faulty++
		}
	}
	if faulty != r.Verdict.Faulty || len(subjects) != len(r.Flows) {
		t.Errorf("%d of %d subjects are faulty, want %d of %d", faulty, len(subjects), r.Verdict.Faulty, len(r.Flows))
	}
}

// TestSetAside: a capture of another path is no point of this one, and nobody says that packets got there.
func TestSetAside(t *testing.T) {
	here := generated(t, flowstest.Config{Packets: 400, Flows: 3, Seed: 9})
	there := generated(t, flowstest.Config{Packets: 400, Flows: 3, Seed: 9, IPv6: 1})
	r, err := Judge(t.Context(), append(here, there[0]), "test")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Points) != flowstest.Points || r.Verdict.Status != report.Inconclusive || len(r.Incomplete) != 1 {
		t.Errorf("%d points, %+v, %q", len(r.Points), r.Verdict, r.Incomplete)
	}
	if _, err := Judge(t.Context(), here[:1], "test"); err == nil {
		t.Error("one capture is compared with nothing")
	}
}

// TestDrops: what the kernel dropped for a capture is not called lost.
func TestDrops(t *testing.T) {
	sources := generated(t, flowstest.Config{Packets: 2000, Flows: 6, Seed: 10, Loss: 0.02, PcapNG: true})
	before, err := Judge(t.Context(), sources, "test")
	if err != nil || before.Verdict.Lost == 0 {
		t.Fatalf("%+v %v", before, err)
	}
	for _, s := range sources { // an interface statistics block with isb_ifdrop, little-endian as the file
		block := []byte{5, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 8, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0}
		f, err := os.OpenFile(s.Path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	r, err := Judge(t.Context(), sources, "test")
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict.Lost != 0 || r.Verdict.Ambiguous == 0 || r.Verdict.Status != report.Inconclusive || r.Points[3].Drops != 4096 {
		t.Errorf("%+v %+v", r.Verdict, r.Points[3])
	}
	var b bytes.Buffer
	if err := Write(&b, r, report.FormatText, report.Options{}); err != nil || !strings.Contains(b.String(), "4096 lost by the capture") ||
		!strings.Contains(b.String(), "the kernel dropped 4096 packets for the capture hop3") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// TestDamage: a file that is cut short is used up to there, and the place is named.
func TestDamage(t *testing.T) {
	sources := generated(t, flowstest.Config{Packets: 2000, Flows: 6, Seed: 11})
	fi, err := os.Stat(sources[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sources[0].Path, fi.Size()/2); err != nil {
		t.Fatal(err)
	}
	r, err := Judge(t.Context(), sources, "test")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Damage) != 1 || !strings.Contains(r.Damage[0], sources[0].Path) || !strings.Contains(r.Damage[0], "cut short") {
		t.Errorf("%q", r.Damage)
	}
	if r.Verdict.Lost != 0 || r.Verdict.Complete < 700 {
		t.Errorf("%+v", r.Verdict)
	}
	var b bytes.Buffer
	if err := Write(&b, r, report.FormatText, report.Options{}); err != nil || !strings.Contains(b.String(), "damaged at byte ") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
