package kube

import (
	"cmp"
	"context"
	"net"
	"os"
	"strings"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the credentials that kubeconfigs name
	"k8s.io/client-go/rest"

	"github.com/podtrace/podtrace/pkg/inventory"
)

// Cluster is a connection to an API server, as kubectl's flags say.
type Cluster struct {
	Client    kubernetes.Interface
	Config    *rest.Config
	Namespace string // that is meant where none is named
}

// Configured reports whether there is a cluster to talk to: a kubeconfig with a context, a flag that names a server, or
// the service account of the pod that this runs in.
func Configured(f *genericclioptions.ConfigFlags) bool {
	if f.APIServer != nil && *f.APIServer != "" || f.KubeConfig != nil && *f.KubeConfig != "" || f.Context != nil && *f.Context != "" {
		return true
	}
	raw, err := f.ToRawKubeConfigLoader().RawConfig()
	if err != nil || raw.CurrentContext != "" || len(raw.Clusters) > 0 {
		return true // one that can't be read is an error to show, not to pass over
	}
	_, err = rest.InClusterConfig()
	return err == nil
}

// Connect makes the connection; nothing is asked yet.
func Connect(f *genericclioptions.ConfigFlags, version string) (*Cluster, error) {
	config, err := f.ToRESTConfig()
	if err != nil {
		return nil, &Error{Msg: "kubeconfig: " + err.Error(), Err: err, hint: "kubectl config view shows what is configured; --context and --kubeconfig choose"}
	}
	config.UserAgent = "podtrace/" + version
	config.QPS, config.Burst = 50, 100 // a handful of requests side by side
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, &Error{Msg: "kubeconfig: " + err.Error(), Err: err, hint: "kubectl config view shows what is configured"}
	}
	namespace, _, err := f.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, &Error{Msg: "kubeconfig: " + err.Error(), Err: err, hint: "-n names the namespace"}
	}
	return &Cluster{Client: c, Config: config, Namespace: cmp.Or(namespace, "default")}, nil
}

// Load is the function Load for this cluster.
func (c *Cluster) Load(ctx context.Context, args ...string) (*Objects, error) {
	return Load(ctx, c.Client, c.Namespace, args...)
}

// IsHere reports whether a node is the machine that this runs on: an address of it, or its name.
func IsHere(n *inventory.Node) bool {
	if host, err := os.Hostname(); err == nil && strings.EqualFold(host, n.Name) {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		p, ok := a.(*net.IPNet)
		if !ok || p.IP.IsLoopback() {
			continue
		}
		for _, ip := range n.InternalIPs {
			if p.IP.Equal(net.IP(ip.AsSlice())) {
				return true
			}
		}
	}
	return false
}
