package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

type labBreakOptions struct {
	labOptions
	Fault string
	Node  string
}

func newLabBreakCmd(s *Streams, runF func(context.Context, *labBreakOptions) error) *cobra.Command {
	o := &labBreakOptions{labOptions: labOptions{streams: s}}
	if runF == nil {
		runF = runLabBreak
	}
	c := &cobra.Command{
		Use:   "break FAULT",
		Short: "Break the lab in one way",
		Example: `  podtrace lab break fdb-wrong-dst
  podtrace lab break fdb-wrong-dst --on node2   # the reply leg of coffee-1 → coffee-2`,
		Args:              exactArgs("the id of a fault (podtrace lab faults)"),
		ValidArgsFunction: completeFaults,
		RunE: func(c *cobra.Command, args []string) error {
			o.Fault = args[0]
			return runF(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.Node, "on", "", "node to break; without it the one that podtrace lab faults names")
	return c
}

func runLabBreak(ctx context.Context, o *labBreakOptions) error {
	if err := o.streams.enter(ctx, false); err != nil {
		return err
	}
	return labHint(lab.Break(ctx, o.lab, o.Fault, o.Node))
}

func completeFaults(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	for _, f := range lab.Faults() {
		ids = append(ids, f.ID+"\t"+f.Summary)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
