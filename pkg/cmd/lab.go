package cmd

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

const labLong = `The bundled overlay: two nodes, three pods and the network between the nodes,
each a network namespace of this machine, joined as flannel with VXLAN joins
them, or in another way (podtrace lab up --help). coffee-1 and tea-1 are on node1, coffee-2 is on node2; each serves HTTP
on port 8080 and echoes TCP and UDP.

The machine's own interfaces, routes and firewall are never touched. Without
root the lab lives in a user namespace that podtrace enters by itself.`

const labExample = `  podtrace lab up
  podtrace lab exec coffee-1 -- ip route
  podtrace lab break fdb-wrong-dst
  podtrace lab mend
  podtrace lab down`

func newLabCmd(s *Streams) *cobra.Command {
	c := &cobra.Command{
		Use:     "lab",
		Short:   "Run the bundled overlay, break it, mend it",
		Long:    labLong,
		Example: labExample,
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newLabUpCmd(s, nil), newLabStatusCmd(s, nil), newLabExecCmd(s, nil), newLabBreakCmd(s, nil),
		newLabMendCmd(s, nil), newLabFaultsCmd(s, nil), newLabDownCmd(s, nil), newLabServeCmd(s, nil))
	return c
}

// labOptions are what every lab command has.
type labOptions struct {
	streams *Streams
	lab     lab.Options
}

// enter runs the whole command in the lab's user namespace where it has to be: without root. It
// returns a statusError when that has been done, nil when the command runs here. create says that
// the namespace may be made for it.
func (s *Streams) enter(ctx context.Context, create bool) error {
	handled, status, err := lab.Enter(ctx, s.Argv, create, s.stdio())
	switch {
	case err != nil:
		return err
	case handled:
		return statusError(status)
	}
	return nil
}

func (s *Streams) stdio() lab.Stdio { return lab.Stdio{In: s.In, Out: s.Out, Err: s.Err} }

// labHint says what to do about the errors of package lab that have one answer.
func labHint(err error) error {
	switch {
	case errors.Is(err, lab.ErrNotUp):
		return withHint(err, "podtrace lab up")
	case errors.Is(err, lab.ErrNoFault):
		return withHint(err, "podtrace lab faults lists those that there are")
	case errors.Is(err, lab.ErrNoDatapath):
		return withHint(err, "podtrace lab up --help lists them")
	case errors.Is(err, lab.ErrUnfit):
		return withHint(err, "podtrace lab faults --datapath NAME lists those that fit")
	case errors.Is(err, lab.ErrNoName):
		return withHint(err, "podtrace lab status lists nodes and pods")
	}
	return err
}
