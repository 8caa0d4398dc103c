package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podtrace/podtrace/test/e2e/image"
)

// user is somebody who runs kubectl podtrace from outside of the nodes.
type user struct {
	name string
	args []string // that this user always gives
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

// start prepares kubectl podtrace with the image that was made on the spot.
func (u user) command(args ...string) *exec.Cmd {
	line := append([]string{"kubectl", "podtrace"}, args...)
	line = append(line, u.args...)
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--image=") }) && args[0] == "path" {
		line = append(line, "--image="+image.Podtrace, "--image-pull-policy=Never")
	}
	cmd := kube.Command(context.Background(), line...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+kube.Kubeconfig(u.name))
	return cmd
}

// path runs kubectl podtrace path and reads its report, if it printed one.
func (u user) path(t *testing.T, args ...string) result {
	t.Helper()
	cmd := u.command(append([]string{"path", "-o", "json"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
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
			"client web-2", "client web-1", "client deploy/shop", "client svc/web", "client svc/web-udp:53", "client svc/headless",
			"client node/node2:30080", "client node/node2:9090", "client web-2 --probe tcp:8080",
		} {
			t.Run(u.name+" "+args, func(t *testing.T) {
				r := u.path(t, strings.Fields(args)...)
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

func TestPluginFaults(t *testing.T) {
	setProxyMode(t, "iptables")
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			f.put(t)
			r := admin.path(t, strings.Fields(f.path)...)
			f.found(t, r.report, r.status)
		})
	}
	nothingLeft(t)
}

// TestPluginTime: from Enter to the verdict, the best of three.
func TestPluginTime(t *testing.T) {
	best := func(args ...string) time.Duration {
		took := time.Hour
		for range 3 {
			r := admin.path(t, append([]string{"client", "web-2"}, args...)...)
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

// watching starts a run that watches for long, and returns when its agents run.
func watching(t *testing.T, out *bytes.Buffer) *exec.Cmd {
	t.Helper()
	cmd := admin.command("path", "client", "web-2", "--probe=none", "--timeout=20s", "-v")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "agents", func() error {
		running := kubectl(t, "get", "pods", "-A", "-l", "app.kubernetes.io/managed-by=podtrace", "--field-selector=status.phase=Running", "-o", "name")
		if n := strings.Count(running, "\n"); n != 2 {
			return fmt.Errorf("%d agents run", n)
		}
		return nil
	})
	time.Sleep(time.Second) // in the middle of the capture
	return cmd
}

func TestPluginInterrupted(t *testing.T) {
	t.Run("Ctrl-C", func(t *testing.T) {
		var out bytes.Buffer
		cmd := watching(t, &out)
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // its exit status is looked at
		if got := cmd.ProcessState.ExitCode(); got != 3 {
			t.Errorf("exit status %d, want 3: %s", got, out.String())
		}
		nothingLeft(t)
	})
	t.Run("kill -9", func(t *testing.T) {
		var out bytes.Buffer
		cmd := watching(t, &out)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		// nobody is left to delete the pods: the agents end by themselves, and the next run removes what they leave
		eventually(t, "agents of a dead client run on", func() error {
			pods := kubectl(t, "get", "pods", "-A", "-l", "app.kubernetes.io/managed-by=podtrace", "--field-selector=status.phase=Running", "-o", "name")
			if pods != "" {
				return fmt.Errorf("running: %s", pods)
			}
			return noProcess(t)
		})
		r := admin.path(t, "client", "web-2")
		healthy(t, r.stderr, r.report, r.status)
		nothingLeft(t)
	})
	t.Run("agent killed", func(t *testing.T) {
		var out bytes.Buffer
		cmd := watching(t, &out)
		onNode(t, "node2", "pkill -9 -x podtrace")
		_ = cmd.Wait() // its exit status is looked at
		if got := cmd.ProcessState.ExitCode(); got == 0 || !strings.Contains(out.String(), "node2") {
			t.Errorf("exit status %d: %s", got, out.String())
		}
		nothingLeft(t)
	})
}

func TestPluginRefused(t *testing.T) {
	kubectl(t, "create", "namespace", "locked")
	kubectl(t, "label", "namespace", "locked", "pod-security.kubernetes.io/enforce=restricted")
	t.Cleanup(func() { _ = kube.Command(context.Background(), "kubectl", "delete", "namespace", "locked").Run() })
	if err := kube.AddUser("stranger"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		user user
		args []string
		want []string // of what it says
	}{
		{"PodSecurity", admin, []string{"client", "web-2", "--agent-namespace=locked"},
			[]string{"kubectl label", "namespace locked", "pod-security.kubernetes.io/enforce=privileged"}},
		{"no image", admin, []string{"client", "web-2", "--image=podtrace.dev/e2e/nowhere:1", "--agent-timeout=8s"}, []string{"podtrace.dev/e2e/nowhere:1"}},
		{"no rights", user{name: "stranger"}, []string{"client", "web-2"}, []string{"get", "pods", "stranger"}},
		{"no such pod", admin, []string{"client", "nobody-1"}, []string{`"nobody-1"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := c.user.path(t, c.args...)
			if r.status != 2 {
				t.Errorf("exit status %d, want 2: %+v", r.status, r.Verdict)
			}
			for _, w := range c.want {
				if !strings.Contains(r.stderr, w) {
					t.Errorf("%q is not in %s", w, r.stderr)
				}
			}
			t.Log(r.stderr)
		})
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
	eventually(t, "node2 is not ready", ready("Unknown"))
	r := admin.path(t, "client", "web-2", "--agent-timeout=8s")
	if r.status == 0 || !strings.Contains(r.stderr+r.stdout, "node2") || !strings.Contains(strings.ToLower(r.stderr+r.stdout), "ready") {
		t.Errorf("exit status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	t.Logf("exit status %d after %.1f s: %s: %s", r.status, r.took.Seconds(), r.Verdict.Summary, r.stderr)
}
