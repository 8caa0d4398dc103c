package cmd

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	for _, err := range []error{lab.ErrNotUp, lab.ErrNoFault, lab.ErrNoName, lab.ErrNoDatapath, lab.ErrUnfit} {
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

func TestLabUpFlags(t *testing.T) {
	s, _, _ := buffers()
	var got lab.Spec
	runF := func(_ context.Context, o *labOptions) error { got = o.lab.Spec; return nil }
	for want, args := range map[string]lab.Spec{
		"": {},
		"--datapath flannel-host-gw --nodes 10 --pods 50":    {Datapath: "flannel-host-gw", Nodes: 10, Pods: 50},
		"--vni 42 --port 4789 --gbp --learning --mtu 8951":   {VNI: 42, Port: 4789, GBP: true, Learning: true, MTU: 8951},
		"--services nftables --with k3s,kind --with libvirt": {Services: "nftables", With: []string{"k3s", "kind", "libvirt"}},
	} {
		if err := run(t, newLabUpCmd(s, runF), strings.Fields(want)...); err != nil {
			t.Errorf("%q: %v", want, err)
		}
		if diff := cmp.Diff(args, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", want, diff)
		}
	}
	if err := run(t, newLabUpCmd(s, runF), "--datapath"); err == nil {
		t.Error("a flag without its value was accepted")
	}
}

func TestLabFaultsOfDatapath(t *testing.T) {
	for _, tt := range []struct {
		args       string
		has, hasnt string
	}{
		{"", "fdb-missing ", "no such"},
		{"--datapath flannel-host-gw", "nexthop-stale  node1  coffee-1 -> coffee-2 ", "fdb-missing"},
		{"--datapath calico-vxlan", "proxy-arp-off ", "cni0-down"},
		{"--datapath flannel-directrouting", "fdb-missing  ", "proxy-arp-off"},
		{"--services iptables", "client -> 10.1.11.91:32604", "proxy-arp-off"},
	} {
		s, out, _ := buffers()
		if err := run(t, newLabFaultsCmd(s, nil), strings.Fields(tt.args)...); err != nil {
			t.Errorf("%q: %v", tt.args, err)
		}
		squeezed := strings.Join(strings.Fields(out.String()), " ")
		if !strings.Contains(squeezed, strings.Join(strings.Fields(tt.has), " ")) || strings.Contains(squeezed, tt.hasnt) {
			t.Errorf("%q: want %q, not %q, in\n%s", tt.args, tt.has, tt.hasnt, out)
		}
	}
	s, _, errOut := buffers()
	if status := s.fail(run(t, newLabFaultsCmd(s, nil), "--datapath", "weave")); status != 2 || !strings.Contains(errOut.String(), "hint: podtrace lab up --help") {
		t.Errorf("status %d, %q", status, errOut)
	}
}
