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
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.complete(c, args); err != nil {
				return err
			}
			return runF(c.Context(), o)
		},
	}
	c.Flags().SetInterspersed(false) // flags after the name are the command's
	return c
}

// complete takes the name and the command. With flags not interspersed pflag leaves the "--" that
// follows the name where it is.
func (o *labExecOptions) complete(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageErrorf(c.CommandPath(), "the name of a node or pod is missing")
	}
	o.Name, o.Command = args[0], args[1:]
	if len(o.Command) > 0 && o.Command[0] == "--" {
		o.Command = o.Command[1:]
	}
	if len(o.Command) == 0 {
		return usageErrorf(c.CommandPath(), "the command to run in %q is missing", o.Name)
	}
	return nil
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
