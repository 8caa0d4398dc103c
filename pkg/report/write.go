package report

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Output formats of Write.
const (
	FormatText     = "text"     // one row a hop, what changed stands out
	FormatWide     = "wide"     // every column, every check
	FormatJSON     = "json"     // apiVersion podtrace.dev/v1
	FormatYAML     = "yaml"     // the same value
	FormatJUnit    = "junit"    // one test case a hop, for CI
	FormatMarkdown = "markdown" // for an issue or a chat
	FormatHTML     = "html"     // one page, without scripts
	FormatSARIF    = "sarif"    // one result a finding, for code scanning
)

// Formats lists what Write takes, in the order in which help shows it.
func Formats() []string {
	return []string{FormatText, FormatWide, FormatJSON, FormatYAML, FormatJUnit, FormatMarkdown, FormatHTML, FormatSARIF}
}

// CheckFormat reports whether Write takes the format, so that a command can refuse a wrong one
// before it sends a packet.
func CheckFormat(format string) error {
	if slices.Contains(Formats(), format) {
		return nil
	}
	return fmt.Errorf("output format %q is not one of %s", format, strings.Join(Formats(), ", "))
}

// Options say what the reader of a text can show. The zero value is plain Unicode text for 120
// columns.
type Options struct {
	Color bool // ANSI attributes: what changed is bold, what stayed is dim
	Width int  // columns of the terminal; 0: 120
	ASCII bool // no character above U+007F of podtrace's own
}

// Write prints r in the format. Structured formats ignore the options.
func Write(w io.Writer, r *Report, format string, o Options) error {
	if err := CheckFormat(format); err != nil {
		return err
	}
	full := filled(r)
	switch format {
	case FormatJSON:
		return writeJSON(w, full)
	case FormatYAML:
		return writeYAML(w, full)
	case FormatJUnit:
		return writeJUnit(w, []*Report{full}, nil)
	case FormatMarkdown:
		return writeMarkdown(w, full)
	case FormatHTML:
		return writeHTML(w, full)
	case FormatSARIF:
		return writeSARIF(w, []*Report{full})
	default:
		return writeText(w, full, o, format == FormatWide)
	}
}

// ListKind heads the reports of several paths.
const ListKind = "PathReportList"

// list is several reports as JSON.
type list struct {
	APIVersion  string       `json:"apiVersion"`
	Kind        string       `json:"kind"`
	Items       []*Report    `json:"items"`
	Expectation *Expectation `json:"expectation,omitempty"` // of all of them; absent without a policy
}

// WriteAll prints the reports of several paths, and what a policy makes of them together, nil without one. HTML is of
// one path alone.
func WriteAll(w io.Writer, rs []*Report, whole *Expectation, format string, o Options) error {
	if err := CheckFormat(format); err != nil {
		return err
	}
	full := make([]*Report, len(rs))
	for i, r := range rs {
		full[i] = filled(r)
	}
	all := list{APIVersion, ListKind, full, whole}
	switch format {
	case FormatJSON:
		return writeJSON(w, all)
	case FormatYAML:
		return writeYAML(w, all)
	case FormatJUnit:
		return writeJUnit(w, full, whole)
	case FormatSARIF:
		return writeSARIF(w, full)
	case FormatHTML:
		return errors.New("HTML is of one path alone")
	case FormatMarkdown:
		return writeMarkdowns(w, full, whole)
	}
	for i, r := range full {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := writeText(w, r, o, format == FormatWide); err != nil {
			return err
		}
	}
	p := newPrinter(o)
	p.expectation(whole)
	_, err := w.Write(p.out.Bytes())
	return err
}

// Exit statuses of the command, by what the report comes to. A usage or tool error is 2.
const (
	ExitHealthy      = 0
	ExitFault        = 1 // broken or degraded
	ExitInconclusive = 3
)

// ExitCode gives the exit status for Verdict.Status. A status that it does not know is
// inconclusive: never passed off as healthy or as broken.
func ExitCode(status string) int {
	switch status {
	case Healthy:
		return ExitHealthy
	case Broken, Degraded:
		return ExitFault
	default:
		return ExitInconclusive
	}
}

// filled copies r with every list of the contract present (JSON's [] and not null) and the head
// set. The caller's value stays as it is.
func filled(r *Report) *Report {
	c := *r
	if c.APIVersion == "" {
		c.APIVersion, c.Kind = APIVersion, Kind
	}
	c.Legs = present(slices.Clone(c.Legs))
	for i := range c.Legs {
		hops := present(slices.Clone(c.Legs[i].Hops))
		for j := range hops {
			hops[j].Checks = present(hops[j].Checks)
		}
		c.Legs[i].Hops = hops
	}
	c.Findings = present(slices.Clone(c.Findings))
	for i := range c.Findings {
		c.Findings[i].Evidence = present(c.Findings[i].Evidence)
	}
	if c.Capture != nil {
		capture := *c.Capture
		capture.Points = present(capture.Points)
		c.Capture = &capture
	}
	return &c
}

// present turns a nil slice into an empty one.
func present[S ~[]E, E any](s S) S {
	if s == nil {
		return S{}
	}
	return s
}
