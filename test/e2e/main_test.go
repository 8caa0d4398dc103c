// Package e2e is the suite that runs podtrace on a real cluster, which it brings up and takes down.
//
// With E2E_KEEP set it takes the cluster that is up already, and leaves it. E2E_NODES says how many nodes to bring up, 2 if
// it does not.
package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/test/e2e/cluster"
	"github.com/podtrace/podtrace/test/e2e/image"
)

// kube is the cluster of all tests.
var kube *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.Main()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if os.Getuid() != 0 {
		return 0, fmt.Errorf("a cluster needs root")
	}
	if err := bringUp(context.Background()); err != nil {
		return 0, err
	}
	code = m.Run()
	if os.Getenv("E2E_KEEP") != "" {
		return code, nil
	}
	traces, err := kube.Traces()
	if err != nil {
		return code, err
	}
	start := time.Now()
	if err := cluster.Down(kube.Dir); err != nil {
		return code, err
	}
	fmt.Printf("down after %.1f s\n", time.Since(start).Seconds())
	if left := leftovers(traces); len(left) > 0 {
		return code, fmt.Errorf("left over:\n%s", strings.Join(left, "\n"))
	}
	return code, nil
}

func bringUp(ctx context.Context) (err error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	if os.Getenv("E2E_KEEP") != "" {
		if kube, err = cluster.Open(cluster.DefaultDir); err == nil {
			return apply(ctx, "testdata/workload.yaml")
		}
	}
	if err := cluster.Down(cluster.DefaultDir); err != nil {
		return err
	}
	nodes, err := strconv.Atoi(cmp.Or(os.Getenv("E2E_NODES"), "2"))
	if err != nil || nodes < 2 {
		return fmt.Errorf("E2E_NODES: want 2 or more nodes: %w", err)
	}
	kube, err = cluster.Up(ctx, cluster.Config{
		Dir: cluster.DefaultDir, Bin: bin, Images: image.Archives, Nodes: nodes, Proxy: "iptables", Wait: 2 * time.Minute,
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d nodes ready after %.1f s\n", len(kube.Nodes), time.Since(kube.Started).Seconds())
	return apply(ctx, "testdata/workload.yaml")
}

// apply creates objects and waits for their pods.
func apply(ctx context.Context, file string) error {
	for _, args := range [][]string{
		{"apply", "-f", file},
		{"wait", "--for=condition=Available", "deployments", "--all", "--timeout=60s"},
		{"rollout", "status", "daemonset/every", "--timeout=60s"},
		{"wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s"},
	} {
		if out, err := kube.Command(ctx, append([]string{"kubectl"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// kubectl runs it as the administrator and gives its standard output.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kube.Command(context.Background(), append([]string{"kubectl"}, args...)...).Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// onNode runs a shell command on a machine.
func onNode(t *testing.T, machine, command string) string {
	t.Helper()
	out, err := kube.Exec(context.Background(), machine, "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s: %v: %s", machine, command, err, out)
	}
	return string(out)
}

// eventually tries until f is content.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	eventuallyIn(t, 30*time.Second, what, f)
}

func eventuallyIn(t *testing.T, most time.Duration, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}
