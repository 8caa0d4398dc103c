// Package diagnose turns checks into findings and findings into a verdict. The mechanism is one for all
// faults: the first place along the path where tables, wire and intent disagree is the cause; the table
// entry at that place is the proof; the fault catalogue only gives it a name (cause.go) and a remedy
// (remedy.go). What no name fits keeps the exact place and the kernel's reason.
package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Severity says how much a finding matters for this path.
type Severity string

// The severities.
const (
	Note    Severity = "note"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Status is what a path comes to.
type Status string

// The statuses.
const (
	Healthy      Status = "healthy"
	Degraded     Status = "degraded"
	Broken       Status = "broken"
	Inconclusive Status = "inconclusive"
)

// Finding is one disagreement, in words.
type Finding struct {
	Cause     string
	Leg       string
	Node      string
	Interface string
	Severity  Severity
	Summary   string
	Evidence  []string
	Remedy    string
	// place orders findings along the path: the leg, then the hop, then the step.
	place int
}

// Verdict is the first finding that matters, or its absence.
type Verdict struct {
	Status    Status
	Cause     string
	Leg       string
	Node      string
	Interface string
	Summary   string
	Remedy    string
}

// Sent is what the probe did.
type Sent struct {
	Watching bool // no probe: only real traffic was watched
	Sent     int
	Answered int
	Errors   []string // what the socket said
}

// Input is all that diagnose weighs.
type Input struct {
	Path   verify.Result
	Intent *verify.Intent
	// Wire is nil when tables alone were compared.
	Wire *verify.Wire
	Sent Sent
	// Incomplete names tables that could not be read whole.
	Incomplete []string
	Witness    Witness
	// Data are the ways, by the tables, of a first data segment on the connection that the handshake opened;
	// nil where there is no connection.
	Data []forward.Leg
	// Rest are, of a request and a reply that die on the way by the tables, their ways on from where they should have
	// come to the far node: what is wrong there has to be mended as well.
	Rest [2][]forward.Leg
	// Replay plays the request or the reply with other tables; nil: they can't be played again.
	Replay func(s *tables.Snapshot, reply bool) []forward.Leg
}

// Diagnose gives the findings, in the order of the path, and the verdict.
func Diagnose(in Input) ([]Finding, Verdict) {
	var fs []Finding
	fs = append(fs, legFindings(in, &in.Path.Request, in.Intent, 0)...)
	// without a request that arrives there is no reply to miss: the tables still speak for it
	fs = append(fs, legFindings(in, &in.Path.Reply, in.Intent.Reversed(), 1)...)
	slices.SortStableFunc(fs, func(a, b Finding) int { return cmp.Compare(a.place, b.place) })
	fs = append(fs, bySize(in)...)
	fs = append(fs, attachments(in, fs)...)
	fs = dedup(fs)
	for i := range fs {
		if f := &fs[i]; f.Interface != "" && (f.Cause == "qdisc-drop" || f.Cause == "tc-bpf-drop") { // it is about this very device
			f.Remedy = strings.ReplaceAll(f.Remedy, "DEVICE", f.Interface)
		}
	}
	return fs, verdict(in, fs)
}

// legPlaces is more than any leg has places.
const legPlaces = 100_000

// place numbers a step before hop i: the checks of steps come before the hop's own headers.
func place(leg, hop, sub int) int { return leg*legPlaces + hop*100 + min(sub, 99) }

// legFindings walks one leg from its sender on.
func legFindings(in Input, l *verify.Leg, intent *verify.Intent, n int) []Finding {
	c := &leg{in: in, Leg: l, intent: intent, n: n}
	if in.Wire != nil {
		c.whole = l.Journeys > 0 && l.Reached() == l.Journeys
	} else {
		c.whole = intent != nil && intent.Arrives(l.Forward)
	}
	for i := range l.Hops {
		for k := range l.Hops[i].Checks {
			c.check(i, k, &l.Hops[i].Checks[k])
		}
	}
	for k := range l.Tail {
		c.check(c.expected(), k, &l.Tail[k])
	}
	c.ipcache()
	c.dropped()
	c.beyond()
	c.alternatives()
	c.established()
	c.foreign()
	c.lost()
	c.unseen()
	c.unanswered()
	c.notes()
	return c.found
}

// leg gathers the findings of one direction.
type leg struct {
	*verify.Leg
	in     Input
	intent *verify.Intent
	n      int
	// whole: every packet that set out arrived, whatever the tables look like; without packets, the tables
	// lead all the way
	whole bool
	found []Finding
}

// expected counts the hops that the tables lead to.
func (c *leg) expected() int {
	n := 0
	for _, h := range c.Hops {
		if h.Expected {
			n++
		}
	}
	return n
}

// check turns a comparison that does not hold into a finding.
func (c *leg) check(hop, k int, ck *verify.Check) {
	if ck.OK || c.follows(ck) || c.repeated(hop, ck) {
		return
	}
	f := Finding{
		Leg: c.Name, Node: ck.Node, Interface: ck.Interface, Severity: Error, place: place(c.n, hop, k),
		Evidence: c.checkEvidence(ck),
	}
	if ck.Source == verify.FromTables && ck.Name == verify.CheckUnderlay && !c.neighAccused(hop) {
		return // fabrics answer ARP with MACs of their own
	}
	f.Cause, f.Summary = c.nameCheck(ck, &f)
	f.Remedy = c.remedy(f.Cause, ck.Step, ck)
	if c.whole && !aboutTheEnd(ck.Name) && !(c.in.Wire == nil && aboutTheWay(ck.Name)) && ck.Source == verify.FromIntent {
		f.Severity = Warning
	}
	c.found = append(c.found, f)
}

// aboutTheEnd: packets that arrive do not excuse that they arrive as others, or elsewhere.
func aboutTheEnd(check string) bool {
	return check == verify.CheckSource || check == verify.CheckDelivered || check == verify.CheckPort || check == verify.CheckEndpoint || check == verify.CheckAnswer
}

// aboutTheWay: without packets nothing shows that another way than the one that was meant gets there as well.
func aboutTheWay(check string) bool {
	return check == verify.CheckRoute || check == verify.CheckNeigh || check == verify.CheckFDB || check == verify.CheckVtepLocal
}

// follows reports whether a check is about the neighbour or the FDB row of a next hop that was wrong already: a
// consequence, not a fault.
func (c *leg) follows(ck *verify.Check) bool {
	if ck.Name != verify.CheckFDB && ck.Name != verify.CheckNeigh {
		return false
	}
	return slices.ContainsFunc(c.Hops, func(h verify.Hop) bool {
		return h.Node == ck.Node && slices.ContainsFunc(h.Checks, func(o verify.Check) bool { return o.Name == verify.CheckRoute && !o.OK })
	})
}

// repeated reports whether headers differed at an earlier hop already: what is wrong there stays wrong.
func (c *leg) repeated(hop int, ck *verify.Check) bool {
	if ck.Source != verify.FromTables || ck.Name == verify.CheckUnderlay {
		return false
	}
	for i := 0; i < hop && i < len(c.Hops); i++ {
		if slices.ContainsFunc(c.Hops[i].Checks, func(o verify.Check) bool {
			return !o.OK && o.Source == verify.FromTables && o.Name != verify.CheckUnderlay
		}) {
			return true
		}
	}
	if hop < len(c.Hops) {
		for k := range c.Hops[hop].Checks {
			o := &c.Hops[hop].Checks[k]
			if o == ck {
				return false
			}
			if !o.OK && o.Source == verify.FromTables && o.Name != verify.CheckUnderlay {
				return true
			}
		}
	}
	return false
}

// neighAccused reports whether an underlay neighbour that is not the far node's own device is to blame: the
// packets were lost where it sent them. Those that arrive with the far device's own address acquit it, and so
// does any other traffic between the nodes that is answered: it takes the same entry.
func (c *leg) neighAccused(hop int) bool {
	if c.in.Wire == nil || c.Journeys == 0 || c.whole || c.Last < hop-1 || c.Last > hop+1 {
		return false
	}
	if c.Last == hop+1 {
		h := &c.Hops[c.Last]
		ns := c.intent.Snapshot.ByID(h.Netns)
		if len(h.Sightings) > 0 && ns != nil {
			l, f := ns.Link(h.Ifindex), &h.Sightings[0].Frame
			seen := f.Flow().EthDst
			if f.HasVXLAN || f.HasIPUDP {
				seen = f.Outer.EthDst
			}
			return l != nil && l.MAC != seen
		}
	}
	for _, name := range []string{ContrastNodePing, ContrastNodeUDP} {
		if t := c.in.Witness.contrast(name); t != nil && t.Answered > 0 {
			return false
		}
	}
	return true
}

func (c *leg) checkEvidence(ck *verify.Check) []string {
	out := []string{fmt.Sprintf("%s: expected %s, is %s", ck.Name, ck.Expected, ck.Observed)}
	if ck.Announced != "" {
		out = append(out, "announced by the node: "+ck.Announced)
	}
	if ck.Owner != "" {
		out = append(out, "what is there belongs to "+ck.Owner)
	}
	return append(out, stepEvidence(ck.Step)...)
}

func stepEvidence(s *forward.Step) []string {
	if s == nil {
		return nil
	}
	var out []string
	if s.Note != "" {
		out = append(out, s.Note)
	}
	if s.Entry != "" {
		out = append(out, fmt.Sprintf("%s entry: %s", s.Kind, s.Entry))
	}
	if s.Command != "" {
		out = append(out, "see: "+s.Command)
	}
	return out
}

// dropped reports what the tables say of the leg's end.
func (c *leg) dropped() {
	d := c.Forward.Drop
	if d == nil || c.whole {
		return
	}
	f := Finding{
		Leg: c.Name, Node: d.Node, Interface: d.Interface, Severity: Error, place: place(c.n, c.expected(), 98),
		Evidence: stepEvidence(&d.Step),
	}
	if c.in.Wire != nil && c.Last >= c.expected() {
		// packets went past the place where the tables would have them die
		if at := slices.IndexFunc(c.Hops, func(h verify.Hop) bool { return h.Lost > 0 }); at != c.expected() {
			return
		}
		f.Evidence = append(f.Evidence, "not all packets die here: the entry came or went while they passed, or is not for all of them")
	}
	if def, ok := c.translated(d); ok {
		def.Evidence = append(def.Evidence, f.Evidence...)
		def.Leg, def.Severity, def.place = c.Name, Error, place(c.n, c.expected(), 90)
		c.found = append(c.found, def)
		return
	}
	if def, ok := c.plumbing(d); ok {
		def.Leg, def.Severity, def.place = c.Name, Error, f.place
		def.Evidence = append(def.Evidence, f.Evidence...)
		c.found = append(c.found, def)
		return
	}
	if def, ok := c.ledAstray(d); ok {
		def.Leg, def.Severity, def.place = c.Name, Error, f.place
		def.Evidence = append(def.Evidence, f.Evidence...)
		c.found = append(c.found, def)
		return
	}
	f.Cause, f.Summary = c.nameDrop(d, &f)
	f.Remedy = c.remedy(f.Cause, &d.Step, nil)
	c.found = append(c.found, f)
}

// translated: the packet dies on its way to an address that a rule or a connection put in the place of the
// destination.
func (c *leg) translated(d *forward.Drop) (Finding, bool) {
	s := verify.NATStep(c.Forward, "ipDst")
	if s == nil || c.intent == nil || d.Reason != forward.ReasonNeigh && d.Reason != forward.ReasonNoRoute && d.Reason != forward.ReasonUnreachable {
		return Finding{}, false
	}
	to := d.Step.Target
	if to == c.intent.Dst.IP || c.isNodes(to) { // on the way to an endpoint: a tunnel's far end, say
		return Finding{}, false
	}
	f := Finding{Cause: c.deadEndpoint(s), Node: s.Node, Interface: c.linkName(s), Evidence: stepEvidence(s)}
	f.Summary = fmt.Sprintf("%s: the destination is translated to %s, where nobody is: %s", s.Node, to, s.Entry)
	f.Remedy = c.remedy(f.Cause, s, nil)
	return f, true
}

// isNodes reports whether a node has an address, or announced it.
func (c *leg) isNodes(ip netip.Addr) bool {
	return slices.ContainsFunc(c.intent.Nodes, func(n inventory.Node) bool {
		ns := c.intent.Snapshot.Host(n.Name)
		return n.Flannel.PublicIP == ip || n.Flannel.PublicIPv6 == ip || slices.Contains(n.InternalIPs, ip) || ns != nil && ns.HasAddr(ip)
	})
}

// deadEndpoint names a translation to where no endpoint is: a rule's, or a connection's that outlived it.
func (c *leg) deadEndpoint(s *forward.Step) string {
	switch {
	case s.Virtual != nil:
		return "ipvs-backend"
	case s.Rule == nil || s.Rule.What != netfilter.WhatConn:
		return "dnat-dead-endpoint"
	case c.Forward.FinalFlow.Proto == forward.ProtoUDP || len(c.Hops) > 0 && c.Hops[0].Frame.Proto == forward.ProtoUDP:
		return "ct-stale-udp"
	default:
		return "ct-stale"
	}
}

// alternatives reports the ways that the tables allow beside the one that was taken, and that end badly: a dead
// next hop among several, an endpoint of a service that is gone. What hangs on a rate is only noted.
func (c *leg) alternatives() {
	if c.Forward.Drop != nil {
		return
	}
	for i := range c.Others {
		l := &c.Others[i]
		if len(l.Chance) == 0 && l.Undecided == "" || l.Undecided != "" && c.in.Wire != nil {
			continue // of those that hang on a rule, the wire has decided
		}
		f, bad := c.otherWay(l)
		if !bad {
			continue
		}
		f.Severity, f.place = Error, place(c.n, len(l.Hops), 98)
		f.Summary = "some packets, by chance: " + f.Summary
		when := strings.Join(l.Chance, "; ")
		if l.Undecided != "" {
			when = "this rule matches, which tables do not tell: " + l.Undecided
		}
		f.Evidence = append([]string{"only when: " + when}, f.Evidence...)
		if l.ByRate || l.Undecided != "" {
			f.Severity = Note
		}
		c.found = append(c.found, f)
	}
}

// beyond lists what the tables show behind the place where the packet dies.
func (c *leg) beyond() {
	for _, l := range c.in.Rest[c.n] {
		way := c.intent.Alternative(l)
		if f, bad := c.otherWay(&way); bad {
			f.Severity, f.place = Warning, place(c.n, 900, 0)
			f.Summary = "further on: " + f.Summary
			c.found = append(c.found, f)
			return
		}
	}
}

// otherWay names the first thing that is wrong, by the tables alone, with a way that no packet was seen to take: an
// entry that was not meant, else where it ends.
func (c *leg) otherWay(way *verify.Other) (f Finding, bad bool) {
	o := *c
	o.Leg, o.intent = &verify.Leg{Name: c.Name, Forward: way.Leg}, c.intent.For(way.Leg) // to another endpoint, perhaps
	for k := range way.Hops {
		o.Hops = append(o.Hops, verify.Hop{Hop: way.Hops[k], Expected: true})
	}
	f.Leg = c.Name
	if i := slices.IndexFunc(way.Checks, func(ck verify.Check) bool { return !ck.OK }); i >= 0 {
		ck := &way.Checks[i]
		f.Node, f.Interface, f.Evidence = ck.Node, ck.Interface, c.checkEvidence(ck)
		f.Cause, f.Summary = o.nameCheck(ck, &f)
		f.Remedy = o.remedy(f.Cause, ck.Step, ck)
		return f, true
	}
	if d := way.Drop; d != nil {
		f.Node, f.Interface, f.Evidence = d.Node, d.Interface, stepEvidence(&d.Step)
		f.Cause, f.Summary = o.nameDrop(d, &f)
		f.Remedy = o.remedy(f.Cause, &d.Step, nil)
		return f, true
	}
	return f, false
}

// established reports what becomes of the data after a handshake that passes: rules may let only that through.
func (c *leg) established() {
	if c.n != 0 || c.Forward.End != forward.Delivered {
		return
	}
	for _, l := range c.in.Data {
		if l.End == forward.Delivered || l.Undecided != "" || len(l.Chance) > 0 {
			return
		}
	}
	for _, l := range c.in.Data {
		if l.Drop == nil {
			continue
		}
		d := l.Drop
		f := Finding{Leg: c.Name, Node: d.Node, Interface: d.Interface, Severity: Error, place: place(0, len(l.Hops), 98), Evidence: stepEvidence(&d.Step)}
		o := *c
		o.Leg = &verify.Leg{Name: c.Name, Forward: l}
		f.Cause, f.Summary = o.nameDrop(d, &f)
		f.Summary = "the handshake passes, data does not: " + f.Summary
		f.Remedy = o.remedy(f.Cause, &d.Step, nil)
		c.found = append(c.found, f)
		return
	}
}

// unanswered: the requests arrived, and the far end's own kernel dropped them there.
func (c *leg) unanswered() {
	if c.n != 0 || !c.whole || c.in.Wire == nil || c.in.Path.Reply.Journeys > 0 || len(c.Hops) == 0 {
		return
	}
	last := &c.Hops[len(c.Hops)-1]
	said := c.kernelSaid(last)
	if len(said) == 0 || c.refused() != "" && strings.Contains(said[0], ": NO_SOCKET") {
		return // that nothing listens is what the far end says itself, and a note has it
	}
	if back := c.in.Path.Reply.Forward; back.Drop != nil && back.Drop.Netns == last.Netns && len(back.Hops) == 0 {
		return // the answer is what it could not send: the tables say why
	}
	f := Finding{Leg: c.Name, Node: last.Node, Interface: last.Interface, Severity: Error, place: place(0, len(c.Hops), 97), Cause: "dropped-in-pod"}
	if cause, _, _ := c.reasonAt(last); cause != "" {
		f.Cause, f.Remedy = cause, keep[cause]
	}
	f.Summary = fmt.Sprintf("the requests arrive at %s %s, and go no further: %s", last.Node, last.Interface, said[0])
	f.Evidence = append(said, c.counted(last)...)
	c.found = append(c.found, f)
}

// attachments lists what is wrong with how either pod is attached, on a path that is broken: no walk gets there any
// more, perhaps, and it has to be mended as well.
func attachments(in Input, fs []Finding) (out []Finding) {
	if in.Intent == nil || firstError(fs) == nil {
		return nil
	}
	for n, e := range []verify.End{in.Intent.Dst, in.Intent.Src} {
		c := &leg{in: in, Leg: &in.Path.Request, intent: in.Intent}
		f, bad := c.attachment(e)
		if !e.Pod || !bad || slices.ContainsFunc(fs, func(o Finding) bool { return o.Cause == f.Cause && o.Node == f.Node }) {
			continue
		}
		f.Severity, f.place = Warning, place(1, 0, 0)+legPlaces+n
		out = append(out, f)
	}
	return out
}

// foreign reports replies that somebody else than the far end sent, where nothing came from the far end itself.
func (c *leg) foreign() {
	if len(c.Foreign) == 0 || c.Journeys > 0 {
		return
	}
	at := "a place without a tap"
	f := Finding{Cause: "wrong-responder", Leg: c.Name, Severity: Error, place: place(c.n, 0, 0)}
	if s := c.Foreign[0].Sightings; len(s) > 0 && c.in.Wire != nil {
		if i := slices.IndexFunc(c.in.Wire.Taps, func(t verify.Tap) bool { return t.Point == s[0].Point }); i >= 0 {
			t := c.in.Wire.Taps[i]
			f.Node, f.Interface, at = t.Node, t.Name, t.Node+" "+t.Name
		}
	}
	f.Summary = fmt.Sprintf("the answer is not the far end's: it set out from %s, and nothing passed the far end's own interface", at)
	f.Evidence = []string{fmt.Sprintf("wire: %d answers seen first at %s", len(c.Foreign), at)}
	c.found = append(c.found, f)
}

// dedup joins findings that name the same cause at the same place: the first keeps its place, unless the
// later one is the graver. One device can harm both directions.
func dedup(fs []Finding) []Finding {
	var out []Finding
	for _, f := range fs {
		same := func(o Finding) bool {
			return o.Cause == f.Cause && o.Node == f.Node && o.Interface == f.Interface
		}
		at := slices.IndexFunc(out, same)
		switch {
		case at < 0:
			out = append(out, f)
		case f.Severity == Error && out[at].Severity != Error:
			out = append(slices.Delete(out, at, at+1), f)
		case out[at].Leg == f.Leg:
			out[at].Evidence = appendNew(out[at].Evidence, f.Evidence)
		}
	}
	return out
}

func appendNew(to, from []string) []string {
	for _, e := range from {
		if !slices.Contains(to, e) {
			to = append(to, e)
		}
	}
	return to
}
