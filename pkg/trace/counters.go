package trace

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// takeCounters keeps what moved and means loss. Rules are read again only when packets were lost.
func (st *stage) takeCounters(ctx context.Context, before, after map[netns.ID]*counters.Snapshot) {
	for _, src := range st.edge.Sources() {
		if before[src.ID] == nil || after[src.ID] == nil {
			st.c.Witness.Missed = append(st.c.Witness.Missed, fmt.Sprintf("the counters of %s %s", src.Node, src.Name))
			continue
		}
		for _, d := range counters.Diff(before[src.ID], after[src.ID]) {
			l, ok := d.Loss()
			full := limit(after[src.ID], d.Key)
			if !ok || d.N <= 0 || l.Machine && full == "" {
				continue
			}
			st.c.Witness.Moved = append(st.c.Witness.Moved, diagnose.Moved{
				Netns: src.ID, Node: src.Node, Name: src.Name, Counter: d.Key.String(), By: d.N, Text: l.Text, Sign: l.Sign, Full: full,
			})
		}
	}
	if st.c.Sent.Watching || st.c.Sent.Answered < max(st.c.Sent.Sent, 1) {
		st.takeRules(ctx)
	}
}

// limit says how full the table is whose counter of refusals moved, "" when it has room.
func limit(s *counters.Snapshot, k counters.Key) string {
	count, bound := k, k
	switch {
	case k.Kind == counters.Conntrack && k.Name == "drop":
		count.Name, bound.Name = "count", "max"
	case k.Kind == counters.Neigh && strings.HasSuffix(k.Name, ".table_fulls"):
		table := strings.TrimSuffix(k.Name, ".table_fulls")
		count.Name, bound.Name = table+".entries", table+".gc_thresh3"
	default:
		return ""
	}
	n, most := s.Values[count], s.Values[bound]
	if most == 0 || n < most-most/50 { // a few entries end between the drop and the reading
		return ""
	}
	return fmt.Sprintf("%d of %d entries", n, most)
}

// takeRules reads the rules once more and keeps those that counted packets since the snapshot.
func (st *stage) takeRules(ctx context.Context) {
	for _, src := range st.edge.Sources() {
		ns := st.c.Snapshot.ByID(src.ID)
		if ns == nil || ns.Netfilter == nil {
			continue
		}
		now, err := st.edge.Rules(ctx, src.ID)
		if err != nil {
			continue
		}
		st.c.Witness.Rules = append(st.c.Witness.Rules, movedRules(ns, now)...)
	}
}

// movedRules compares two readings of one namespace's rules.
func movedRules(ns *tables.Netns, now []netfilter.RuleCounter) (out []diagnose.MovedRule) {
	before := ns.Netfilter.Counters()
	for _, c := range now {
		same := func(o netfilter.RuleCounter) bool {
			a, b := o.Ref, c.Ref
			return a.Backend == b.Backend && a.Family == b.Family && a.Table == b.Table && a.Chain == b.Chain &&
				a.Rule == b.Rule && a.Handle == b.Handle && a.What == b.What
		}
		i := slices.IndexFunc(before, same)
		if i < 0 || c.Packets <= before[i].Packets {
			continue
		}
		out = append(out, diagnose.MovedRule{Netns: ns.ID, Node: ns.Node, Rule: c.Ref, By: c.Packets - before[i].Packets})
	}
	return out
}
