package flowstest

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podtrace/podtrace/pkg/flows"
)

// Truth is what pkg/flows must find.
type Truth struct {
	Points []PointTruth       `json:"points"`
	Flows  []flows.FlowResult `json:"flows"`
	// Cut: packets were under way when the captures began and ended. How many of them were seen whole
	// is not said.
	Cut bool `json:"cut,omitempty"`
	// Headers: of most packets only the headers were captured, so that partial checksums cannot be
	// verified, and some right ones look partial.
	Headers bool `json:"headers,omitempty"`
}

// PointTruth is what a point must have counted.
type PointTruth struct {
	Packets uint64 `json:"packets"`
	Partial uint64 `json:"partial"`
	Corrupt uint64 `json:"corrupt"`
}

func (g *generator) truth() *Truth {
	t := &Truth{Points: g.counts[:], Cut: g.cfg.Cut, Headers: g.cfg.SnapLen > 0}
	for _, f := range g.flows {
		for _, side := range f.truth {
			if side.Complete > 0 || len(side.Lost) > 0 {
				order(&side)
				t.Flows = append(t.Flows, side)
			}
		}
	}
	slices.SortFunc(t.Flows, func(a, b flows.FlowResult) int { return a.Tuple.Compare(b.Tuple) })
	return t
}

// order sorts the lists as a result has them.
func order(f *flows.FlowResult) {
	slices.SortFunc(f.Lost, func(a, b flows.Loss) int { return a.From - b.From })
	slices.SortFunc(f.Duplicates, func(a, b flows.Count) int { return a.Point - b.Point })
	slices.SortFunc(f.Corrupt, func(a, b flows.Count) int { return a.Point - b.Point })
}

func (t *Truth) write(path string) error {
	b, err := json.MarshalIndent(t, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("write truth: %w", err)
	}
	return nil
}

// Read reads a truth file.
func Read(path string) (*Truth, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read truth: %w", err)
	}
	t := &Truth{}
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("read truth %q: %w", path, err)
	}
	return t, nil
}

// Diff says where a result differs from the truth; empty if it does not.
func (t *Truth) Diff(res *flows.Result) string {
	var points []PointTruth
	for _, p := range res.Points {
		points = append(points, PointTruth{p.Packets, p.Partial, p.Corrupt})
	}
	if t.Headers {
		for i := range min(len(points), len(t.Points)) {
			points[i].Partial = t.Points[i].Partial
		}
	}
	if d := cmp.Diff(t.Points, points); d != "" {
		return "points (-truth +result)\n" + d
	}
	ignored := []string{"Missed"}
	if t.Cut {
		ignored = append(ignored, "Complete", "Underway", "Retransmissions")
	}
	opts := cmp.Options{
		cmpopts.IgnoreFields(flows.FlowResult{}, ignored...),
		cmpopts.EquateComparable(flows.Tuple{}),
		cmpopts.SortSlices(func(a, b flows.Rewrite) bool {
			return fmt.Sprint(a.Point, a.VNI, a.Tuple) < fmt.Sprint(b.Point, b.VNI, b.Tuple)
		}),
		cmpopts.EquateEmpty(),
	}
	if d := cmp.Diff(t.Flows, res.Flows, opts); d != "" {
		return "flows (-truth +result)\n" + d
	}
	return ""
}

// index finds the loss behind a point.
func index(list []flows.Loss, from int) int {
	return slices.IndexFunc(list, func(l flows.Loss) bool { return l.From == from })
}

func lose(t *flows.FlowResult, from, to int) {
	if i := index(t.Lost, from); i >= 0 {
		t.Lost[i].Packets++
		return
	}
	t.Lost = append(t.Lost, flows.Loss{From: from, To: to, Packets: 1})
}

func count(list *[]flows.Count, point int) {
	for i := range *list {
		if (*list)[i].Point == point {
			(*list)[i].Packets++
			return
		}
	}
	*list = append(*list, flows.Count{Point: point, Packets: 1})
}

func rewrite(t *flows.FlowResult, r flows.Rewrite) {
	for i := range t.Rewrites {
		if o := &t.Rewrites[i]; o.Point == r.Point && o.VNI == r.VNI && (o.Tuple == nil) == (r.Tuple == nil) && (r.Tuple == nil || *o.Tuple == *r.Tuple) {
			o.Packets++
			return
		}
	}
	r.Packets = 1
	t.Rewrites = append(t.Rewrites, r)
}
