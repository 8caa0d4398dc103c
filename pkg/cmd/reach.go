package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/podtrace/podtrace/pkg/agent"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/kube"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
)

// reachOptions say where the objects come from, and how to get to the nodes.
type reachOptions struct {
	inventoryOptions
	Via            string
	RemoteCommand  string
	AgentNamespace string
	AgentTimeout   time.Duration
	Image          string
	PullPolicy     string
	PullSecrets    []string
	Keep           bool
	DryRun         bool

	life time.Duration // of the agents' pods; 0: that of a short command
}

// Ways to the nodes.
const (
	viaPods  = "pods"  // an agent pod on each
	viaSSH   = "ssh"   // the user's ssh client
	viaLocal = "local" // this machine alone
)

var (
	vias         = []string{viaPods, viaSSH, viaLocal}
	pullPolicies = []string{"Always", "IfNotPresent", "Never"}
)

// defaultAgentNamespace exists everywhere, and takes privileged pods nearly everywhere.
const defaultAgentNamespace = "kube-system"

// imageRepository is where releases put the image.
const imageRepository = "ghcr.io/podtrace/podtrace"

func (o *reachOptions) addFlags(c *cobra.Command) {
	o.inventoryOptions.addFlags(c)
	f := c.Flags()
	f.StringVar(&o.Via, "via", "", "way to the nodes: pods (an agent pod on each), ssh (your ssh client), local (this node alone); default: pods with a cluster, with a file what it says")
	f.StringVar(&o.RemoteCommand, "remote-command", agent.DefaultCommand, "what --via ssh runs on a node, as root or with the capabilities (\"sudo -n podtrace agent\")")
	o.addAgentFlags(c)
	f.StringVar(&o.Image, "image", defaultImage(Version()), "image of the agents; its version has to be this one")
	f.StringVar(&o.PullPolicy, "image-pull-policy", "", "of the agents' image: Always, IfNotPresent, Never")
	f.StringArrayVar(&o.PullSecrets, "image-pull-secret", nil, "secret in the agents' namespace to pull their image with; may be repeated")
	f.DurationVar(&o.AgentTimeout, "agent-timeout", 30*time.Second, "how long to wait for an agent to run")
	f.BoolVar(&o.Keep, "keep", false, "leave the agents for the next command; they end by themselves, and podtrace cleanup removes them")
	f.BoolVar(&o.DryRun, "dry-run", false, "print the agents' objects and do nothing")
	c.ValidArgsFunction = o.completeArgs
	for flag, values := range map[string][]cobra.Completion{"via": vias, "image-pull-policy": pullPolicies} {
		_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails for a flag that is not there alone
	}
	_ = c.RegisterFlagCompletionFunc("namespace", o.completeNamespaces)
	_ = c.RegisterFlagCompletionFunc("agent-namespace", o.completeNamespaces)
}

func (o *reachOptions) addAgentFlags(c *cobra.Command) {
	c.Flags().StringVar(&o.AgentNamespace, "agent-namespace", defaultAgentNamespace, "namespace of the agents' pods")
}

// defaultImage is the image of a version; what a tag may not have is replaced.
func defaultImage(version string) string {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
	return imageRepository + ":" + strings.Map(func(r rune) rune {
		if strings.ContainsRune(allowed, r) {
			return r
		}
		return '-'
	}, version)
}

func (o *reachOptions) check(c *cobra.Command) error {
	switch {
	case o.Via != "" && !slices.Contains(vias, o.Via):
		return usageErrorf(c.CommandPath(), "flag --via: %q is none of pods, ssh, local", o.Via)
	case o.PullPolicy != "" && !slices.Contains(pullPolicies, o.PullPolicy):
		return usageErrorf(c.CommandPath(), "flag --image-pull-policy: %q is none of Always, IfNotPresent, Never", o.PullPolicy)
	case o.Image == "":
		return usageErrorf(c.CommandPath(), "flag --image: it is empty")
	case o.AgentTimeout <= 0:
		return usageErrorf(c.CommandPath(), "flag --agent-timeout: %s is not positive", o.AgentTimeout)
	case o.Via == viaPods && o.Filename != "":
		return usageErrorf(c.CommandPath(), "flag --via: pods are for a cluster, not for a file with its objects")
	}
	return nil
}

// load gets the objects and the way to the nodes. The caller closes the target.
func (o *reachOptions) load(ctx context.Context, s *Streams, say func(string, ...any), endpoints ...string) (*target, error) {
	if !o.fromCluster(s) {
		inv, err := o.loadFile(ctx, s)
		if err != nil {
			return nil, err
		}
		return &target{inv: inv, namespace: o.Namespace, dial: o.fileDialer(inv), close: func() {}}, nil
	}
	cluster, err := kube.Connect(&o.Flags, Version())
	if err != nil {
		return nil, err
	}
	say("asking the cluster for %s", strings.Join(endpoints, " and "))
	if o.Via == viaSSH || o.Via == viaLocal || o.DryRun {
		objects, err := cluster.Load(ctx, endpoints...)
		if err != nil {
			return nil, err
		}
		t := &target{inv: objects.Inventory, namespace: cluster.Namespace, notes: objects.Notes, close: func() {}}
		if o.DryRun {
			return nil, o.print(s, t, endpoints)
		}
		t.dial = o.sshDialer(t.inv)
		if o.Via == viaLocal {
			t.dial = localDialer(t.inv)
		}
		return t, nil
	}
	return o.loadWithAgents(ctx, s, cluster, say, endpoints)
}

