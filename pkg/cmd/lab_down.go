package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

func newLabDownCmd(s *Streams, runF func(context.Context, *labOptions) error) *cobra.Command {
	o := &labOptions{streams: s}
	if runF == nil {
		runF = runLabDown
	}
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the lab; harmless when there is none",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return runF(c.Context(), o) },
	}
}

func runLabDown(ctx context.Context, o *labOptions) error {
	if err := o.streams.enter(ctx, false); err != nil {
		return err
	}
	return lab.Down(ctx, o.lab)
}
