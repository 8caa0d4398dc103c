package cmd

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podtrace/podtrace/pkg/kube"
	"github.com/podtrace/podtrace/pkg/report"
)

// buffers gives streams that nobody reads at a terminal.
func buffers() (s *Streams, out, errOut *bytes.Buffer) {
	out, errOut = new(bytes.Buffer), new(bytes.Buffer)
	return &Streams{In: strings.NewReader(""), Out: out, Err: errOut}, out, errOut
}

func TestPathFlags(t *testing.T) {
	defaults := func(change func(*pathOptions)) *pathOptions {
		o := &pathOptions{Count: 3, Interval: 50 * time.Millisecond, Timeout: time.Second, Contrast: "auto", captureOptions: captureOptions{Engine: "ring"}}
		o.Source, o.Destination, o.Output, o.Probe = "a", "b", "text", "icmp"
		o.RemoteCommand, o.AgentNamespace, o.Image, o.AgentTimeout = "podtrace agent", "kube-system", defaultImage(Version()), 30*time.Second
		change(o)
		return o
	}
	tests := []struct {
		name string
		args []string
		want *pathOptions
		err  string
	}{
		{name: "defaults", args: []string{"a", "b"}, want: defaults(func(*pathOptions) {})},
		{
			name: "all",
			args: []string{"-n", "shop", "a", "b", "-f", "c.yaml", "--probe", "tcp:8080", "--count=5", "--interval", "1s", "--timeout=2s", "-o", "json", "--exit-zero", "--full"},
			want: defaults(func(o *pathOptions) {
				o.Namespace, o.Filename, o.Probe, o.Count = "shop", "c.yaml", "tcp:8080", 5
				o.Interval, o.Timeout, o.Output, o.ExitZero, o.Full = time.Second, 2*time.Second, "json", true, true
			}),
		},
		{name: "verbose", args: []string{"a", "b", "-v"}, want: defaults(func(o *pathOptions) { o.progress = true })},
		{name: "no arguments", err: "source A is missing"},
		{name: "same", args: []string{"a", "a"}, err: `source and destination are both "a"`},
		{name: "format", args: []string{"a", "b", "-o", "xml"}, err: `output format "xml"`},
		{name: "probe", args: []string{"a", "b", "--probe", "sctp"}, err: "flag --probe"},
		{name: "count", args: []string{"a", "b", "--count", "-1"}, err: "flag --count"},
		{name: "contrast", args: []string{"a", "b", "--contrast", "maybe"}, err: "flag --contrast"},
		{
			name: "by itself", args: []string{"a", "b", "--no-bpf", "--contrast", "never"},
			want: defaults(func(o *pathOptions) { o.NoBPF, o.Contrast = true, "never" }),
		},
		{name: "interval", args: []string{"a", "b", "--interval", "-1s"}, err: "flag --interval"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _, _ := buffers()
			var got *pathOptions
			c := newPathCmd(s, func(_ context.Context, o *pathOptions) error { got = o; return nil })
			c.Flags().BoolP("verbose", "v", false, "") // the root's
			c.SilenceErrors, c.SilenceUsage = true, true
			c.SetArgs(append([]string{}, tt.args...))
			err := c.ExecuteContext(t.Context())
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			opts := cmp.Options{
				cmp.AllowUnexported(pathOptions{}, traceOptions{}, reachOptions{}, inventoryOptions{}),
				cmpopts.IgnoreUnexported(kube.Flags{}),
				cmpopts.IgnoreFields(traceOptions{}, "streams", "spec"),
			}
			if diff := cmp.Diff(tt.want, got, opts); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFinish(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	made := func(status string) *report.Report { return &report.Report{Verdict: report.Verdict{Status: status}} }
	tests := []struct {
		name     string
		ctx      context.Context
		report   *report.Report
		err      error
		exitZero bool
		want     int
		prints   bool
	}{
		{name: "healthy", report: made(report.Healthy), want: 0, prints: true},
		{name: "broken", report: made(report.Broken), want: 1, prints: true},
		{name: "inconclusive", report: made(report.Inconclusive), want: 3, prints: true},
		{name: "broken, exit zero", report: made(report.Broken), exitZero: true, want: 0, prints: true},
		{name: "no report", err: errors.New("no such pod"), exitZero: true, want: 2},
		{name: "partial report", ctx: canceled, report: made(report.Healthy), err: context.Canceled, want: 3, prints: true},
		{name: "partial report with a fault", ctx: canceled, report: made(report.Broken), err: context.Canceled, want: 1, prints: true},
		{name: "report and a tool error", report: made(report.Healthy), err: errors.New("ring"), want: 2, prints: true},
		{name: "interrupted early", ctx: canceled, err: context.Canceled, want: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, out, errOut := buffers()
			o := &traceOptions{streams: s, Output: report.FormatText, ExitZero: tt.exitZero}
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			got := 0
			if err := o.finish(ctx, tt.report, tt.err); err != nil {
				got = s.fail(err)
			}
			if got != tt.want || (out.Len() > 0) != tt.prints {
				t.Errorf("status %d, want %d; stdout %q, stderr %q", got, tt.want, out, errOut)
			}
			// What is printed and the exit status say the same.
			if strings.Contains(out.String(), "HEALTHY") && got == report.ExitInconclusive {
				t.Errorf("status %d with the report:\n%s", got, out)
			}
		})
	}
}
