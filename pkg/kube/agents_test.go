package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/podtrace/podtrace/pkg/agent"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/node"
)

const ns = "agents"

// cluster is a fake API server with a kubelet that runs what it is given.
type cluster struct {
	*fake.Clientset
	client  *Client
	denied  string                  // verb that the user does not have
	kubelet func(p *corev1.Pod)     // sets the status of a new pod; nil: it runs
	refuse  func(*corev1.Pod) error // of the admission
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	c := &cluster{Clientset: fake.NewClientset(objects...)}
	c.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authv1.SelfSubjectAccessReview).DeepCopy()
		at := r.Spec.ResourceAttributes
		got := at.Verb + " " + at.Resource
		if at.Subresource != "" {
			got += "/" + at.Subresource
		}
		r.Status.Allowed = at.Namespace == ns && got != c.denied
		return true, r, nil
	})
	c.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
		p.CreationTimestamp = metav1.Now()
		p.Status.Phase = corev1.PodPending
		if c.refuse != nil {
			if err := c.refuse(p); err != nil {
				return true, nil, err
			}
		}
		p = p.DeepCopy() // the fake goes on writing to its own
		go func() {
			time.Sleep(20 * time.Millisecond) // the watch is on by then, or the pod is asked for
			if c.kubelet != nil {
				c.kubelet(p)
			} else {
				p.Status.Phase = corev1.PodRunning
			}
			_, _ = c.CoreV1().Pods(p.Namespace).UpdateStatus(context.Background(), p, metav1.UpdateOptions{})
		}()
		return false, nil, nil
	})
	c.client = serve(t, c.Clientset)
	return c
}

// pods gives the names of what is left.
func (c *cluster) pods(t *testing.T) (names []string) {
	t.Helper()
	l, err := c.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Items {
		names = append(names, p.Name)
	}
	return names
}

// sessions are agents of this process.
func sessions(version string) streamer {
	return func(context.Context, string, string) (io.ReadWriteCloser, error) {
		near, far := net.Pipe()
		go func() {
			_ = agent.Serve(context.Background(), far, far, node.NewLocal(), version)
			_ = far.Close()
		}()
		return near, nil
	}
}

func options() Options {
	return Options{Namespace: ns, Image: "registry.example/podtrace:v1", Version: "v1", Timeout: 5 * time.Second}
}

