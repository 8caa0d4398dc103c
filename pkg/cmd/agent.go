package cmd

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/agent"
	"github.com/podtrace/podtrace/pkg/kube"
	"github.com/podtrace/podtrace/pkg/node"
)

// agentOptions are the flags of podtrace agent.
type agentOptions struct {
	streams *Streams
	Park    bool
	Idle    time.Duration
	First   time.Duration
}

// newAgentCmd is the node side. It is not for people: another podtrace starts it.
func newAgentCmd(s *Streams) *cobra.Command {
	o := &agentOptions{streams: s}
	c := &cobra.Command{
		Use:    "agent",
		Short:  "Speak for this node on standard input and output (started by podtrace on another machine)",
		Hidden: true,
		Args:   noArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return runAgent(c.Context(), o) },
	}
	f := c.Flags()
	f.BoolVar(&o.Park, "park", false, "wait for sessions of other agents in this pod, and end when there are none")
	f.DurationVar(&o.Idle, "idle", 10*time.Second, "with --park: how long to go on without a session (0: for ever)")
	f.DurationVar(&o.First, "first", time.Minute, "with --park: how long to wait for the first session (never shorter than --idle)")
	return c
}

// runAgent ends with its input. An interrupt ends it at once: the kernel closes what is open.
func runAgent(ctx context.Context, o *agentOptions) error {
	file := os.Getenv(kube.EnvSession)
	if o.Park {
		first := max(o.First, o.Idle)
		if o.Idle == 0 {
			first = 0
		}
		return agent.Park(ctx, file, first, o.Idle)
	}
	if file != "" {
		end, err := agent.Session(file)
		if err != nil {
			return err
		}
		defer end()
	}
	done := make(chan error, 1)
	go func() { done <- agent.Serve(ctx, o.streams.In, o.streams.Out, node.NewLocal(), Version()) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return nil
	}
}
