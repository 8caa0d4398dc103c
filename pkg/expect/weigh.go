package expect

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/podtrace/podtrace/pkg/report"
)

// Subject is what was found of one pair.
type Subject struct {
	From, To []string // the names of each end: NAMESPACE/NAME, NAME, addresses
	Status   string   // report.Healthy, …
	Faults   []Fault  // of severity error
	Summary  string   // the verdict's
}

// Fault is one of them.
type Fault struct{ Cause, Node, Interface, Summary string }

// Of gives the subject of a report. A verdict that no finding explains is a fault by its own cause.
func Of(r *report.Report) Subject {
	s := Subject{From: names(r.Source), To: names(r.Destination), Status: r.Verdict.Status, Summary: r.Verdict.Summary}
	told := false
	for _, f := range r.Findings {
		if f.Severity == report.SeverityError {
			s.Faults = append(s.Faults, Fault{f.Cause, f.Node, f.Interface, f.Summary})
			told = told || f.Cause == r.Verdict.Cause
		}
	}
	if v := r.Verdict; !told && report.ExitCode(v.Status) == report.ExitFault {
		s.Faults = append(s.Faults, Fault{v.Cause, v.Node, v.Interface, v.Summary})
	}
	return s
}

func names(e report.Endpoint) []string {
	var out []string
	for _, n := range []string{e.Namespace + "/" + e.Name, e.Name, e.IP} {
		if n != "" && n != "/" {
			out = append(out, n)
		}
	}
	return out
}

// Weigh holds all that was found against the policy, at a moment. It gives an opinion on each subject, and one on
// what no subject shows.
func (p *Policy) Weigh(subjects []Subject, now time.Time) (each []report.Expectation, whole report.Expectation) {
	used := make([]bool, len(p.Accepted))
	for i := range subjects {
		each = append(each, p.one(&subjects[i], now, used))
	}
	whole = report.Expectation{Policy: p.file, Status: report.Met}
	for _, x := range p.Healthy {
		found := false
		for i := range subjects {
			found = found || x.fits(&subjects[i])
		}
		if !found {
			whole.Unmet = append(whole.Unmet, fmt.Sprintf("%s must be healthy, and nothing was looked at that is of this pair", x))
		}
	}
	for i, a := range p.Accepted {
		if !used[i] {
			whole.Notes = append(whole.Notes, fmt.Sprintf("accepted and not found: %s: the policy can do without it", a))
		}
	}
	if len(whole.Unmet) > 0 {
		whole.Status = report.Unmet
	}
	for _, e := range each {
		whole.Status = worse(whole.Status, e.Status)
	}
	whole.Summary = whole.Words()
	return each, whole
}

// Join puts the opinions on all subjects into the one on the whole, for a report that has one place for it.
func Join(each []report.Expectation, whole report.Expectation) report.Expectation {
	for _, e := range each {
		whole.Required = whole.Required || e.Required
		whole.Unmet = append(whole.Unmet, e.Unmet...)
		whole.Notes = append(whole.Notes, e.Notes...)
		for _, a := range e.Accepted {
			if !slices.Contains(whole.Accepted, a) {
				whole.Accepted = append(whole.Accepted, a)
			}
		}
	}
	whole.Summary = whole.Words()
	return whole
}

// worse of two: unmet, then undecided, then met.
func worse(a, b string) string {
	for _, s := range []string{report.Unmet, report.Undecided} {
		if a == s || b == s {
			return s
		}
	}
	return report.Met
}

func (p *Policy) one(s *Subject, now time.Time, used []bool) report.Expectation {
	e := report.Expectation{Policy: p.file, Status: report.Met, Required: len(p.Healthy) == 0}
	for _, x := range p.Healthy {
		e.Required = e.Required || x.fits(s)
	}
	for _, f := range s.Faults {
		p.fault(&e, s, f, now, used)
	}
	switch {
	case !e.Required:
		e.Status = report.Met
		for _, u := range e.Unmet {
			e.Notes = append(e.Notes, "not required to be healthy: "+u)
		}
		e.Unmet = nil
	case len(e.Unmet) > 0:
		e.Status = report.Unmet
	case s.Status != report.Healthy && report.ExitCode(s.Status) == report.ExitInconclusive:
		e.Status = report.Undecided
		e.Notes = append(e.Notes, "whether it is healthy is not known: "+s.Summary)
	}
	e.Summary = e.Words()
	return e
}

// fault weighs one fault: an acceptance that fits and is not over excuses it.
func (p *Policy) fault(e *report.Expectation, s *Subject, f Fault, now time.Time, used []bool) {
	why := ""
	for i, a := range p.Accepted {
		if !a.fits(s, f) {
			continue
		}
		used[i] = true
		if !a.Until.over(now) {
			e.Accepted = append(e.Accepted, report.Accepted{Cause: f.Cause, Node: f.Node, Interface: f.Interface, Until: a.Until.String(), Reason: a.Reason})
			return
		}
		why = fmt.Sprintf(" (accepted until %s, which is over: %s)", a.Until, a.Reason)
	}
	e.Unmet = append(e.Unmet, strings.TrimSpace(f.Cause+place(f.Node, f.Interface))+": "+f.Summary+why)
}

func place(node, iface string) string {
	if at := strings.TrimSpace(node + " " + iface); at != "" {
		return " on " + at
	}
	return ""
}

// fits reports whether the subject is of the pair.
func (x Pair) fits(s *Subject) bool { return anyOf(x.From, s.From) && anyOf(x.To, s.To) }

// String gives FROM to TO.
func (x Pair) String() string { return orAny(x.From) + " to " + orAny(x.To) }

func orAny(s string) string {
	if s == "" {
		return "*"
	}
	return s
}

func (a Acceptance) fits(s *Subject, f Fault) bool {
	return anyOf(a.Cause, []string{f.Cause}) && anyOf(a.Node, []string{f.Node}) && anyOf(a.Interface, []string{f.Interface}) &&
		anyOf(a.From, s.From) && anyOf(a.To, s.To)
}

// String gives the fault and its place.
func (a Acceptance) String() string { return a.Cause + place(a.Node, a.Interface) }

// anyOf reports whether one of the names fits the pattern. A range of addresses fits those in it. A bare "*" is any
// name, also one with a slash.
func anyOf(pattern string, names []string) bool {
	if pattern == "" || pattern == "*" {
		return true
	}
	prefix, err := netip.ParsePrefix(pattern)
	for _, n := range names {
		if ok, _ := path.Match(pattern, n); ok { // the pattern is valid: check saw to it
			return true
		}
		if a, aerr := netip.ParseAddr(n); err == nil && aerr == nil && prefix.Contains(a) {
			return true
		}
	}
	return false
}