func agents(t *testing.T, c *cluster, o Options) *Agents {
	t.Helper()
	a, err := NewAgents(t.Context(), c.client, sessions("v1"), o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestPodIsNoMoreThanSaid: the agent's pod has what the issue of rights lists, and nothing else.
func TestPodIsNoMoreThanSaid(t *testing.T) {
	o := options()
	o.PullPolicy, o.PullSecrets = corev1.PullNever, []string{"reg"}
	p := o.podFor("0123456789", "node1")
	s, k := p.Spec, p.Spec.Containers[0].SecurityContext
	if !s.HostNetwork || !s.HostPID || s.HostIPC || s.NodeName != "node1" || *s.AutomountServiceAccountToken || s.ServiceAccountName != "" ||
		*s.ActiveDeadlineSeconds != 900 || s.RestartPolicy != corev1.RestartPolicyNever || len(s.Tolerations) != 1 || s.Tolerations[0] != (corev1.Toleration{Operator: "Exists"}) {
		t.Errorf("spec %+v", s)
	}
	if *k.Privileged || !*k.ReadOnlyRootFilesystem || !slices.Equal(k.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
		!slices.Equal(k.Capabilities.Add, []corev1.Capability{"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "BPF", "PERFMON"}) {
		t.Errorf("security context %+v", k)
	}
	for _, v := range s.Volumes {
		if v.HostPath != nil || v.EmptyDir == nil {
			t.Errorf("volume %+v", v)
		}
	}
	if p.Labels["app.kubernetes.io/managed-by"] != "podtrace" || s.Containers[0].Image != o.Image ||
		s.Containers[0].ImagePullPolicy != corev1.PullNever || len(s.ImagePullSecrets) != 1 {
		t.Errorf("%+v", p)
	}
	o.Keep = true
	if p := o.podFor("0123456789", "node1"); *p.Spec.ActiveDeadlineSeconds != 7200 || p.Labels[labelKeep] != "true" {
		t.Errorf("kept: %+v", p)
	}
	long, dots := podName("0123456789", strings.Repeat("a", 200)), podName("0123456789", "ip-10-0-0-1.eu.compute.internal")
	if len(long) > 63 || strings.Contains(dots, ".") || dots == podName("0123456789", "ip-10-0-0-1-eu.compute.internal") {
		t.Errorf("names %q, %q", long, dots)
	}
}

func TestAgentsComeAndGo(t *testing.T) {
	c := newCluster(t)
	a := agents(t, c, options())
	n1, err := a.Dial(t.Context(), "node1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Dial(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	if n1.Machine().Boot == "" || len(c.pods(t)) != 2 {
		t.Errorf("pods %v", c.pods(t))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // as after an interrupt
	if err := a.Close(ctx); err != nil {
		t.Error(err)
	}
	if left := c.pods(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := n1.Read(t.Context(), netfilter.ReadOptions{}); err == nil {
		t.Error("the session goes on")
	}
}

// TestAgentsGoAlsoAfter: whatever went wrong, nothing stays.
func TestAgentsGoAlsoAfter(t *testing.T) {
	waiting := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "so it is"}}}}
		}
	}
	for _, tt := range []struct {
		name    string
		kubelet func(*corev1.Pod)
		version string
		timeout time.Duration
		want    string
	}{
		{"image that is not there", waiting("ErrImagePull"), "v1", time.Second, `image "registry.example/podtrace:v1" can't be had there: ErrImagePull: so it is`},
		{"image that may not be pulled", waiting("ErrImageNeverPull"), "v1", time.Second, "ErrImageNeverPull"},
		{"container that can't start", waiting("CreateContainerError"), "v1", time.Second, "CreateContainerError"},
		{"node without room", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "OutOfpods" }, "v1", time.Second, "OutOfpods"},
		{"kubelet that sleeps", waiting("ContainerCreating"), "v1", 100 * time.Millisecond, "took too long"},
		{"other version", nil, "v2", time.Second, "the agent is podtrace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			c.kubelet = tt.kubelet
			o := options()
			o.Timeout, o.Keep = tt.timeout, true // what does not work is not kept either
			a, err := NewAgents(t.Context(), c.client, sessions(tt.version), o)
			if err != nil {
				t.Fatal(err)
			}
			var hint interface{ Hint() string }
			if _, err := a.Dial(t.Context(), "node1"); err == nil || !strings.Contains(err.Error(), tt.want) || !errors.As(err, &hint) || hint.Hint() == "" {
				t.Errorf("Dial = %v, want %q with a hint", err, tt.want)
			}
			if err := a.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if left := c.pods(t); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	t.Run("answer to the creation lost", func(t *testing.T) {
		c := newCluster(t)
		a := agents(t, c, options())
		made := false
		c.PrependReactor("create", "pods", func(act clienttesting.Action) (bool, runtime.Object, error) {
			p := act.(clienttesting.CreateAction).GetObject()
			made = c.Tracker().Create(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, p, ns) == nil
			return true, nil, errors.New("connection reset")
		})
		if _, err := a.Dial(t.Context(), "node1"); err == nil || !made {
			t.Fatalf("%v, made %v", err, made)
		}
		if err := a.Close(t.Context()); err != nil || len(c.pods(t)) != 0 {
			t.Errorf("%v, left: %v", err, c.pods(t))
		}
	})
	t.Run("deletion fails at first", func(t *testing.T) {
		c := newCluster(t)
		a := agents(t, c, options())
		if _, err := a.Dial(t.Context(), "node1"); err != nil {
			t.Fatal(err)
		}
		fails := 2
		c.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			fails--
			return fails >= 0, nil, errors.New("connection refused")
		})
		if err := a.Close(t.Context()); err != nil || len(c.pods(t)) != 0 {
			t.Errorf("%v, left: %v", err, c.pods(t))
		}
	})
	t.Run("deletion is forbidden meanwhile", func(t *testing.T) {
		c := newCluster(t)
		a := agents(t, c, options())
		if _, err := a.Dial(t.Context(), "node1"); err != nil {
			t.Fatal(err)
		}
		c.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "x", errors.New("no"))
		})
		if err := a.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "could not be deleted") {
			t.Errorf("Close = %v", err)
		}
	})
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name       string
		err        error
		want, hint string
	}{
		{"PodSecurity", apierrors.NewForbidden(corev1.Resource("pods"), "NAME", errors.New(`violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true, hostPID=true)`)),
			`violates PodSecurity "restricted:latest"`, "kubectl label --overwrite namespace agents pod-security.kubernetes.io/enforce=privileged\n"},
		{"quota", apierrors.NewForbidden(corev1.Resource("pods"), "NAME", errors.New("exceeded quota: few")), "exceeded quota", "--agent-namespace"},
		{"no namespace", apierrors.NewNotFound(corev1.Resource("namespaces"), ns), `no namespace "agents"`, "deploy/podtrace.yaml"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			c.refuse = func(p *corev1.Pod) error {
				if s, ok := errors.AsType[*apierrors.StatusError](tt.err); ok {
					s = &apierrors.StatusError{ErrStatus: *s.ErrStatus.DeepCopy()}
					s.ErrStatus.Message = strings.ReplaceAll(s.ErrStatus.Message, "NAME", p.Name)
					return s
				}
				return tt.err
			}
			a := agents(t, c, options())
			_, err1 := a.Dial(t.Context(), "node1")
			_, err2 := a.Dial(t.Context(), "node2")
			var hint interface{ Hint() string }
			if err1 == nil || !strings.Contains(err1.Error(), tt.want) || !errors.As(err1, &hint) || !strings.Contains(hint.Hint(), tt.hint) {
				t.Fatalf("%v", err1)
			}
			if err1.Error() != err2.Error() {
				t.Errorf("two nodes, two errors:\n%v\n%v", err1, err2)
			}
		})
	}
	t.Run("node that is not ready", func(t *testing.T) {
		c := newCluster(t)
		a := agents(t, c, options())
		a.NotReady = map[string]string{"node2": "KubeletNotReady: stopped"}
		if _, err := a.Dial(t.Context(), "node2"); err == nil || !strings.Contains(err.Error(), "KubeletNotReady") || len(c.pods(t)) != 0 {
			t.Errorf("%v, %v", err, c.pods(t))
		}
	})
}

