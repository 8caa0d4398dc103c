package cmd

import (
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/podtrace/podtrace/pkg/lab"
)

func run(t *testing.T, c *cobra.Command, args ...string) error {
	t.Helper()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(append([]string{}, args...))
	return c.ExecuteContext(t.Context())
}

func TestLabExecFlags(t *testing.T) {
	s, _, _ := buffers()
	tests := []struct {
		name    string
		args    []string
		command string
		err     string
	}{
		{name: "dashes", args: []string{"node1", "--", "ip", "-d", "link"}, command: "ip -d link"},
		{name: "no dashes", args: []string{"node1", "ip", "-d", "link"}, command: "ip -d link"},
		{name: "help is the command's", args: []string{"node1", "ip", "--help"}, command: "ip --help"},
		{name: "dashes of the command's own", args: []string{"node1", "--", "sh", "--", "x"}, command: "sh -- x"},
		{name: "only dashes", args: []string{"node1", "--"}, err: `command to run in "node1" is missing`},
		{name: "no name", err: "name of a node or pod is missing"},
		{name: "no command", args: []string{"node1"}, err: `command to run in "node1" is missing`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got *labExecOptions
			err := run(t, newLabExecCmd(s, func(_ context.Context, o *labExecOptions) error { got = o; return nil }), tt.args...)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != "node1" || strings.Join(got.Command, " ") != tt.command {
				t.Errorf("name %q, command %q", got.Name, got.Command)
			}
		})
	}
}

func TestLabBreakFlags(t *testing.T) {
	s, _, _ := buffers()
	var got *labBreakOptions
	runF := func(_ context.Context, o *labBreakOptions) error { got = o; return nil }
	if err := run(t, newLabBreakCmd(s, runF), "fdb-wrong-dst", "--on", "node2"); err != nil {
		t.Fatal(err)
	}
	if got.Fault != "fdb-wrong-dst" || got.Node != "node2" {
		t.Errorf("fault %q on %q", got.Fault, got.Node)
	}
	if err := run(t, newLabBreakCmd(s, runF)); err == nil {
		t.Error("no fault was accepted")
	}
}

func TestLabHints(t *testing.T) {
	for _, err := range []error{lab.ErrNotUp, lab.ErrNoFault, lab.ErrNoName} {
		s, _, errOut := buffers()
		if status := s.fail(labHint(err)); status != 2 || !strings.Contains(errOut.String(), "hint: podtrace lab ") {
			t.Errorf("%v: status %d, %q", err, status, errOut)
		}
	}
}

func TestPrintState(t *testing.T) {
	var b strings.Builder
	printState(&b, lab.State{
		Namespaces: []lab.Namespace{
			{Name: "node1", Kind: "node", IP: "10.1.11.91", Path: "/run/netns/podtrace-node1", Present: true},
			{Name: "coffee-1", Kind: "pod", Node: "node1", IP: "10.244.1.32", Path: "/run/netns/podtrace-coffee-1"},
		},
		Broken:   []lab.Broken{{ID: "fdb-missing", Node: "node1"}},
		Problems: []string{"namespace of coffee-1 is gone"},
	})
	want := `the lab is not up
node  node1  10.1.11.91    /run/netns/podtrace-node1
broken: fdb-missing on node1
problem: namespace of coffee-1 is gone
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}
