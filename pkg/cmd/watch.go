package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/bundle"
	"github.com/podtrace/podtrace/pkg/recorder"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// watchOptions are the flags and arguments of podtrace watch.
type watchOptions struct {
	traceOptions
	captureOptions
	For        time.Duration
	Until      string
	MaxLatency time.Duration
	Past       time.Duration
	Write      string
	MaxBytes   byteSize
	Memory     byteSize
	Full       bool
	NoBPF      bool
}

// What ends a watch before its time.
const (
	untilIncident = "incident" // anything that is written down
	untilBroken   = "broken"   // a verdict of broken or degraded
)

const watchLong = `Watch the real traffic between A and B, and keep what happened when something does.

A flight recorder: taps run at every interface of the path, and nothing is kept
but the last seconds, in memory. When a packet is lost between two hops, has
headers that the tables do not lead to, is sent again by TCP or takes longer than
--max-latency, podtrace reads the tables, judges, prints the verdict, writes a
bundle for podtrace analyze, and goes on. The same trouble is written once, and
again when it was gone for half a minute.

Nothing is sent: where no traffic passes, there is nothing to see.

Bundles are named podtrace-TIME.tar.gz. Beyond --max-bytes the oldest of this run
are removed.

Exit status: 0 no fault, 1 a fault was found (broken or degraded), 2 usage or tool
error, 3 inconclusive: no packet was seen.`

const watchExample = `  podtrace watch coffee-1 coffee-2                             # until Ctrl-C
  podtrace watch coffee-1 coffee-2 --until broken --for 1h     # e.g. in a job: ends at the first fault
  podtrace watch coffee-1 svc/coffee --max-latency 5ms -w /var/tmp --max-bytes 1GiB
  podtrace analyze podtrace-20260102T150405.678Z.tar.gz`

func newWatchCmd(s *Streams, runF func(context.Context, *watchOptions) error) *cobra.Command {
	o := &watchOptions{traceOptions: traceOptions{streams: s}, MaxBytes: 256 << 20, Memory: defaultMemory}
	if runF == nil {
		runF = runWatch
	}
	c := &cobra.Command{
		Use:     "watch A B",
		Short:   "Watch real traffic from A to B, and record what goes wrong",
		Long:    watchLong,
		Example: watchExample,
		Args:    exactArgs("source A", "destination B"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.complete(c, args); err != nil {
				return err
			}
			return runF(c.Context(), o)
		},
	}
	o.reachOptions.addFlags(c)
	o.captureOptions.addFlags(c)
	f := c.Flags()
	f.StringVarP(&o.Output, "output", "o", report.FormatText, "incidents on standard output as text, or as json: one object a line")
	f.BoolVar(&o.ExitZero, "exit-zero", false, "exit with 0 whatever was found")
	f.DurationVar(&o.For, "for", 0, "how long to watch (0: until interrupted)")
	f.StringVar(&o.Until, "until", "", "end at the first incident, or at the first that is a fault: incident, broken")
	f.DurationVar(&o.MaxLatency, "max-latency", 0, "a packet that takes longer from its first interface to its last is an incident (0: none is)")
	f.DurationVar(&o.Past, "past", 5*time.Second, "how much of the past a bundle holds, if --memory has room for it")
	f.StringVarP(&o.Write, "write", "w", ".", "folder for the bundles")
	f.Var(&o.MaxBytes, "max-bytes", "bound of the bundles on disk")
	f.Var(&o.Memory, "memory", "bound of the frames in memory")
	f.BoolVar(&o.Full, "full", false, "keep payloads too; without it headers only")
	f.BoolVar(&o.NoBPF, "no-bpf", false, "do not ask the kernel why it dropped a packet (skb:kfree_skb)")
	return c
}

// Agents of a watch without an end live for longWatch and are then made anew; those of others a little longer than
// the watch.
const (
	longWatch  = 24 * time.Hour
	agentSpare = 5 * time.Minute
)

// defaultMemory holds 60 ms of a million sightings a second, longer than it takes to notice a loss, and minutes of
// ordinary traffic. With ten rings the whole stays near 64 MB.
const defaultMemory = 6 << 20

func (o *watchOptions) complete(c *cobra.Command, args []string) error {
	o.Probe = "none"
	if o.life = longWatch; o.For > 0 {
		o.life = o.For + agentSpare
	}
	switch o.Output {
	case report.FormatText, report.FormatJSON:
	default:
		return usageErrorf(c.CommandPath(), "flag --output: %q is none of text, json", o.Output)
	}
	if err := o.traceOptions.complete(c, args); err != nil {
		return err
	}
	switch {
	case o.For < 0:
		return usageErrorf(c.CommandPath(), "flag --for: %s is negative", o.For)
	case o.MaxLatency < 0:
		return usageErrorf(c.CommandPath(), "flag --max-latency: %s is negative", o.MaxLatency)
	case o.Past < time.Second || o.Past > time.Hour:
		return usageErrorf(c.CommandPath(), "flag --past: %s is not between 1s and 1h", o.Past)
	case o.Until != "" && o.Until != untilIncident && o.Until != untilBroken:
		return usageErrorf(c.CommandPath(), "flag --until: %q is none of incident, broken", o.Until)
	case o.Memory < 1<<20 || o.Memory > 16<<30:
		return usageErrorf(c.CommandPath(), "flag --memory: %s is not between 1MiB and 16GiB", o.Memory)
	}
	if err := o.captureOptions.complete(c); err != nil {
		return err
	}
	fi, err := os.Stat(o.Write)
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("%q is no folder", o.Write)
	}
	if err != nil {
		return withHint(fmt.Errorf("bundles cannot be written: %w", err), "name a folder that is there with -w")
	}
	return nil
}

