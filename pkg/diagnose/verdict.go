package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/verify"
)

// verdict weighs the findings. The wire decides whether the path works; the findings say why it does
// not. A path whose packets all arrived is at worst degraded; one that nobody saw is inconclusive.
func verdict(in Input, fs []Finding) Verdict {
	v := Verdict{Status: status(in, fs)}
	first := firstError(fs)
	if v.Status == Inconclusive {
		v.Summary = whyInconclusive(in)
		return v
	}
	if first == nil {
		v.Summary = healthyWords(in)
		if v.Status != Healthy {
			v.Summary = "packets were lost, and neither tables nor taps say where"
		}
		return v
	}
	v.Cause, v.Leg, v.Node, v.Interface = first.Cause, first.Leg, first.Node, first.Interface
	v.Summary, v.Remedy = first.Summary, first.Remedy
	return v
}

func firstError(fs []Finding) *Finding {
	for i := range fs {
		if fs[i].Severity == Error {
			return &fs[i]
		}
	}
	return nil
}

func status(in Input, fs []Finding) Status {
	first := firstError(fs)
	if in.Wire == nil {
		return statusByTables(in, first)
	}
	req, rep := &in.Path.Request, &in.Path.Reply
	switch {
	case req.Journeys == 0 && first == nil:
		return Inconclusive // nothing was sent, or nothing was there to be seen
	case req.Journeys == 0:
		if req.Forward.Drop == nil && in.Sent.Sent == 0 {
			return Inconclusive
		}
		return Broken
	case req.Reached() == 0, rep.Journeys > 0 && rep.Reached() == 0, noReply(in):
		if first == nil {
			return Inconclusive
		}
		return Broken
	case !in.Sent.Watching && in.Sent.Sent > 0 && in.Sent.Answered == 0 && first != nil:
		return Broken
	case req.Reached() < req.Journeys, rep.Reached() < rep.Journeys, !in.Sent.Watching && in.Sent.Answered < in.Sent.Sent:
		return Degraded
	case first != nil:
		return Degraded
	}
	return Healthy
}

// noReply: requests arrived, and nothing set out to answer them.
func noReply(in Input) bool {
	rep := &in.Path.Reply
	return rep.Journeys == 0 && (in.Sent.Watching || in.Sent.Answered == 0 || len(rep.Foreign) > 0)
}

func statusByTables(in Input, first *Finding) Status {
	req, rep := in.Path.Request.Forward, in.Path.Reply.Forward
	switch {
	case first != nil && (req.End == forward.Dropped || rep.End == forward.Dropped):
		return Broken
	case first != nil && (!in.Intent.Arrives(req) || rep.End != forward.Delivered):
		return Broken
	case first != nil && !answers(&in.Path.Reply):
		return Broken // who asked does not take it for an answer
	case first != nil:
		return Degraded
	case !in.Intent.Arrives(req) || rep.End != forward.Delivered:
		return Inconclusive
	case undecided(&in.Path.Request) != "" || undecided(&in.Path.Reply) != "":
		return Inconclusive
	default:
		return Healthy
	}
}

// answers reports whether a reply comes from the address that was asked.
func answers(rep *verify.Leg) bool {
	return !slices.ContainsFunc(rep.Tail, func(ck verify.Check) bool { return ck.Name == verify.CheckAnswer && !ck.OK })
}

