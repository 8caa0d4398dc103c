package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/bundle"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// collectOptions are the flags and arguments of podtrace collect: those of path, without a report.
type collectOptions struct{ pathOptions }

const collectLong = `Record the path from A to B into a bundle, for podtrace analyze.

podtrace reads the tables, captures at every interface of the path and sends a
probe, as podtrace path does, and writes all of it to one file (or, with a path
that ends in a slash, to a folder). It reports no verdict: analyze does, on any
machine and without root. A bundle holds addresses, names, rules and the first
256 bytes of the probe's packets; --full keeps payloads too.

Exit status: 0 recorded, 2 usage or tool error.`

const collectExample = `  podtrace collect coffee-1 coffee-2 -w trace.tar.gz
  podtrace analyze trace.tar.gz
  podtrace collect coffee-1 coffee-2 --probe none --timeout 30s -w trace/   # real traffic, to a folder`

func newCollectCmd(s *Streams, runF func(context.Context, *collectOptions) error) *cobra.Command {
	o := &collectOptions{pathOptions{traceOptions: traceOptions{streams: s, Output: report.FormatText}}}
	if runF == nil {
		runF = runCollect
	}
	c := &cobra.Command{
		Use:     "collect A B -w FILE",
		Short:   "Record the path from A to B into a bundle, judge nothing",
		Long:    collectLong,
		Example: collectExample,
		Args:    exactArgs("source A", "destination B"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.complete(c, args); err != nil {
				return err
			}
			if o.Write == "" {
				return usageErrorf(c.CommandPath(), "flag --write is missing: nothing says where to")
			}
			return runF(c.Context(), o)
		},
	}
	o.reachOptions.addFlags(c)
	o.addProbeFlags(c)
	return c
}

func runCollect(ctx context.Context, o *collectOptions) error {
	c, err := o.gather(ctx)
	if c == nil {
		return err
	}
	b := &bundle.Bundle{Case: c, Interrupted: ctx.Err() != nil}
	if werr := bundle.Write(o.Write, b); werr != nil {
		return errors.Join(werr, err)
	}
	fmt.Fprintf(o.streams.Out, "%s: %s\n", report.Clean(o.Write), extent(c))
	if b.Interrupted && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// extent says in a few words what was recorded.
func extent(c *trace.Case) string {
	if c.Observed == nil {
		return fmt.Sprintf("no frames, tables of %d namespaces", len(c.Snapshot.Netns))
	}
	return fmt.Sprintf("%d frames at %d points, tables of %d namespaces", len(c.Observed.Frames), len(c.Observed.Points), len(c.Snapshot.Netns))
}
