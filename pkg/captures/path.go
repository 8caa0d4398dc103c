package captures

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/podtrace/podtrace/pkg/expect"
	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/report"
)

// Causes of faults that captures alone show.
const (
	CauseLost    = "lost-after-" // and the point
	CauseVNI     = "wrong-vni"
	CauseAddress = "wrong-address"
)

// faults lists what is wrong with one flow.
func (r *Report) faults(f *flows.FlowResult) (out []report.Finding) {
	for _, l := range f.Lost {
		out = append(out, report.Finding{
			Cause: CauseLost + r.PointName(l.From), Interface: r.PointName(l.From), Severity: report.SeverityError,
			Summary:  fmt.Sprintf("%s: %d of %d packets are lost %s", f.Tuple, l.Packets, total(f), r.lostAt(l)),
			Evidence: []string{fmt.Sprintf("%d packets got through", f.Complete)},
		})
	}
	for _, w := range f.Rewrites {
		cause := CauseVNI
		if w.Tuple != nil {
			cause = CauseAddress
		}
		out = append(out, report.Finding{
			Cause: cause, Interface: r.PointName(w.Point), Severity: report.SeverityError,
			Summary: fmt.Sprintf("%s: %d packets are rewritten wrongly at %s, %s", f.Tuple, w.Packets, r.PointName(w.Point), rewrittenTo(w)),
		})
	}
	return out
}

func total(f *flows.FlowResult) uint64 {
	lost, _ := Losses(f)
	return f.Complete + lost
}

// Subjects are the flows, for a policy: each is a pair of addresses.
func (r *Report) Subjects() (out []expect.Subject) {
	for i := range r.Flows {
		f := &r.Flows[i]
		if !f.Tuple.Src.IsValid() {
			continue // what was too much to tell apart
		}
		s := expect.Subject{From: []string{f.Tuple.Src.String()}, To: []string{f.Tuple.Dst.String()}, Status: report.Healthy}
		for _, t := range f.NAT {
			s.From, s.To = append(s.From, t.Src.String()), append(s.To, t.Dst.String())
		}
		switch found := r.faults(f); {
		case len(found) > 0:
			s.Status = report.Degraded
			for _, x := range found {
				s.Faults = append(s.Faults, expect.Fault{Cause: x.Cause, Interface: x.Interface, Summary: x.Summary})
			}
		case f.Complete == 0 && f.Ambiguous+f.Underway > 0, f.Ambiguous > 0:
			s.Status, s.Summary = report.Inconclusive, fmt.Sprintf("%s: of %d packets nothing tells whether they got through", f.Tuple, f.Ambiguous+f.Underway)
		case f.Complete == 0:
			continue // none of the path's
		}
		out = append(out, s)
	}
	return out
}

// mostLegs is how many flows the formats show that were made for one path.
const mostLegs = 500

// asPath gives the report the shape of a path's, for the formats that CI and people read: a leg a flow, faulty ones
// first, and a hop a point.
func (r *Report) asPath() *report.Report {
	out := &report.Report{
		APIVersion: r.APIVersion, Kind: r.Kind, Version: r.Version, Datapath: "captures alone", Incomplete: slices.Concat(r.Damage, r.Incomplete),
		Expectation: r.Expectation, Capture: &report.Capture{},
	}
	first, last := &r.Points[0], &r.Points[len(r.Points)-1]
	out.Source, out.Destination = report.Endpoint{Kind: "Capture", Name: first.Name}, report.Endpoint{Kind: "Capture", Name: last.Name}
	for i := range r.Points {
		p := &r.Points[i]
		out.Generated = later(out.Generated, p.Last)
		pt := report.Point{Node: r.Conclusions[i].Node, Interface: p.Name, Packets: int(p.Packets), KernelDrops: int(p.Drops), Source: r.Conclusions[i].Place}
		if p.Damage != nil {
			pt.Error = p.Damage.Error()
		}
		out.Capture.Points = append(out.Capture.Points, pt)
		out.Capture.Packets += pt.Packets
		out.Capture.KernelDrops += pt.KernelDrops
	}
	fs := make([]*flows.FlowResult, len(r.Flows))
	for i := range r.Flows {
		fs[i] = &r.Flows[i]
		out.Findings = append(out.Findings, r.faults(fs[i])...)
	}
	slices.SortStableFunc(fs, func(a, b *flows.FlowResult) int { return cmp.Compare(bad(b), bad(a)) })
	if n := len(fs); n > mostLegs {
		out.Incomplete = append(out.Incomplete, fmt.Sprintf("%d more flows are not shown in this format: -o wide or json has all", n-mostLegs))
		fs = fs[:mostLegs]
	}
	for _, f := range fs {
		out.Legs = append(out.Legs, r.leg(f))
	}
	out.Verdict = report.Verdict{Status: r.Verdict.Status, Summary: r.Verdict.Summary}
	if len(out.Findings) > 0 {
		out.Verdict.Cause, out.Verdict.Interface = out.Findings[0].Cause, out.Findings[0].Interface
	}
	return out
}

func later(t time.Time, ns int64) time.Time {
	if u := time.Unix(0, ns).UTC(); u.After(t) {
		return u
	}
	return t
}

func bad(f *flows.FlowResult) uint64 {
	lost, wrong := Losses(f)
	return lost + wrong
}

// leg shows how many packets of a flow each point should have seen, and did.
func (r *Report) leg(f *flows.FlowResult) report.Leg {
	l := report.Leg{Name: f.Tuple.String()}
	at := func(i int) int {
		if f.Backward {
			return len(r.Points) - 1 - i
		}
		return i
	}
	left := total(f)
	for i := range r.Points {
		p := at(i)
		h := report.Hop{Index: i + 1, Node: r.Conclusions[p].Node, Interface: r.Points[p].Name, State: report.StateOK}
		sent := left
		for _, x := range f.Lost {
			if i > 0 && x.From == at(i-1) {
				left -= min(left, x.Packets)
			}
		}
		h.Packets, h.Lost = int(left), int(sent-left)
		if sent > left {
			h.State = report.StateMismatch
			h.Checks = append(h.Checks, check("packets", strconv.FormatUint(sent, 10), strconv.FormatUint(left, 10)))
		}
		if sent > 0 && left == 0 {
			h.State = report.StateMissing
		}
		for _, w := range f.Rewrites {
			if w.Point == p {
				h.State = report.StateMismatch
				h.Checks = append(h.Checks, check("rewritten", "as the flow's other packets", fmt.Sprintf("%d packets %s", w.Packets, rewrittenTo(w))))
			}
		}
		if total(f) == 0 {
			h.State, h.Note = report.StateUnobserved, unclear(f)
		}
		l.Hops = append(l.Hops, h)
	}
	return l
}

func check(name, want, got string) report.Check {
	return report.Check{Name: name, Expected: want, Observed: got, Source: report.SourceWire}
}
