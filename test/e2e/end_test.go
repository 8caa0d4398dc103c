package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podtrace/podtrace/test/e2e/cluster"
)

const agentSelector = "app.kubernetes.io/managed-by=podtrace"

// agentsIn lists the agents' pods of a phase, "" for all.
func agentsIn(t *testing.T, phase string) []string {
	t.Helper()
	args := []string{"get", "pods", "-A", "-l", agentSelector, "-o", "name"}
	if phase != "" {
		args = append(args, "--field-selector=status.phase="+phase)
	}
	return strings.Fields(kubectl(t, args...))
}

// watching starts a run that watches for long, and returns when it does.
func watching(t *testing.T, u user, out *bytes.Buffer, args ...string) *exec.Cmd {
	t.Helper()
	cmd := u.command(append([]string{"path", "client", "web-2", "--probe=none", "--timeout=10s", "-v"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "sessions", func() error {
		for _, node := range []string{"node1", "node2"} {
			if onNode(t, node, "pgrep -f 'podtrace agent$' || true") == "" {
				return fmt.Errorf("none on %s", node)
			}
		}
		return nil
	})
	time.Sleep(time.Second) // in the middle of the capture
	return cmd
}

// interrupt sends a signal and gives the exit status and how long that took.
func interrupt(t *testing.T, cmd *exec.Cmd, s os.Signal) (int, time.Duration) {
	t.Helper()
	begin := time.Now()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its exit status is looked at
	return cmd.ProcessState.ExitCode(), time.Since(begin)
}

func TestPluginInterrupted(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(s.String(), func(t *testing.T) {
			var out bytes.Buffer
			status, took := interrupt(t, watching(t, admin, &out), s)
			if status != 3 || took > 3*time.Second || !strings.Contains(out.String(), "? interrupted: packets") {
				t.Errorf("exit status %d after %s, want 3: %s", status, took, out.String())
			}
			nothingLeft(t)
		})
	}
	t.Run("at any moment", func(t *testing.T) {
		for wait := 100 * time.Millisecond; wait <= 2*time.Second; wait += 190 * time.Millisecond {
			var stdout, stderr bytes.Buffer
			cmd := admin.command("path", "client", "web-2")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(wait)
			_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
			_ = cmd.Wait()
			status := cmd.ProcessState.ExitCode()
			t.Logf("after %s: exit status %d: %s", wait, status, strings.TrimSpace(stderr.String()))
			switch {
			case status == 0, status == 3 && stdout.Len() > 0 && stderr.Len() == 0:
			case status == 2 && stdout.Len() == 0 && stderr.String() == "podtrace: error: interrupted\n":
			case status == -1 && stderr.Len() == 0: // it was not podtrace yet, but kubectl or nsenter
			default:
				t.Errorf("after %s: exit status %d: %s%s", wait, status, stdout.String(), stderr.String())
			}
		}
		nothingLeft(t)
	})
	t.Run("nobody reads", func(t *testing.T) {
		for _, script := range []string{`"$@" -v 2>&1 | head -1`, `"$@" -o json | head -1`} {
			cmd := admin.command("path", "client", "web-2")
			cmd.Args = append([]string{cmd.Args[0], cmd.Args[1], "--", "sh", "-c", script, "sh"}, cmd.Args[3:]...)
			out, err := cmd.Output()
			if err != nil || strings.Count(string(out), "\n") != 1 {
				t.Errorf("%s: %v: %s", script, err, out)
			}
			nothingLeft(t)
		}
	})
	t.Run("agent killed", func(t *testing.T) {
		var out bytes.Buffer
		cmd := watching(t, admin, &out)
		onNode(t, "node2", "pkill -9 -x podtrace")
		_ = cmd.Wait() // its exit status is looked at
		if got := cmd.ProcessState.ExitCode(); got != 3 || !strings.Contains(out.String(), `node "node2": the agent ended`) {
			t.Errorf("exit status %d: %s", got, out.String())
		}
		nothingLeft(t)
	})
	t.Run("agent's pod deleted", func(t *testing.T) {
		var out bytes.Buffer
		cmd := watching(t, admin, &out)
		kubectl(t, "delete", "pods", "-n", "kube-system", "-l", agentSelector, "--wait=false")
		_ = cmd.Wait() // its exit status is looked at
		if got := cmd.ProcessState.ExitCode(); got == 0 || !strings.Contains(out.String(), "the agent ended") {
			t.Errorf("exit status %d: %s", got, out.String())
		}
		nothingLeft(t)
	})
}

// alone wants all agents to have ended by themselves.
func alone(t *testing.T) {
	t.Helper()
	eventuallyIn(t, time.Minute, "agents of a dead client run on", func() error {
		if pods := agentsIn(t, "Running"); len(pods) > 0 {
			return fmt.Errorf("running: %s", pods)
		}
		return noProcess(t)
	})
}

// reap removes what is left of agents that ended, in one of the two ways.
func reap(t *testing.T, how string) {
	t.Helper()
	if how == "cleanup" {
		out, err := admin.command("cleanup").CombinedOutput()
		if err != nil || strings.Count(string(out), " removed\n") != 2 {
			t.Errorf("cleanup: %v: %s", err, out)
		}
	} else {
		r := admin.trace(t, "client", "web-2")
		healthy(t, r.stderr, r.report, r.status)
	}
	nothingLeft(t)
}

// TestPluginKilled: nobody is left to delete the pods. The agents end by themselves, and what remains is removed later.
func TestPluginKilled(t *testing.T) {
	for _, how := range []string{"next run", "cleanup"} {
		t.Run(how, func(t *testing.T) {
			var out bytes.Buffer
			interrupt(t, watching(t, admin, &out), syscall.SIGKILL)
			begin := time.Now()
			alone(t)
			t.Logf("ended by themselves within %.1f s", time.Since(begin).Seconds())
			reap(t, how)
		})
	}
	t.Run("with agents that are kept", func(t *testing.T) {
		var out bytes.Buffer
		interrupt(t, watching(t, admin, &out, "--keep"), syscall.SIGKILL)
		eventually(t, "sessions of a dead client", func() error {
			for _, node := range kube.Nodes {
				if p := onNode(t, node, "pgrep -a -f 'podtrace agent$' || true"); p != "" {
					return fmt.Errorf("on %s: %s", node, p)
				}
			}
			return nil
		})
		if pods := agentsIn(t, "Running"); len(pods) != 2 {
			t.Errorf("kept agents: %s", pods)
		}
		// nobody comes back to them: the kubelet ends them when their time is over
		for _, pod := range agentsIn(t, "Running") {
			kubectl(t, "patch", "-n", "kube-system", pod, "--type=merge", "-p", `{"spec":{"activeDeadlineSeconds":5}}`)
		}
		alone(t)
		if reason := kubectl(t, "get", "pods", "-A", "-l", agentSelector, "-o", "jsonpath={.items[*].status.reason}"); reason != "DeadlineExceeded DeadlineExceeded" {
			t.Errorf("they ended for %q", reason)
		}
		reap(t, "next run")
	})
}

// wire is a way to the API server that can be cut.
type wire struct {
	net.Listener
	mu     sync.Mutex
	conns  []net.Conn
	silent chan struct{} // closed: nothing passes any more, and nobody is told
}

// newWire listens where the administrator's commands run, and gives a user who comes that way.
func newWire(t *testing.T) (*wire, user) {
	t.Helper()
	l, err := kube.Listen()
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, silent: make(chan struct{})}
	t.Cleanup(w.cut)
	go w.serve()
	u := user{name: admin.name, config: filepath.Join(t.TempDir(), "config")}
	if err := kube.KubeconfigAt(u.name, "https://"+l.Addr().String(), u.config); err != nil {
		t.Fatal(err)
	}
	return w, u
}

