package report

import (
	"fmt"
	"strings"
)

// Expectation is what a policy of the user's makes of a report.
type Expectation struct {
	Policy string `json:"policy"` // the file
	Status string `json:"status"` // "met", "unmet", "undecided"
	// Required: the policy wants this pair to be healthy.
	Required bool       `json:"required"`
	Summary  string     `json:"summary"`
	Accepted []Accepted `json:"accepted,omitempty"` // faults that are there and do not count
	Unmet    []string   `json:"unmet,omitempty"`    // what counts against it
	Notes    []string   `json:"notes,omitempty"`
}

// Accepted is a fault that the policy knows.
type Accepted struct {
	Cause     string `json:"cause"`
	Node      string `json:"node,omitempty"`
	Interface string `json:"interface,omitempty"`
	Until     string `json:"until"` // the last day, YYYY-MM-DD
	Reason    string `json:"reason"`
}

// Statuses of an expectation.
const (
	Met       = "met"
	Unmet     = "unmet"
	Undecided = "undecided" // too little was observed to say
)

// Words sums up.
func (e *Expectation) Words() string {
	var out []string
	if n := len(e.Unmet); n > 0 {
		out = append(out, e.Unmet[0])
		if n > 1 {
			out[0] += fmt.Sprintf(", and %d more", n-1)
		}
	}
	for _, a := range e.Accepted {
		out = append(out, a.String())
	}
	if len(out) == 0 && len(e.Notes) > 0 {
		out = append(out, e.Notes[0])
	}
	if len(out) == 0 {
		return "as the policy wants it"
	}
	return strings.Join(out, "; ")
}

// String says what is accepted, until when and why.
func (a Accepted) String() string {
	return fmt.Sprintf("%s%s is accepted until %s: %s", a.Cause, scene("", a.Node, a.Interface), a.Until, a.Reason)
}

// ExitCode gives the exit status for the expectation.
func (e *Expectation) ExitCode() int {
	switch e.Status {
	case Met:
		return ExitHealthy
	case Unmet:
		return ExitFault
	default:
		return ExitInconclusive
	}
}

// accepts reports whether a finding does not count.
func (e *Expectation) accepts(f Finding) *Accepted {
	if e == nil {
		return nil
	}
	for i := range e.Accepted {
		if a := &e.Accepted[i]; a.Cause == f.Cause && a.Node == f.Node && a.Interface == f.Interface {
			return a
		}
	}
	return nil
}

// lines are the details: what counts, what does not, and the rest.
func (e *Expectation) lines() (out []string) {
	out = append(out, e.Unmet...)
	for _, a := range e.Accepted {
		out = append(out, a.String())
	}
	return append(out, e.Notes...)
}

// expectation is the very last word where there is a policy: the exit status goes by it.
func (p *printer) expectation(e *Expectation) {
	if e == nil {
		return
	}
	as := map[string]style{Met: green, Unmet: red}[e.Status]
	if as == "" {
		as = yellow
	}
	p.line(nil)
	p.line(styled("EXPECTATION "+strings.ToUpper(Clean(e.Status)), as).add("  "+Clean(e.Policy), plain))
	for _, s := range e.lines() {
		p.prose(text("  "), s, plain)
	}
}

// markdownExpectation follows the verdict.
func markdownExpectation(b *strings.Builder, e *Expectation) {
	if e == nil {
		return
	}
	fmt.Fprintf(b, "\n**expectation %s** (%s)\n", markdown(e.Status), markdown(e.Policy))
	for i, s := range e.lines() {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "- %s\n", markdown(s))
	}
}

// expectationCase is the test case that a run hangs on where there is a policy.
func expectationCase(e *Expectation) junitCase {
	c := junitCase{Class: "podtrace", Name: "expectation"}
	switch e.ExitCode() {
	case ExitHealthy:
	case ExitFault:
		c.Failure = &junitMessage{Clean(e.Status + ": " + e.Summary), Clean(strings.Join(e.Unmet, "; "))}
	default:
		c.Skipped = &junitMessage{Message: Clean(e.Status + ": " + e.Summary)}
	}
	return c
}
