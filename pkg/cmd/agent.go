package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/agent"
	"github.com/podtrace/podtrace/pkg/node"
)

// newAgentCmd is the node side. It is not for people: another podtrace starts it.
func newAgentCmd(s *Streams) *cobra.Command {
	return &cobra.Command{
		Use:    "agent",
		Short:  "Speak for this node on standard input and output (started by podtrace on another machine)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return runAgent(c.Context(), s) },
	}
}

// runAgent ends with its input. An interrupt ends it at once: the kernel closes what is open.
func runAgent(ctx context.Context, s *Streams) error {
	done := make(chan error, 1)
	go func() { done <- agent.Serve(ctx, s.In, s.Out, node.NewLocal(), Version()) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return nil
	}
}