func (w *wire) serve() {
	for {
		near, err := w.Accept()
		if err != nil {
			return
		}
		far, err := kube.Dial(context.Background(), "tcp", cluster.Server)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		for from, to := range map[net.Conn]net.Conn{near: far, far: near} {
			go func() {
				_, _ = io.Copy(gate{to, w.silent}, from)
				select {
				case <-w.silent:
				default:
					_ = to.Close()
				}
			}()
		}
	}
}

// gate lets nothing through once silent is closed, and does not say so.
type gate struct {
	net.Conn
	silent chan struct{}
}

func (g gate) Write(b []byte) (int, error) {
	select {
	case <-g.silent:
		return len(b), nil
	default:
		return g.Conn.Write(b)
	}
}

// cut ends all connections, and takes no more.
func (w *wire) cut() {
	_ = w.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
}

// TestPluginConnectionLost: the way to the API server breaks in the middle. The command ends soon and says so; agents end by
// themselves.
func TestPluginConnectionLost(t *testing.T) {
	for _, c := range []struct {
		name   string
		breaks func(*wire)
		soon   time.Duration // at most, until the command ends
		reaped string
	}{
		{"closed", (*wire).cut, 15 * time.Second, "cleanup"},
		{"silent", func(w *wire) { close(w.silent) }, 40 * time.Second, "next run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, u := newWire(t)
			var out bytes.Buffer
			cmd := watching(t, u, &out)
			begin := time.Now()
			c.breaks(w)
			_ = cmd.Wait() // its exit status is looked at
			took, status := time.Since(begin), cmd.ProcessState.ExitCode()
			if status != 2 && status != 3 || took > c.soon || !strings.Contains(out.String(), "could not be deleted") || !strings.Contains(out.String(), "podtrace cleanup") || strings.Contains(out.String(), "the others saw") {
				t.Errorf("exit status %d after %s: %s", status, took, out.String())
			}
			t.Logf("exit status %d after %.1f s: %s", status, took.Seconds(), out.String())
			begin = time.Now()
			alone(t)
			t.Logf("agents ended by themselves %.1f s later", time.Since(begin).Seconds())
			reap(t, c.reaped)
		})
	}
}
