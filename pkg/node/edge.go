package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Dialer reaches the kernel of a node of the cluster, for one Edge, which closes it. No Node and no error is this
// machine's kernel, of which each Edge has its own. It is called side by side.
type Dialer func(ctx context.Context, name string) (Node, error)

// Direct reaches every node as one of this machine: they are namespaces of it.
func Direct() Dialer {
	return func(context.Context, string) (Node, error) { return nil, nil }
}

// Edge is all kernels of a path. Namespaces have identities that no two machines share. What a node that is out of
// reach would have said is missing, and Lost says so; only when no node is in reach at all, that is an error.
type Edge struct {
	dial    Dialer
	local   *Local // this machine's kernel, for all nodes that are here
	mu      sync.Mutex
	members []*member
	lost    map[string]error // by name of the cluster's node
	wants   []resolve.Want   // that were opened, in order
	ids     []netns.ID       // of wants; zero for those of lost nodes
}

// member is one kernel of the path.
type member struct {
	Node
	machine uint32 // its number
	names   []string
}

// NewEdge is an edge that reaches nodes by dial.
func NewEdge(dial Dialer) *Edge {
	return &Edge{dial: dial, local: NewLocal(), lost: make(map[string]error)}
}

// Source is a namespace that was opened.
type Source struct {
	ID         netns.ID
	Node, Name string // tables.Netns.Node and Name
}

