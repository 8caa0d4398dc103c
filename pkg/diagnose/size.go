package diagnose

import (
	"fmt"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
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
	Path verify.Result `json:"-"`
	Wire *verify.Wire  `json:"-"`
	// Untold is where the error that a kernel owes the sender of a packet too large died; nil: on no table's
	// account.
	Untold *forward.Drop `json:"-"`
}

// bySize judges the full-size packets: they are lost, small ones are not, and nobody told the sender.
func bySize(in Input) []Finding {
	s := in.Witness.Size
	if s == nil || s.Answered > 0 || s.Sent == 0 || s.PMTU > 0 {
		return nil
	}
	l, n := &s.Path.Request, 0
	if l.Arrived == l.Journeys && l.Journeys > 0 {
		l, n = &s.Path.Reply, 1
	}
	c := &leg{in: Input{Wire: s.Wire, Witness: Witness{}}, Leg: l, n: n}
	if l.Last < 0 || l.Last >= len(l.Hops) {
		return nil
	}
	last := &l.Hops[l.Last]
	f := Finding{
		Leg: l.Name, Node: last.Node, Interface: last.Interface, Severity: Error, place: place(n, l.Last+1, 97),
		Evidence: []string{fmt.Sprintf("packets of %d bytes: %d sent, %d seen at %s %s, none answered, and no ICMP error told the sender", s.Bytes, s.Sent, last.Seen, last.Node, last.Interface)},
	}
	if s.Passes > 0 {
		f.Evidence = append(f.Evidence, fmt.Sprintf("measured: %d bytes pass, %d do not", s.Passes, s.Fails))
	}
	if d := l.Forward.Drop; d != nil && d.Reason == forward.ReasonTooBig && !silent(d) {
		f.untold(s, d)
		return []Finding{f}
	}
	i := c.missing()
	if i < 0 {
		return nil
	}
	next := &l.Hops[i]
	f.Cause = "mtu-path-blackhole"
	limit := ""
	if s.Passes > 0 {
		limit = fmt.Sprintf(" (up to %d bytes pass)", s.Passes)
	}
	f.Summary = fmt.Sprintf("packets of %d bytes are lost between %s %s and %s %s, small ones are not%s",
		s.Bytes, last.Node, last.Interface, next.Node, next.Interface, limit)
	if d := l.Forward.Drop; d != nil && d.Reason == forward.ReasonTooBig {
		f.Node, f.Interface = d.Node, d.Interface
		f.Evidence = append(f.Evidence, stepEvidence(&d.Step)...)
	}
	f.Remedy = mtuRemedy(s, last)
	return []Finding{f}
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

func mtuRemedy(s *Size, last *verify.Hop) string {
	if s.Passes == 0 {
		return "set the pods' and the overlay's MTU to what the network between the nodes takes"
	}
	over := ""
	if last.Frame.Outer != nil {
		over = " (the overlay's MTU: \"MTU\" of the backend in flannel's net-conf.json)"
	}
	return fmt.Sprintf("set the pods' MTU to %d%s, or raise the MTU of the network between the nodes", s.Passes, over)
}
