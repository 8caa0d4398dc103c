package trace

import (
	"context"
	"fmt"
	"slices"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Opinion is what the kernels themselves say to the lookups of a path, beside the tables that they showed: the
// two differ when a table changed meanwhile, or when podtrace reads it wrongly.
type Opinion struct {
	Asked   int          `json:"asked"`
	Differs []Difference `json:"differs,omitempty"`
}

// Difference is one lookup that a kernel answers otherwise than its tables do.
type Difference struct {
	Node    string `json:"node"`
	Netns   string `json:"netns"`
	Command string `json:"command"`
	Tables  string `json:"tables"`
	Kernel  string `json:"kernel"`
}

// lookup is a step of the path with the question that it answers.
type lookup struct {
	step     *forward.Step
	question node.Question
}

// ask puts every route, neighbour and FDB lookup of the path to its kernel.
func (s *session) ask(ctx context.Context, p plan) *Opinion {
	out := &Opinion{}
	seen := make(map[string]bool)
	by := make(map[netns.ID][]lookup)
	var order []netns.ID
	for _, st := range p.lookups() {
		key := st.Netns.String() + " " + st.Command + " " + st.MAC.String()
		if seen[key] || !s.edge.Has(st.Netns) || foreign(s.c.Snapshot.ByID(st.Netns), st) {
			continue
		}
		seen[key] = true
		if by[st.Netns] == nil {
			order = append(order, st.Netns)
		}
		by[st.Netns] = append(by[st.Netns], lookup{st, question(st)})
	}
	for _, id := range order {
		qs := make([]node.Question, len(by[id]))
		for i, l := range by[id] {
			qs[i] = l.question
		}
		as, err := s.edge.Ask(ctx, id, qs)
		if err != nil {
			s.c.Incomplete = append(s.c.Incomplete, fmt.Sprintf("asking the kernel of %s: %v", by[id][0].step.Node, err))
			continue
		}
		ns := s.c.Snapshot.ByID(id)
		for i, l := range by[id] {
			out.Asked++
			if theirs, ok := kernelSays(&as[i], ns, l.step); !ok {
				out.Differs = append(out.Differs, Difference{
					Node: l.step.Node, Netns: ns.Name, Command: l.step.Command, Tables: orNone(l.step.Entry), Kernel: theirs,
				})
			}
		}
	}
	return out
}

// foreign reports whether a lookup is that of a packet which the namespace can't send, as it does not have its source
// (an answer that is only assumed): a kernel has no route from there, whatever its tables hold.
func foreign(ns *tables.Netns, st *forward.Step) bool {
	q := st.Question
	return st.Kind == forward.StepRoute && ns != nil && q.IIF == 0 && q.Src.Is4() && !ns.HasAddr(q.Src)
}

// question is what a kernel is asked about a step.
func question(st *forward.Step) node.Question {
	switch {
	case st.Kind == forward.StepRoute:
		q := *st.Question
		if q.Proto == forward.ProtoICMP || q.Proto == forward.ProtoICMPv6 {
			q.SPort, q.DPort = 0, 0
		}
		return node.Question{Kind: node.AskRoute, Route: q}
	case st.Neigh != nil:
		return node.Question{Kind: node.AskNeigh, Dev: st.Ifindex, IP: st.Target}
	default:
		return node.Question{Kind: node.AskFDB, Dev: st.Ifindex, MAC: st.MAC}
	}
}

func orNone(s string) string {
	if s == "" {
		return "no entry"
	}
	return s
}

// lookups are the steps of all legs that a kernel can be asked about.
func (p plan) lookups() (out []*forward.Step) {
	add := func(steps []forward.Step) {
		for i := range steps {
			s := &steps[i]
			if s.Kind == forward.StepRoute && s.Question != nil || s.Neigh != nil || s.Kind == forward.StepFDB && s.FDB != nil && s.FDB.MAC == s.MAC {
				out = append(out, s)
			}
		}
	}
	for _, l := range slices.Concat(p.request, p.reply) {
		for i := range l.Hops {
			add(l.Hops[i].Steps)
		}
		add(l.Tail)
	}
	return out
}

// kernelSays compares what decides a packet's way.
func kernelSays(a *node.Answer, ns *tables.Netns, st *forward.Step) (theirs string, same bool) {
	switch {
	case st.Kind == forward.StepRoute:
		return routeSays(a, ns, st)
	case a.Err != "":
		return a.Err, false
	case st.Neigh != nil:
		return ns.FormatNeigh(a.Neigh), a.Neigh.MAC == st.Neigh.MAC && a.Neigh.State.Valid() == st.Neigh.State.Valid()
	default:
		f := a.FDB
		return ns.FormatFDB(f), f.Dst == st.FDB.Dst && f.Port == st.FDB.Port && f.VNI == st.FDB.VNI
	}
}

func routeSays(a *node.Answer, ns *tables.Netns, st *forward.Step) (theirs string, same bool) {
	if a.Err != "" {
		return a.Err, st.Route == nil || refuses(st.Route.Type)
	}
	r := a.Route
	theirs = ns.FormatRoute(r)
	if st.Route == nil {
		return theirs, refuses(r.Type)
	}
	if r.Type != st.Route.Type {
		return theirs, false
	}
	if st.Question.Dst.Is4() && r.Dst != st.Route.Dst {
		return theirs, false
	}
	if st.Question.Dst.Is6() && (r.Type == tables.RouteLocal || r.Type == tables.RouteAnycast) {
		return theirs, true // whatever the entry's device, the answer names lo: ip6_rt_get_dev_rcu of net/ipv6/route.c
	}
	return theirs, sameWay(r, *st.Route)
}

func refuses(t tables.RouteType) bool {
	switch t {
	case tables.RouteBlackhole, tables.RouteUnreachable, tables.RouteProhibit, tables.RouteThrow:
		return true
	default:
		return false
	}
}

// sameWay reports whether every way out of what the kernel answers is one of the tables' route: of a multipath
// route, the kernel may name the one that it would take.
func sameWay(kernel, ours tables.Route) bool {
	return !slices.ContainsFunc(kernel.NextHops, func(k tables.NextHop) bool {
		return !slices.ContainsFunc(ours.NextHops, func(o tables.NextHop) bool { return o.Index == k.Index && o.Gateway == k.Gateway })
	})
}
