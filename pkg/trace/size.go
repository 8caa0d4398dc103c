package trace

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Sized is the trace of full-size packets: the flow, what the taps saw of it, and how it was answered.
type Sized struct {
	Flow     forward.Flow
	Observed *Observed
	Size     diagnose.Size
	Witness  diagnose.Witness
}

// Bytes before the payload of an echo: IP header and ICMP header.
const (
	echoOver4 = 20 + 8
	echoOver6 = 40 + 8
)

// tries bounds how often a sender is told a smaller MTU.
const tries = 4

// sizes sends packets as large as the sender's device takes, with fragmentation forbidden: a path that is healthy
// for a ping may lose all that bulk traffic sends. An ICMP error that tells the sender a smaller MTU is
// health too, and that size is tried next. A loss is tried again, and then measured.
func (s *session) sizes(ctx context.Context) {
	c := &s.c
	p := newPlan(c)
	bytes := sendMTU(c, p)
	over := echoOver4
	if c.Flow.Dst.Is6() {
		over = echoOver6
	}
	wait := 5*time.Duration(c.Probe.RTTNanos) + 200*time.Millisecond
	if bytes <= over+probe.DefaultSize || !s.pings(ctx, probe.DefaultSize, wait) {
		return // a device that takes little, or ICMP that is not answered: nothing to compare with
	}
	size := diagnose.Size{}
	for range tries {
		st := s.sized(bytes, over, wait)
		if err := st.run(ctx); err != nil || ctx.Err() != nil {
			return
		}
		size.Bytes, size.Sent, size.Answered = bytes, size.Sent+st.c.Sent.Sent, st.c.Sent.Answered
		size.Errors = append(size.Errors, st.c.Sent.Errors...)
		c.Sized = &Sized{Flow: st.c.Flow, Observed: st.c.Observed, Size: size, Witness: st.c.Witness}
		if size.Answered > 0 {
			break
		}
		if st.pmtu == 0 || st.pmtu >= bytes {
			break
		}
		bytes, size.PMTU = st.pmtu, st.pmtu
	}
	if size.Answered == 0 && (size.PMTU == 0 || size.PMTU == bytes) {
		c.Sized.Size.PMTU = 0
		if s.pings(ctx, bytes-over, wait) { // it was chance
			c.Sized.Size.Answered = 1
			return
		}
		c.Sized.Size.Passes, c.Sized.Size.Fails = s.sweep(ctx, over+probe.DefaultSize, bytes, over, wait)
	}
}

// sizesBehind sends them to the endpoint that a service's address led to, for the service takes no echo: from inside the
// cluster the way is the same. From outside it is not, and none are sent.
func (s *session) sizesBehind(ctx context.Context) {
	if s.c.Destination.Kind != inventory.KindService || s.c.From.PodNetns.IsZero() || s.c.Source.Kind == inventory.KindAddress {
		return
	}
	p, in := compare(&s.c)
	if len(p.request) == 0 {
		return
	}
	to := p.request[verify.Pick(p.request, in.Wire)].FinalFlow.Dst
	direct := *s
	var ok bool
	if direct.c, ok = s.c.behind(to); !ok {
		return
	}
	direct.sizes(ctx)
	s.c.Sized = direct.c.Sized
}

// behind is the case of a path to an endpoint of the service; the case itself, and false, where it is none.
func (c *Case) behind(ip netip.Addr) (Case, bool) {
	i := slices.IndexFunc(c.Targets, func(t Target) bool { return t.IP == ip })
	if i < 0 {
		return *c, false
	}
	end, err := c.Inventory.Lookup(ip.String(), "")
	if err != nil || end.Kind != inventory.KindPod || end.ServicePort != nil {
		return *c, false
	}
	out := *c
	out.Destination, out.To, out.Targets = end, c.Targets[i].At, nil
	out.Flow = forward.Flow{Src: c.Flow.Src, Dst: ip}
	return out, true
}

