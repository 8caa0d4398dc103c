package cmd

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/bundle"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// pathOptions are the flags and arguments of podtrace path.
type pathOptions struct {
	traceOptions
	captureOptions
	Count    int
	Interval time.Duration
	Timeout  time.Duration
	Full     bool
	NoBPF    bool
	SrcPort  uint16
	Contrast string
	Write    string // where to record a bundle; "": nowhere
}

const pathLong = `Trace the path from A to B and back.

podtrace finds the interfaces of the path, reads every table on it, captures at
all of them at once, sends a probe from A's own network namespace and follows
it hop by hop in both directions. The first place where objects, tables and
packets disagree is the verdict.

An endpoint is POD, NAMESPACE/POD, pod/POD, deploy/NAME, node/NAME or an IP
address. B may also be a service, svc/NAME[:PORT], a node's port, node/NAME:PORT,
or ADDRESS:PORT: such a port is what the probe goes to. Every ready endpoint of
a service is one of its right destinations.

Exit status: 0 healthy, 1 a fault was found, 2 usage or tool error,
3 inconclusive.`

const pathExample = `  podtrace path coffee-1 coffee-2
  podtrace path coffee-1 coffee-2 --probe tcp:8080
  podtrace path coffee-1 svc/coffee:80
  podtrace path coffee-1 coffee-2 --probe none --timeout 30s   # watch real traffic
  podtrace path -f cluster.yaml shop/cart shop/db -o json
  podtrace path coffee-1 coffee-2 -w trace.tar.gz              # keep it for podtrace analyze`

func newPathCmd(s *Streams, runF func(context.Context, *pathOptions) error) *cobra.Command {
	o := &pathOptions{traceOptions: traceOptions{streams: s}}
	if runF == nil {
		runF = runPath
	}
	c := &cobra.Command{
		Use:     "path A B",
		Short:   "Trace the path from A to B and back, hop by hop",
		Long:    pathLong,
		Example: pathExample,
		Args:    exactArgs("source A", "destination B"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.complete(c, args); err != nil {
				return err
			}
			return runF(c.Context(), o)
		},
	}
	o.reachOptions.addFlags(c)
	addOutputFlags(c, &o.Output, &o.ExitZero)
	o.addProbeFlags(c)
	return c
}

// addProbeFlags adds what says how to make the path speak, and where to keep what it said.
func (o *pathOptions) addProbeFlags(c *cobra.Command) {
	o.captureOptions.addFlags(c)
	f := c.Flags()
	f.StringVar(&o.Probe, "probe", probe.ICMP, "what to send: icmp, tcp[:PORT], udp[:PORT], none (only watch)")
	f.IntVar(&o.Count, "count", 3, "how many probes to send")
	f.DurationVar(&o.Interval, "interval", 50*time.Millisecond, "time between two probes")
	f.DurationVar(&o.Timeout, "timeout", time.Second, "how long to wait for the last answer; with --probe none, how long to watch")
	f.Uint16Var(&o.SrcPort, "source-port", 0, "port that TCP and UDP probes are sent from (0: any): a connection that is stuck has one of its own")
	f.BoolVar(&o.NoBPF, "no-bpf", false, "do not ask the kernel why it dropped a packet (skb:kfree_skb)")
	f.StringVar(&o.Contrast, "contrast", string(trace.ContrastAuto),
		"further probes, small and few: auto (a full-size packet on a healthy path; others when the place alone does not decide), always, never")
	f.BoolVar(&o.Full, "full", false, "capture payloads too; without it headers only")
	f.StringVarP(&o.Write, "write", "w", "", "record all of it into a bundle, FILE.tar.gz or FOLDER/, for podtrace analyze")
}

// complete parses and checks what the flags say, before anything is touched.
func (o *pathOptions) complete(c *cobra.Command, args []string) error {
	if err := o.traceOptions.complete(c, args); err != nil {
		return err
	}
	switch {
	case o.Count < 1:
		return usageErrorf(c.CommandPath(), "flag --count: %d is less than 1", o.Count)
	case o.Interval < 0:
		return usageErrorf(c.CommandPath(), "flag --interval: %s is negative", o.Interval)
	case !slices.Contains([]trace.Contrast{trace.ContrastAuto, trace.ContrastAlways, trace.ContrastNever}, trace.Contrast(o.Contrast)):
		return usageErrorf(c.CommandPath(), "flag --contrast: %q is none of auto, always, never", o.Contrast)
	case o.Timeout <= 0:
		return usageErrorf(c.CommandPath(), "flag --timeout: %s is not positive", o.Timeout)
	}
	if err := o.captureOptions.complete(c); err != nil {
		return err
	}
	if o.Write != "" {
		return bundle.Check(o.Write)
	}
	return nil
}

// gather does the live half of a trace.
func (o *pathOptions) gather(ctx context.Context) (*trace.Case, error) {
	to, done, err := o.request(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	to.Count, to.Interval, to.Timeout, to.Full = o.Count, o.Interval, o.Timeout, o.Full
	to.SourcePort = o.SrcPort
	o.apply(&to)
	to.NoBPF, to.Contrast = o.NoBPF, trace.Contrast(o.Contrast)
	return trace.Gather(ctx, to)
}

func runPath(ctx context.Context, o *pathOptions) error {
	c, err := o.gather(ctx)
	if c == nil {
		return err
	}
	r := trace.Judge(c)
	interrupted := ctx.Err() != nil
	done := o.finish(ctx, r, err)
	if o.Write == "" {
		return done
	}
	if err := bundle.Write(o.Write, &bundle.Bundle{Case: c, Report: r, Interrupted: interrupted}); err != nil {
		return err // the report is out; that there is no bundle has not been said
	}
	o.say("recorded in %s: %s", report.Clean(o.Write), extent(c))
	return done
}
