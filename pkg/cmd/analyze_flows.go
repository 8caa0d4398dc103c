package cmd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/podtrace/podtrace/pkg/captures"
	"github.com/podtrace/podtrace/pkg/expect"
	"github.com/podtrace/podtrace/pkg/listing"
	"github.com/podtrace/podtrace/pkg/offline"
	"github.com/podtrace/podtrace/pkg/report"
)

// mostNamed is how many pods a hint lists.
const mostNamed = 6

// captures compares captures of one path with each other. Listings beside them need two endpoints.
func (o *analyzeOptions) captures(ctx context.Context) error {
	m, err := offline.Sort(o.Inputs, o.Points)
	if err != nil {
		return err
	}
	if len(m.Captures) == 0 {
		return noCaptures(o.Inputs, m.Listings)
	}
	if err := o.useless(m.Listings); err != nil {
		return err
	}
	l := listing.Parse(m.Listings)
	if n := readOutputs(l); n > 0 {
		fmt.Fprintf(o.streams.Err, "podtrace: note: outputs of %d commands are not used: %s\n", n, report.Clean(endpointsHint(l)))
	}
	var sources []captures.Source
	for _, c := range m.Captures {
		sources = append(sources, captures.Source{Path: c.Path, Name: c.At})
	}
	thrifty()
	r, err := captures.Judge(ctx, sources, Version())
	if err != nil {
		return err
	}
	status := report.ExitCode(r.Verdict.Status)
	if o.policy != nil {
		whole := expect.Join(o.policy.Weigh(r.Subjects(), o.now()))
		r.Expectation, status = &whole, whole.ExitCode()
	}
	if err := captures.Write(o.streams.Out, r, o.Output, o.streams.reportOptions()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return exitWith(status, o.ExitZero)
}

// useless refuses a file that was named and is neither a capture nor a page of outputs. In folders others may lie.
func (o *analyzeOptions) useless(ls []listing.Input) error {
	for _, p := range o.Inputs {
		for _, in := range ls {
			if in.File == filepath.Base(p) && in.Node == "" && readOutputs(listing.Parse([]listing.Input{in})) == 0 {
				return hinted{fmt.Errorf("%q is no bundle, no capture file and no listing", p), "name captures, or folders with captures"}
			}
		}
	}
	return nil
}

// noCaptures says what is missing.
func noCaptures(inputs []string, ls []listing.Input) error {
	l := listing.Parse(ls)
	if readOutputs(l) == 0 {
		return hinted{fmt.Errorf("%q is no bundle, no capture file and no listing", strings.Join(inputs, " ")),
			"podtrace collect and podtrace path -w write bundles; " + listingHint}
	}
	return hinted{errors.New("there are listings and no captures: which path is to be judged?"), endpointsHint(l)}
}

// readOutputs counts the outputs of which anything was read.
func readOutputs(l *listing.Listing) int {
	n := 0
	for _, o := range l.Outputs {
		if o.Kind != "" && o.Rows > 0 {
			n++
		}
	}
	return n
}

const listingHint = "name the two endpoints to judge listings: podtrace analyze A B FILES…"

// endpointsHint names endpoints that the listings know.
func endpointsHint(l *listing.Listing) string {
	var names []string
	for _, p := range l.Inventory.Pods {
		names = append(names, p.Namespace+"/"+p.Name)
	}
	if len(names) < 2 {
		return listingHint
	}
	more := ""
	if len(names) > mostNamed {
		more = fmt.Sprintf(" and %d more", len(names)-mostNamed)
		names = names[:mostNamed]
	}
	return listingHint + "; the listings know " + strings.Join(names, ", ") + more
}
