package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/kube"
	"github.com/podtrace/podtrace/pkg/report"
)

// cleanupOptions are the flags of podtrace cleanup.
type cleanupOptions struct {
	reachOptions
	streams *Streams
	All     bool
}

const cleanupLong = `Remove agent pods: those that were kept (--keep), and those of commands that could
not remove them (killed, or cut off from the cluster). Those of commands that run
at the moment go as well.

Agents also end by themselves, within a minute of their last use or two hours
if they were kept, and the next command removes what is left of them.`

func newCleanupCmd(s *Streams, runF func(context.Context, *cleanupOptions) error) *cobra.Command {
	o := &cleanupOptions{streams: s}
	if runF == nil {
		runF = runCleanup
	}
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove agent pods that are left on a cluster",
		Long:  cleanupLong,
		Example: `  podtrace cleanup
  podtrace cleanup --agent-namespace podtrace
  podtrace cleanup --all-namespaces`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runF(c.Context(), o) },
	}
	o.inventoryOptions.addFlags(c)
	o.addAgentFlags(c)
	c.Flags().BoolVarP(&o.All, "all-namespaces", "A", false, "in all namespaces")
	c.Flags().Lookup("filename").Hidden = true
	return c
}

func runCleanup(ctx context.Context, o *cleanupOptions) error {
	cluster, err := kube.Connect(&o.Flags, Version())
	if err != nil {
		return err
	}
	namespace := o.AgentNamespace
	if o.All {
		namespace = ""
	}
	removed, err := kube.Cleanup(ctx, cluster.Client, namespace)
	if err == nil && len(removed) == 0 {
		fmt.Fprintf(o.streams.Err, "podtrace: no agent pod %s\n", where(namespace))
	}
	for _, name := range removed {
		fmt.Fprintf(o.streams.Out, "pod %s removed\n", report.Clean(name))
	}
	return err
}

func where(namespace string) string {
	if namespace == "" {
		return "on the cluster"
	}
	return fmt.Sprintf("in namespace %q", namespace)
}