func runWatch(ctx context.Context, o *watchOptions) error {
	to, done, err := o.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	to.Full, to.NoBPF, to.Contrast = o.Full, o.NoBPF, trace.ContrastNever
	o.apply(&to)
	watching, stop := ctx, context.CancelFunc(func() {})
	if o.For > 0 {
		watching, stop = context.WithTimeout(ctx, o.For)
	}
	defer stop()
	w := &watcher{o: o, shelf: shelf{folder: o.Write, most: int64(o.MaxBytes)}}
	rec, err := trace.Record(watching, to, trace.RecordOptions{
		Keep: o.Past, Memory: int(o.Memory), Bound: o.MaxLatency, OnIncident: w.incident, Rest: thrifty,
	})
	if rec == nil {
		return err
	}
	if err != nil && rec.Packets == 0 {
		return err
	}
	fmt.Fprintf(o.streams.Err, "podtrace: %s\n", extentOf(rec))
	switch {
	case err != nil:
		return err
	case o.ExitZero:
		return nil
	case w.faulty:
		return statusError(report.ExitCode(report.Broken))
	case rec.Packets == 0 && rec.Incidents == 0:
		return statusError(report.ExitCode(report.Inconclusive))
	}
	return nil
}

// extentOf says in one line what was watched.
func extentOf(r *trace.Recorded) string {
	var s strings.Builder
	fmt.Fprintf(&s, "watched %d packets, %d sightings; %d incidents", r.Packets, r.Sightings, r.Incidents)
	for _, n := range []struct {
		count uint64
		what  string
	}{
		{uint64(r.Again), "notices of what was recorded already"},
		{uint64(r.Dismissed), "notices that proved to be nothing"},
		{uint64(r.Unclear), "losses that may be the capture's own"},
		{r.Noticed[recorder.Retransmit], "TCP segments sent again"},
		{r.Unjudged, "packets too many to be followed"},
		{r.Drops, "frames that found no room in a ring"},
	} {
		if n.count > 0 {
			fmt.Fprintf(&s, ", %d %s", n.count, n.what)
		}
	}
	return s.String()
}

// watcher takes the incidents.
type watcher struct {
	o      *watchOptions
	shelf  shelf
	faulty bool
}

// incidentLine is an incident for -o json.
type incidentLine struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Time       time.Time      `json:"time"`
	Trigger    string         `json:"trigger"`
	Noticed    string         `json:"noticed"`
	Verdict    report.Verdict `json:"verdict"`
	Bundle     string         `json:"bundle,omitempty"`
}

func (w *watcher) incident(in *trace.Incident) (more bool, err error) {
	v := in.Report.Verdict
	faulty := v.Status == report.Broken || v.Status == report.Degraded
	w.faulty = w.faulty || faulty
	path, err := w.shelf.put(in.Notice.Time, &bundle.Bundle{Case: in.Case, Report: in.Report})
	if err != nil {
		return false, err
	}
	if err := w.print(in, path); err != nil {
		return false, fmt.Errorf("write incident: %w", err)
	}
	return w.o.Until != untilIncident && (w.o.Until != untilBroken || !faulty), nil
}

func (w *watcher) print(in *trace.Incident, path string) error {
	v := in.Report.Verdict
	if w.o.Output == report.FormatJSON {
		return json.NewEncoder(w.o.streams.Out).Encode(incidentLine{
			APIVersion: report.APIVersion, Kind: "Incident", Time: in.Notice.Time, Trigger: string(in.Notice.Kind),
			Noticed: in.Notice.String(), Verdict: v, Bundle: path,
		})
	}
	out := w.o.streams.Out
	_, err := fmt.Fprintf(out, "%s  %s: %s\n", in.Notice.Time.Format("2006-01-02T15:04:05.000Z07:00"), in.Notice.Kind, in.Notice)
	what := v.Status
	if v.Cause != "" {
		what += ", " + v.Cause
	}
	fmt.Fprintf(out, "  %s: %s\n", report.Clean(what), report.Clean(v.Summary))
	if v.Remedy != "" {
		fmt.Fprintf(out, "  remedy: %s\n", report.Clean(v.Remedy))
	}
	if path != "" {
		fmt.Fprintf(out, "  recorded in %s: %s\n", report.Clean(path), extent(in.Case))
	}
	return err
}

// shelf keeps bundles in a folder, the newest within a bound.
type shelf struct {
	folder string
	most   int64
	kept   []string
	sizes  []int64
	sum    int64
}

// put writes a bundle and removes the oldest of its own beyond the bound. A bundle that alone is larger is not
// kept; path is empty then.
func (s *shelf) put(at time.Time, b *bundle.Bundle) (path string, err error) {
	name := at.UTC().Format("podtrace-20060102T150405.000Z")
	path = filepath.Join(s.folder, name+".tar.gz")
	for i := 2; ; i++ {
		if _, err := os.Lstat(path); err != nil {
			break
		}
		path = filepath.Join(s.folder, fmt.Sprintf("%s-%d.tar.gz", name, i))
	}
	if err := bundle.Write(path, b); err != nil {
		return "", err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("bundle is gone: %w", err)
	}
	s.kept, s.sizes, s.sum = append(s.kept, path), append(s.sizes, fi.Size()), s.sum+fi.Size()
	for s.sum > s.most && len(s.kept) > 0 {
		if err := os.Remove(s.kept[0]); err != nil && !os.IsNotExist(err) {
			return "", fmt.Errorf("make room for bundles: %w", err)
		}
		if s.kept[0] == path {
			path = ""
		}
		s.sum -= s.sizes[0]
		s.kept, s.sizes = s.kept[1:], s.sizes[1:]
	}
	return path, nil
}
