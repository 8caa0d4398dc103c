package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/verify"
)

// astray are the causes that send packets to another station than the one that was meant.
var astray = []string{"pod-neigh-stale", "underlay-neigh-wrong", "neigh-wrong-mac", "fdb-wrong-dst", "wrong-ethDst", "cilium-ipcache-stale"}

// lost reports where the wire lost the packets, when that is not what the tables say already.
func (c *leg) lost() {
	if c.in.Wire == nil || c.whole {
		return
	}
	if c.Journeys == 0 {
		c.neverSent()
		return
	}
	i := slices.IndexFunc(c.Hops, func(h verify.Hop) bool { return h.Lost > 0 })
	if i < 0 {
		return
	}
	next := &c.Hops[i]
	last := &c.Hops[next.Since]
	words := fmt.Sprintf("%d of %d packets seen at %s %s (%s), %d at %s %s (%s)",
		last.Seen, c.Journeys, last.Node, last.Interface, last.Dir, next.Seen, next.Node, next.Interface, next.Dir)
	said := c.kernelSaid(last, next)
	if c.flapped(next.Since, i, words) {
		return
	}
	if c.clashed(last, next, append(append([]string{"wire: " + words}, said...), c.counted(last, next)...), place(c.n, i, 0)-1) {
		return
	}
	for k := range c.found {
		// a finding further on than the place where the wire stops is not what stopped it
		at := c.found[k].place >= place(c.n, next.Since, 0) && (!next.Expected || c.found[k].place <= place(c.n, i, 95))
		if at && c.found[k].Severity == Error {
			c.found[k].Evidence = append(c.found[k].Evidence, "wire: "+words)
			c.found[k].Evidence = append(c.found[k].Evidence, healed(next)...)
			c.found[k].Evidence = append(c.found[k].Evidence, said...)
			c.found[k].Evidence = append(c.found[k].Evidence, c.counted(last, next)...)
			return
		}
	}
	if at := slices.IndexFunc(c.found, func(f Finding) bool { return f.Severity == Error && slices.Contains(astray, f.Cause) }); at >= 0 {
		c.found[at].Evidence = append(append(c.found[at].Evidence, "wire: "+words), said...)
		return // it was sent to somebody else, and is lost wherever that leads
	}
	f := Finding{
		Cause: "lost-after-" + last.Interface, Leg: c.Name, Node: last.Node, Interface: last.Interface, Severity: Error,
		place: place(c.n, next.Since+1, 97), Evidence: append([]string{"wire: " + words}, healed(next)...),
		Summary: fmt.Sprintf("%slost between %s %s and %s %s: %s",
			share(next.Lost, c.Journeys), last.Node, last.Interface, next.Node, next.Interface, c.byTables(next)),
	}
	c.explainLoss(&f, last, next)
	if len(said) > 0 {
		f.Summary += "; " + said[0]
		f.Evidence = append(f.Evidence, said...)
	}
	f.Evidence = append(f.Evidence, c.counted(last, next)...)
	if s := verify.NATStep(c.Forward, "ipDst"); s != nil && s.Rule.What == netfilter.WhatNAT && c.direct() {
		f.Cause, f.Node, f.Interface = "wrong-destination", s.Node, orWords(c.linkName(s), f.Interface)
		f.Summary = fmt.Sprintf("%s: a rule puts another destination in the place of %s: %s", s.Node, c.intent.Dst.IP, s.Entry)
		f.Evidence, f.Remedy = append(f.Evidence, stepEvidence(s)...), c.remedy(f.Cause, s, nil)
	}
	if cause, node, dev := c.reasonAt(last, next); cause != "" && strings.HasPrefix(f.Cause, "lost-after-") {
		f.Cause, f.Node, f.Interface = cause, node, orWords(dev, f.Interface)
		f.Remedy = keep[cause]
	}
	if strings.HasPrefix(f.Cause, "lost-after-") && !c.waiting(&f, last.Netns) {
		c.waiting(&f, next.Netns)
	}
	c.byRule(&f, last, next, next.Lost)
	c.byContrast(&f, last, next)
	c.tableFull(&f, last, next)
	c.found = append(c.found, f)
}

// byTables is what the tables say of a loss that none of their entries explains.
func (c *leg) byTables(next *verify.Hop) string {
	if c.Forward.End == forward.Unknown && !next.Expected {
		return "the tables do not tell what becomes of it there (" + c.Forward.Why + ")"
	}
	return "the tables on both sides would let it through"
}

