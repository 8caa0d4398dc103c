package trace

import (
	"context"
	"slices"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// widestPods is how many other pods of a node are looked at for an address that two may have.
const widestPods = 256

// widen reads the other pods of a node as well, where its neighbour table leads to another MAC than the pod's: one
// of them may have the pod's address too. In all other cases nobody else's namespace is opened.
func (s *session) widen(ctx context.Context) error {
	_, in := compare(&s.c)
	r := verify.Verify(in)
	node := ""
	for _, l := range []*verify.Leg{&r.Request, &r.Reply} {
		checks := slices.Clone(l.Tail)
		for i := range l.Hops {
			checks = append(checks, l.Hops[i].Checks...)
		}
		for _, ck := range checks {
			if ck.Name == verify.CheckNeigh && !ck.OK && ck.Step != nil && ck.Step.Neigh != nil && isBridge(s.c.Snapshot, ck.Step.Netns, ck.Step.Ifindex) {
				node = ck.Node
			}
		}
	}
	if node == "" {
		return nil
	}
	var others []inventory.Endpoint
	for _, p := range s.o.Inventory.Pods {
		if p.Node != node || p.HostNetwork || len(others) >= widestPods {
			continue
		}
		if e, err := s.o.Inventory.Lookup(p.Namespace+"/"+p.Name, s.o.Namespace); err == nil {
			others = append(others, e)
		}
	}
	wants, err := resolve.Wants(s.o.Inventory, others...)
	if err == nil {
		err = s.edge.Open(ctx, wants)
	}
	if err != nil {
		return nil //nolint:nilerr // without the others there is one witness less
	}
	return s.read(ctx)
}

func isBridge(snap *tables.Snapshot, ns tables.NetnsID, dev tables.Ifindex) bool {
	n := snap.ByID(ns)
	if n == nil {
		return false
	}
	l := n.Link(dev)
	return l != nil && l.Kind == "bridge"
}
