package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/test/e2e/image"
)

// user is somebody who runs kubectl podtrace from outside of the nodes.
type user struct {
	name   string
	args   []string // that this user always gives
	config string   // a kubeconfig of another than the user's own
	path   string   // of a folder with programs that come first
}

var (
	admin  = user{name: "admin"}
	tracer = user{name: "tracer", args: []string{"--agent-namespace=podtrace"}}
)

// result is what a run printed, and how it ended.
type result struct {
	report
	status         int
	stdout, stderr string
	took           time.Duration
}

// command prepares kubectl podtrace with the image that was made on the spot.
func (u user) command(args ...string) *exec.Cmd {
	line := append([]string{"kubectl", "podtrace"}, args...)
	line = append(line, u.args...)
	agents := args[0] == "path" && !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--image=") || strings.HasPrefix(a, "--via=") })
	if agents {
		line = append(line, "--image="+image.Podtrace, "--image-pull-policy=Never")
	}
	cmd := kube.Command(context.Background(), line...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+cmp.Or(u.config, kube.Kubeconfig(u.name)))
	if u.path != "" {
		cmd.Env = append(cmd.Env, "PATH="+u.path+":"+kube.Bin+":"+os.Getenv("PATH"))
	}
	return cmd
}

// trace runs kubectl podtrace path and reads its report, if it printed one.
func (u user) trace(t *testing.T, args ...string) result {
	t.Helper()
	return outcome(t, u.command(append([]string{"path", "-o", "json"}, args...)...))
}

// outcome runs a command that prints a report.
func outcome(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	r := result{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &r.report); err != nil {
			t.Fatalf("%v: %s", err, stdout.String())
		}
	}
	return r
}

// nothingLeft wants no pod of podtrace's and none of its processes, soon.
func nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, "left over", func() error {
		if pods := kubectl(t, "get", "pods", "-A", "-l", "app.kubernetes.io/managed-by=podtrace", "-o", "name"); pods != "" {
			return fmt.Errorf("pods: %s", pods)
		}
		return noProcess(t)
	})
}

// noProcess wants no agent to run on any node. Process 1 of a node has a name of the same beginning.
func noProcess(t *testing.T) error {
	t.Helper()
	for _, node := range kube.Nodes {
		if p := onNode(t, node, "pgrep -a -x podtrace || true"); p != "" {
			return fmt.Errorf("processes on %s: %s", node, p)
		}
	}
	return nil
}

// enroll gives tracer the rights of deploy/ and nothing else.
func enroll(t *testing.T) {
	t.Helper()
	if err := kube.AddUser(tracer.name); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", "../../deploy/podtrace.yaml")
	for _, args := range [][]string{
		{"create", "clusterrolebinding", "podtrace", "--clusterrole=podtrace", "--user=tracer"},
		{"create", "rolebinding", "podtrace-agents", "-n", "podtrace", "--role=podtrace-agents", "--user=tracer"},
	} {
		kubectl(t, append(args, "--save-config")...)
		t.Cleanup(func() {
			_ = kube.Command(context.Background(), "kubectl", "delete", args[1], args[2], "-n", "podtrace").Run()
		})
	}
}

func TestPluginHealthy(t *testing.T) {
	enroll(t)
	for _, u := range []user{admin, tracer} {
		for _, args := range []string{
			"client web-2", "client web-1", "client deploy/shop", "deploy/shop web-1", "client svc/web", "client svc/web-local",
			"client svc/web-udp:53", "client svc/headless", "client node/node2:30080", "client node/node2:9090", "client web-2 --probe tcp:8080",
		} {
			t.Run(u.name+" "+args, func(t *testing.T) {
				r := u.trace(t, strings.Fields(args)...)
				healthy(t, r.stderr, r.report, r.status)
				if r.stderr != "" {
					t.Errorf("beside the report it says %q", r.stderr)
				}
				t.Logf("%.1f s", r.took.Seconds())
			})
		}
	}
	nothingLeft(t)
}

