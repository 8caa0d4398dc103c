package captures

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/report"
)

// mostListed is how many flows text shows before it shows faulty ones alone.
const mostListed = 40

// Write prints the report in any format of report.Write.
func Write(w io.Writer, r *Report, format string, o report.Options) error {
	if err := report.CheckFormat(format); err != nil {
		return err
	}
	switch format {
	case report.FormatJSON, report.FormatYAML:
		return report.WriteValue(w, r, format)
	case report.FormatText, report.FormatWide:
		return writeText(w, r, format == report.FormatWide)
	default:
		return report.Write(w, r.asPath(), format, o)
	}
}

// writeText prints what was concluded, and points and flows as tables; the verdict comes last, as in a PathReport.
func writeText(w io.Writer, r *Report, wide bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "POINT\tCAPTURE\tNODE\tTAKEN AT, BY ITS FRAMES\tPACKETS\tCLOCK\tNOTES")
	for i := range r.Points {
		p, c := &r.Points[i], &r.Conclusions[i]
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%d\t%+v\t%s\n", i+1, report.Clean(p.Name), orDash(c.Node), report.Clean(c.Place), p.Packets, Clock(p), pointNotes(p))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if r.Path != "" {
		fmt.Fprintf(w, "order and places by %s\n", r.Path)
	}
	if err := r.writeFlows(w, wide); err != nil {
		return err
	}
	if len(r.Damage)+len(r.Incomplete) > 0 {
		fmt.Fprintln(w, "\nnot judged")
	}
	for _, d := range r.Damage {
		fmt.Fprintf(w, "? %s: what comes behind it is not used\n", report.Clean(d))
	}
	for _, s := range r.Incomplete {
		fmt.Fprintf(w, "? %s\n", report.Clean(s))
	}
	_, err := fmt.Fprintf(w, "\n%s  %s\n", strings.ToUpper(r.Verdict.Status), r.Verdict.Summary)
	if e := r.Expectation; e != nil {
		fmt.Fprintf(w, "\nEXPECTATION %s  %s\n  %s\n", strings.ToUpper(e.Status), report.Clean(e.Policy), report.Clean(e.Summary))
	}
	return err
}

func (r *Report) writeFlows(w io.Writer, wide bool) error {
	all := wide || len(r.Flows) <= mostListed
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "FLOW\tCOMPLETE\tLOST\tWHERE\tREWRITTEN WRONGLY\tTRANSLATED\tUNCLEAR"
	if wide {
		head += "\tSENT AGAIN\tDUPLICATES\tCORRUPT\tNOT SEEN AT"
	}
	fmt.Fprintln(tw, head)
	hidden := 0
	for i := range r.Flows {
		f := &r.Flows[i]
		lost, wrong := Losses(f)
		if !all && lost+wrong == 0 {
			hidden++
			continue
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%s\t%s\t%s", f.Tuple, f.Complete, lost, r.where(f), r.rewritten(f), translated(f), unclear(f))
		if wide {
			fmt.Fprintf(tw, "\t%d\t%s\t%s\t%s", f.Retransmissions, r.counts(f.Duplicates), r.counts(f.Corrupt), r.counts(f.Missed))
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if hidden > 0 {
		fmt.Fprintf(w, "and %d flows without a fault (-o wide lists them)\n", hidden)
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func pointNotes(p *flows.PointResult) string {
	var out []string
	for _, n := range []struct {
		n    uint64
		what string
	}{
		{p.VXLAN, "in VXLAN"}, {p.Drops, "lost by the capture"}, {p.Corrupt, "with a wrong checksum"}, {p.Fragments, "fragments"},
		{p.Truncated, "cut by the snap length"}, {p.Other, "not IP"},
	} {
		if n.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	if p.Unsorted {
		out = append(out, "not in order of time")
	}
	if d := p.Damage; d != nil {
		out = append(out, fmt.Sprintf("damaged at byte %d", d.Offset))
	}
	return strings.Join(out, ", ")
}

// unclear says of packets that are neither complete nor lost what they are.
func unclear(f *flows.FlowResult) string {
	var out []string
	for _, n := range []struct {
		n    uint64
		what string
	}{{f.Ambiguous, "ambiguous"}, {f.Underway, "under way"}, {f.Elsewhere, "of another path"}} {
		if n.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	return strings.Join(out, ", ")
}

// where says between which points packets were lost.
func (r *Report) where(f *flows.FlowResult) string {
	var out []string
	for _, l := range f.Lost {
		out = append(out, fmt.Sprintf("%d %s", l.Packets, r.lostAt(l)))
	}
	return strings.Join(out, "; ")
}

func (r *Report) lostAt(l flows.Loss) string {
	s := "after " + report.Clean(r.PointName(l.From))
	if l.To != l.From && l.To >= 0 && l.To < len(r.Points) {
		s += ", before " + report.Clean(r.PointName(l.To))
	}
	return s
}

func (r *Report) rewritten(f *flows.FlowResult) string {
	var out []string
	for _, w := range f.Rewrites {
		out = append(out, fmt.Sprintf("%d at %s %s", w.Packets, report.Clean(r.PointName(w.Point)), rewrittenTo(w)))
	}
	return strings.Join(out, "; ")
}

func rewrittenTo(w flows.Rewrite) string {
	if w.Tuple != nil {
		return "to " + w.Tuple.String()
	}
	return fmt.Sprintf("to VNI %d", w.VNI)
}

// translated lists what a flow becomes on the way by NAT.
func translated(f *flows.FlowResult) string {
	var out []string
	for _, t := range f.NAT {
		out = append(out, t.String())
	}
	return strings.Join(out, "; ")
}

func (r *Report) counts(list []flows.Count) string {
	var out []string
	for _, c := range list {
		out = append(out, fmt.Sprintf("%d at %s", c.Packets, report.Clean(r.PointName(c.Point))))
	}
	return strings.Join(out, "; ")
}
