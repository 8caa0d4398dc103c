package diagnose

import (
	"fmt"
	"slices"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// ledAstray: the packet dies because nobody answers on a device that only a policy rule leads to, and arrives by the
// tables as soon as that rule is gone.
func (c *leg) ledAstray(d *forward.Drop) (Finding, bool) {
	if d.Reason != forward.ReasonNeigh && d.Reason != forward.ReasonNoRoute || c.intent == nil {
		return Finding{}, false
	}
	s := c.lastRoute(d.Netns)
	if s == nil || s.PolicyRule == nil || !c.byForeignRule(s) || c.aboutSender(s.PolicyRule) || !c.arrivesWithout(s) {
		return Finding{}, false
	}
	return Finding{
		Cause: "policy-rule-hijack", Node: s.Node, Interface: orWords(c.inputAt(s), d.Interface), Evidence: stepEvidence(s),
		Summary: fmt.Sprintf("%s: a policy rule takes %s before table main: %s (%s); without it the tables lead to the far end", s.Node, s.Target, s.Entry, s.Note),
		Remedy:  c.remedy("policy-rule-hijack", s, nil),
	}, true
}

// lastRoute is the last route lookup of the leg in a namespace.
func (c *leg) lastRoute(id tables.NetnsID) (last *forward.Step) {
	look := func(steps []forward.Step) {
		for i := range steps {
			if steps[i].Kind == forward.StepRoute && steps[i].Netns == id {
				last = &steps[i]
			}
		}
	}
	for i := range c.Hops {
		if c.Hops[i].Expected {
			look(c.Hops[i].Steps)
		}
	}
	look(c.Forward.Tail)
	return last
}

// aboutSender reports whether a rule selects the sender's address and no other: somebody made it for this pod, as the
// plugins of clouds do that give pods addresses of a second interface.
func (c *leg) aboutSender(r *tables.Rule) bool {
	return r.Src.IsValid() && r.Src.IsSingleIP() && r.Src.Addr() == c.intent.Src.IP
}

// arrivesWithout plays the leg again with the tables as they would be without the rule that decided.
func (c *leg) arrivesWithout(s *forward.Step) bool {
	if c.in.Replay == nil {
		return false
	}
	changed := &tables.Snapshot{}
	for _, ns := range c.intent.Snapshot.Netns {
		if ns.ID == s.Netns {
			other := *ns
			other.Rules = slices.DeleteFunc(slices.Clone(ns.Rules), func(r tables.Rule) bool {
				return ns.FormatRule(r) == ns.FormatRule(*s.PolicyRule)
			})
			ns = &other
		}
		changed.Netns = append(changed.Netns, ns)
	}
	legs := c.in.Replay(changed, c.n == 1)
	return len(legs) > 0 && !slices.ContainsFunc(legs, func(l forward.Leg) bool { return !c.intent.Arrives(l) })
}

// fromRuleMissing: the network refuses the sender's address where the tables send it out, and the node has a table
// for another interface that no rule leads to any more.
func (c *leg) fromRuleMissing(f *Finding, last *verify.Hop) bool {
	ns := c.intent.Snapshot.ByID(last.Netns)
	s := c.lastRoute(last.Netns)
	if ns == nil || s == nil || s.Route == nil || s.Route.Table != tables.TableMain {
		return false
	}
	for i := range ns.Routes {
		r := &ns.Routes[i]
		if r.Table == tables.TableMain || r.Table == tables.TableLocal || r.Table == tables.TableDefault || r.Type != tables.RouteUnicast ||
			!r.Dst.Contains(s.Target) || !elsewhere(ns, r, s.Ifindex) || ledTo(ns, r.Table) {
			continue
		}
		rule := fmt.Sprintf("from %s lookup %d", c.intent.Src.IP, r.Table)
		f.Cause = "eni-rule-missing"
		f.Summary = fmt.Sprintf("%s: no policy rule leads to table %d, so packets from %s leave by %s, where the network drops them", ns.Node, r.Table, c.intent.Src.IP, last.Interface)
		f.Evidence = append(f.Evidence, "expected rule: "+rule, "route entry: "+ns.FormatRoute(*r))
		f.Evidence = append(f.Evidence, stepEvidence(s)...)
		f.Remedy = command(ns, fmt.Sprintf("ip rule add pref %d %s", lastPref(ns)+1, rule)) + "; " + keep["eni-rule-missing"]
		return true
	}
	return false
}

// elsewhere reports whether a route leads out of another device than one that is up.
func elsewhere(ns *tables.Netns, r *tables.Route, dev tables.Ifindex) bool {
	return slices.ContainsFunc(r.NextHops, func(nh tables.NextHop) bool {
		l := ns.Link(nh.Index)
		return nh.Index != dev && l != nil && l.Up && l.LowerUp
	})
}

func ledTo(ns *tables.Netns, table uint32) bool {
	return slices.ContainsFunc(ns.Rules, func(r tables.Rule) bool { return r.Table == table })
}

// lastPref is the preference of the last rule before that of table main.
func lastPref(ns *tables.Netns) (last uint32) {
	for _, r := range ns.Rules {
		if r.Priority < tables.PrefMain {
			last = max(last, r.Priority)
		}
	}
	return last
}
