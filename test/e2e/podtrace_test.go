package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// report holds the fields of podtrace's JSON report that the tests look at.
type report struct {
	Datapath string
	Legs     []struct {
		Name string
		Hops []struct{ Node, Netns, Interface, State, Note string }
	}
	Findings []struct{ Cause, Node, Interface, Summary string }
	Verdict  struct{ Status, Cause, Leg, Node, Interface, Summary string }
}

// onNodes is podtrace as it runs on a machine that has all nodes' namespaces: with a file of objects.
func onNodes(t *testing.T) func(args ...string) (report, int) {
	t.Helper()
	objects, err := kube.Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, objects, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(args ...string) (report, int) {
		t.Helper()
		return podtrace(t, append([]string{"bin/podtrace", "path", "-f", file, "-o", "json"}, args...)...)
	}
}

// podtrace runs a command that prints a report, and gives it with the exit status.
func podtrace(t *testing.T, command ...string) (report, int) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), command[0], command[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, stderr.String())
	}
	return r, cmd.ProcessState.ExitCode()
}

// healthy wants exit status 0 and every hop of both legs ok.
func healthy(t *testing.T, what string, r report, status int) {
	t.Helper()
	if status != 0 || r.Verdict.Status != "healthy" || len(r.Findings) > 0 || len(r.Legs) != 2 {
		t.Errorf("%s: exit status %d, %+v, findings %+v", what, status, r.Verdict, r.Findings)
		return
	}
	for _, leg := range r.Legs {
		if len(leg.Hops) < 2 {
			t.Errorf("%s: %s has %d hops", what, leg.Name, len(leg.Hops))
		}
		for i, h := range leg.Hops {
			if h.State != "ok" {
				t.Errorf("%s: %s hop %d on %s %s is %s: %s", what, leg.Name, i+1, h.Node, h.Interface, h.State, h.Note)
			}
		}
	}
}

// TestHealthy traces what works, in each mode of kube-proxy, as often as E2E_RUNS says: once, if it does not.
func TestHealthy(t *testing.T) {
	runs, _ := strconv.Atoi(os.Getenv("E2E_RUNS"))
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			setProxyMode(t, mode)
			trace := onNodes(t)
			for _, args := range slices.Repeat([]string{
				"client web-1", "client web-2", "web-2 web-1", "client deploy/shop", "deploy/shop web-2",
				"client web-1 --probe udp:8080", "client web-2 --probe udp:8080", "client web-2 --probe tcp:8080",
				"client svc/web", "web-1 svc/web", "web-2 svc/web", "client svc/web-affine", "client svc/web-local",
				"client svc/web-udp:53", "client svc/headless:80", "client svc/kubernetes",
				"client node/node1:30080", "client node/node2:30080", "client node/node2:30081",
				"client node/node1", "client node/node2", "node/node1 web-1", "node/node1 web-2", "node/node1 node/node2",
				"node/node1 svc/web", "node/node1 node/node2:30080", "client node/node2:9090", "web-1 node/node2:9090", "node/node1 node/node2:9090",
			}, max(1, runs)) {
				r, status := trace(strings.Fields(args)...)
				healthy(t, args, r, status)
			}
		})
	}
}

// fault is put in by hand on a node of a cluster that works.
type fault struct {
	name           string
	node           string
	breaks, mends  string // shell commands; $MAC, $VTEP, $CIDR, $IP are node2's, $POD web-2's address
	path           string
	cause, at, leg string // of the verdict
}

