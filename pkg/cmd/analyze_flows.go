package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/pcapfile"
	"github.com/podtrace/podtrace/pkg/report"
)

// flowsReport is what the captures of one path come to, for -o json.
type flowsReport struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Verdict    flowsVerdict `json:"verdict"`
	*flows.Result
	Damage []string `json:"damage,omitempty"` // where files could not be read to their end
}

// flowsVerdict counts packets of all flows.
type flowsVerdict struct {
	Status    string `json:"status"`
	Summary   string `json:"summary"`
	Complete  uint64 `json:"complete"`
	Lost      uint64 `json:"lost"`
	Rewritten uint64 `json:"rewritten"` // wrongly
	Ambiguous uint64 `json:"ambiguous"`
	Faulty    int    `json:"faultyFlows"`
}

// mostListed is how many flows text shows before it shows faulty ones alone.
const mostListed = 40

// flows compares captures of one path with each other.
func (o *analyzeOptions) flows(ctx context.Context) error {
	switch o.Output {
	case report.FormatText, report.FormatWide, report.FormatJSON:
	default:
		return usageErrorf("podtrace analyze", "flag --output: flows of captures come as text, wide or json, not as %q", o.Output)
	}
	points, err := capturePoints(o.Inputs)
	if err != nil {
		return err
	}
	if len(points) < 2 {
		return withHint(fmt.Errorf("%q is one capture point: there is nothing to compare it with", o.Inputs[0]),
			"name the captures of two points or more of one path, or a capture beside its listings: podtrace analyze --help")
	}
	res, err := flows.Run(ctx, flows.Config{Points: points, FindOrder: true})
	if err != nil {
		return err
	}
	r := &flowsReport{APIVersion: report.APIVersion, Kind: "FlowsReport", Verdict: judgeFlows(res), Result: res}
	for i := range res.Points {
		if d := res.Points[i].Damage; d != nil {
			r.Damage = append(r.Damage, d.Error())
		}
	}
	if o.Output == report.FormatJSON {
		err = printJSON(o.streams.Out, r)
	} else {
		err = printFlows(o.streams.Out, r, o.Output == report.FormatWide)
	}
	if code := report.ExitCode(r.Verdict.Status); err == nil && code != 0 && !o.ExitZero {
		return statusError(code)
	}
	return err
}

// capturePoints makes a point of each file, and of each interface of a file that has several.
func capturePoints(paths []string) ([]flows.Point, error) {
	var out []flows.Point
	for _, p := range paths {
		ifs, err := interfacesOf(p)
		if err != nil {
			return nil, err
		}
		if len(ifs) < 2 {
			out = append(out, flows.Point{Name: filepath.Base(p), Path: p})
			continue
		}
		for i, f := range ifs {
			name := f.Name
			if name == "" {
				name = fmt.Sprint("interface ", i+1)
			}
			out = append(out, flows.Point{Name: filepath.Base(p) + " " + name, Path: p, Interface: i + 1})
		}
	}
	return out, nil
}

// interfacesOf reads a capture file up to its end: any block of a pcapng may describe another interface.
func interfacesOf(path string) ([]pcapfile.Interface, error) {
	r, err := pcapfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // only read
	var rec pcapfile.Record
	for {
		if err := r.Next(&rec); errors.Is(err, io.EOF) {
			return r.Interfaces(), nil
		} else if err != nil {
			return nil, err
		}
	}
}

// judgeFlows sums up.
func judgeFlows(res *flows.Result) flowsVerdict {
	var v flowsVerdict
	for i := range res.Flows {
		f := &res.Flows[i]
		lost, wrong := losses(f)
		v.Complete += f.Complete
		v.Ambiguous += f.Ambiguous
		v.Lost += lost
		v.Rewritten += wrong
		if lost+wrong > 0 {
			v.Faulty++
		}
	}
	v.Summary = fmt.Sprintf("%d of %d flows have losses or wrong rewrites: %d packets complete, %d lost, %d rewritten wrongly",
		v.Faulty, len(res.Flows), v.Complete, v.Lost, v.Rewritten)
	switch {
	case v.Lost > 0 && v.Complete == 0:
		v.Status = report.Broken
	case v.Faulty > 0:
		v.Status = report.Degraded
	case v.Complete > 0:
		v.Status = report.Healthy
		v.Summary = fmt.Sprintf("%d flows, %d packets: each was seen at every point", len(res.Flows), v.Complete)
	default:
		v.Status = report.Inconclusive
		v.Summary = "no packet was seen at both ends: the captures may be of different paths or times"
	}
	return v
}

func losses(f *flows.FlowResult) (lost, wrong uint64) {
	for _, l := range f.Lost {
		lost += l.Packets
	}
	for _, w := range f.Rewrites {
		wrong += w.Packets
	}
	return lost, wrong
}

// printFlows prints points and flows as tables.
func printFlows(w io.Writer, r *flowsReport, all bool) error {
	fmt.Fprintf(w, "%s  %s\n\n", strings.ToUpper(r.Verdict.Status), r.Verdict.Summary)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "POINT\tCAPTURE\tPACKETS\tCLOCK\tNOTES")
	for i := range r.Points {
		p := &r.Points[i]
		fmt.Fprintf(tw, "%d\t%s\t%d\t%+v\t%s\n", i+1, report.Clean(p.Name), p.Packets, -p.Offset, pointNotes(p))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, d := range r.Damage {
		fmt.Fprintf(w, "%s\n", report.Clean(d))
	}
	all = all || len(r.Flows) <= mostListed
	fmt.Fprintln(w)
	tw = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FLOW\tCOMPLETE\tLOST\tWHERE\tREWRITTEN\tUNCLEAR")
	hidden := 0
	for i := range r.Flows {
		f := &r.Flows[i]
		lost, wrong := losses(f)
		if !all && lost+wrong == 0 {
			hidden++
			continue
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%s\t%d\n", f.Tuple, f.Complete, lost, where(r, f), rewritten(r, f), f.Ambiguous+f.Underway+f.Elsewhere)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if hidden > 0 {
		fmt.Fprintf(w, "and %d flows without a fault (-o wide lists them)\n", hidden)
	}
	return nil
}

func pointNotes(p *flows.PointResult) string {
	var out []string
	for _, n := range []struct {
		n    uint64
		what string
	}{{p.VXLAN, "in VXLAN"}, {p.Drops, "lost by the capture"}, {p.Corrupt, "with a wrong checksum"}, {p.Other, "not IP"}} {
		if n.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	return strings.Join(out, ", ")
}

// where says between which points packets were lost.
func where(r *flowsReport, f *flows.FlowResult) string {
	var out []string
	for _, l := range f.Lost {
		s := fmt.Sprintf("%d after %s", l.Packets, r.pointName(l.From))
		if l.To != l.From && l.To >= 0 && l.To < len(r.Points) {
			s += ", before " + r.pointName(l.To)
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

func rewritten(r *flowsReport, f *flows.FlowResult) string {
	var out []string
	for _, w := range f.Rewrites {
		s := fmt.Sprintf("%d at %s", w.Packets, r.pointName(w.Point))
		if w.Tuple != nil {
			s += " to " + w.Tuple.String()
		} else {
			s += fmt.Sprintf(" to VNI %d", w.VNI)
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

func (r *flowsReport) pointName(i int) string {
	if i < 0 || i >= len(r.Points) {
		return "an end"
	}
	return report.Clean(r.Points[i].Name)
}