func whyInconclusive(in Input) string {
	req, rep := &in.Path.Request, &in.Path.Reply
	for _, l := range []*verify.Leg{req, rep} {
		if rule := undecided(l); in.Wire == nil && rule != "" {
			return fmt.Sprintf("on the %s leg it hangs on a rule of which the tables do not say whether it matches: %s", l.Name, rule)
		}
	}
	if in.Wire == nil {
		for _, l := range []*verify.Leg{req, rep} {
			if l.Forward.End != forward.Delivered {
				return fmt.Sprintf("the tables do not say where the %s goes: %s", l.Name, orWords(l.Forward.Why, "it is not followed further"))
			}
		}
	}
	switch {
	case req.Journeys == 0 && in.Sent.Watching:
		return "no packet of this flow was seen: none was sent while podtrace watched"
	case req.Journeys == 0 && in.Sent.Sent == 0:
		return "no packet was sent" + errorWords(in.Sent.Errors)
	case req.Journeys == 0:
		return "no packet was seen at any point, not even at its sender" + errorWords(in.Sent.Errors)
	case nobody(in.Intent) != "":
		return nobody(in.Intent) + errorWords(in.Sent.Errors)
	case noReply(in) && req.Arrived > 0 && in.Intent != nil && unowned(in.Intent.Dst):
		return "the request left for " + in.Intent.Dst.IP.String() + ", and no answer came back: what is beyond is not seen" + errorWords(in.Sent.Errors)
	case noReply(in) && req.Arrived > 0:
		return "the request arrived at the far end, and nothing was sent back: the tables can't say why" + errorWords(in.Sent.Errors)
	case in.Sent.Watching && req.Last >= 0:
		h := &req.Hops[req.Last]
		return fmt.Sprintf("%d packets were seen up to %s %s, and what becomes of them further on nobody captured; %d came back",
			req.Journeys, h.Node, h.Interface, rep.Journeys)
	default:
		return "the packet was lost where no tap could see it" + errorWords(in.Sent.Errors)
	}
}

// unowned: an address that is no known object's. What lives on a node that was not read has one.
func unowned(e verify.End) bool { return e.Netns.IsZero() && e.Node == "" }

// nobody says so where the destination is an address of a node's pod network that no known pod has.
func nobody(intent *verify.Intent) string {
	if intent == nil || !unowned(intent.Dst) {
		return ""
	}
	for _, n := range intent.Nodes {
		for _, p := range n.PodCIDRs {
			if p.Contains(intent.Dst.IP) {
				return fmt.Sprintf("no pod has %s, an address of %s's pod network %s, as far as podtrace was told", intent.Dst.IP, n.Name, p)
			}
		}
	}
	return ""
}

// undecided is the rule on which a leg hangs, if the ways that it leaves end differently.
func undecided(l *verify.Leg) string {
	for _, o := range l.Others {
		if o.Undecided != "" && o.End != l.Forward.End {
			return o.Undecided
		}
	}
	return ""
}

func errorWords(errs []string) string {
	if len(errs) == 0 {
		return ""
	}
	return " (" + strings.Join(errs, "; ") + ")"
}

func orWords(s, none string) string {
	if s == "" {
		return none
	}
	return s
}

func healthyWords(in Input) string {
	if in.Wire == nil {
		return "by the tables, packets pass in both directions, and every entry on the way is as it was meant"
	}
	if in.Path.Reply.Journeys == 0 {
		return fmt.Sprintf("%d packets arrived", in.Path.Request.Arrived)
	}
	req, rep := &in.Path.Request, &in.Path.Reply
	if req.Proven == 0 && rep.Proven == 0 {
		return fmt.Sprintf("%d of %d requests arrived and %d of %d replies came back; wire, tables and intent agree at every hop",
			req.Arrived, req.Journeys, rep.Arrived, rep.Journeys)
	}
	return fmt.Sprintf("%d of %d requests and %d of %d replies arrived, %s; wire, tables and intent agree at every hop that was captured",
		req.Reached(), req.Journeys, rep.Reached(), rep.Journeys, provenBy(req, rep))
}

// provenBy says where packets went unseen, and how it is known that they passed.
func provenBy(legs ...*verify.Leg) string {
	var out []string
	for _, l := range legs {
		if l.Proven > 0 {
			h := &l.Hops[l.Blind()]
			out = append(out, fmt.Sprintf("those of the %s by their answers (not captured from %s %s on)", l.Name, h.Node, h.Interface))
		}
	}
	return strings.Join(out, " and ")
}
