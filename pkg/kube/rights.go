package kube

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	authv1 "k8s.io/api/authorization/v1"
)

// Right is one verb on one resource.
type Right struct{ Verb, Group, Resource string }

// String gives the form of kubectl auth can-i: "create pods/exec", "get deployments.apps".
func (r Right) String() string {
	if r.Group == "" {
		return r.Verb + " " + r.Resource
	}
	resource, sub, _ := strings.Cut(r.Resource, "/")
	out := r.Verb + " " + resource + "." + r.Group
	if sub != "" {
		out += "/" + sub
	}
	return out
}

// ReadRights are what Load needs, in the whole cluster; deploy/podtrace.yaml gives them as a ClusterRole.
var ReadRights = []Right{
	{"get", "", "pods"},
	{"list", "", "pods"},
	{"get", "", "services"},
	{"list", "", "services"},
	{"get", "", "nodes"},
	{"list", "", "nodes"},
	{"list", "discovery.k8s.io", "endpointslices"},
	{"get", "apps", "deployments"},
}

// AgentRights are what Agents needs, in the namespace of its pods; deploy/podtrace.yaml gives them as a Role there.
// API servers ask for "get" or "create" of pods/exec, by version and way of the stream.
var AgentRights = []Right{
	{"create", "", "pods"},
	{"get", "", "pods"},
	{"list", "", "pods"},
	{"watch", "", "pods"},
	{"delete", "", "pods"},
	{"create", "", "pods/exec"},
	{"get", "", "pods/exec"},
}

// optional rights have a use, and are not missed where they lack.
func (r Right) optional() bool { return r == Right{"get", "", "pods/exec"} }

// MissingError says which right lacks.
type MissingError struct {
	Right     Right
	Namespace string
	Reason    string // the authorizer's word, may be ""
}

// Error names the verb.
func (e *MissingError) Error() string {
	s := fmt.Sprintf("you may not %s in namespace %q, which agents need", e.Right, e.Namespace)
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	return s
}

// Hint says who gives it, and what goes without.
func (e *MissingError) Hint() string {
	return "an administrator gives it with deploy/podtrace.yaml; --agent-namespace names a namespace where you have it\n" +
		"without agents: --via ssh, or on a node: kubectl debug node/NODE (see docs/kubernetes.md)"
}

// CheckRights asks whether the user may do all of rights in a namespace, before anything is done.
func CheckRights(ctx context.Context, c *Client, namespace string, rights []Right) error {
	missing := make([]error, len(rights))
	g, ctx := errgroup.WithContext(ctx)
	for i, r := range rights {
		if r.optional() {
			continue
		}
		g.Go(func() error {
			resource, sub, _ := strings.Cut(r.Resource, "/")
			review, err := create(ctx, c, reviewKind, "", &authv1.SelfSubjectAccessReview{
				Spec: authv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authv1.ResourceAttributes{
					Namespace: namespace, Verb: r.Verb, Group: r.Group, Resource: resource, Subresource: sub,
				}},
			})
			if err != nil {
				return explain(err)
			}
			if !review.Status.Allowed {
				missing[i] = &MissingError{Right: r, Namespace: namespace, Reason: review.Status.Reason}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, err := range missing {
		if err != nil {
			return err
		}
	}
	return nil
}
