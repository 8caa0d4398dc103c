package netfilter

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Priorities at which conntrack and NAT stand among the chains (linux/netfilter_ipv4.h).
const (
	prioConntrack = -200
	prioNATDst    = -100
	prioNATSrc    = 100
)

// maxOutcomes bounds the alternatives of one hook.
const maxOutcomes = 32

// Run plays one hook: every base chain that hangs there in order of priority, with conntrack and NAT at
// their places. Several outcomes come back where rules choose at random, or where an unknown expression
// makes a difference.
func (s State) Run(fam Family, h Hook, p Packet, ct Conn, env Env) []Outcome {
	var outs []Outcome
	unknown := false
	for choices := []int{}; ; {
		r := &run{state: s, fam: fam, hook: h, p: p, ct: ct, env: env, choices: choices}
		o := r.all()
		unknown = unknown || r.unknown
		outs = appendDistinct(outs, o)
		choices = r.next()
		if choices == nil || len(outs) >= maxOutcomes {
			break
		}
	}
	if unknown && len(outs) > 1 {
		return []Outcome{unknownOutcome(outs)}
	}
	return outs
}

func appendDistinct(outs []Outcome, o Outcome) []Outcome {
	for _, e := range outs {
		if e.Verdict == o.Verdict && e.Packet == o.Packet && e.Conn.Entry.Reply == o.Conn.Entry.Reply {
			return outs
		}
	}
	return append(outs, o)
}

// unknownOutcome stands for outcomes that differ by an expression which is not known.
func unknownOutcome(outs []Outcome) Outcome {
	o := outs[0]
	for _, e := range outs {
		for _, r := range e.Trail {
			if r.What == WhatUnknown {
				o.Trail = append(slices.Clone(e.Trail), r)
				o.Verdict = Unknown
				return o
			}
		}
	}
	o.Verdict = Unknown
	return o
}

// run is one pass through a hook with given choices.
type run struct {
	state   State
	fam     Family
	hook    Hook
	p       Packet
	ct      Conn
	env     Env
	trail   []Ref
	unknown bool
	chance  string

	choices []int // taken so far, in order of the choice points
	arity   []int
	at      int

	table *Table
	chain *Chain
	rule  *Rule
	regs  registers
	depth int
	steps int
}

// choose is a choice point with n ways.
func (r *run) choose(n int) int {
	if r.at == len(r.choices) {
		r.choices = append(r.choices, 0)
	}
	r.arity = append(r.arity[:r.at], n)
	c := r.choices[r.at]
	r.at++
	return c
}

// next gives the choices of the following pass, nil when all have been made.
func (r *run) next() []int {
	c := slices.Clone(r.choices[:r.at])
	for i := len(c) - 1; i >= 0; i-- {
		if c[i]+1 < r.arity[i] {
			c[i]++
			return c[:i+1]
		}
	}
	return nil
}

// stage is one thing that hangs on a hook.
type stage struct {
	prio  int32
	table *Table
	chain *Chain
	do    func() // conntrack and NAT
}

func (r *run) all() Outcome {
	for _, st := range r.stages() {
		if st.do != nil {
			st.do()
			continue
		}
		r.table = st.table
		switch v := r.base(st.chain); v {
		case Accept:
		default:
			return r.outcome(v)
		}
	}
	r.confirm()
	return r.outcome(Accept)
}

func (r *run) outcome(v Verdict) Outcome {
	return Outcome{Verdict: v, Packet: r.p, State: r.state, Conn: r.ct, Trail: r.trail, Chance: r.chance}
}

// stages are the base chains of the hook with conntrack and NAT among them.
func (r *run) stages() []stage {
	var out []stage
	ip := r.fam == FamilyIPv4 || r.fam == FamilyIPv6
	rs := r.state.rules
	for i := range rs.Tables {
		t := &rs.Tables[i]
		if t.Dormant || t.Family != r.fam && (t.Family != FamilyInet || !ip && r.fam != FamilyNetdev) {
			continue
		}
		for k := range t.Chains {
			c := &t.Chains[k]
			if !c.Base || c.Hook != r.hook || c.Type == "nat" && ip || !r.onDevice(c) {
				continue
			}
			out = append(out, stage{prio: c.Priority, table: t, chain: c})
		}
	}
	if ip && rs.tracks(r.fam) {
		out = append(out, r.trackStages()...)
	}
	slices.SortStableFunc(out, func(a, b stage) int { return cmp.Compare(a.prio, b.prio) })
	return out
}

// onDevice: chains of the netdev hooks belong to devices.
func (r *run) onDevice(c *Chain) bool {
	if r.hook != HookIngress && r.hook != HookEgress {
		return true
	}
	return slices.Contains(c.Devices, r.p.In)
}

func (r *run) trackStages() []stage {
	switch r.hook {
	case HookPrerouting, HookOutput:
		return []stage{{prio: prioConntrack, do: r.track}, {prio: prioNATDst, do: func() { r.nat(true) }}}
	case HookInput, HookPostrouting:
		return []stage{{prio: prioNATSrc, do: func() { r.nat(false) }}}
	default:
		return nil
	}
}

func (r *run) track() {
	if r.ct.State == ConnNone {
		r.ct = r.state.lookup(&r.p)
	}
}

