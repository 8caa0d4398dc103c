// Package cluster brings up a real Kubernetes cluster on one machine and takes it down again: etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler on a machine of their own, and nodes with
// containerd, kubelet, kube-proxy and flanneld. A machine is a set of namespaces (net, mount, pid, uts, ipc,
// cgroup) with an overlay of the host's root file system, so that every program runs unchanged.
//
// The host's own network, mounts and sysctls are not touched. All that is made is below one folder, one cgroup of
// each hierarchy and the processes in it, which is how Down finds it, whoever was killed in between.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// DefaultDir is where a cluster keeps its files while it is up. Its file system must be one that an overlay
// can be on (ext4, xfs, tmpfs; not another overlay).
const DefaultDir = "/var/lib/podtrace-e2e"

// Config says what to bring up.
type Config struct {
	Dir    string        // of the cluster's files; must not exist
	Bin    string        // folder with the programs that Debian does not have: kubelet, flanneld, …
	Images []string      // image archives that every node imports
	Nodes  int           // how many, named node1, node2, …
	Proxy  string        // kube-proxy's mode: "iptables" or "nftables"
	Wait   time.Duration // at most, until all nodes are ready
}

// Cluster is one that is up.
type Cluster struct {
	Dir     string
	Bin     string
	Nodes   []string
	Started time.Time
}

// Control is the machine of the control plane. Its network namespace has the switch between the nodes, and is
// where an administrator's own programs run.
const Control = "control"

// Addresses of the machines: control is subnet + "1", nodeN subnet + (10+N).
const (
	subnet      = "172.31.251."
	podCIDR     = "10.244.0.0/16"
	serviceCIDR = "10.96.0.0/16"
	apiServer   = subnet + "1"
)

func nodeAddr(i int) string { return fmt.Sprintf("%s%d", subnet, 11+i) }

// Up brings a cluster up and returns when all its nodes are ready. What it made until an error stays, for a
// look at its logs, until Down.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	if _, err := os.Stat(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s exists: a cluster is up, or what is left of one", cfg.Dir)
	}
	c := &Cluster{Dir: cfg.Dir, Bin: cfg.Bin, Started: time.Now()}
	for i := range cfg.Nodes {
		c.Nodes = append(c.Nodes, fmt.Sprintf("node%d", i+1))
	}
	groups, err := hierarchies(filepath.Base(cfg.Dir))
	if err != nil {
		return nil, err
	}
	if err := c.save(groups); err != nil {
		return nil, err
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	if err := c.writeControl(ca); err != nil {
		return nil, err
	}
	if err := c.start(ctx, Control, groups, controlProcesses()); err != nil {
		return nil, err
	}
	for i, name := range c.Nodes {
		if err := c.writeNode(ca, name, nodeAddr(i), cfg.Proxy); err != nil {
			return nil, err
		}
		if err := c.start(ctx, name, groups, nodeProcesses(name, cfg.Images)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Wait)
	defer cancel()
	return c, c.ready(ctx)
}

// ready waits for the API server, lets flanneld in, and waits for the nodes.
func (c *Cluster) ready(ctx context.Context) error {
	if err := c.retry(ctx, "API server", "kubectl", "get", "--raw", "/readyz"); err != nil {
		return err
	}
	if err := c.retry(ctx, "flanneld's rights", "kubectl", "apply", "-f", c.path(Control, "flannel-role.yaml")); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := c.retry(ctx, "registration of "+n, "kubectl", "get", "node", n); err != nil {
			return err
		}
	}
	if err := c.retry(ctx, "ready nodes", "kubectl", "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"); err != nil {
		return err
	}
	// the controller makes it a moment after the namespace, and pods are refused until then
	return c.retry(ctx, "the default service account", "kubectl", "get", "serviceaccount", "default")
}

// retry runs a command on the control plane's network until it succeeds.
func (c *Cluster) retry(ctx context.Context, what string, args ...string) error {
	for {
		out, err := c.Command(ctx, args...).CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %s (logs are in %s)", what, err, bytes.TrimSpace(out), c.path("*", "log"))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Command prepares a command of the administrator: on the host's files, in the network namespace of the control
// plane, with the cluster's programs in PATH and KUBECONFIG set.
func (c *Cluster) Command(ctx context.Context, args ...string) *exec.Cmd {
	pid, err := c.PID(Control)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", pid), "--"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig("admin"), "PATH="+c.Bin+":"+os.Getenv("PATH"))
	cmd.Err = errors.Join(cmd.Err, err)
	return cmd
}

// Exec prepares a command that runs on a machine, in all of its namespaces.
func (c *Cluster) Exec(ctx context.Context, machine string, args ...string) *exec.Cmd {
	pid, err := c.PID(machine)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", fmt.Sprint(pid), "-m", "-u", "-i", "-n", "-p", "-C", "--"}, args...)...)
	cmd.Env = []string{"PATH=" + nodePath, "HOME=/root", "CONTAINER_RUNTIME_ENDPOINT=unix:///run/containerd/containerd.sock"}
	cmd.Err = errors.Join(cmd.Err, err)
	return cmd
}

// Kubeconfig gives the path of a user's kubeconfig; "admin" is the one that always exists.
func (c *Cluster) Kubeconfig(user string) string { return c.path(user + ".kubeconfig") }

// PID gives the process on the host that is process 1 of a machine.
func (c *Cluster) PID(machine string) (int, error) {
	text, err := os.ReadFile(c.path(machine, "pid"))
	if err != nil {
		return 0, fmt.Errorf("machine %q: %w", machine, err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return 0, fmt.Errorf("machine %q: process id: %w", machine, err)
	}
	// the number may be another's by now
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(groups), "/"+filepath.Base(c.Dir)+"/"+machine) {
		return 0, fmt.Errorf("machine %q is not running", machine)
	}
	return pid, nil
}

func (c *Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.Dir}, parts...)...)
}

// state is what Open and Down read.
type state struct {
	Cluster
	Hierarchies []hierarchy
}

func (c *Cluster) save(groups []hierarchy) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(state{*c, groups})
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("state.json"), text, 0o600)
}

func load(dir string) (state, error) {
	var s state
	text, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

// Open finds a cluster that is up.
func Open(dir string) (*Cluster, error) {
	s, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("no cluster in %s: %w", dir, err)
	}
	for _, m := range append([]string{Control}, s.Nodes...) {
		if _, err := s.PID(m); err != nil {
			return nil, err
		}
	}
	return &s.Cluster, nil
}

// Down ends every process of the cluster in dir and removes its cgroups and files. Mounts and namespaces go with the
// processes. It does the same for what a killed Up or Down left, and nothing where there is nothing.
func Down(dir string) error {
	s, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// killed before the state was written, or after it was removed: the names are still known
		s.Hierarchies, err = hierarchies(filepath.Base(dir))
	}
	if err != nil {
		return err
	}
	for _, h := range s.Hierarchies {
		if err := h.kill(10 * time.Second); err != nil {
			return err
		}
	}
	for _, h := range s.Hierarchies {
		if err := h.remove(10 * time.Second); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}