// TestPluginEveryNode traces from each node to each other, and looks that no further one is touched.
func TestPluginEveryNode(t *testing.T) {
	on := map[string]string{} // pods, by node
	const path = "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name}{\"\\n\"}{end}"
	for line := range strings.Lines(kubectl(t, "get", "pods", "-l", "app=every", "-o", path)) {
		node, pod, _ := strings.Cut(strings.TrimSpace(line), " ")
		on[node] = pod
	}
	for _, a := range kube.Nodes {
		for _, b := range kube.Nodes {
			if a == b {
				continue
			}
			t.Run(a+" "+b, func(t *testing.T) {
				r := admin.trace(t, on[a], on[b], "-v")
				healthy(t, r.stderr, r.report, r.status)
				if n := strings.Count(r.stderr, "starting an agent"); n != 2 || !strings.Contains(r.stderr, a) || !strings.Contains(r.stderr, b) {
					t.Errorf("%d agents: %s", n, r.stderr)
				}
			})
		}
	}
	nothingLeft(t)
}

func TestPluginFaults(t *testing.T) {
	setProxyMode(t, "iptables")
	enroll(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			f.put(t)
			for _, u := range []user{admin, tracer} {
				r := u.trace(t, strings.Fields(f.path)...)
				f.found(t, r.report, r.status)
			}
		})
	}
	nothingLeft(t)
}

// TestPluginTime: from Enter to the verdict, the best of three.
func TestPluginTime(t *testing.T) {
	best := func(args ...string) time.Duration {
		took := time.Hour
		for range 3 {
			r := admin.trace(t, append([]string{"client", "web-2"}, args...)...)
			healthy(t, r.stderr, r.report, r.status)
			took = min(took, r.took)
		}
		return took
	}
	load, _ := os.ReadFile("/proc/loadavg")
	cold, kept := best(), best("--keep")
	t.Logf("agents started: %.2f s; agents kept: %.2f s; load %s", cold.Seconds(), kept.Seconds(), load)
	if cold > 5*time.Second {
		t.Errorf("%.1f s with the image on the nodes, want less than 5", cold.Seconds())
	}
	if kept > 1500*time.Millisecond {
		t.Errorf("%.1f s with agents that are there, want less than 1.5", kept.Seconds())
	}
	if out, err := admin.command("cleanup").CombinedOutput(); err != nil {
		t.Errorf("cleanup: %v: %s", err, out)
	}
	nothingLeft(t)
}

// TestPluginNodeNotReady: where a kubelet is gone, no agent starts, and the report is what the other node saw.
func TestPluginNodeNotReady(t *testing.T) {
	ready := func(want string) func() error {
		return func() error {
			got := kubectl(t, "get", "node", "node2", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
			if (got == "True") != (want == "True") {
				return fmt.Errorf("Ready is %q", got)
			}
			return nil
		}
	}
	if err := kube.Signal(t.Context(), "node2", "kubelet", "STOP"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kube.Signal(context.Background(), "node2", "kubelet", "CONT"); err != nil {
			t.Error(err)
		}
		eventually(t, "node2 is back", ready("True"))
		eventually(t, "endpoints are back", func() error {
			const path = `jsonpath={range .items[*].endpoints[*]}{.conditions.ready} {end}`
			if got := kubectl(t, "get", "endpointslices", "-l", "kubernetes.io/service-name in (web,web-udp,web-node,web-local,web-affine)", "-o", path); strings.Contains(got, "false") {
				return fmt.Errorf("ready: %s", got)
			}
			return nil
		})
		nothingLeft(t)
	})
	// for a while nobody knows, and the agent there just does not start
	late := admin.trace(t, "client", "web-2", "--agent-timeout=3s")
	if late.status != 3 || !strings.Contains(late.Verdict.Summary, `node "node2"`) || !strings.Contains(late.Verdict.Summary, "it took too long") || late.took > 8*time.Second {
		t.Errorf("exit status %d after %.1f s: %s%s", late.status, late.took.Seconds(), late.stdout, late.stderr)
	}
	t.Logf("exit status %d after %.1f s: %s: %s", late.status, late.took.Seconds(), late.Verdict.Summary, late.stderr)
	eventually(t, "node2 is not ready", ready("Unknown"))
	r := admin.trace(t, "client", "web-2", "--agent-timeout=8s")
	if r.status == 0 || !strings.Contains(r.stderr+r.stdout, "node2") || !strings.Contains(strings.ToLower(r.stderr+r.stdout), "ready") {
		t.Errorf("exit status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	t.Logf("exit status %d after %.1f s: %s: %s", r.status, r.took.Seconds(), r.Verdict.Summary, r.stderr)
}
