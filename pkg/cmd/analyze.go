package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/bundle"
	"github.com/podtrace/podtrace/pkg/expect"
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
	Expect    string
	Points    []string
	Inputs    []string // files and folders
	Ends      []string // source and destination, or none

	spec   *probe.Spec // Probe, parsed; nil: not given
	policy *expect.Policy
	now    func() time.Time

	namespaceSet bool // by a flag
}

const analyzeLong = `Judge offline what was recorded: no root, no cluster, no Linux.

BUNDLE is what podtrace collect or podtrace path -w wrote, a file or a folder.
Its report is the one that podtrace path printed, byte for byte.

Several bundles are judged one after the other.

With two endpoints, FILES and folders are what people have in hand after an
incident: pasted outputs of ip, bridge, route, iptables-save, nft, kubectl and
others, and one capture a point. In a folder the way to a file says where it was
taken: NODE/FILE on a node, NODE/NAMESPACE/POD/FILE in a pod, and a capture is
named after its interface, NODE/cni0.pcap; --point or an analyze.yaml in the
folder says it for other captures, and of those that nobody placed the frames
do. What nobody listed stays unknown, and the report says so.

Captures alone, of two points or more of one path, are compared packet by
packet, whatever their size: which flows are complete, which lose packets after
which point, which are rewritten wrongly, and where each was taken.

--expect FILE holds the verdicts against a policy (docs/commands.md), and the
exit status is that of the policy.

Exit status as for podtrace path.`

const analyzeExample = `  podtrace analyze trace.tar.gz
  podtrace analyze trace.tar.gz -o junit > podtrace.xml   # in CI
  podtrace analyze *.tar.gz --expect policy.yaml
  podtrace analyze coffee-1 coffee-2 incident/            # listings, and captures if there are any
  podtrace analyze coffee-1 coffee-2 pages.txt --point node1/cni0=a.pcap --point node1/coffee-1/eth0=b.pcap
  podtrace analyze a.pcap b.pcap c.pcapng.gz              # captures of one path, in any order`

func newAnalyzeCmd(s *Streams, runF func(context.Context, *analyzeOptions) error) *cobra.Command {
	o := &analyzeOptions{streams: s, now: time.Now}
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
	f.StringVar(&o.Expect, "expect", "", "policy in YAML: which pairs must be healthy, which faults are accepted until when; the exit status goes by it")
	f.StringArrayVar(&o.Points, "point", nil, "a capture and its place: NODE/INTERFACE=FILE, NODE/[NAMESPACE/]POD/INTERFACE=FILE; may be repeated")
	return c
}

