package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

type labStatusOptions struct {
	labOptions
	Output string
}

func newLabStatusCmd(s *Streams, runF func(context.Context, *labStatusOptions) error) *cobra.Command {
	o := &labStatusOptions{labOptions: labOptions{streams: s}}
	if runF == nil {
		runF = runLabStatus
	}
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what is up and what is broken",
		Long: `Say what is up and what is broken. With -o yaml, print the lab's cluster file:
the Kubernetes objects that podtrace path -f takes.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch o.Output {
			case "text", "json", "yaml":
				return runF(c.Context(), o)
			}
			return usageErrorf(c.CommandPath(), "flag --output: %q is not one of text, json, yaml", o.Output)
		},
	}
	c.Flags().StringVarP(&o.Output, "output", "o", "text", "text, json, or yaml (the cluster file)")
	return c
}

func runLabStatus(ctx context.Context, o *labStatusOptions) error {
	if err := o.streams.enter(ctx, false); err != nil {
		return err
	}
	state, err := lab.Status(ctx, o.lab)
	if err != nil {
		return labHint(err)
	}
	switch o.Output {
	case "json":
		return printJSON(o.streams.Out, state)
	case "yaml":
		return printInventory(o.streams.Out, state)
	}
	printState(o.streams.Out, state)
	return nil
}

func printInventory(w io.Writer, state lab.State) error {
	if !state.Up {
		return labHint(lab.ErrNotUp)
	}
	text, err := os.ReadFile(state.Inventory)
	if err != nil {
		return fmt.Errorf("cluster file of the lab: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// printState writes a line a namespace, then what is wrong.
func printState(w io.Writer, state lab.State) {
	if !state.Up {
		fmt.Fprintln(w, "the lab is not up")
	} else {
		fmt.Fprintf(w, "datapath: %s\n", state.Spec.Datapath)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, ns := range state.Namespaces {
		if ns.Present {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", ns.Kind, ns.Name, ns.IP, ns.Node, ns.Path)
		}
	}
	tw.Flush() //nolint:errcheck // what follows goes to the same writer, which has no way to fail half
	for _, b := range state.Broken {
		fmt.Fprintf(w, "broken: %s on %s\n", b.ID, b.Node)
	}
	for _, p := range state.Problems {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
}