// Open reaches the nodes of what is wanted, and opens it.
func (e *Edge) Open(ctx context.Context, wants []resolve.Want) error {
	wants = slices.DeleteFunc(slices.Clone(wants), func(w resolve.Want) bool {
		return slices.ContainsFunc(e.wants, func(o resolve.Want) bool { return o.Object == w.Object })
	})
	if err := e.reach(ctx, wants); err != nil {
		return err
	}
	ids := make([]netns.ID, len(wants))
	err := e.each(func(m *member) error {
		var mine []resolve.Want
		var at []int
		for i, w := range wants {
			if slices.Contains(m.names, w.Node) {
				mine, at = append(mine, w), append(at, i)
			}
		}
		if len(mine) == 0 {
			return nil
		}
		got, err := m.Open(ctx, mine)
		if err != nil {
			return err
		}
		if len(got) != len(mine) {
			return fmt.Errorf("node %q opened %d namespaces of %d", m.names[0], len(got), len(mine))
		}
		for i, id := range got {
			ids[at[i]] = id.On(m.machine)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := shared(slices.Concat(e.wants, wants), slices.Concat(e.ids, ids)); err != nil {
		return err
	}
	e.wants, e.ids = append(e.wants, wants...), append(e.ids, ids...)
	return nil
}

// shared refuses one namespace for two objects, also where two nodes opened it.
func shared(wants []resolve.Want, ids []netns.ID) error {
	of := make(map[netns.ID]string)
	for i, id := range ids {
		if id.IsZero() {
			continue
		}
		if other := of[id]; other != "" {
			return &resolve.PlaceError{Object: wants[i].Object, Err: fmt.Errorf("%w: that of %s too (%s)", resolve.ErrShared, other, id)}
		}
		of[id] = wants[i].Object
	}
	return nil
}

// reach dials the nodes that are not reached yet, side by side.
func (e *Edge) reach(ctx context.Context, wants []resolve.Want) error {
	var names []string
	for _, w := range wants {
		known := slices.ContainsFunc(e.members, func(m *member) bool { return slices.Contains(m.names, w.Node) })
		if !known && e.lost[w.Node] == nil && !slices.Contains(names, w.Node) {
			names = append(names, w.Node)
		}
	}
	nodes, errs := make([]Node, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { nodes[i], errs[i] = e.dial(ctx, name) })
	}
	wg.Wait()
	for i, name := range names {
		if errs[i] != nil {
			e.lost[name] = errs[i]
			continue
		}
		if nodes[i] == nil {
			nodes[i] = e.local
		}
		e.join(name, nodes[i])
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(e.members) == 0 && len(names) > 0:
		return together(names, errs)
	}
	return nil
}

// together joins errors of nodes and says each thing once: all nodes may be refused alike.
func together(names []string, errs []error) error {
	var texts []string
	of := make(map[string][]string) // nodes, by what is wrong with them
	first := make(map[string]error)
	for i, err := range errs {
		text := err.Error()
		if first[text] == nil {
			texts, first[text] = append(texts, text), err
		}
		of[text] = append(of[text], fmt.Sprintf("node %q", names[i]))
	}
	var out []error
	for _, text := range texts {
		out = append(out, fmt.Errorf("%s: %w", strings.Join(of[text], ", "), first[text]))
	}
	return errors.Join(out...)
}

// join adds a node. Machines are numbered in the order in which they are met, so that all namespaces of one kernel
// are told apart by their own numbers.
func (e *Edge) join(name string, n Node) {
	boot, next := n.Machine().Boot, uint32(0)
	for _, m := range e.members {
		if m.Node == n {
			m.names = append(m.names, name)
			return
		}
		next = max(next, m.machine+1)
	}
	machine := next
	for _, m := range e.members {
		if boot != "" && m.Machine().Boot == boot {
			machine = m.machine
		}
	}
	e.members = append(e.members, &member{Node: n, machine: machine, names: []string{name}})
}

// each calls f for every node in reach, side by side. One that is lost meanwhile is noted, and no error.
func (e *Edge) each(f func(*member) error) error {
	var g errgroup.Group
	for _, m := range e.reached() {
		g.Go(func() error { return e.note(m, f(m)) })
	}
	return g.Wait()
}

// note keeps a *LostError in mind, and gives any other error back.
func (e *Edge) note(m *member, err error) error {
	l, ok := errors.AsType[*LostError](err)
	if !ok {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range m.names {
		if e.lost[name] == nil {
			e.lost[name] = l.Err
		}
	}
	return nil
}

func (e *Edge) reached() (out []*member) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.members {
		if e.lost[m.names[0]] == nil {
			out = append(out, m)
		}
	}
	return out
}

// Lost says which nodes are out of reach, and why, in order of their names.
func (e *Edge) Lost() (out []LostError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, err := range e.lost {
		out = append(out, LostError{Node: name, Err: err})
	}
	slices.SortFunc(out, func(a, b LostError) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	return out
}

// IsLost reports whether a node of the cluster is out of reach.
func (e *Edge) IsLost(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lost[name] != nil
}

// InReach reports whether any node is.
func (e *Edge) InReach() bool { return len(e.reached()) > 0 }

// Sources are the open namespaces of nodes in reach, in the order in which they were wanted.
func (e *Edge) Sources() (out []Source) {
	for i, w := range e.wants {
		if !e.ids[i].IsZero() && !e.IsLost(w.Node) {
			out = append(out, Source{ID: e.ids[i], Node: w.Node, Name: w.Name})
		}
	}
	return out
}

// Has reports whether a namespace is open and in reach.
func (e *Edge) Has(id netns.ID) bool { return e.at(id) != nil }

// at is the node that a namespace is open on.
func (e *Edge) at(id netns.ID) *member {
	i := slices.Index(e.ids, id)
	if i < 0 || id.IsZero() || e.IsLost(e.wants[i].Node) {
		return nil
	}
	for _, m := range e.members {
		if slices.Contains(m.names, e.wants[i].Node) {
			return m
		}
	}
	return nil
}

// Read takes the tables of all open namespaces, in the order of Sources.
func (e *Edge) Read(ctx context.Context, conns netfilter.ReadOptions) (*tables.Snapshot, error) {
	var mu sync.Mutex
	byID := make(map[netns.ID]*tables.Netns)
	err := e.each(func(m *member) error {
		s, err := m.Read(ctx, conns)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, n := range s.Netns {
			n.ID = n.ID.On(m.machine)
			for k, peer := range n.Peers {
				n.Peers[k] = peer.On(m.machine)
			}
			byID[n.ID] = n
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := &tables.Snapshot{}
	for _, s := range e.Sources() {
		if n := byID[s.ID]; n != nil {
			out.Netns = append(out.Netns, n)
		}
	}
	if len(out.Netns) == 0 {
		return nil, e.allLost()
	}
	return out, nil
}

func (e *Edge) allLost() error {
	var errs []error
	for _, l := range e.Lost() {
		errs = append(errs, &l)
	}
	return errors.Join(errs...)
}

// Ask puts lookups to the kernel of a namespace.
func (e *Edge) Ask(ctx context.Context, ns netns.ID, qs []Question) ([]Answer, error) {
	m := e.at(ns)
	if m == nil {
		return nil, fmt.Errorf("namespace %s is not in reach", ns)
	}
	as, err := m.Ask(ctx, ns.On(0), qs)
	if err == nil && len(as) != len(qs) {
		err = fmt.Errorf("%d answers to %d questions", len(as), len(qs))
	}
	_ = e.note(m, err)
	return as, err
}

// Counters reads the counters of all open namespaces.
func (e *Edge) Counters(ctx context.Context) map[netns.ID]*counters.Snapshot {
	var mu sync.Mutex
	out := make(map[netns.ID]*counters.Snapshot)
	_ = e.each(func(m *member) error {
		ss, err := m.Counters(ctx)
		mu.Lock()
		defer mu.Unlock()
		for _, s := range ss {
			s.Netns = s.Netns.On(m.machine)
			out[s.Netns] = s
		}
		return err
	})
	return out
}

// Rules reads what the rules of a namespace have counted.
func (e *Edge) Rules(ctx context.Context, ns netns.ID) ([]netfilter.RuleCounter, error) {
	m := e.at(ns)
	if m == nil {
		return nil, fmt.Errorf("namespace %s is not in reach", ns)
	}
	out, err := m.Rules(ctx, ns.On(0))
	_ = e.note(m, err)
	return out, err
}

// Close ends everything on all nodes.
func (e *Edge) Close() error {
	var errs []error
	for _, m := range e.members {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