// sized is the stage of one full-size echo.
func (s *session) sized(bytes, over int, wait time.Duration) *stage {
	c := s.c
	c.Witness, c.Sized = diagnose.Witness{}, nil
	c.Flow = forward.Flow{Src: s.c.Flow.Src, Dst: s.c.Flow.Dst, Length: bytes, DF: true}
	return &stage{
		session: s, c: &c, spec: probe.Spec{Proto: probe.ICMP}, opts: probe.Options{Size: bytes - over, DF: true},
		count: 1, timeout: wait,
	}
}

// pings sends one unfragmented echo with that payload, and another if it is not answered.
func (s *session) pings(ctx context.Context, payload int, wait time.Duration) bool {
	pr, err := s.edge.Prepare(ctx, s.c.From.PodNetns, node.Probe{
		Spec: probe.Spec{Proto: probe.ICMP}, Src: s.c.Flow.Src, Dst: s.c.Flow.Dst, Options: probe.Options{Size: payload, DF: true},
	})
	if err != nil {
		return false
	}
	defer pr.Close() //nolint:errcheck // its sockets are done with
	for range 2 {
		if pr.Run(ctx, 1, 0, wait).Answered > 0 {
			return true
		}
	}
	return false
}

// sweep finds the limit between a size that passes and one that does not, in bytes of the IP packet.
func (s *session) sweep(ctx context.Context, passes, fails, over int, wait time.Duration) (int, int) {
	s.o.say("measuring which size still passes")
	for fails-passes > 1 && ctx.Err() == nil {
		mid := (passes + fails) / 2
		if s.pings(ctx, mid-over, wait/2) {
			passes = mid
		} else {
			fails = mid
		}
	}
	return passes, fails
}

// sendMTU is the largest packet that the sender's route and device take.
func sendMTU(c *Case, p plan) int {
	if len(p.request) == 0 || len(p.request[0].Hops) == 0 {
		return 0
	}
	h := &p.request[0].Hops[0]
	ns := c.Snapshot.ByID(h.Netns)
	l := ns.Link(h.Ifindex)
	if l == nil {
		return 0
	}
	mtu := l.MTU
	for _, st := range h.Steps {
		if st.Route != nil && st.Route.MTU != 0 {
			mtu = min(mtu, int(st.Route.MTU))
		}
	}
	return mtu
}

// size completes the account of the full-size packets for the diagnosis: how the taps saw them, and, where a
// kernel refuses them, what became of the error that it owes the sender.
func size(c *Case) *diagnose.Size {
	if c.Sized == nil {
		return nil
	}
	sub, _ := c.behind(c.Sized.Flow.Dst)
	sub.Flow, sub.Observed, sub.Sized = c.Sized.Flow, c.Sized.Observed, nil
	p, in := compare(&sub)
	out := c.Sized.Size
	out.Path, out.Wire, out.Intent, out.Drops = verify.Verify(in), in.Wire, in.Intent, c.Sized.Witness.Drops
	out.Node = c.From.Node
	if d := out.Path.Request.Forward.Drop; d != nil && d.Reason == forward.ReasonTooBig {
		out.Untold = untold(p.model, d, sub.Flow)
	}
	return &out
}

// untold plays the ICMP error of a refused packet back to its sender, and gives the place where it dies.
func untold(m *forward.Model, d *forward.Drop, f forward.Flow) *forward.Drop {
	const fragNeeded4, code4, tooBig6, errorBytes = 3, 4, 2, 576
	e := forward.Flow{Proto: forward.ProtoICMP, ICMPType: fragNeeded4, ICMPCode: code4, Dst: f.Src, Length: errorBytes}
	if f.Src.Is6() {
		e.Proto, e.ICMPType, e.ICMPCode = forward.ProtoICMPv6, tooBig6, 0
	}
	legs := m.Trace(d.Netns, e)
	i := slices.IndexFunc(legs, func(l forward.Leg) bool { return l.Drop != nil })
	if i < 0 {
		return nil
	}
	return legs[i].Drop
}