// complete tells endpoints from files: an argument that is no file is an endpoint.
func (o *analyzeOptions) complete(c *cobra.Command, args []string) error {
	if err := report.CheckFormat(o.Output); err != nil {
		return usageErrorf(c.CommandPath(), "flag --output: %w", err)
	}
	o.namespaceSet = c.Flags().Changed("namespace")
	if o.Probe != "" {
		spec, err := probe.ParseSpec(o.Probe)
		if err != nil {
			return usageErrorf(c.CommandPath(), "flag --probe: %w", err)
		}
		o.spec = &spec
	}
	if o.Expect != "" {
		p, err := expect.Read(o.Expect)
		if err != nil {
			return withHint(fmt.Errorf("flag --expect: %w", err), "docs/commands.md shows a policy, examples/ci has one")
		}
		o.policy = p
	}
	var missing error
	for _, a := range args {
		fi, err := os.Stat(a)
		switch {
		case err != nil:
			o.Ends, missing = append(o.Ends, a), err
		case !fi.IsDir() && !fi.Mode().IsRegular():
			return hinted{fmt.Errorf("%q is neither a file nor a folder: what comes out of a pipe or a device can be read only once", a), "write it into a file first"}
		default:
			o.Inputs = append(o.Inputs, a)
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
	bundles := 0
	for _, p := range o.Inputs {
		if bundle.Is(p) {
			bundles++
		}
	}
	switch {
	case bundles > 0 && (bundles < len(o.Inputs) || len(o.Ends)+len(o.Points) > 0):
		i := slices.IndexFunc(o.Inputs, bundle.Is)
		return withHint(fmt.Errorf("%q is a bundle: it knows its endpoints and is judged alone, or beside other bundles", o.Inputs[i]), "podtrace analyze "+o.Inputs[i])
	case bundles > 0:
		return o.bundles()
	}
	if err := o.plan(); err != nil {
		return err
	}
	if len(o.Ends) == 2 {
		return o.material()
	}
	return o.captures(ctx)
}

// plan takes from the analyze.yaml of a folder what the command line does not say.
func (o *analyzeOptions) plan() error {
	for _, dir := range o.Inputs {
		p, err := offline.ReadPlan(dir)
		if err != nil {
			return withHint(err, "docs/commands.md shows an "+offline.PlanName)
		}
		if p == nil {
			continue
		}
		if len(o.Ends) == 0 && p.From != "" {
			o.Ends = []string{p.From, p.To}
		}
		if p.Namespace != "" && !o.namespaceSet {
			o.Namespace = p.Namespace
		}
		if p.Objects != "" && o.Filename == "" {
			o.Filename = p.Objects
		}
		if p.Probe != "" && o.spec == nil {
			spec, err := probe.ParseSpec(p.Probe)
			if err != nil {
				return fmt.Errorf("%s: probe: %w", filepath.Join(dir, offline.PlanName), err)
			}
			o.spec = &spec
		}
	}
	return nil
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

// bundles judges recorded traces again.
func (o *analyzeOptions) bundles() error {
	var rs []*report.Report
	for _, p := range o.Inputs {
		r, err := o.bundle(p)
		if err != nil {
			return err
		}
		rs = append(rs, r)
	}
	return o.print(rs...)
}

func (o *analyzeOptions) bundle(path string) (*report.Report, error) {
	b, err := bundle.Read(path)
	if err != nil {
		return nil, withHint(err, "podtrace collect and podtrace path -w write bundles")
	}
	r := trace.Judge(b.Case)
	if was := b.Report; was != nil && (was.Verdict.Status != r.Verdict.Status || was.Verdict.Cause != r.Verdict.Cause) && !b.Interrupted {
		fmt.Fprintf(o.streams.Err, "podtrace: note: podtrace %s, which recorded it, judged it %s\n",
			report.Clean(b.Case.Version), report.Clean(strings.TrimSpace(was.Verdict.Status+" "+was.Verdict.Cause)))
	}
	if b.Interrupted {
		r = cutShort(r)
	}
	return r, nil
}

// print writes the reports, and ends with the status of the worst, or with that of the policy.
func (o *analyzeOptions) print(rs ...*report.Report) error {
	if len(rs) > 1 && o.Output == report.FormatHTML {
		return usageErrorf("podtrace analyze", "flag --output: html shows one path, and there are %d", len(rs))
	}
	status := report.ExitHealthy
	for _, r := range rs {
		status = worst(status, report.ExitCode(r.Verdict.Status))
	}
	var whole *report.Expectation
	if o.policy != nil {
		whole = o.weigh(rs)
		status = whole.ExitCode()
	}
	var err error
	if len(rs) == 1 {
		err = report.Write(o.streams.Out, rs[0], o.Output, o.streams.reportOptions())
	} else {
		err = report.WriteAll(o.streams.Out, rs, whole, o.Output, o.streams.reportOptions())
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return exitWith(status, o.ExitZero)
}

// weigh holds the reports against the policy. A single report carries the opinion on the whole.
func (o *analyzeOptions) weigh(rs []*report.Report) *report.Expectation {
	var subjects []expect.Subject
	for _, r := range rs {
		subjects = append(subjects, expect.Of(r))
	}
	each, whole := o.policy.Weigh(subjects, o.now())
	for i, r := range rs {
		r.Expectation = &each[i]
	}
	if len(rs) == 1 {
		whole = expect.Join(each, whole)
		rs[0].Expectation = &whole
	}
	return &whole
}

// worst of two exit statuses: a fault, then what is not known.
func worst(a, b int) int {
	for _, s := range []int{report.ExitFault, report.ExitInconclusive} {
		if a == s || b == s {
			return s
		}
	}
	return report.ExitHealthy
}

func exitWith(status int, zero bool) error {
	if status == report.ExitHealthy || zero {
		return nil
	}
	return statusError(status)
}
