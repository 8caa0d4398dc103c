package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/bundle"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// analyzeOptions are the flags and arguments of podtrace analyze.
type analyzeOptions struct {
	streams  *Streams
	Output   string
	ExitZero bool
	Inputs   []string
}

const analyzeLong = `Judge offline what was recorded: no root, no cluster, no Linux.

BUNDLE is what podtrace collect or podtrace path -w wrote, a file or a folder.
Its report is the one that podtrace path printed, byte for byte.

Exit status as for podtrace path.`

const analyzeExample = `  podtrace analyze trace.tar.gz
  podtrace analyze trace.tar.gz -o junit > podtrace.xml   # in CI`

func newAnalyzeCmd(s *Streams, runF func(context.Context, *analyzeOptions) error) *cobra.Command {
	o := &analyzeOptions{streams: s}
	if runF == nil {
		runF = runAnalyze
	}
	c := &cobra.Command{
		Use:     "analyze BUNDLE",
		Short:   "Judge offline what was recorded: no root, no cluster",
		Long:    analyzeLong,
		Example: analyzeExample,
		Args:    exactArgs("a bundle"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := report.CheckFormat(o.Output); err != nil {
				return usageErrorf(c.CommandPath(), "flag --output: %w", err)
			}
			o.Inputs = args
			return runF(c.Context(), o)
		},
	}
	addOutputFlags(c, &o.Output, &o.ExitZero)
	return c
}

// addOutputFlags adds what says how a report goes out.
func addOutputFlags(c *cobra.Command, output *string, exitZero *bool) {
	f := c.Flags()
	f.StringVarP(output, "output", "o", report.FormatText, "format of the report: "+strings.Join(report.Formats(), ", "))
	f.BoolVar(exitZero, "exit-zero", false, "exit with 0 whatever the verdict")
	complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return report.Formats(), cobra.ShellCompDirectiveNoFileComp
	}
	_ = c.RegisterFlagCompletionFunc("output", complete) // fails only for a flag that is not there
}

func runAnalyze(_ context.Context, o *analyzeOptions) error {
	return o.bundle(o.Inputs[0])
}

// bundle judges a recorded trace again.
func (o *analyzeOptions) bundle(path string) error {
	b, err := bundle.Read(path)
	if err != nil {
		return withHint(err, "podtrace collect and podtrace path -w write bundles")
	}
	r := trace.Judge(b.Case)
	if was := b.Report; was != nil && (was.Verdict.Status != r.Verdict.Status || was.Verdict.Cause != r.Verdict.Cause) && !b.Interrupted {
		fmt.Fprintf(o.streams.Err, "podtrace: note: podtrace %s, which recorded it, judged it %s\n",
			report.Clean(b.Case.Version), report.Clean(strings.TrimSpace(was.Verdict.Status+" "+was.Verdict.Cause)))
	}
	if b.Interrupted {
		r = cutShort(r)
	}
	return o.print(r)
}

func (o *analyzeOptions) print(r *report.Report) error {
	if err := report.Write(o.streams.Out, r, o.Output, o.streams.reportOptions()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return verdictStatus(r, o.ExitZero)
}
