package kube

import (
	"context"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// mostNames bounds what completion offers.
const mostNames = 300

// Names gives the endpoints that begin with prefix, in the forms that Load takes: pods of the namespace, and behind
// "svc/", "deploy/", "node/" or "NAMESPACE/" the names of those. Errors are silent: a shell has no place for them.
func (c *Cluster) Names(ctx context.Context, prefix string) []string {
	kind, _, slashed := strings.Cut(prefix, "/")
	if !slashed {
		return append(begin("", c.pods(ctx, c.Namespace), prefix), begin("", []string{"svc/", "deploy/", "node/"}, prefix)...)
	}
	o := metav1.ListOptions{Limit: mostNames}
	var names []string
	switch kind {
	case "svc", "service", "services":
		if l, err := list(ctx, c.Client, serviceKind, c.Namespace, o); err == nil {
			for i := range l.Items {
				names = append(names, l.Items[i].Name)
			}
		}
	case "deploy", "deployment", "deployments":
		if l, err := list(ctx, c.Client, deploymentKind, c.Namespace, o); err == nil {
			for i := range l.Items {
				names = append(names, l.Items[i].Name)
			}
		}
	case "node", "nodes", "no":
		if l, err := list(ctx, c.Client, nodeKind, "", o); err == nil {
			for i := range l.Items {
				names = append(names, l.Items[i].Name)
			}
		}
	case "pod", "pods", "po":
		names = c.pods(ctx, c.Namespace)
	default:
		names = c.pods(ctx, kind)
	}
	return begin(kind+"/", names, prefix)
}

func (c *Cluster) pods(ctx context.Context, namespace string) (names []string) {
	l, err := list(ctx, c.Client, podKind, namespace, metav1.ListOptions{Limit: mostNames, FieldSelector: "status.phase=Running"})
	if err != nil {
		return nil
	}
	for i := range l.Items {
		names = append(names, l.Items[i].Name)
	}
	return names
}

// Namespaces gives the names of namespaces that begin with prefix.
func (c *Cluster) Namespaces(ctx context.Context, prefix string) []string {
	l, err := list(ctx, c.Client, namespaceKind, "", metav1.ListOptions{Limit: mostNames})
	if err != nil {
		return nil
	}
	var names []string
	for i := range l.Items {
		names = append(names, l.Items[i].Name)
	}
	return begin("", names, prefix)
}

func begin(with string, names []string, prefix string) (out []string) {
	for _, n := range names {
		if strings.HasPrefix(with+n, prefix) {
			out = append(out, with+n)
		}
	}
	slices.Sort(out)
	return out
}
