package cmd

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/captures"
	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/flows/flowstest"
	"github.com/podtrace/podtrace/pkg/report"
)

// TestAnalyzeFlows compares generated captures, of which it is known what was lost, by the command line.
func TestAnalyzeFlows(t *testing.T) {
	for _, c := range []struct {
		name   string
		cfg    flowstest.Config
		status string
		exit   int
	}{
		{"healthy", flowstest.Config{Packets: 400, Flows: 4, Seed: 1}, report.Healthy, 0},
		{"losses", flowstest.Config{Packets: 2000, Flows: 60, Seed: 2, Loss: 0.05, WrongVNI: 0.01}, report.Degraded, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Dir = t.TempDir()
			truth, err := flowstest.Generate(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			var want captures.Verdict
			for i := range truth.Flows {
				lost, wrong := captures.Losses(&truth.Flows[i])
				want.Complete, want.Lost, want.Rewritten = want.Complete+truth.Flows[i].Complete, want.Lost+lost, want.Rewritten+wrong
			}
			args := []string{"podtrace", "analyze"}
			for i := flowstest.Points - 1; i >= 0; i-- { // not in the order of the path
				args = append(args, filepath.Join(c.cfg.Dir, flowstest.FileName(i)))
			}
			s, out, errOut := buffers()
			if code := Main(append(args, "-o", "json"), s); code != c.exit {
				t.Fatalf("status %d, want %d: %s", code, c.exit, errOut)
			}
			var got struct {
				Verdict captures.Verdict
				Points  []flows.PointResult
			}
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			v := got.Verdict
			if v.Status != c.status || v.Complete != want.Complete || v.Lost != want.Lost || v.Rewritten != want.Rewritten {
				t.Errorf("%+v, want %s %+v", v, c.status, want)
			}
			s, out, _ = buffers()
			if code := Main(args, s); code != c.exit {
				t.Errorf("status %d", code)
			}
			lines := strings.Split(out.String(), "\n")
			if verdict := lines[len(lines)-2]; !strings.HasPrefix(verdict, strings.ToUpper(c.status)) || strings.Contains(out.String(), " after ") != (want.Lost > 0) {
				t.Errorf("text:\n%s", out)
			}
			if hidden := strings.Contains(out.String(), "flows without a fault"); hidden != (len(truth.Flows) > 40 && v.Faulty < len(truth.Flows)) {
				t.Errorf("%d flows, %d faulty:\n%s", len(truth.Flows), v.Faulty, out)
			}
		})
	}
}
