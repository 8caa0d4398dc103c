package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// traceOptions are what path and check share: the endpoints, where their objects come from, and
// how the report goes out.
type traceOptions struct {
	reachOptions
	streams     *Streams
	Source      string
	Destination string
	Probe       string
	Output      string
	ExitZero    bool

	spec     probe.Spec // Probe, parsed
	progress bool
}

func (o *traceOptions) addFlags(c *cobra.Command, probeUsage string) {
	o.reachOptions.addFlags(c)
	addOutputFlags(c, &o.Output, &o.ExitZero)
	c.Flags().StringVar(&o.Probe, "probe", probe.ICMP, probeUsage)
}

func (o *traceOptions) complete(c *cobra.Command, args []string) error {
	o.Source, o.Destination = args[0], args[1]
	o.progress = o.streams.ErrTTY || verbose(c)
	if err := report.CheckFormat(o.Output); err != nil {
		return usageErrorf(c.CommandPath(), "flag --output: %w", err)
	}
	var err error
	if o.spec, err = probe.ParseSpec(o.Probe); err != nil {
		return usageErrorf(c.CommandPath(), "flag --probe: %w", err)
	}
	if o.Source == o.Destination {
		return usageErrorf(c.CommandPath(), "source and destination are both %q", o.Source)
	}
	return o.check(c)
}

// request gives what trace needs of the common flags, and how to give it back.
func (o *traceOptions) request(ctx context.Context) (trace.Options, func(), error) {
	t, err := o.load(ctx, o.streams, o.say, o.Source, o.Destination)
	if err != nil {
		return trace.Options{}, nil, err
	}
	return trace.Options{
		Inventory: t.inv, Source: o.Source, Destination: o.Destination, Namespace: t.namespace, Dial: t.dial, Notes: t.notes,
		Probe: o.spec, Progress: o.say, Version: Version(),
	}, t.close, nil
}

// say prints progress where somebody reads it.
func (o *traceOptions) say(format string, args ...any) {
	if o.progress {
		fmt.Fprintf(o.streams.Err, "podtrace: "+format+"\n", args...)
	}
}

// finish prints the report, also a partial one, and turns verdict and error into an exit status.
func (o *traceOptions) finish(ctx context.Context, r *report.Report, err error) error {
	if r == nil {
		return err
	}
	interrupted := ctx.Err() != nil
	if interrupted {
		r = cutShort(r)
	}
	if werr := report.Write(o.streams.Out, r, o.Output, o.streams.reportOptions()); werr != nil {
		return fmt.Errorf("write report: %w", werr)
	}
	if err != nil && (!interrupted || !errors.Is(err, context.Canceled)) {
		return err
	}
	return verdictStatus(r, o.ExitZero)
}

// cutShort says in the report that it was interrupted. A fault that it shows already is one; but it
// can't say healthy: what was not waited for may have failed.
func cutShort(r *report.Report) *report.Report {
	c := *r
	c.Incomplete = append(slices.Clip(c.Incomplete), "interrupted: packets that were still to be sent or seen")
	if c.Verdict.Status == report.Healthy {
		c.Verdict.Status = report.Inconclusive
		c.Verdict.Summary = "interrupted; until then: " + c.Verdict.Summary
	}
	return &c
}
