package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Size is what became of packets as large as the sender's device takes, with fragmentation forbidden: what
// bulk traffic does, and a ping does not.
type Size struct {
	Bytes    int      `json:"bytes"` // of the IP packet
	Sent     int      `json:"sent"`
	Answered int      `json:"answered"`
	Errors   []string `json:"errors,omitempty"`
	// PMTU is the path MTU that ICMP told the sender, 0: no such error came.
	PMTU int `json:"pmtu,omitempty"`
	// Passes and Fails bracket the limit, in bytes of the IP packet: the largest that was answered and the
	// smallest that was not. 0: not measured.
	Passes int `json:"passes,omitempty"`
	Fails  int `json:"fails,omitempty"`
	// Path is how the taps saw them.
	Path   verify.Result  `json:"-"`
	Wire   *verify.Wire   `json:"-"`
	Intent *verify.Intent `json:"-"`
	// Drops are the kernels' words on these packets.
	Drops []kdrop.Drop `json:"-"`
	Node  string       `json:"-"` // the sender's
	// Untold is where the error that a kernel owes the sender of a packet too large died; nil: on no table's
	// account.
	Untold *forward.Drop `json:"-"`
}

// bySize judges the full-size packets: they are lost, small ones are not, and nobody told the sender.
func bySize(in Input) []Finding {
	s := in.Witness.Size
	if s != nil && s.Answered > 0 && s.PMTU > 0 {
		return []Finding{{
			Cause: "pmtu-lower", Leg: s.Path.Request.Name, Node: s.Node, Severity: Note, place: place(0, 0, 96),
			Summary: fmt.Sprintf("the path takes %d bytes, less than the pod's interface; ICMP tells the sender so, and it sends that much", s.PMTU),
		}}
	}
	if s == nil || s.Answered > 0 || s.PMTU > 0 {
		return nil
	}
	l, n, intent := &s.Path.Request, 0, s.Intent
	if l.Arrived == l.Journeys && l.Journeys > 0 {
		l, n, intent = &s.Path.Reply, 1, s.Intent.Reversed()
	}
	c := &leg{in: Input{Wire: s.Wire, Witness: Witness{Drops: s.Drops}}, Leg: l, n: n, intent: intent}
	f := Finding{Leg: l.Name, Severity: Error, Cause: "mtu-path-blackhole", Remedy: mtuRemedy(s, l)}
	last, next := c.sizeLost()
	if last == nil { // not even the sender's device showed it
		f.Node, f.place = s.Node, place(n, 0, 97)
		f.Summary = fmt.Sprintf("packets of %d bytes do not leave %s, small ones do%s", s.Bytes, s.Node, errorWords(s.Errors))
		f.limit(s)
		return []Finding{f}
	}
	f.Node, f.Interface, f.place = last.Node, last.Interface, place(n, max(l.Last, 0)+1, 97)
	f.Evidence = []string{fmt.Sprintf("packets of %d bytes: %d sent, seen last at %s %s, none answered, and no ICMP error told the sender", s.Bytes, max(s.Sent, 1), last.Node, last.Interface)}
	f.limit(s)
	d := l.Forward.Drop
	switch {
	case d != nil && d.Reason == forward.ReasonTooBig && !silent(d):
		f.untold(s, d)
	case d != nil && d.Reason != forward.ReasonTooBig: // a rule about lengths, say: the tables tell
		f.Node, f.Interface = d.Node, d.Interface
		f.Cause, f.Summary = c.nameDrop(d, &f)
		f.Remedy = c.remedy(f.Cause, &d.Step, nil)
		f.Summary = fmt.Sprintf("packets of %d bytes, and not small ones: %s", s.Bytes, f.Summary)
		f.Evidence = append(f.Evidence, stepEvidence(&d.Step)...)
	default:
		f.Summary = fmt.Sprintf("packets of %d bytes are lost after %s %s, small ones are not%s", s.Bytes, last.Node, last.Interface, s.upTo())
		if next != nil {
			f.Summary = fmt.Sprintf("packets of %d bytes are lost between %s %s and %s %s, small ones are not%s",
				s.Bytes, last.Node, last.Interface, next.Node, next.Interface, s.upTo())
		}
		if d != nil {
			f.Node, f.Interface = d.Node, d.Interface
			f.Evidence = append(f.Evidence, stepEvidence(&d.Step)...)
			break
		}
		f.bySizeReason(c, last, next)
	}
	return []Finding{f}
}

// sizeLost are the place where full-size packets were seen last, and the next that would have shown them.
func (c *leg) sizeLost() (last, next *verify.Hop) {
	if c.Last < 0 || c.Last >= len(c.Hops) {
		return nil, nil
	}
	if i := c.missing(); i >= 0 {
		next = &c.Hops[i]
	}
	return &c.Hops[c.Last], next
}

// bySizeReason lets the kernel's word on the full-size packets decide: a queue that drops them is no MTU.
func (f *Finding) bySizeReason(c *leg, last, next *verify.Hop) {
	places := []*verify.Hop{last}
	if next != nil {
		places = append(places, next)
	}
	f.Evidence = append(f.Evidence, c.kernelSaid(places...)...)
	if cause, node, dev := c.reasonAt(places...); cause != "" {
		f.Cause, f.Node, f.Interface, f.Remedy = cause, node, orWords(dev, f.Interface), keep[cause]
	}
}

func (s *Size) upTo() string {
	if s.Passes == 0 {
		return ""
	}
	return fmt.Sprintf(" (up to %d bytes pass)", s.Passes)
}

func (f *Finding) limit(s *Size) {
	if s.Passes > 0 {
		f.Evidence = append(f.Evidence, fmt.Sprintf("measured: %d bytes pass, %d do not", s.Passes, s.Fails))
	}
}

// silent: a device that is handed a frame too long says nothing; IP does.
func silent(d *forward.Drop) bool { return strings.HasPrefix(d.Step.Note, "frame ") }

// untold: a kernel refused the packet, as its tables have it, and the error that it owes the sender did not
// arrive.
func (f *Finding) untold(s *Size, d *forward.Drop) {
	f.Cause, f.Node, f.Interface = "pmtu-icmp-blocked", d.Node, d.Interface
	f.Summary = fmt.Sprintf("%s %s: %s, and the ICMP error that says so never reaches the sender", d.Node, d.Interface, d.Step.Note)
	f.Evidence = append(f.Evidence, stepEvidence(&d.Step)...)
	f.Remedy = "give the pods the MTU of the path, or let ICMP type 3 code 4 through"
	if u := s.Untold; u != nil {
		f.Evidence = append(f.Evidence, "the ICMP error dies here:")
		f.Evidence = append(f.Evidence, stepEvidence(&u.Step)...)
	}
}

func mtuRemedy(s *Size, l *verify.Leg) string {
	if s.Passes == 0 {
		return "set the pods' and the overlay's MTU to what the network between the nodes takes"
	}
	over := ""
	if slices.ContainsFunc(l.Hops, func(h verify.Hop) bool { return h.Frame.Outer != nil }) {
		over = " (the overlay's MTU: \"MTU\" of the backend in flannel's net-conf.json)"
	}
	return fmt.Sprintf("set the pods' MTU to %d%s, or raise the MTU of the network between the nodes", s.Passes, over)
}
