package kube

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podtrace/podtrace/pkg/agent"
	"github.com/podtrace/podtrace/pkg/node"
)

// Options say how agent pods are made.
type Options struct {
	Namespace   string
	Image       string
	PullPolicy  corev1.PullPolicy // "": the cluster's default
	PullSecrets []string
	Keep        bool          // leave them for the next command
	Life        time.Duration // the longest that one lives, whatever becomes of whom it was made for; 0: 15 minutes
	Version     string
	Timeout     time.Duration // for one to run
	NotReady    map[string]string
	// Say, if set, is told each step; it must not block.
	Say func(format string, args ...any)
}

// Agents are the agent pods of one command. Every pod that it may have made is deleted by Close, whatever happened
// in between; with Keep, those that do not work.
type Agents struct {
	Options
	client *Client
	stream streamer
	run    string // tells the pods of this command from others'

	mu    sync.Mutex
	kept  map[string]*corev1.Pod // that run already, by node
	made  []string               // names of pods that may exist
	conns []*agent.Client
}

// NewAgents finds out what may be done, before anything is. It removes what is left of commands that could not clean
// up, and finds agents that were kept.
func NewAgents(ctx context.Context, c *Client, stream streamer, o Options) (*Agents, error) {
	a := &Agents{Options: o, client: c, stream: stream, run: newRun(), kept: make(map[string]*corev1.Pod)}
	if err := CheckRights(ctx, c, o.Namespace, AgentRights); err != nil {
		return nil, err
	}
	pods, err := agentPods(ctx, c, o.Namespace)
	if err != nil {
		return nil, explain(err)
	}
	for i := range pods {
		p := &pods[i]
		switch {
		case leftover(p, time.Now()):
			if err := a.delete(ctx, p.Name, p.UID); err != nil {
				a.say("could not remove what an earlier command left, pod %s: %v", p.Name, err)
			}
		case a.usable(p):
			a.kept[p.Spec.NodeName] = p
		}
	}
	return a, nil
}

// newRun is 5 bytes of randomness, in hex.
func newRun() string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand
	return hex.EncodeToString(b[:])
}

// agentPods gives the agent pods of a namespace, of whatever command.
func agentPods(ctx context.Context, c *Client, namespace string) ([]corev1.Pod, error) {
	var out []corev1.Pod
	o := metav1.ListOptions{LabelSelector: Selector, Limit: pageSize}
	for {
		l, err := list(ctx, c, podKind, namespace, o)
		if err != nil {
			return nil, err
		}
		out = append(out, l.Items...)
		if o.Continue = l.Continue; o.Continue == "" {
			return out, nil
		}
	}
}

func (a *Agents) say(format string, args ...any) {
	if a.Say != nil {
		a.Say(format, args...)
	}
}

// Objects are the pods that would be made for these nodes.
func (o *Options) Objects(nodes []string) *corev1.PodList {
	out := &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}}
	for _, n := range nodes {
		out.Items = append(out.Items, *o.podFor("dryrun", n))
	}
	return out
}

