package cmd

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

func newLabFaultsCmd(s *Streams, runF func(context.Context, *labOptions) error) *cobra.Command {
	o := &labOptions{streams: s}
	if runF == nil {
		runF = runLabFaults
	}
	return &cobra.Command{
		Use:   "faults",
		Short: "List the faults that break knows",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return runF(c.Context(), o) },
	}
}

func runLabFaults(_ context.Context, o *labOptions) error {
	tw := tabwriter.NewWriter(o.streams.Out, 0, 0, 2, ' ', 0)
	for _, f := range lab.Faults() {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", f.ID, f.Node, strings.Join(f.Datapaths, ","), f.Summary)
	}
	return tw.Flush()
}
