package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

type labExecOptions struct {
	labOptions
	Name    string
	Command []string
}

func newLabExecCmd(s *Streams, runF func(context.Context, *labExecOptions) error) *cobra.Command {
	o := &labExecOptions{labOptions: labOptions{streams: s}}
	if runF == nil {
		runF = runLabExec
	}
	c := &cobra.Command{
		Use:   "exec NODE|POD -- COMMAND [ARG...]",
		Short: "Run a command in the namespace of a node or pod",
		Long:  "Run a command in the network namespace of a node or pod; its exit status is podtrace's.",
		Example: `  podtrace lab exec node1 -- bridge fdb show dev flannel.1
  podtrace lab exec coffee-1 -- ping -c 1 10.244.2.40`,
		Args: func(c *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return usageErrorf(c.CommandPath(), "the name of a node or pod is missing")
			case 1:
				return usageErrorf(c.CommandPath(), "the command to run in %q is missing", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.Name, o.Command = args[0], args[1:]
			return runF(c.Context(), o)
		},
	}
	c.Flags().SetInterspersed(false) // flags after the name are the command's
	return c
}

func runLabExec(ctx context.Context, o *labExecOptions) error {
	if err := o.streams.enter(ctx, false); err != nil {
		return err
	}
	status, err := lab.Exec(ctx, o.lab, o.Name, o.Command, o.streams.stdio())
	switch {
	case err != nil:
		return labHint(err)
	case status != 0:
		return statusError(status)
	}
	return nil
}