// Dial gives the agent of a node: one that was kept, or a new one. It is a node.Dialer.
func (a *Agents) Dial(ctx context.Context, name string) (node.Node, error) {
	if why := a.NotReady[name]; why != "" {
		return nil, &Error{Msg: "it is not ready, so no agent was sent there (" + why + ")", hint: "kubectl describe node " + name}
	}
	a.mu.Lock()
	pod := a.kept[name]
	a.mu.Unlock()
	if pod != nil {
		if c, err := a.connect(ctx, pod.Name); err == nil {
			return c, nil
		}
		a.say("the agent that was kept on %s does not answer; making another", name)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, errors.New("it took too long"))
	defer cancel()
	pod, err := a.create(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := a.await(ctx, pod); err != nil {
		return nil, err
	}
	c, err := a.connect(ctx, pod.Name)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept[name] = pod // a watch asks for it again at every incident
	if a.Keep {
		a.made = slices.DeleteFunc(a.made, func(n string) bool { return n == pod.Name })
	}
	return c, nil
}

func (a *Agents) create(ctx context.Context, node string) (*corev1.Pod, error) {
	pod := a.podFor(a.run, node)
	a.mu.Lock()
	a.made = append(a.made, pod.Name) // also when the answer gets lost
	a.mu.Unlock()
	a.say("starting an agent on %s (pod %s/%s)", node, pod.Namespace, pod.Name)
	got, err := create(ctx, a.client, podKind, a.Namespace, pod)
	if err != nil {
		return nil, a.refused(err, pod.Name)
	}
	return got, nil
}

// refused says what to do about a pod that the API server does not take. The pod's name is left out: all nodes' agents
// are refused alike.
func (a *Agents) refused(err error, pod string) error {
	text := strings.ReplaceAll(err.Error(), fmt.Sprintf("pods %q is forbidden: ", pod), "")
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(text, "violates PodSecurity"):
		return &Error{
			Msg: fmt.Sprintf("namespace %q does not take agents: %s", a.Namespace, text), Err: err,
			hint: fmt.Sprintf("kubectl label --overwrite namespace %s pod-security.kubernetes.io/enforce=privileged\n"+
				"or choose a namespace that takes them: --agent-namespace kube-system\n"+
				"or go without agents: --via ssh, or on a node: kubectl debug node/NODE (see docs/kubernetes.md)", a.Namespace),
		}
	case apierrors.IsForbidden(err):
		return &Error{
			Msg: fmt.Sprintf("namespace %q does not take agents: %s", a.Namespace, text), Err: err,
			hint: "an admission policy or a quota refuses them; --agent-namespace names another namespace, --via ssh goes without",
		}
	case apierrors.IsNotFound(err):
		return &Error{
			Msg: fmt.Sprintf("there is no namespace %q for agents", a.Namespace), Err: err,
			hint: "kubectl apply -f deploy/podtrace.yaml makes it; --agent-namespace names another",
		}
	case apierrors.IsInvalid(err):
		return &Error{
			Msg: "the agent's pod is not valid: " + strings.ReplaceAll(text, fmt.Sprintf("Pod %q is invalid: ", pod), ""), Err: err,
			hint: "do --image, --image-pull-secret and --agent-namespace say what they should? --dry-run shows the pod",
		}
	default:
		return explain(fmt.Errorf("start an agent: %w", err))
	}
}

// await waits until a pod runs. What can't come to a good end is an error at once.
func (a *Agents) await(ctx context.Context, pod *corev1.Pod) error {
	for {
		w, err := follow(ctx, a.client, podKind, a.Namespace, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name, ResourceVersion: pod.ResourceVersion})
		if err == nil {
			err = a.read(ctx, w.ResultChan(), &pod)
			w.Stop()
		}
		switch {
		case errors.Is(err, errRuns):
			return nil
		case ctx.Err() != nil:
			return a.late(ctx, pod)
		case err != nil && !errors.Is(err, errWatchEnded):
			return err
		}
		got, err := get(ctx, a.client, podKind, a.Namespace, pod.Name)
		if ctx.Err() != nil {
			return a.late(ctx, pod)
		}
		if err != nil {
			return fmt.Errorf("wait for an agent: %w", err)
		}
		pod = got
		if err := a.state(pod); err != nil {
			if errors.Is(err, errRuns) {
				return nil
			}
			return err
		}
	}
}

// read reads events until the pod's state is decided: errRuns, an error, or errWatchEnded.
func (a *Agents) read(ctx context.Context, events <-chan watch.Event, pod **corev1.Pod) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-events:
			if !ok {
				return errWatchEnded
			}
			p, isPod := e.Object.(*corev1.Pod)
			switch {
			case e.Type == watch.Deleted:
				return errors.New("somebody deleted the agent's pod")
			case !isPod:
				return errWatchEnded // an error of the watch: ask for the pod itself
			case p.Name != (*pod).Name:
				continue
			}
			*pod = p
			if err := a.state(p); err != nil {
				return err
			}
		}
	}
}

