package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

func newLabUpCmd(s *Streams, runF func(context.Context, *labOptions) error) *cobra.Command {
	o := &labOptions{streams: s}
	if runF == nil {
		runF = runLabUp
	}
	return &cobra.Command{
		Use:   "up",
		Short: "Bring the lab up; harmless when it is up already",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return runF(c.Context(), o) },
	}
}

func runLabUp(ctx context.Context, o *labOptions) error {
	if err := o.streams.enter(ctx, true); err != nil {
		return err
	}
	if err := lab.Up(ctx, o.lab); err != nil {
		return err
	}
	state, err := lab.Status(ctx, o.lab)
	if err != nil {
		return err
	}
	printState(o.streams.Out, state)
	_, err = fmt.Fprintln(o.streams.Out, "try: podtrace path coffee-1 coffee-2")
	return err
}
