package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// The JUnit XML that CI systems read: a suite for each leg with a case for each hop, and one for
// the verdict, so that a fault without a failing hop still fails the run.
type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Failure *junitMessage `xml:"failure"`
	Skipped *junitMessage `xml:"skipped"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func writeJUnit(w io.Writer, rs []*Report, whole *Expectation) error {
	all := junitSuites{Name: "podtrace"}
	for _, r := range rs {
		pair, prefix := endpointName(r.Source)+" to "+endpointName(r.Destination), ""
		if len(rs) == 1 {
			all.Name += " " + pair
		} else {
			prefix = pair + ": "
		}
		all.report(r, prefix)
	}
	if whole != nil {
		all.add("expectation", []junitCase{expectationCase(whole)})
	}
	return all.write(w)
}

// report adds the suites of one report.
func (s *junitSuites) report(r *Report, prefix string) {
	excuse := junitExcuse(r.Expectation)
	for _, leg := range r.Legs {
		var cases []junitCase
		for i := range leg.Hops {
			cases = append(cases, excuse(hopCase(leg.Name, &leg.Hops[i])))
		}
		s.add(prefix+Clean(leg.Name), cases)
	}
	s.add(prefix+"verdict", []junitCase{excuse(verdictCase(r.Verdict))})
	if r.Expectation != nil {
		s.add(prefix+"expectation", []junitCase{expectationCase(r.Expectation)})
	}
}

// junitExcuse turns failures into skipped cases where a policy is met in spite of them: a run does not fail by what is
// known and accepted.
func junitExcuse(e *Expectation) func(junitCase) junitCase {
	return func(c junitCase) junitCase {
		if e != nil && e.Status == Met && c.Failure != nil {
			c.Skipped, c.Failure = &junitMessage{Message: Clean(e.Summary + " (" + c.Failure.Message + ")")}, nil
		}
		return c
	}
}

func (s *junitSuites) write(w io.Writer) error {
	body, err := xml.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report as JUnit XML: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, body)
	return err
}

func (s *junitSuites) add(name string, cases []junitCase) {
	suite := junitSuite{Name: name, Tests: len(cases), Cases: cases}
	for _, c := range cases {
		if c.Failure != nil {
			suite.Failures++
		}
		if c.Skipped != nil {
			suite.Skipped++
		}
	}
	s.Tests += suite.Tests
	s.Failures += suite.Failures
	s.Skipped += suite.Skipped
	s.Suites = append(s.Suites, suite)
}

func hopCase(leg string, h *Hop) junitCase {
	c := junitCase{
		Class: "podtrace." + Clean(leg),
		Name:  fmt.Sprintf("%02d %s %s %s", h.Index, Clean(h.Node), Clean(h.Interface), Clean(h.Direction)),
	}
	switch h.State {
	case StateOK:
	case StateMismatch:
		c.Failure = &junitMessage{"headers differ", failedChecks(h)}
	case StateMissing:
		c.Failure = &junitMessage{"not seen", failedChecks(h)}
	default:
		c.Skipped = &junitMessage{Message: strings.TrimSpace(Clean(h.State + " " + h.Note))}
	}
	return c
}

func failedChecks(h *Hop) string {
	var b strings.Builder
	for _, c := range h.Checks {
		if !c.OK {
			fmt.Fprintf(&b, "%s: %s, expected %s (%s)\n%s: %s\n$ %s\n", Clean(c.Name), orNothing(c.Observed),
				orNothing(c.Expected), Clean(c.Source), Clean(c.Table), Clean(c.Entry), Clean(c.Command))
		}
	}
	return b.String()
}

func verdictCase(v Verdict) junitCase {
	c := junitCase{Class: "podtrace", Name: "verdict"}
	switch ExitCode(v.Status) {
	case ExitHealthy:
	case ExitFault:
		c.Failure = &junitMessage{
			Clean(v.Status + ": " + v.Cause + scene(v.Leg, v.Node, v.Interface)),
			Clean(v.Summary) + "\n" + Clean(v.Remedy),
		}
	default:
		c.Skipped = &junitMessage{Message: Clean(v.Status + ": " + v.Summary)}
	}
	return c
}