func (a *Agents) late(ctx context.Context, pod *corev1.Pod) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err() // by the user
	}
	return &Error{
		Msg:  fmt.Sprintf("no agent runs there (%v); the pod is %s%s", context.Cause(ctx), strings.ToLower(string(pod.Status.Phase)), waiting(pod)),
		Err:  ctx.Err(),
		hint: "is the kubelet of that node alive? kubectl get node " + pod.Spec.NodeName + "; --agent-timeout waits longer",
	}
}

var (
	errRuns       = errors.New("runs")
	errWatchEnded = errors.New("watch ended")
)

// state is errRuns for a pod that runs, an error for one that never will, and nil for one that may.
func (a *Agents) state(p *corev1.Pod) error {
	switch p.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		return &Error{
			Msg:  strings.TrimRight(fmt.Sprintf("the agent's pod ended: %s %s%s", ended(p), p.Status.Message, exited(p)), " "),
			hint: fmt.Sprintf("is --image %s one of podtrace %s? kubectl describe node %s shows whether the node takes pods", a.Image, a.Version, p.Spec.NodeName),
		}
	case corev1.PodRunning:
		return errRuns
	default:
	}
	for _, s := range p.Status.ContainerStatuses {
		w := s.State.Waiting
		if w == nil {
			continue
		}
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable":
			return &Error{
				Msg:  fmt.Sprintf("the agent's image %q can't be had there: %s: %s", a.Image, w.Reason, w.Message),
				hint: "--image names another, --image-pull-secret a secret to pull it with; \"make image\" makes one to load onto the nodes",
			}
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return &Error{Msg: fmt.Sprintf("the agent can't be started there: %s: %s", w.Reason, w.Message), hint: "kubectl get events -n " + a.Namespace}
		}
	}
	return nil
}

// connect opens a session with an agent pod.
func (a *Agents) connect(ctx context.Context, pod string) (node.Node, error) {
	s, err := a.stream(ctx, a.Namespace, pod)
	if err != nil {
		return nil, err
	}
	c, err := agent.New(ctx, s, a.Version)
	if err != nil {
		return nil, a.speechless(ctx, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = append(a.conns, c)
	return c, nil
}

// speechless says what to do about an agent that runs and can't be talked to. The pod's name is left out, as in refused.
func (a *Agents) speechless(ctx context.Context, err error) error {
	var known interface{ Hint() string }
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err() // by the user
	case errors.As(err, &known):
		return err
	default:
		return &Error{
			Msg: "the agent runs, and no session with it can be opened: " + err.Error(), Err: err,
			hint: "kubectl exec has to work on the way there: a proxy may refuse it (kubectl proxy does, unless told otherwise), and so may a policy\n" +
				"without agents: --via ssh, or on a node: kubectl debug node/NODE (see docs/kubernetes.md)",
		}
	}
}

// closeTimeout bounds the deletion: the command was interrupted, or its connection is gone.
const closeTimeout = 10 * time.Second

// Close ends the sessions and deletes the pods, also after ctx ended. Where that fails the error says what is left and
// what becomes of it.
func (a *Agents) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	a.mu.Lock()
	made, conns := slices.Clone(a.made), a.conns
	a.made, a.conns = nil, nil
	a.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	errs := make([]error, len(made))
	var wg sync.WaitGroup
	for i, name := range made {
		wg.Go(func() {
			if err := a.delete(ctx, name, ""); err != nil {
				errs[i] = &Error{
					Msg: fmt.Sprintf("agent pod %s/%s could not be deleted: %v", a.Namespace, name, err), Err: err,
					hint: fmt.Sprintf("it ends by itself within %s; \"podtrace cleanup\", or the next command, removes it", quotedSeconds(idleFirst)),
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// delete deletes a pod; that it is gone already is what was wanted.
func (a *Agents) delete(ctx context.Context, name string, uid types.UID) error {
	return remove(ctx, a.client, a.Namespace, name, uid)
}
