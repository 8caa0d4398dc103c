package cmd

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

const rootLong = `podtrace finds where a packet between two pods gets lost, and why.

It puts three sources side by side: what the control plane meant (Kubernetes
objects), what each kernel was told (routes, neighbours, forwarding databases,
netfilter), and what went over the wire, captured at every interface of the
path at once. It names the first place where two of them disagree, with the
entry that proves it and the command that mends it.`

const rootExample = `  podtrace lab up                    # two nodes, three pods, flannel VXLAN, in network namespaces
  podtrace path coffee-1 coffee-2    # trace both directions, hop by hop
  podtrace lab break fdb-wrong-dst   # break it
  podtrace path coffee-1 coffee-2    # and see where`

// pluginName is the file name by which kubectl finds a plugin.
const pluginName = "kubectl-podtrace"

// completeName is the file name by which kubectl asks a plugin for completions.
const completeName = "kubectl_complete-podtrace"

// Main runs the command line argv, argv[0] being the program's name, and returns the exit status.
// An interrupt cancels the command, which still prints what it knows; a second one kills it.
func Main(argv []string, s *Streams) int {
	hurry()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
	outliveReader()
	argv0, args := argv[0], argv[1:]
	if called(argv0) == completeName {
		argv0, args = pluginName, append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	s.Plugin = called(argv0) == pluginName
	root := newRootCmd(s, argv0)
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return s.fail(err)
	}
	return 0
}

// outliveReader lets the command go on when the reader of its output goes away (head): writes fail, and are no end of it
// before it has removed what it made. The signal itself says nothing: broken sockets give it too.
func outliveReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

func newRootCmd(s *Streams, argv0 string) *cobra.Command {
	root := &cobra.Command{
		Use:           "podtrace",
		Short:         "Find where a packet between two pods gets lost, and why",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		Args:                       rootArgs,
		RunE:                       func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageErrorf(c.CommandPath(), "%w", err)
	})
	root.PersistentFlags().BoolP("verbose", "v", false, "say on standard error what is being done")
	root.AddCommand(newPathCmd(s, nil), newCheckCmd(s, nil), newCollectCmd(s, nil), newWatchCmd(s, nil), newAnalyzeCmd(s, nil), newResolveCmd(s, nil), newLabCmd(s), newCleanupCmd(s, nil), newAgentCmd(s), newVersionCmd(s))
	if called(argv0) == pluginName {
		becomePlugin(root)
	}
	return root
}

// called is the name that the program was called by.
func called(argv0 string) string { return strings.TrimSuffix(filepath.Base(argv0), ".exe") }

// becomePlugin makes help say "kubectl podtrace", as a user of the plugin types it.
func becomePlugin(root *cobra.Command) {
	root.Use = pluginName
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl podtrace"}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.Example = strings.ReplaceAll(c.Example, "  podtrace ", "  kubectl podtrace ")
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

func rootArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := usageErrorf(c.CommandPath(), "no command %q", args[0])
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return hinted{err, "did you mean " + strings.Join(near, " or ") + "?"}
	}
	return err
}

// noArgs refuses arguments. On a command with subcommands an argument is a mistyped one.
func noArgs(c *cobra.Command, args []string) error {
	if c.HasSubCommands() {
		return rootArgs(c, args)
	}
	return exactArgs()(c, args)
}

// exactArgs takes one argument for each name.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageErrorf(c.CommandPath(), "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usageErrorf(c.CommandPath(), "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// verbose reports whether -v was given.
func verbose(c *cobra.Command) bool {
	v, err := c.Flags().GetBool("verbose")
	return err == nil && v
}
