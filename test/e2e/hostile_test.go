package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/test/e2e/image"
)

// refused wants exit status 2, no report, one line of error and a line of hint or more, with all of words in them.
func refused(t *testing.T, r result, words ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	if r.status != 2 || r.stdout != "" || !strings.HasPrefix(lines[0], "podtrace: error: ") || len(lines) < 2 {
		t.Errorf("exit status %d, want 2, an error and a hint: %s%s", r.status, r.stdout, r.stderr)
	}
	for _, l := range lines[1:] {
		if !strings.HasPrefix(l, "podtrace: hint: ") {
			t.Errorf("beside the error it says %q", l)
		}
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("%q is not in %s", w, r.stderr)
		}
	}
	t.Log("\n" + r.stderr)
}

// allow gives a user verbs on resources in the namespace of agents.
func allow(t *testing.T, u, verbs, resources string) {
	t.Helper()
	name := strings.ReplaceAll(u+"-"+resources, "/", "-")
	kubectl(t, "create", "role", name, "-n", "podtrace", "--verb="+verbs, "--resource="+resources)
	kubectl(t, "create", "rolebinding", name, "-n", "podtrace", "--role="+name, "--user="+u)
	t.Cleanup(func() {
		kubectl(t, "delete", "role", name, "-n", "podtrace")
		kubectl(t, "delete", "rolebinding", name, "-n", "podtrace")
	})
}

