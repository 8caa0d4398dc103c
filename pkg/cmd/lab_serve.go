package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

// newLabServeCmd is the process that lab up leaves behind: the servers of the pods.
func newLabServeCmd(s *Streams, runF func(context.Context, *labOptions) error) *cobra.Command {
	o := &labOptions{streams: s}
	if runF == nil {
		runF = func(ctx context.Context, o *labOptions) error { return lab.Serve(ctx, o.lab) }
	}
	return &cobra.Command{
		Use:    "serve",
		Short:  "Serve HTTP and echo in the pods (started by lab up)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return runF(c.Context(), o) },
	}
}
