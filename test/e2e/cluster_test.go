package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/test/e2e/cluster"
)

// TestCluster holds the cluster to what a cluster is, before podtrace is asked about it.
func TestCluster(t *testing.T) {
	var nodes struct {
		Items []struct {
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Spec   struct{ PodCIDR string }
			Status struct {
				NodeInfo struct{ KubeletVersion, ContainerRuntimeVersion string }
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "nodes", "-o", "json")), &nodes); err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != len(kube.Nodes) {
		t.Fatalf("%d nodes, want %d", len(nodes.Items), len(kube.Nodes))
	}
	for _, n := range nodes.Items {
		if n.Metadata.Annotations["flannel.alpha.coreos.com/backend-type"] != "vxlan" || n.Spec.PodCIDR == "" {
			t.Errorf("%s: flanneld has announced nothing: %+v", n.Metadata.Name, n)
		}
		t.Logf("%s: kubelet %s, %s", n.Metadata.Name, n.Status.NodeInfo.KubeletVersion, n.Status.NodeInfo.ContainerRuntimeVersion)
	}
	for _, pod := range []string{"web-1", "web-2"} {
		if got := kubectl(t, "exec", "client", "--", "/testpod", "get", "http://"+podIP(t, pod)+":8080"); got != pod {
			t.Errorf("client asks %s, and %q answers", pod, got)
		}
	}
	for _, mode := range []string{"nftables", "iptables"} {
		setProxyMode(t, mode)
		ip := kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		if got := kubectl(t, "exec", "client", "--", "/testpod", "get", "http://"+ip); !strings.HasPrefix(got, "web-") {
			t.Errorf("%s: client asks service web, and %q answers", mode, got)
		}
	}
}

func podIP(t *testing.T, pod string) string {
	t.Helper()
	return kubectl(t, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
}

// setProxyMode lets every node's kube-proxy write its rules by other means, and waits until a service works by them.
func setProxyMode(t *testing.T, mode string) {
	t.Helper()
	has, hasNot := "KUBE-SVC-", "table ip kube-proxy"
	if mode == "nftables" {
		has, hasNot = hasNot, has
	}
	ip := kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	for _, node := range kube.Nodes {
		if err := kube.SetProxyMode(t.Context(), node, mode); err != nil {
			t.Fatal(err)
		}
		eventually(t, node+": rules of "+mode, func() error {
			rules := onNode(t, node, "nft list ruleset")
			if !strings.Contains(rules, has) || !strings.Contains(rules, ip) || strings.Contains(rules, hasNot) {
				return fmt.Errorf("want %q and %s, and not %q", has, ip, hasNot)
			}
			return nil
		})
	}
}

// TestDownAfterKill: whoever brings a cluster up may die at any moment, and Down finds all that there is.
func TestDownAfterKill(t *testing.T) {
	const dir = "/var/lib/podtrace-e2e-killed"
	t.Cleanup(func() {
		if err := cluster.Down(dir); err != nil {
			t.Error(err)
		}
	})
	for _, after := range []time.Duration{10, 50, 200, 500, 4000} {
		cmd := exec.CommandContext(t.Context(), "bin/e2e", "-dir="+dir, "-bin=bin", "up")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		traces, err := (&cluster.Cluster{Dir: dir}).Traces()
		if err != nil && !errors.Is(err, os.ErrNotExist) && after > 200 {
			t.Fatal(err)
		}
		for range 2 { // the second finds nothing, and is content
			if err := cluster.Down(dir); err != nil {
				t.Fatal(err)
			}
		}
		if left := leftovers(traces); err == nil && len(left) > 0 {
			t.Errorf("killed after %d ms: left over:\n%s", after, strings.Join(left, "\n"))
		}
	}
}

// leftovers gives whoever inherits a killed process two seconds to reap it.
func leftovers(t cluster.Traces) []string {
	left := cluster.Leftovers(t)
	for deadline := time.Now().Add(2 * time.Second); len(left) > 0 && time.Now().Before(deadline); left = cluster.Leftovers(t) {
		time.Sleep(50 * time.Millisecond)
	}
	return left
}
