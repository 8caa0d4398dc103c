package trace

import (
	"slices"

	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// takeNeighbours reads the neighbour entries of the path again, after packets were lost: the kernel tried to
// resolve them meanwhile, and those that it could not are FAILED or INCOMPLETE now.
func (st *stage) takeNeighbours(p plan) {
	if !st.c.Sent.Watching && st.c.Sent.Answered >= max(st.c.Sent.Sent, 1) {
		return
	}
	type key struct {
		ns  netns.ID
		dev tables.Ifindex
		ip  string
	}
	seen := make(map[key]bool)
	for _, l := range slices.Concat(p.request, p.reply) {
		steps := slices.Clone(l.Tail)
		for _, h := range l.Hops {
			steps = append(steps, h.Steps...)
		}
		for _, s := range steps {
			k := key{s.Netns, s.Ifindex, s.Target.String()}
			if s.Kind != forward.StepNeigh || !s.Target.IsValid() || seen[k] {
				continue
			}
			seen[k] = true
			st.takeNeighbour(&s)
		}
	}
}

func (st *stage) takeNeighbour(s *forward.Step) {
	h, ns := st.handle(s.Netns), st.c.Snapshot.ByID(s.Netns)
	if h == nil || ns == nil {
		return
	}
	a, err := tables.OpenAsker(h)
	if err != nil {
		return
	}
	defer a.Close() //nolint:errcheck // a socket that was only read
	n, err := a.Neigh(s.Ifindex, s.Target)
	if err != nil || n.State.Valid() {
		return
	}
	st.c.Witness.Unresolved = append(st.c.Witness.Unresolved, diagnose.Unresolved{
		Netns: s.Netns, Ifindex: s.Ifindex, IP: s.Target, Entry: ns.FormatNeigh(n), Command: s.Command,
	})
}
