package netfilter

import (
	"fmt"
	"slices"
	"strings"
)

// play is what the evaluator says of a probe's way through the router: one for each possible course.
type play struct {
	seen   []seen
	end    Verdict
	answer *Rejection
	state  State
	trail  []Ref
	chance string
}

func (p play) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", p.end, p.chance)
	if p.answer != nil {
		fmt.Fprintf(&b, " answer %+v", *p.answer)
	}
	for _, s := range p.seen {
		fmt.Fprintf(&b, "\n    %s", s)
	}
	for _, r := range p.trail {
		fmt.Fprintf(&b, "\n    by %s: %s", r.What, r)
	}
	return b.String()
}

// course is a packet on its way.
type course struct {
	play
	p  Packet
	ct Conn
}

func (w *router) predict(st State, q probe) []play {
	c := course{play: play{state: st}, p: q.p}
	switch q.from {
	case "client":
		c.enter(w, "rc")
	case "server":
		c.enter(w, "rs")
	default:
		c.leave(w, w.route(q.p.Dst))
		return w.hook(c, HookOutput, (*router).sendOut)
	}
	return w.hook(c, HookPrerouting, (*router).routeIn)
}

func (c *course) enter(w *router, dev string) { c.p.In, c.p.InIndex = dev, w.index[dev] }
func (c *course) leave(w *router, dev string) { c.p.Out, c.p.OutIndex = dev, w.index[dev] }

// hook runs one hook and goes on with what it accepts.
func (w *router) hook(c course, h Hook, next func(*router, course) []play) (out []play) {
	for _, o := range c.state.Run(c.p.Family, h, c.p, c.ct, w) {
		d := c
		d.seen, d.trail = slices.Clone(c.seen), append(slices.Clone(c.trail), o.Trail...)
		d.p, d.ct, d.state, d.end, d.answer = o.Packet, o.Conn, o.State, o.Verdict, o.Answer
		d.chance = strings.TrimSpace(c.chance + " " + o.Chance)
		if o.Verdict != Accept {
			out = append(out, d.play)
			continue
		}
		d.seen = append(d.seen, sight(fmt.Sprint(uint8(h)), &d.p))
		out = append(out, next(w, d)...)
	}
	return out
}

func sight(at string, p *Packet) seen {
	s := seen{at: at, src: p.Src, dst: p.Dst, sport: p.SrcPort, dport: p.DstPort, ttl: p.TTL, tos: p.TOS, mark: p.Mark, anyPort: p.AnySrcPort}
	if isICMP(p.Proto) {
		s.sport, s.dport = p.ICMPID, 0
	}
	return s
}

func (w *router) routeIn(c course) []play {
	if w.route(c.p.Dst) == "lo" {
		return w.hook(c, HookInput, func(_ *router, c course) []play { return []play{c.play} })
	}
	if c.p.TTL <= 1 {
		c.end = Drop
		return []play{c.play}
	}
	c.p.TTL--
	c.leave(w, w.route(c.p.Dst))
	return w.hook(c, HookForward, (*router).post)
}

func (w *router) sendOut(c course) []play {
	c.leave(w, w.route(c.p.Dst))
	return w.post(c)
}

func (w *router) post(c course) []play {
	return w.hook(c, HookPostrouting, func(w *router, c course) []play {
		if c.p.Out == "lo" { // and in again, with its connection
			c.p.Out, c.p.OutIndex, c.p.EthSrc = "", 0, c.p.EthDst
			c.enter(w, "lo")
			return w.hook(c, HookPrerouting, (*router).routeIn)
		}
		s := sight(map[string]string{"rc": "client", "rs": "server"}[c.p.Out], &c.p)
		s.mark = 0
		c.seen = append(c.seen, s)
		return []play{c.play}
	})
}

// agrees compares one course with what was seen. An answer that did not come back says nothing where rules
// of the router's own packets may have stopped it.
func (p play) agrees(got []seen, quiet bool) bool {
	var way []seen
	var answer *Rejection
	for _, s := range got {
		switch {
		case s.reset:
			answer = &Rejection{Reset: true}
		case s.errType != 0:
			answer = &Rejection{Type: s.errType, Code: s.errCode}
		default:
			way = append(way, s)
		}
	}
	slices.SortStableFunc(way, func(a, b seen) int { // arrivals are read from sockets of their own
		return len(a.at) - len(b.at)
	})
	if len(way) != len(p.seen) {
		return false
	}
	for i, s := range p.seen {
		g := way[i]
		if s.anyPort {
			g.sport, g.anyPort = s.sport, true
		}
		if g != s {
			return false
		}
	}
	switch {
	case answer == nil:
		return p.answer == nil || quiet
	case p.answer == nil:
		return p.end == Accept || p.end == Drop && len(p.seen) > 0 // of the stack behind the hooks: no socket, TTL
	}
	return *answer == *p.answer
}
