package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Moved is a counter that means loss, and moved while the probe was under way. Other traffic of the namespace
// moves it too: it supports what else was found and accuses nobody by itself.
type Moved struct {
	Netns   tables.NetnsID `json:"netns"`
	Node    string         `json:"node"`
	Name    string         `json:"name"`    // tables.Netns.Name
	Counter string         `json:"counter"` // counters.Key: "proto//Ip.InNoRoutes"
	By      int64          `json:"by"`
	Text    string         `json:"text"`
	// Sign: nothing is lost where it counts, it tells of a loss elsewhere.
	Sign bool `json:"sign,omitempty"`
	// Full says how full the table is that refused entries, "" when it has room or is no table.
	Full string `json:"full,omitempty"`
}

// MovedRule is a netfilter rule or policy that counted packets while the probe was under way.
type MovedRule struct {
	Netns tables.NetnsID `json:"netns"`
	Node  string         `json:"node"`
	Rule  netfilter.Ref  `json:"rule"`
	By    uint64         `json:"by"`
}

// drops reports whether the rule ends packets.
func (m *MovedRule) drops() bool {
	switch m.Rule.What {
	case netfilter.WhatDrop, netfilter.WhatReject:
		return true
	case netfilter.WhatPolicy:
		return strings.EqualFold(m.Rule.Text, "drop")
	default:
		return false
	}
}

// counted gives the counters that moved in the namespaces of two places.
func (c *leg) counted(places ...*verify.Hop) (out []string) {
	seen := func(id tables.NetnsID) bool {
		return slices.ContainsFunc(places, func(h *verify.Hop) bool { return h.Netns == id })
	}
	for _, m := range c.in.Witness.Moved {
		if seen(m.Netns) && !m.Sign && c.passes(&m) {
			out = append(out, fmt.Sprintf("counter of %s: %s +%d: %s", m.Node, m.Counter, m.By, m.Text))
		}
	}
	for i := range c.in.Witness.Rules {
		m := &c.in.Witness.Rules[i]
		if seen(m.Netns) && m.drops() {
			out = append(out, fmt.Sprintf("rule of %s counted %d packets: %s", m.Node, m.By, m.Rule))
		}
	}
	return out
}

// passes reports whether a counter is of no device, or of one that the leg leads by.
func (c *leg) passes(m *Moved) bool {
	rest, isLink := strings.CutPrefix(m.Counter, "link/")
	dev, _, _ := strings.Cut(rest, "/")
	return !isLink || slices.ContainsFunc(c.Hops, func(h verify.Hop) bool { return h.Netns == m.Netns && h.Interface == dev }) ||
		slices.ContainsFunc(c.Forward.Tail, func(s forward.Step) bool { return s.Netns == m.Netns && c.linkName(&s) == dev })
}

// tableFull names a loss after a table of the kernel that had no room: connections, where netfilter dropped the packet;
// neighbours, where the packet waits for one.
func (c *leg) tableFull(f *Finding, places ...*verify.Hop) {
	for _, m := range c.in.Witness.Moved {
		i := slices.IndexFunc(places, func(h *verify.Hop) bool { return h.Netns == m.Netns })
		if m.Full == "" || i < 0 {
			continue
		}
		switch {
		case strings.HasPrefix(m.Counter, "conntrack/") && c.mayBeNetfilter(places...):
			f.Cause = "ct-table-full"
			f.Summary = fmt.Sprintf("%s: the connection table is full (%s), so the first packet of a new connection is dropped", m.Node, m.Full)
		case strings.HasPrefix(m.Counter, "neigh/"):
			f.Cause = "neigh-table-overflow"
			f.Summary = fmt.Sprintf("%s: the table of neighbours is full (%s), and a new one can't be entered", m.Node, m.Full)
		default:
			continue
		}
		f.Node, f.Remedy = m.Node, keep[f.Cause]
		f.Evidence = append(f.Evidence, fmt.Sprintf("counter of %s: %s +%d, %s", m.Node, m.Counter, m.By, m.Full))
		return
	}
}

// byRule names a loss after the one rule that ends packets and counted as many as were lost, where the kernel
// says that netfilter dropped them, or says nothing at all.
func (c *leg) byRule(f *Finding, last, next *verify.Hop, lost int) {
	if !c.netfilterDropped(last, next) {
		return
	}
	var only *MovedRule
	for i := range c.in.Witness.Rules {
		m := &c.in.Witness.Rules[i]
		if m.Netns != last.Netns && m.Netns != next.Netns || !m.drops() || m.By < uint64(lost) {
			continue
		}
		if only != nil {
			return // two may have been it
		}
		only = m
	}
	if only == nil {
		return
	}
	r := only.Rule
	d := &forward.Drop{Reason: forward.ReasonNetfilter, Netns: only.Netns, Node: only.Node, Interface: f.Interface}
	d.Step = forward.Step{Kind: forward.StepNetfilter, Netns: only.Netns, Node: only.Node, Rule: &r, Entry: r.String(), Command: r.Command}
	if ns := c.intent.Snapshot.ByID(only.Netns); ns != nil {
		d.Step.Command = command(ns, r.Command)
	}
	f.Cause, f.Summary = c.nameNetfilter(d)
	f.Node, f.Remedy = only.Node, c.remedy(f.Cause, &d.Step, nil)
	f.Evidence = append(f.Evidence, stepEvidence(&d.Step)...)
}

// netfilterDropped reports whether the kernel names netfilter for packets of this leg at a place.
func (c *leg) netfilterDropped(places ...*verify.Hop) bool {
	return slices.ContainsFunc(c.in.Witness.Drops, func(d kdrop.Drop) bool {
		return d.Reason == "NETFILTER_DROP" && d.Reverse == (c.n == 1) && c.dropPlace(&d, places) != nil
	})
}

// mayBeNetfilter reports whether a kernel said so, or none said anything.
func (c *leg) mayBeNetfilter(places ...*verify.Hop) bool {
	return len(c.in.Witness.Drops) == 0 || c.netfilterDropped(places...)
}

// clashed: the packet was lost where a rule gives it another source, and the kernel counted connections that it could
// not enter: another connection has the same addresses and ports already.
func (c *leg) clashed(last, next *verify.Hop, evidence []string, at int) bool {
	s := verify.NATStep(c.Forward, "ipSrc")
	if s == nil || s.Netns != last.Netns || s.Netns != next.Netns || s.Rule.What != netfilter.WhatNAT || !c.mayBeNetfilter(last, next) {
		return false
	}
	counted := slices.ContainsFunc(c.in.Witness.Moved, func(m Moved) bool {
		return m.Netns == s.Netns && strings.HasSuffix(m.Counter, "/insert_failed")
	})
	if !counted {
		return false
	}
	c.found = append(c.found, Finding{
		Cause: "nat-port-race", Leg: c.Name, Node: s.Node, Interface: next.Interface, Severity: Error, place: at,
		Summary:  fmt.Sprintf("%s: after its translation the packet is the same as another connection's, and the kernel drops it: %s", s.Node, s.Entry),
		Evidence: append(evidence, stepEvidence(s)...), Remedy: keep["nat-port-race"],
	})
	return true
}
