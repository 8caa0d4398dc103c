package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Unresolved is a neighbour that a kernel asked for in vain.
type Unresolved struct {
	Netns   tables.NetnsID `json:"netns"`
	Ifindex tables.Ifindex `json:"ifindex"`
	IP      netip.Addr     `json:"ip"`
	Entry   string         `json:"entry"` // as it stood after the probe
	Command string         `json:"command"`
}

// unresolvedAt is the neighbour that packets waited for in a namespace.
func (c *leg) unresolvedAt(ns tables.NetnsID) *Unresolved {
	steps := slices.Clone(c.Forward.Tail)
	for i := range c.Hops {
		steps = append(steps, c.Hops[i].Steps...)
	}
	for i := range c.in.Witness.Unresolved {
		u := &c.in.Witness.Unresolved[i]
		asked := slices.ContainsFunc(steps, func(s forward.Step) bool {
			return s.Kind == forward.StepNeigh && s.Netns == u.Netns && s.Ifindex == u.Ifindex && s.Target == u.IP
		})
		if u.Netns == ns && asked {
			return u
		}
	}
	return nil
}

// waiting names a loss after the neighbour that could not be resolved, and follows the question for it: where it
// was seen last, and which kernel dropped it or the answer.
func (c *leg) waiting(f *Finding, ns tables.NetnsID) bool {
	u := c.unresolvedAt(ns)
	if u == nil || c.intent == nil {
		return false
	}
	host := c.intent.Snapshot.ByID(u.Netns)
	dev := host.Link(u.Ifindex)
	if dev == nil {
		return false
	}
	f.Node, f.Interface = host.Node, dev.Name
	f.Evidence = append(f.Evidence, "neigh entry after the probe: "+u.Entry, "see: "+u.Command)
	asked, answered := c.asked(u.IP)
	f.Evidence = append(f.Evidence, asked...)
	d := &forward.Drop{Reason: forward.ReasonNeigh, Netns: u.Netns, Node: host.Node, Interface: dev.Name}
	d.Step = forward.Step{Kind: forward.StepNeigh, Netns: u.Netns, Node: host.Node, Ifindex: u.Ifindex, Target: u.IP}
	if p, ok := c.plumbing(d); ok { // how the pod is attached says why
		f.Cause, f.Node, f.Interface, f.Summary, f.Remedy = p.Cause, p.Node, p.Interface, p.Summary, p.Remedy
		f.Evidence = append(p.Evidence, f.Evidence...)
		return true
	}
	where := strings.TrimSpace(host.Node + " " + dev.Name)
	if host.Name != tables.HostName {
		where = host.Name + " " + dev.Name + " on " + host.Node
	}
	f.Summary = fmt.Sprintf("%s: nobody answers for %s, the next hop: packets wait for its link-layer address and are dropped", where, u.IP)
	if answered {
		f.Summary = fmt.Sprintf("%s: the answer for %s, the next hop, does not get there: packets wait for it and are dropped", where, u.IP)
	}
	silent, known := c.intent.Model.Silence(u.Netns, u.Ifindex, u.IP)
	switch {
	case known && !answered:
		f.Cause, f.Node, f.Interface = c.nameSilence(&silent), silent.Node, silent.Interface
		f.Summary = fmt.Sprintf("%s %s: %s", silent.Node, silent.Interface, silent.Step.Note)
		f.Evidence = append(stepEvidence(&silent.Step), f.Evidence...)
		f.Remedy = c.remedy(f.Cause, &silent.Step, nil)
		return true
	case dev.Kind == "vxlan":
		f.Cause = "neigh-missing"
	case c.intent.Model.IsUnderlay(u.Netns, u.Ifindex):
		f.Cause = "underlay-neigh-failed"
		if ns, l := c.ownerDown(u.IP); l != nil {
			f.Cause, f.Node, f.Interface = "link-down", ns.Node, l.Name
			f.Summary = fmt.Sprintf("%s %s, which has %s, is %s: nobody answers for the address", ns.Node, l.Name, u.IP, downWord(l))
			f.Evidence = append(f.Evidence, "link entry: "+ns.FormatLink(*l))
		}
	default:
		f.Cause = "neigh-unanswered"
	}
	f.Remedy = ""
	c.neighbourDrops(f)
	return true
}

// neighbourDrops adds what kernels said of questions and answers that they dropped, and names the finding after it
// where the reason has a name.
func (c *leg) neighbourDrops(f *Finding) {
	var said []string
	for i := range c.in.Witness.Drops {
		d := &c.in.Witness.Drops[i]
		if !d.Neighbour || d.Reason == "OTHERHOST" || d.Reason == "NEIGH_FAILED" || d.Unspecified {
			continue
		}
		node := ""
		for _, ns := range c.intent.Snapshot.Netns {
			if d.In(ns.ID) {
				node = ns.Node
			}
		}
		if node == "" {
			continue
		}
		s := fmt.Sprintf("the kernel of %s dropped the question or its answer: %s in %s, on %s", node, d.Reason, d.Location, d.Device)
		if slices.Contains(said, s) {
			continue
		}
		said = append(said, s)
		cause := byReason[d.Reason]
		if d.Reason == "NETFILTER_DROP" {
			cause = "netfilter-drop"
		}
		if cause != "" && len(said) == 1 {
			f.Cause, f.Node, f.Interface, f.Remedy = cause, node, orWords(d.Device, f.Interface), keep[cause]
			f.Summary += "; " + s
		}
	}
	f.Evidence = append(f.Evidence, said...)
}

// asked says where the taps saw the question for an address, and where an answer.
func (c *leg) asked(ip netip.Addr) (words []string, answered bool) {
	type sight struct {
		point int
		dir   correlate.Direction
		reply bool
	}
	var order []sight
	count := make(map[sight]int)
	for i := range c.in.Wire.Journeys.Neighbours {
		s := &c.in.Wire.Journeys.Neighbours[i]
		h := s.Frame.Flow()
		target, isReply, ok := h.Neighbour()
		if !ok || target != ip {
			continue
		}
		k := sight{s.Point, s.Dir, isReply}
		if count[k]++; count[k] == 1 {
			order = append(order, k)
		}
		answered = answered || isReply
	}
	for _, k := range order {
		i := slices.IndexFunc(c.in.Wire.Taps, func(t verify.Tap) bool { return t.Point == k.point })
		if i < 0 {
			continue
		}
		t, what := c.in.Wire.Taps[i], "who has "+ip.String()
		if k.reply {
			what = ip.String() + " is at"
		}
		words = append(words, fmt.Sprintf("wire: %q %d times at %s %s (%s)", what, count[k], t.Node, t.Name, dirWord(k.dir)))
	}
	return words, answered
}

func dirWord(d correlate.Direction) string {
	if d == correlate.Out {
		return "out"
	}
	return "in"
}
