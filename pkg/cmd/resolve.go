package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
)

// resolveOptions are the flags and arguments of podtrace resolve.
type resolveOptions struct {
	reachOptions
	streams  *Streams
	Endpoint string
	Output   string
}

const resolveLong = `Say where an endpoint lives: its node and network namespace, its interface, the
other end of its veth, the bridge and the port that this is. Each step says how
it was found and by which command a person finds the same.`

func newResolveCmd(s *Streams, runF func(context.Context, *resolveOptions) error) *cobra.Command {
	o := &resolveOptions{streams: s}
	if runF == nil {
		runF = runResolve
	}
	c := &cobra.Command{
		Use:   "resolve A",
		Short: "Say where a pod lives: netns, eth0, host veth, bridge",
		Long:  resolveLong,
		Example: `  podtrace resolve coffee-1
  podtrace resolve -n shop cart -o json`,
		Args: exactArgs("endpoint A"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Endpoint = args[0]
			if o.Output != "text" && o.Output != "json" {
				return usageErrorf(c.CommandPath(), "flag --output: %q is not one of text, json", o.Output)
			}
			if err := o.check(c); err != nil {
				return err
			}
			return runF(c.Context(), o)
		},
	}
	o.addFlags(c)
	c.Flags().StringVarP(&o.Output, "output", "o", "text", "text or json")
	return c
}

func runResolve(ctx context.Context, o *resolveOptions) error {
	loc, err := locate(ctx, o)
	if err != nil {
		return err
	}
	if o.Output == "json" {
		return printJSON(o.streams.Out, loc)
	}
	return printLocation(o.streams.Out, loc)
}

func locate(ctx context.Context, o *resolveOptions) (loc resolve.Location, err error) {
	t, err := o.load(ctx, o.streams, func(string, ...any) {}, o.Endpoint)
	if err != nil {
		return loc, err
	}
	defer t.close()
	e, err := t.inv.Lookup(o.Endpoint, t.namespace)
	if err != nil {
		return loc, err
	}
	wants, err := resolve.Wants(t.inv, e)
	if err != nil {
		return loc, err
	}
	edge := node.NewEdge(t.dial)
	defer func() { err = errors.Join(err, edge.Close()) }()
	if err := edge.Open(ctx, wants); err != nil {
		return loc, err
	}
	snap, err := edge.Read(ctx, netfilter.ReadOptions{Addrs: []netip.Addr{}}) // no connections
	if err != nil {
		return loc, err
	}
	return resolve.Locate(snap, t.inv, e)
}

// printLocation writes a line for each step and below it the command that shows the same.
func printLocation(w io.Writer, loc resolve.Location) error {
	width := len("problem")
	for _, s := range loc.Steps {
		width = max(width, len(s.What))
	}
	var b strings.Builder
	for _, s := range loc.Steps {
		fmt.Fprintf(&b, "%-*s  %s\n", width, s.What, report.Clean(s.Found))
		if s.Command != "" {
			fmt.Fprintf(&b, "%-*s  $ %s\n", width, "", report.Clean(s.Command))
		}
	}
	for _, p := range loc.Problems {
		fmt.Fprintf(&b, "%-*s  %s\n", width, "problem", report.Clean(p))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printJSON indents like the report does.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
