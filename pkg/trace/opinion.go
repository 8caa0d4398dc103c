package trace

import (
	"fmt"
	"slices"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns"
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

// ask puts every route, neighbour and FDB lookup of the path to its kernel.
func (s *session) ask(p plan) *Opinion {
	out := &Opinion{}
	askers := make(map[netns.ID]*tables.Asker)
	defer func() {
		for _, a := range askers {
			_ = a.Close()
		}
	}()
	seen := make(map[string]bool)
	for _, st := range p.lookups() {
		key := st.Netns.String() + " " + st.Command + " " + st.MAC.String()
		a, ok := askers[st.Netns]
		if !ok {
			h := s.handle(st.Netns)
			if h == nil {
				continue
			}
			var err error
			if a, err = tables.OpenAsker(h); err != nil {
				s.c.Incomplete = append(s.c.Incomplete, fmt.Sprintf("asking the kernel of %s: %v", st.Node, err))
				return out
			}
			askers[st.Netns] = a
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		ns := s.c.Snapshot.ByID(st.Netns)
		theirs, ok := kernelSays(a, ns, st)
		out.Asked++
		if !ok {
			out.Differs = append(out.Differs, Difference{
				Node: st.Node, Netns: ns.Name, Command: st.Command, Tables: orNone(st.Entry), Kernel: theirs,
			})
		}
	}
	return out
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

// kernelSays asks one question, and compares what decides a packet's way.
func kernelSays(a *tables.Asker, ns *tables.Netns, st *forward.Step) (theirs string, same bool) {
	switch {
	case st.Kind == forward.StepRoute:
		return routeSays(a, ns, st)
	case st.Neigh != nil:
		n, err := a.Neigh(st.Ifindex, st.Target)
		if err != nil {
			return err.Error(), false
		}
		return ns.FormatNeigh(n), n.MAC == st.Neigh.MAC && n.State.Valid() == st.Neigh.State.Valid()
	default:
		f, err := a.FDB(st.Ifindex, false, st.MAC, 0)
		if err != nil {
			return err.Error(), false
		}
		return ns.FormatFDB(f), f.Dst == st.FDB.Dst && f.Port == st.FDB.Port && f.VNI == st.FDB.VNI
	}
}

func routeSays(a *tables.Asker, ns *tables.Netns, st *forward.Step) (theirs string, same bool) {
	q := *st.Question
	if q.Proto == forward.ProtoICMP || q.Proto == forward.ProtoICMPv6 {
		q.SPort, q.DPort = 0, 0
	}
	r, err := a.Route(q)
	if err != nil {
		return err.Error(), st.Route == nil || refuses(st.Route.Type)
	}
	theirs = ns.FormatRoute(r)
	if st.Route == nil {
		return theirs, refuses(r.Type)
	}
	if r.Type != st.Route.Type {
		return theirs, false
	}
	if q.Dst.Is4() && r.Dst != st.Route.Dst {
		return theirs, false
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