// unseen reports hops whose captures show none of the packets that passed before and behind them. Only of recorded
// traffic: a live tap would have to have failed. Where a capture shows the other direction as it should be, packets
// passed it as something else; where it shows neither, it may have been made with a filter.
func (c *leg) unseen() {
	if c.in.Wire == nil || !c.in.Sent.Watching || c.Journeys == 0 {
		return
	}
	other := &c.in.Path.Reply
	if c.n != 0 {
		other = &c.in.Path.Request
	}
	for i := range c.Hops {
		h := &c.Hops[i]
		if h.State != verify.Missing || !h.Expected || i > c.Last && !c.whole {
			continue
		}
		f := Finding{
			Cause: "unseen-at-" + h.Interface, Leg: c.Name, Node: h.Node, Interface: h.Interface, Severity: Warning, place: place(c.n, i, 96),
			Summary: fmt.Sprintf("the capture at %s %s shows none of the %d packets that passed there: was it made with a filter?", h.Node, h.Interface, c.Journeys),
		}
		if slices.ContainsFunc(other.Hops, func(o verify.Hop) bool { return o.Netns == h.Netns && o.Ifindex == h.Ifindex && o.Seen > 0 }) {
			f.Severity = Error
			f.Summary = fmt.Sprintf("the capture at %s %s shows none of the %d packets as they should pass there, only those of the %s: another encapsulation, or other addresses",
				h.Node, h.Interface, c.Journeys, other.Name)
		}
		c.found = append(c.found, f)
	}
}

// neverSent: no packet set out, because its sender waits for a neighbour.
func (c *leg) neverSent() {
	if c.n != 0 || c.intent == nil {
		return
	}
	f := Finding{Leg: c.Name, Severity: Error, place: place(0, 0, 1)} // nothing gets further than this
	if c.waiting(&f, c.intent.Src.Netns) {
		c.found = append(c.found, f)
	}
}

// direct reports whether the far end's own address was the destination, and not a service's.
func (c *leg) direct() bool {
	return c.intent != nil && len(c.Hops) > 0 && c.Hops[0].Frame.Dst == c.intent.Dst.IP
}

// share says how many were lost where it was not all.
func share(lost, of int) string {
	if lost >= of {
		return ""
	}
	return fmt.Sprintf("%d of %d packets are ", lost, of)
}

// healed says that a loss ended while podtrace looked.
func healed(h *verify.Hop) []string {
	if h.Healed == 0 {
		return nil
	}
	return []string{fmt.Sprintf("it healed by itself: the first %d packets were lost, and all from %s on came through", h.Lost, h.Healed.Round(time.Millisecond))}
}

// flapped: packets were lost where an interface went down and came up again meanwhile.
func (c *leg) flapped(last, next int, words string) bool {
	for k := last; k <= next; k++ {
		h := &c.Hops[k]
		down := slices.ContainsFunc(c.in.Wire.Taps, func(t verify.Tap) bool { return t.Flapped && t.Netns == h.Netns && t.Ifindex == h.Ifindex })
		if !down {
			continue
		}
		f := Finding{
			Cause: "link-flap", Leg: c.Name, Node: h.Node, Interface: h.Interface, Severity: Error, place: place(c.n, k, 0),
			Summary:  fmt.Sprintf("%s %s went down and came up again while podtrace looked; packets were lost meanwhile", h.Node, h.Interface),
			Evidence: append([]string{"wire: " + words}, healed(&c.Hops[next])...), Remedy: keep["link-flap"],
		}
		c.found = append(c.found, f)
		return true
	}
	return false
}

// missing is the first hop after the last sighting that a tap would have shown; -1: none.
func (c *leg) missing() int {
	if c.Last < 0 {
		return -1
	}
	for i := c.Last + 1; i < len(c.Hops); i++ {
		if c.Hops[i].State == verify.Missing {
			return i
		}
	}
	return -1
}

// explainLoss adds what is known of a place where the tables see no reason.
func (c *leg) explainLoss(f *Finding, last, next *verify.Hop) {
	for i := next.Since; i < len(c.Hops) && i <= next.Since+1; i++ {
		h := &c.Hops[i]
		if h.Opaque != "" {
			f.Cause = "tc-bpf-drop"
			f.Node, f.Interface = h.Node, h.Interface
			f.Summary = fmt.Sprintf("lost at %s %s, where a program sees every packet", h.Node, h.Interface)
			f.Evidence = append(f.Evidence, "program: "+h.Opaque)
		}
	}
	if last.Node != next.Node {
		f.Evidence = append(f.Evidence, fmt.Sprintf("it left %s and did not reach %s: the network between the nodes", last.Node, next.Node))
		f.Summary = fmt.Sprintf("%slost between the nodes: %s %s sends it, %s %s does not receive it", share(next.Lost, c.Journeys), last.Node, last.Interface, next.Node, next.Interface)
		f.Remedy = c.remedy(f.Cause, nil, nil)
	} else if s := c.carrier(next); s != nil {
		f.Summary = fmt.Sprintf("%slost between %s %s and %s %s, where a process carries it: %s",
			share(next.Lost, c.Journeys), last.Node, last.Interface, next.Node, next.Interface, s.Note)
		f.Evidence = append(f.Evidence, stepEvidence(s)...)
		f.Remedy = "see whether the process runs (it may hang or be stopped), and restart it"
	}
	f.Evidence = append(f.Evidence, c.Forward.Notes...)
}

// carrier is the step through a process between a hop and the one that its losses count from; nil: there is none.
func (c *leg) carrier(next *verify.Hop) *forward.Step {
	for i := next.Since + 1; i < len(c.Hops); i++ {
		h := &c.Hops[i]
		if at := slices.IndexFunc(h.Steps, func(s forward.Step) bool { return s.Kind == forward.StepProxy }); at >= 0 {
			return &h.Steps[at]
		}
		if h == next {
			break
		}
	}
	return nil
}
