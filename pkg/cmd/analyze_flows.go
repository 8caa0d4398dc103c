package cmd

import (
	"context"
	"errors"
	"fmt"
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
	if l := listing.Parse(m.Listings); len(l.Outputs) > 0 {
		fmt.Fprintf(o.streams.Err, "podtrace: note: outputs of %d commands are not used: %s\n", len(l.Outputs), report.Clean(endpointsHint(l)))
	}
	var sources []captures.Source
	for _, c := range m.Captures {
		sources = append(sources, captures.Source{Path: c.Path, Name: c.At})
	}
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

// noCaptures says what is missing.
func noCaptures(inputs []string, ls []listing.Input) error {
	l := listing.Parse(ls)
	if len(l.Outputs) == 0 || len(l.Inventory.Pods)+len(l.Inventory.Nodes) == 0 && len(l.Snapshot.Netns) == 0 {
		return hinted{fmt.Errorf("%q is no bundle, no capture and no listing", strings.Join(inputs, " ")),
			"podtrace collect and podtrace path -w write bundles; " + listingHint}
	}
	return hinted{errors.New("there are listings and no captures: which path is to be judged?"), endpointsHint(l)}
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
