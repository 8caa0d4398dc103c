package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

type labMendOptions struct {
	labOptions
	Faults []string // none: all
}

func newLabMendCmd(s *Streams, runF func(context.Context, *labMendOptions) error) *cobra.Command {
	o := &labMendOptions{labOptions: labOptions{streams: s}}
	if runF == nil {
		runF = runLabMend
	}
	return &cobra.Command{
		Use:               "mend [FAULT...]",
		Short:             "Undo what break did; without a fault, all of it",
		ValidArgsFunction: completeFaults,
		RunE: func(c *cobra.Command, args []string) error {
			o.Faults = args
			return runF(c.Context(), o)
		},
	}
}

func runLabMend(ctx context.Context, o *labMendOptions) error {
	if err := o.streams.enter(ctx, false); err != nil {
		return err
	}
	return labHint(lab.Mend(ctx, o.lab, o.Faults...))
}
