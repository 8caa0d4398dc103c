package kube

import (
	"cmp"
	"context"
	"net"
	"os"
	"strings"

	"github.com/go-logr/logr"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the credentials that kubeconfigs name
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/podtrace/podtrace/pkg/inventory"
)

// Cluster is a connection to an API server, as kubectl's flags say.
type Cluster struct {
	Client    *Client
	Config    *rest.Config
	Namespace string // that is meant where none is named
}

// Configured reports whether there is a cluster to talk to: a kubeconfig with a context, a flag that names a server, or
// the service account of the pod that this runs in.
func Configured(f *Flags) bool {
	if f.overrides.ClusterInfo.Server != "" || f.kubeconfig != "" || f.overrides.CurrentContext != "" {
		return true
	}
	raw, err := f.config().RawConfig()
	if err != nil || raw.CurrentContext != "" || len(raw.Clusters) > 0 {
		return true // one that can't be read is an error to show, not to pass over
	}
	_, err = rest.InClusterConfig()
	return err == nil
}

// Connect makes the connection; nothing is asked yet.
func Connect(f *Flags, version string) (*Cluster, error) {
	config, err := f.config().ClientConfig()
	if err != nil {
		return nil, &Error{Msg: "kubeconfig: " + err.Error(), Err: err, hint: "kubectl config view shows what is configured; --context and --kubeconfig choose"}
	}
	klog.SetLogger(logr.Discard())            // client-go's own words are not for standard error
	config.WarningHandler = rest.NoWarnings{} // nor the API server's on what it lets pass
	config.UserAgent = "podtrace/" + version
	config.QPS, config.Burst = 50, 100 // a handful of requests side by side
	c, err := NewClient(config)
	if err != nil {
		return nil, &Error{Msg: "kubeconfig: " + err.Error(), Err: err, hint: "kubectl config view shows what is configured"}
	}
	namespace, _, err := f.config().Namespace()
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