// TestRights: what lacks is named, before anything is made.
func TestRights(t *testing.T) {
	for _, verb := range []string{"create pods", "delete pods", "watch pods", "list pods", "get pods", "create pods/exec"} {
		c := newCluster(t)
		c.denied = verb
		_, err := NewAgents(t.Context(), c.client, sessions("v1"), options())
		var missing *MissingError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), verb) || missing.Hint() == "" {
			t.Errorf("without %q: %v", verb, err)
		}
		for _, a := range c.Actions() {
			if a.GetResource().Resource != "selfsubjectaccessreviews" {
				t.Errorf("without %q: %s %s is done", verb, a.GetVerb(), a.GetResource().Resource)
			}
		}
	}
}

// TestKeep: kept agents are used again, by whoever comes, and only if they are the right ones.
func TestKeep(t *testing.T) {
	c := newCluster(t)
	o := options()
	o.Keep = true
	first := agents(t, c, o)
	if _, err := first.Dial(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := c.pods(t)
	if len(kept) != 1 {
		t.Fatalf("kept: %v", kept)
	}
	second := agents(t, c, options())
	if _, err := second.Dial(t.Context(), "node1"); err != nil {
		t.Fatal(err)
	}
	if got := c.pods(t); !slices.Equal(got, kept) {
		t.Errorf("another agent is made beside %v: %v", kept, got)
	}
	if err := second.Close(t.Context()); err != nil || !slices.Equal(c.pods(t), kept) {
		t.Errorf("%v, left %v", err, c.pods(t))
	}
	for _, change := range []func(*Options){func(o *Options) { o.Version = "v2" }, func(o *Options) { o.Image += "x" }} {
		o := options()
		change(&o)
		a, err := NewAgents(t.Context(), c.client, sessions(o.Version), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Dial(t.Context(), "node1"); err != nil || len(c.pods(t)) != 2 {
			t.Errorf("%v, pods %v", err, c.pods(t))
		}
		if err := a.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	removed, err := Cleanup(t.Context(), c.client, ns)
	if err != nil || len(removed) != 1 || len(c.pods(t)) != 0 {
		t.Errorf("Cleanup = %v, %v; left %v", removed, err, c.pods(t))
	}
}

// TestReap: a command removes what others left, and nothing that is in use or not its own.
func TestReap(t *testing.T) {
	pod := func(name string, phase corev1.PodPhase, age time.Duration, labels map[string]string) *corev1.Pod {
		o := options()
		p := o.podFor("x", "node9")
		p.Name, p.Status.Phase, p.CreationTimestamp = name, phase, metav1.NewTime(time.Now().Add(-age))
		if labels != nil {
			p.Labels = labels
		}
		return p
	}
	c := newCluster(t,
		pod("done", corev1.PodSucceeded, time.Minute, nil), pod("failed", corev1.PodFailed, time.Minute, nil),
		pod("stuck", corev1.PodPending, time.Hour, nil), pod("running", corev1.PodRunning, time.Minute, nil),
		pod("starting", corev1.PodPending, time.Second, nil), pod("foreign", corev1.PodSucceeded, time.Hour, map[string]string{"app": "x"}),
	)
	agents(t, c, options())
	if got := strings.Join(c.pods(t), " "); got != "foreign running starting" {
		t.Errorf("left: %s", got)
	}
}

// TestDeploy holds deploy/podtrace.yaml to what is asked for: no right is missing there, and none is too many.
func TestDeploy(t *testing.T) {
	b, err := os.ReadFile("../../deploy/podtrace.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cluster, agents []string
	for doc := range strings.SplitSeq(string(b), "\n---\n") {
		var r rbacv1.Role // a ClusterRole has the same fields
		if err := yaml.UnmarshalStrict([]byte(doc), &r); err != nil {
			var n corev1.Namespace
			if err := yaml.UnmarshalStrict([]byte(doc), &n); err != nil || n.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
				t.Errorf("%v in:\n%s", err, doc)
			}
			continue
		}
		for _, rule := range r.Rules {
			for _, g := range rule.APIGroups {
				for _, res := range rule.Resources {
					for _, v := range rule.Verbs {
						if right := (Right{v, g, res}).String(); r.Kind == "ClusterRole" {
							cluster = append(cluster, right)
						} else {
							agents = append(agents, right)
						}
					}
				}
			}
		}
	}
	for _, x := range []struct {
		name   string
		have   []string
		rights []Right
	}{{"ClusterRole", cluster, ReadRights}, {"Role", agents, AgentRights}} {
		var want []string
		for _, r := range x.rights {
			want = append(want, fmt.Sprint(r))
		}
		slices.Sort(want)
		slices.Sort(x.have)
		if !slices.Equal(want, x.have) {
			t.Errorf("%s gives\n%q, want\n%q", x.name, x.have, want)
		}
	}
}
