package trace

import (
	"context"
	"slices"

	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/tables"
)

// takeNeighbours reads the neighbour entries of the path again, after packets were lost: the kernel tried to
// resolve them meanwhile, and those that it could not are FAILED or INCOMPLETE now.
func (st *stage) takeNeighbours(ctx context.Context, p plan) {
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
			st.takeNeighbour(ctx, &s)
		}
	}
}

func (st *stage) takeNeighbour(ctx context.Context, s *forward.Step) {
	ns := st.c.Snapshot.ByID(s.Netns)
	if ns == nil || !st.edge.Has(s.Netns) {
		return
	}
	as, err := st.edge.Ask(ctx, s.Netns, []node.Question{{Kind: node.AskNeigh, Dev: s.Ifindex, IP: s.Target}})
	if err != nil || as[0].Err != "" || as[0].Neigh.State.Valid() {
		return
	}
	st.c.Witness.Unresolved = append(st.c.Witness.Unresolved, diagnose.Unresolved{
		Netns: s.Netns, Ifindex: s.Ifindex, IP: s.Target, Entry: ns.FormatNeigh(as[0].Neigh), Command: s.Command,
	})
}