// TestPluginRefused: what can't be done is said at once, in a line, with a line on what to do; nothing is left behind.
func TestPluginRefused(t *testing.T) {
	eventually(t, "objects", func() error { // a namespace takes no pod before it has its service account
		out, err := kube.Command(t.Context(), "kubectl", "apply", "-f", "../../deploy/podtrace.yaml", "-f", "testdata/odd.yaml").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	t.Cleanup(func() {
		_ = kube.Command(context.Background(), "kubectl", "delete", "--wait=false", "-f", "testdata/odd.yaml").Run()
	})
	kubectl(t, "create", "clusterrolebinding", "readers", "--clusterrole=podtrace", "--user=maker", "--user=looker")
	t.Cleanup(func() { kubectl(t, "delete", "clusterrolebinding", "readers") })
	allow(t, "maker", "create,get,list,watch,delete", "pods") // and no pods/exec
	for _, name := range []string{"stranger", "looker", "maker"} {
		if err := kube.AddUser(name); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, "wait", "-n", "odd", "--for=jsonpath={.status.phase}=Succeeded", "pod/done", "--timeout=30s")
	kubectl(t, "wait", "-n", "odd", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull", "pod/noimage", "--timeout=30s")
	inAgents := []string{"--agent-namespace=podtrace"}
	const whole = "client web-2"
	for _, c := range []struct {
		name string
		user user
		args string
		want []string // of what it says
	}{
		{"PodSecurity", admin, whole + " --agent-namespace=locked", []string{
			`node "node1", node "node2": namespace "locked"`, "kubectl label", "namespace locked", "pod-security.kubernetes.io/enforce=privileged"}},
		{"quota", admin, whole + " --agent-namespace=full", []string{"exceeded quota", "--agent-namespace"}},
		{"image nowhere", admin, whole + " --image=podtrace.dev/e2e/nowhere:1", []string{`"podtrace.dev/e2e/nowhere:1"`, "ErrImagePull", "--image"}},
		{"image not on the nodes", admin, whole + " --image=podtrace.dev/e2e/nowhere:1 --image-pull-policy=Never", []string{"ErrImageNeverPull", "--image"}},
		{"image of no name", admin, whole + " --image=:::", []string{"InvalidImageName", "--image"}},
		{"image empty", admin, whole + " --image=", []string{"--image", "--help"}},
		{"image not podtrace's", admin, whole + " --image=" + image.TestPod + " --image-pull-policy=Never", []string{"/podtrace", "is --image " + image.TestPod}},
		{"image of another version", admin, whole + " --image=" + image.Old + " --image-pull-policy=Never", []string{`"v0.0.1"`, "use the same version"}},
		{"no rights", user{name: "stranger"}, whole, []string{"get", "pods", "stranger", "deploy/podtrace.yaml"}},
		{"right to read alone", user{name: "looker", args: inAgents}, whole, []string{`you may not create pods in namespace "podtrace"`, "--via ssh"}},
		{"no right to exec", user{name: "maker", args: inAgents}, whole, []string{`you may not create pods/exec in namespace "podtrace"`}},
		{"agents' namespace", admin, whole + " --agent-namespace=nowhere", []string{`"nowhere"`, "--agent-namespace"}},
		{"context", admin, whole + " --context=nowhere", []string{`"nowhere"`, "kubectl config view"}},
		{"kubeconfig", admin, whole + " --kubeconfig=/nowhere", []string{"/nowhere", "--kubeconfig"}},
		{"user", admin, whole + " --user=nobody", []string{`"nobody"`}},
		{"server", admin, whole + " --server=https://127.0.0.1:1", []string{"connection refused", "--context"}},
		{"namespace", admin, whole + " --namespace=odd", []string{`"odd"`, "did you mean default/"}},
		{"no such pod", admin, "client nobody-1", []string{`"nobody-1"`, "an endpoint is"}},
		{"no such deployment", admin, "client deploy/none", []string{`deployment "none"`}},
		{"no such service", admin, "client svc/none", []string{`service "none"`}},
		{"no such node", admin, "client node/none", []string{`node "none"`}},
		{"no such port", admin, "client svc/web:99", []string{`"99"`, "did you mean svc/web:80?"}},
		{"none of a deployment ready", admin, "odd/onhost deploy/broken -n odd", []string{`"broken"`, "kubectl get pods"}},
		{"pending", admin, "client odd/pending", []string{"is pending, not scheduled", "kubectl describe pod"}},
		{"waits for its image", admin, "client odd/noimage", []string{"is pending on node", "ErrImageNeverPull", "kubectl describe pod"}},
		{"completed", admin, "client odd/done", []string{"has ended", "deploy/NAME"}},
		{"on the host network", admin, "client odd/onhost", []string{"on the host network", "node/node2"}},
		{"the same twice", admin, "client client", []string{"both"}},
		{"the same by two names", admin, "client default/client", []string{"the same"}},
		{"from nowhere", admin, "192.0.2.1 client", []string{"192.0.2.1", "hint"}},
		{"nobody's node is here", admin, whole + " --via=local", []string{`node "node1", node "node2": it is not this machine`, "without --via local"}},
		{"no ssh there", admin, whole + " --via=ssh", []string{"ssh: connect to host", "Connection refused", "by hand: ssh "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, c.user.trace(t, strings.Fields(c.args)...), c.want...)
		})
	}
	nothingLeft(t)
}

// TestPluginDryRun: the objects that are printed are ones that the API server takes, and none is made.
func TestPluginDryRun(t *testing.T) {
	r := admin.command("path", "client", "web-2", "--dry-run", "--image-pull-secret=regcred")
	objects, err := r.Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(objects), "privileged: false"); n != 2 {
		t.Errorf("%d of 2 agents do without privilege:\n%s", n, objects)
	}
	apply := kube.Command(t.Context(), "kubectl", "apply", "--dry-run=server", "-f", "-")
	apply.Stdin = bytes.NewReader(objects)
	if out, err := apply.CombinedOutput(); err != nil || strings.Count(string(out), "created (server dry run)") != 2 {
		t.Errorf("kubectl apply: %v: %s\n%s", err, out, objects)
	}
	if pods := agentsIn(t, ""); len(pods) > 0 {
		t.Errorf("made: %s", pods)
	}
}

// TestPluginCompletion: kubectl offers what podtrace would take.
func TestPluginCompletion(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"path cl", "client"},
		{"path client web-", "web-1 web-2"},
		{"path client svc/web-", "svc/web-affine svc/web-local svc/web-node svc/web-udp"},
		{"path client node/", "node/" + strings.Join(kube.Nodes, " node/")},
		{"path client deploy/", "deploy/shop"},
		{"path -n kube-s", "kube-system"},
		{"path --agent-namespace kube-s", "kube-system"},
		{"path --via ", "pods ssh local"},
		{"path --image-pull-policy ", "Always IfNotPresent Never"},
		{"path client web-2 ", ""},
		{"path --context nowhere cl", ""},
	} {
		args := append([]string{"kubectl", "__complete", "podtrace"}, strings.Split(c.line, " ")...)
		out, err := kube.Command(t.Context(), args...).Output()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if got := strings.Join(lines[:len(lines)-1], " "); err != nil || got != c.want || !strings.HasPrefix(lines[len(lines)-1], ":") {
			t.Errorf("%s: %q, %v, want %q", c.line, out, err, c.want)
		}
	}
}