// nat runs the nat chains for the first packet of a connection, and translates every packet of it.
func (r *run) nat(dst bool) {
	done := &r.ct.srcDone
	if dst {
		done = &r.ct.dstDone
	}
	if r.ct.State == ConnNew && !*done {
		r.natChains()
		*done = true
	}
	if r.ct.translate(&r.p, dst) && (r.ct.Entry.known || r.ct.Reply) {
		r.trail = append(r.trail, Ref{
			What: WhatConn, Family: r.fam, Hook: r.hook, Text: r.ct.Entry.String(),
			Command: fmt.Sprintf("conntrack -L -p %s --orig-src %s", protoName(r.ct.Entry.Orig.Proto), r.ct.Entry.Orig.Src),
		})
	}
}

// natChains are the base chains of type nat of the hook: the first translation ends them.
func (r *run) natChains() {
	var sts []stage
	for i := range r.state.rules.Tables {
		t := &r.state.rules.Tables[i]
		if t.Dormant || t.Family != r.fam && t.Family != FamilyInet {
			continue
		}
		for k := range t.Chains {
			if c := &t.Chains[k]; c.Base && c.Type == "nat" && c.Hook == r.hook {
				sts = append(sts, stage{prio: c.Priority, table: t, chain: c})
			}
		}
	}
	slices.SortStableFunc(sts, func(a, b stage) int { return cmp.Compare(a.prio, b.prio) })
	before := r.ct.Entry.Reply
	for _, st := range sts {
		r.table = st.table
		if r.base(st.chain); r.ct.Entry.Reply != before {
			return
		}
	}
}

// confirm keeps a new connection once its packet has left or arrived.
func (r *run) confirm() {
	if r.hook != HookInput && r.hook != HookPostrouting {
		return
	}
	switch {
	case r.ct.State == ConnNew, r.ct.State == ConnEstablished && r.ct.Reply:
		r.ct.Entry.known = false
		r.state = r.state.with(r.ct.Entry)
	}
}

// maxSteps bounds the rules that one hook may run, jumps included.
const maxSteps = 200_000

// base runs a base chain with its policy.
func (r *run) base(c *Chain) Verdict {
	v, decided := r.runChain(c)
	if decided {
		return v
	}
	if c.Drop {
		r.trail = append(r.trail, r.policyRef(c))
		return Drop
	}
	return Accept
}

// runChain runs the rules of a chain; decided is false when it ran out of them or returned.
func (r *run) runChain(c *Chain) (v Verdict, decided bool) {
	if r.depth++; r.depth > 64 {
		return Drop, true
	}
	defer func() { r.depth-- }()
	for i := range c.Rules {
		if r.steps++; r.steps > maxSteps {
			return Unknown, true
		}
		r.chain, r.rule = c, &c.Rules[i]
		j := r.runRule(&c.Rules[i])
		if j == nil {
			continue
		}
		switch j.Code {
		case JumpAccept:
			r.note(WhatAccept)
			return Accept, true
		case JumpDrop:
			r.note(WhatDrop)
			return Drop, true
		case JumpReject:
			r.note(WhatReject)
			return Reject, true
		case JumpQueue:
			r.note(WhatQueue)
			return Stolen, true
		case JumpReturn:
			return 0, false
		case JumpJump, JumpGoto:
			next := r.findChain(j.Chain)
			if next == nil {
				continue
			}
			if v, decided := r.runChain(next); decided || j.Code == JumpGoto {
				return v, decided
			}
		case JumpContinue:
		}
	}
	return 0, false
}

func (r *run) findChain(name string) *Chain {
	for i := range r.table.Chains {
		if r.table.Chains[i].Name == name {
			return &r.table.Chains[i]
		}
	}
	return nil
}

// note records the rule at hand.
func (r *run) note(what string) { r.trail = append(r.trail, r.ref(what)) }

func (r *run) ref(what string) Ref {
	return Ref{
		Backend: r.table.Backend, Family: r.table.Family, Table: r.table.Name, Chain: r.chain.Name, Hook: r.hook,
		Rule: r.rule.Number, Handle: r.rule.Handle, What: what, Text: r.rule.Text(), Command: showCommand(r.table, r.chain.Name),
		Packets: r.rule.Packets,
	}
}

func (r *run) policyRef(c *Chain) Ref {
	return Ref{
		Backend: r.table.Backend, Family: r.table.Family, Table: r.table.Name, Chain: c.Name, Hook: r.hook,
		What: WhatPolicy, Text: "drop", Command: showCommand(r.table, c.Name), Packets: c.Packets,
	}
}

// showCommand is how a person sees a chain.
func showCommand(t *Table, chain string) string {
	if t.Backend == BackendNFT {
		return fmt.Sprintf("nft -a list chain %s %s %s", t.Family, t.Name, chain)
	}
	bin := "iptables-legacy"
	if t.Family == FamilyIPv6 {
		bin = "ip6tables-legacy"
	}
	return fmt.Sprintf("%s -t %s -L %s -v -n --line-numbers", bin, t.Name, chain)
}

// runRule evaluates one rule: nil when it does not match, or matches and goes on.
func (r *run) runRule(rule *Rule) *Jump {
	r.regs = registers{}
	var j *Jump
	for i := range rule.Exprs {
		verdict, ok := r.eval(&rule.Exprs[i])
		if !ok {
			return nil
		}
		if verdict != nil {
			j = verdict
			if j.Code != JumpContinue {
				break
			}
		}
	}
	return j
}

// doubt is an expression whose result is not known: both ways are tried.
func (r *run) doubt() bool {
	r.unknown = true
	if r.choose(2) == 0 {
		return false
	}
	r.note(WhatUnknown)
	return true
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