var faults = []fault{
	{name: "fdb row lost", node: "node1", path: "client web-2", cause: "fdb-missing", at: "node1", leg: "request",
		breaks: "bridge fdb del $MAC dev flannel.1 dst $IP", mends: "bridge fdb replace $MAC dev flannel.1 dst $IP self permanent"},
	{name: "fdb row to nobody", node: "node1", path: "client web-2", cause: "fdb-wrong-dst", at: "node1", leg: "request",
		breaks: "bridge fdb replace $MAC dev flannel.1 dst 172.31.251.99 self permanent", mends: "bridge fdb replace $MAC dev flannel.1 dst $IP self permanent"},
	{name: "neighbour of another VTEP", node: "node1", path: "client web-2", cause: "neigh-wrong-mac", at: "node1", leg: "request",
		breaks: "ip neigh replace $VTEP lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent", mends: "ip neigh replace $VTEP lladdr $MAC dev flannel.1 nud permanent"},
	{name: "tunnel filtered on arrival", node: "node2", path: "client web-2", cause: "vxlan-port-input-drop", at: "node2", leg: "request",
		breaks: "iptables -I INPUT -p udp --dport 8472 -j DROP", mends: "iptables -D INPUT -p udp --dport 8472 -j DROP"},
	{name: "forwarding off", node: "node2", path: "client web-2", cause: "ip-forward-off", at: "node2", leg: "request",
		breaks: "sysctl -qw net.ipv4.ip_forward=0", mends: "sysctl -qw net.ipv4.ip_forward=1"},
	{name: "route lost on the way back", node: "node2", path: "client web-2", cause: "route-missing", at: "node2", leg: "reply",
		breaks: "ip route del $PEERCIDR", mends: "ip route replace $PEERCIDR via $PEERVTEP dev flannel.1 onlink"},
	{name: "masquerade between pods", node: "node1", path: "client web-2", cause: "masq-pod-to-pod", at: "node1", leg: "request",
		breaks: "iptables -t nat -I POSTROUTING -s 10.244.0.0/16 -d $POD -j MASQUERADE", mends: "iptables -t nat -D POSTROUTING -s 10.244.0.0/16 -d $POD -j MASQUERADE"},
	{name: "policy drops on one node", node: "node1", path: "client web-1", cause: "netpol-drop", at: "node1", leg: "request",
		breaks: "iptables -I FORWARD -d $WEB1 -j DROP", mends: "iptables -D FORWARD -d $WEB1 -j DROP"},
	{name: "service without endpoints", path: "client svc/nobody", cause: "service-no-endpoints", at: "node1", leg: "request"},
}

// put breaks the node, and mends it when the test ends.
func (f fault) put(t *testing.T) {
	t.Helper()
	if f.breaks == "" {
		return // it is there already
	}
	vars := variables(t)
	onNode(t, f.node, vars+f.breaks)
	t.Cleanup(func() { onNode(t, f.node, vars+f.mends) })
}

// found wants the verdict to be this fault, and where it is.
func (f fault) found(t *testing.T, r report, status int) {
	t.Helper()
	if status != 1 || r.Verdict.Cause != f.cause || r.Verdict.Node != f.at || r.Verdict.Leg != f.leg {
		t.Errorf("exit status %d, want 1; %+v, want %s on %s, %s leg", status, r.Verdict, f.cause, f.at, f.leg)
	}
	t.Logf("%s: %s", r.Verdict.Cause, r.Verdict.Summary)
}

// TestFaults breaks a node, wants the fault found where it is, and after it is mended the path healthy again.
func TestFaults(t *testing.T) {
	setProxyMode(t, "iptables")
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			trace := onNodes(t)
			if f.breaks != "" {
				t.Cleanup(func() { // runs after the mending
					r, status := trace(strings.Fields(f.path)...)
					healthy(t, "mended", r, status)
				})
			}
			f.put(t)
			r, status := trace(strings.Fields(f.path)...)
			f.found(t, r, status)
		})
	}
}

// variables sets shell variables to what faults are made of.
func variables(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for name, command := range map[string][2]string{
		"MAC":      {"node2", "cat /sys/class/net/flannel.1/address"},
		"VTEP":     {"node2", "ip -4 -o addr show flannel.1 | awk '{split($4,a,\"/\"); print a[1]}'"},
		"IP":       {"node2", "ip -4 -o addr show eth0 | awk '{split($4,a,\"/\"); print a[1]}'"},
		"PEERVTEP": {"node1", "ip -4 -o addr show flannel.1 | awk '{split($4,a,\"/\"); print a[1]}'"},
		"PEERCIDR": {"node1", "ip -4 route show dev cni0 | awk '{print $1; exit}'"},
	} {
		out.WriteString(name + "=" + strings.TrimSpace(onNode(t, command[0], command[1])) + "\n")
	}
	out.WriteString("POD=" + podIP(t, "web-2") + "\nWEB1=" + podIP(t, "web-1") + "\n")
	return out.String()
}