// loadWithAgents asks for the objects and for the rights to make agents side by side. No agent is made before an
// endpoint of its node is known.
func (o *reachOptions) loadWithAgents(ctx context.Context, s *Streams, cluster *kube.Cluster, say func(string, ...any), endpoints []string) (*target, error) {
	var objects *kube.Objects
	var agents *kube.Agents
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		objects, err = cluster.Load(gctx, endpoints...)
		return err
	})
	g.Go(func() (err error) {
		ao := o.agentOptions()
		ao.Say = say
		agents, err = kube.NewAgents(gctx, cluster.Client, kube.Exec(cluster.Config, cluster.Client), ao)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	agents.NotReady = objects.NotReady
	return &target{
		inv: objects.Inventory, namespace: cluster.Namespace, notes: objects.Notes, dial: agents.Dial,
		close: func() {
			if err := agents.Close(ctx); err != nil {
				s.warn(err)
			}
		},
	}, nil
}

func (o *reachOptions) agentOptions() kube.Options {
	return kube.Options{
		Namespace: o.AgentNamespace, Image: o.Image, PullPolicy: corev1.PullPolicy(o.PullPolicy), PullSecrets: o.PullSecrets,
		Keep: o.Keep, Version: Version(), Timeout: o.AgentTimeout, Life: o.life,
	}
}

// print shows the agents that would be made.
func (o *reachOptions) print(s *Streams, t *target, endpoints []string) error {
	var eps []inventory.Endpoint
	for _, arg := range endpoints {
		e, err := t.inv.Lookup(arg, t.namespace)
		if err != nil {
			return err
		}
		eps = append(eps, e)
	}
	wants, err := resolve.Wants(t.inv, eps...)
	if err != nil {
		return err
	}
	var nodes []string
	for _, w := range wants {
		if !slices.Contains(nodes, w.Node) {
			nodes = append(nodes, w.Node)
		}
	}
	ao := o.agentOptions()
	text, err := yaml.Marshal(ao.Objects(nodes))
	if err != nil {
		return err
	}
	if _, err := s.Out.Write(text); err != nil {
		return err
	}
	return statusError(report.ExitHealthy)
}

// fileDialer goes where the objects' annotations say: to another machine by ssh, and else nowhere, for the namespace
// is on this one.
func (o *reachOptions) fileDialer(inv *inventory.Inventory) node.Dialer {
	local, ssh := node.Direct(), o.sshDialer(inv)
	if o.Via == viaLocal {
		local = localDialer(inv)
	}
	return func(ctx context.Context, name string) (node.Node, error) {
		n := inv.Node(name)
		if o.Via == viaSSH && n != nil || o.Via == "" && n != nil && n.Via != "" {
			return ssh(ctx, name)
		}
		return local(ctx, name)
	}
}

// sshDialer goes by the user's ssh client, to where the node's annotation says or to its address.
func (o *reachOptions) sshDialer(inv *inventory.Inventory) node.Dialer {
	return func(ctx context.Context, name string) (node.Node, error) {
		n := inv.Node(name)
		if n == nil {
			return nil, fmt.Errorf("%q is no node: ssh does not know the way", name)
		}
		to := n.Via
		if to == "" {
			to = "ssh://" + name
			if len(n.InternalIPs) > 0 {
				ip := n.InternalIPs[0]
				if to = "ssh://" + ip.String(); ip.Is6() {
					to = "ssh://[" + ip.String() + "]"
				}
			}
		}
		argv, err := agent.SSHCommand(to, o.RemoteCommand)
		if err != nil {
			return nil, err
		}
		c, err := agent.Dial(ctx, Version(), argv...)
		if err != nil {
			return nil, withHint(err, "try by hand: "+strings.Join(argv, " ")+"\nit has to work without a question and to start podtrace of this version with root's rights; --remote-command says how")
		}
		return c, nil
	}
}

// localDialer knows one node: this one, and those that the objects say are namespaces of this machine.
func localDialer(inv *inventory.Inventory) node.Dialer {
	local := node.Direct()
	return func(ctx context.Context, name string) (node.Node, error) {
		if n := inv.Node(name); n != nil && (!n.IsZero() || kube.IsHere(n)) {
			return local(ctx, name)
		}
		return nil, withHint(errors.New("it is not this machine, and --via local goes nowhere else"), "run podtrace on that node, or without --via local")
	}
}

// completionTimeout is how long a shell is kept waiting.
const completionTimeout = 3 * time.Second

func (o *reachOptions) completeArgs(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionTimeout)
	defer cancel()
	var names []string
	if o.Filename == "" && kube.Configured(&o.Flags) {
		if cluster, err := kube.Connect(&o.Flags, Version()); err == nil {
			names = cluster.Names(ctx, prefix)
		}
	}
	directive := cobra.ShellCompDirectiveNoFileComp
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, "/") }) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return names, directive
}

func (o *reachOptions) completeNamespaces(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completionTimeout)
	defer cancel()
	cluster, err := kube.Connect(&o.Flags, Version())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return cluster.Namespaces(ctx, prefix), cobra.ShellCompDirectiveNoFileComp
}
