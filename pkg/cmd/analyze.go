package cmd

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/bundle"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/offline"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// analyzeOptions are the flags and arguments of podtrace analyze.
type analyzeOptions struct {
	streams   *Streams
	Namespace string
	Filename  string
	Output    string
	Probe     string
	ExitZero  bool
	Points    []string
	Inputs    []string // files and folders
	Ends      []string // source and destination, or none

	spec *probe.Spec // Probe, parsed; nil: not given
}

const analyzeLong = `Judge offline what was recorded: no root, no cluster, no Linux.

BUNDLE is what podtrace collect or podtrace path -w wrote, a file or a folder.
Its report is the one that podtrace path printed, byte for byte.

With two endpoints, FILES and folders are what people have in hand after an
incident: pasted outputs of ip, bridge, route, iptables-save, nft, kubectl and
others, and one capture a point. In a folder the way to a file says where it was
taken: NODE/FILE on a node, NODE/NAMESPACE/POD/FILE in a pod, and a capture is
named after its interface, NODE/cni0.pcap; --point says it for other captures.
What nobody listed stays unknown, and the report says so.

Captures alone, of two points or more of one path, are compared packet by
packet, whatever their size: which flows are complete, which lose packets after
which point, which are rewritten wrongly.

Exit status as for podtrace path.`

const analyzeExample = `  podtrace analyze trace.tar.gz
  podtrace analyze trace.tar.gz -o junit > podtrace.xml   # in CI
  podtrace analyze coffee-1 coffee-2 incident/            # listings, and captures if there are any
  podtrace analyze coffee-1 coffee-2 pages.txt --point node1/cni0=a.pcap --point node1/coffee-1/eth0=b.pcap
  podtrace analyze a.pcap b.pcap c.pcapng.gz              # captures of one path, in any order`

func newAnalyzeCmd(s *Streams, runF func(context.Context, *analyzeOptions) error) *cobra.Command {
	o := &analyzeOptions{streams: s}
	if runF == nil {
		runF = runAnalyze
	}
	c := &cobra.Command{
		Use:     "analyze BUNDLE | [A B] FILES…",
		Short:   "Judge offline what was recorded: no root, no cluster",
		Long:    analyzeLong,
		Example: analyzeExample,
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.complete(c, args); err != nil {
				return err
			}
			return runF(c.Context(), o)
		},
	}
	addOutputFlags(c, &o.Output, &o.ExitZero)
	f := c.Flags()
	f.StringVarP(&o.Namespace, "namespace", "n", "default", "namespace of pods that are named without one")
	f.StringVarP(&o.Filename, "filename", "f", "", "file with the cluster's objects; without it what the listings say of them")
	f.StringVar(&o.Probe, "probe", "", "what listings are asked about: icmp, tcp[:PORT], udp[:PORT]; without it what most captured packets are, else icmp")
	f.StringArrayVar(&o.Points, "point", nil, "a capture and its place: NODE/INTERFACE=FILE, NODE/[NAMESPACE/]POD/INTERFACE=FILE; may be repeated")
	return c
}

// complete tells endpoints from files: an argument that is no file is an endpoint.
func (o *analyzeOptions) complete(c *cobra.Command, args []string) error {
	if err := report.CheckFormat(o.Output); err != nil {
		return usageErrorf(c.CommandPath(), "flag --output: %w", err)
	}
	if o.Probe != "" {
		spec, err := probe.ParseSpec(o.Probe)
		if err != nil {
			return usageErrorf(c.CommandPath(), "flag --probe: %w", err)
		}
		o.spec = &spec
	}
	var missing error
	for _, a := range args {
		if _, err := os.Stat(a); err == nil {
			o.Inputs = append(o.Inputs, a)
		} else {
			o.Ends, missing = append(o.Ends, a), err
		}
	}
	switch {
	case len(args) == 0 && len(o.Points) == 0:
		return usageErrorf(c.CommandPath(), "a bundle is missing")
	case len(o.Ends) == 0, len(o.Ends) == 2 && len(o.Inputs)+len(o.Points) > 0:
		return nil
	case len(o.Ends) == 2:
		return usageErrorf(c.CommandPath(), "no file is named to look for the path from %q to %q in", o.Ends[0], o.Ends[1])
	case len(o.Ends) > 2:
		return usageErrorf(c.CommandPath(), "%d arguments are no files, a path has two endpoints: %w", len(o.Ends), missing)
	default:
		return usageErrorf(c.CommandPath(), "%q is no file, and a path has two endpoints: %w", o.Ends[0], missing)
	}
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

func runAnalyze(ctx context.Context, o *analyzeOptions) error {
	alone := len(o.Inputs) == 1 && len(o.Ends)+len(o.Points) == 0
	for _, p := range o.Inputs {
		if bundle.Is(p) && !alone {
			return withHint(fmt.Errorf("%q is a bundle: it knows its endpoints and is judged alone", p), "podtrace analyze "+p)
		}
	}
	switch {
	case len(o.Ends) == 2:
		return o.material()
	case alone && !isCapture(o.Inputs[0]):
		return o.bundle(o.Inputs[0])
	case len(o.Points) > 0:
		return usageErrorf("podtrace analyze", "flag --point needs the endpoints A and B, and listings")
	}
	for _, p := range o.Inputs {
		if !isCapture(p) {
			return withHint(fmt.Errorf("%q is no capture file", p), endpointsHint)
		}
	}
	return o.flows(ctx)
}

// endpointsHint is for files that are neither a bundle nor captures.
const endpointsHint = "name the two endpoints to judge listings: podtrace analyze A B FILES…"

func isCapture(path string) bool {
	is, err := offline.IsCapture(path)
	return err == nil && is
}

// material judges listings and captures.
func (o *analyzeOptions) material() error {
	q := offline.Request{
		Paths: o.Inputs, Points: o.Points, Source: o.Ends[0], Destination: o.Ends[1], Namespace: o.Namespace, Probe: o.spec, Version: Version(),
	}
	if o.Filename != "" {
		inv, err := inventory.ReadFile(o.Filename)
		if err != nil {
			return err
		}
		q.Inventory = inv
	}
	r, err := offline.Judge(q)
	if err != nil {
		return err
	}
	return o.print(r)
}

// bundle judges a recorded trace again.
func (o *analyzeOptions) bundle(path string) error {
	b, err := bundle.Read(path)
	if err != nil {
		return withHint(err, endpointsHint+"\npodtrace collect and podtrace path -w write bundles")
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
