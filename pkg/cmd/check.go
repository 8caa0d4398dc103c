package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/trace"
)

// checkOptions are the flags and arguments of podtrace check.
type checkOptions struct{ traceOptions }

const checkLong = `Hold the tables of the path from A to B against the objects, without a packet.

podtrace walks both directions through the routes, neighbours, forwarding
databases and netfilter rules of every kernel on the way, and compares each
entry that decides with what the control plane meant. Nothing is sent and
nothing is captured, so what only a packet can show stays unknown.

Exit status as for podtrace path.`

const checkExample = `  podtrace check coffee-1 coffee-2
  podtrace check coffee-1 coffee-2 -o wide   # every check, with its entry`

func newCheckCmd(s *Streams, runF func(context.Context, *checkOptions) error) *cobra.Command {
	o := &checkOptions{traceOptions{streams: s}}
	if runF == nil {
		runF = runCheck
	}
	c := &cobra.Command{
		Use:     "check A B",
		Short:   "Hold the tables of a path against the objects, without a packet",
		Long:    checkLong,
		Example: checkExample,
		Args:    exactArgs("source A", "destination B"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.complete(c, args); err != nil {
				return err
			}
			return runF(c.Context(), o)
		},
	}
	o.addFlags(c, "the packet that the tables are asked about: icmp, tcp[:PORT], udp[:PORT]")
	return c
}

func runCheck(ctx context.Context, o *checkOptions) error {
	to, done, err := o.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	r, err := trace.Check(ctx, to)
	return o.finish(ctx, r, err)
}
