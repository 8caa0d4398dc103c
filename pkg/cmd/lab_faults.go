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
	c := &cobra.Command{
		Use:   "faults",
		Short: "List the faults that break knows",
		Long: `List the faults that break knows: id, the node that it is put on unless --on says
another, the datapaths that can have it, and what it does. With --datapath or
--services only those of such a lab, and instead of the datapaths a path that
shows the fault.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runF(c.Context(), o) },
	}
	addDatapathFlags(c.Flags(), &o.lab.Spec)
	return c
}

func runLabFaults(_ context.Context, o *labOptions) error {
	tw := tabwriter.NewWriter(o.streams.Out, 0, 0, 2, ' ', 0)
	if o.lab.Spec.Datapath == "" && o.lab.Spec.Services == "" {
		for _, f := range lab.Faults() {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", f.ID, f.Node, strings.Join(f.Datapaths, ","), f.Summary)
		}
		return tw.Flush()
	}
	faults, err := lab.FaultsOf(o.lab.Spec)
	if err != nil {
		return labHint(err)
	}
	for _, f := range faults {
		fmt.Fprintf(tw, "%s\t%s\t%s -> %s\t%s\n", f.ID, f.Node, f.From, f.To, f.Summary)
	}
	return tw.Flush()
}
