package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
)

// notes are oddities of a path that harm it not, or not yet.
func (c *leg) notes() {
	note := func(hop int, f Finding) {
		f.Leg, f.Severity, f.place = c.Name, Note, place(c.n, hop, 96)
		c.found = append(c.found, f)
	}
	for i := range c.Hops {
		h := &c.Hops[i]
		if h.Repeated > 0 {
			note(i, Finding{
				Cause: "duplicates", Node: h.Node, Interface: h.Interface,
				Summary: fmt.Sprintf("%d of %d packets passed %s %s more than once", h.Repeated, c.Journeys, h.Node, h.Interface),
			})
			break
		}
	}
	for i := range c.Hops {
		for k := range c.Hops[i].Steps {
			if s := &c.Hops[i].Steps[k]; c.ages(s) {
				note(i, Finding{
					Cause: "fdb-aged", Node: s.Node, Interface: c.linkName(s), Evidence: stepEvidence(s),
					Summary: fmt.Sprintf("%s %s: the FDB row for %s is dynamic and will age out: nothing learns it anew", s.Node, c.linkName(s), s.MAC),
				})
			}
		}
	}
	if c.n == 0 && c.intent != nil {
		for _, f := range cgroupNotes(c.intent.Snapshot) {
			note(0, f)
		}
	}
	if e := c.refused(); c.n == 0 && e != "" {
		note(len(c.Hops), Finding{
			Cause: "port-closed", Node: c.endNode(), Summary: "the far end refuses: nothing listens on that port (" + e + ")",
		})
	}
}

// refused is the sender's error that says that the far end has no such port open; "" where none does.
func (c *leg) refused() string {
	if c.in.Sent.Answered == 0 {
		return ""
	}
	i := slices.IndexFunc(c.in.Sent.Errors, func(e string) bool {
		return strings.Contains(e, "connection refused") || strings.Contains(e, "port unreachable")
	})
	if i < 0 {
		return ""
	}
	return c.in.Sent.Errors[i]
}

func (c *leg) endNode() string {
	if c.intent == nil {
		return ""
	}
	return c.intent.Dst.Node
}

// ages reports whether a step used a row of a vxlan device that goes away by itself: dynamic, on a device that
// ages and does not learn.
func (c *leg) ages(s *forward.Step) bool {
	if s.Kind != forward.StepFDB || s.FDB == nil || c.intent == nil {
		return false
	}
	l := c.link(s)
	return l != nil && l.VXLAN != nil && !l.VXLAN.Learning && l.VXLAN.Ageing > 0 && !s.FDB.ExtLrn &&
		s.FDB.State&(tables.NUDPermanent|tables.NUDNoARP) == 0
}

// cgroupNotes are one finding for each cgroup with programs. A packet of the probe does not pass those of a pod: it is
// sent from podtrace's own cgroup.
func cgroupNotes(snap *tables.Snapshot) (out []Finding) {
	for _, ns := range snap.Netns {
		at := make(map[string]int)
		for _, h := range ns.Cgroup {
			i, known := at[h.Cgroup]
			if !known {
				i = len(out)
				at[h.Cgroup] = i
				out = append(out, Finding{Cause: "cgroup-bpf", Node: ns.Node, Summary: cgroupSummary(ns, h.Cgroup)})
			}
			out[i].Evidence = append(out[i].Evidence, h.Entry+" tag "+h.Tag)
		}
	}
	return out
}

func cgroupSummary(ns *tables.Netns, group string) string {
	if group == "/" {
		return fmt.Sprintf("%s: programs on the root cgroup see the packets and calls of every socket", ns.Node)
	}
	return fmt.Sprintf("%s %s: programs on the cgroup %s see the packets and calls of its processes' sockets, and not the probe's", ns.Node, ns.Name, group)
}
