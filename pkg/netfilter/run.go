package netfilter

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Priorities at which conntrack and NAT stand among the chains (linux/netfilter_ipv4.h).
const (
	prioConntrack = -200
	prioNATDst    = -100
	prioNATSrc    = 100
)

// maxPasses bounds the evaluations of one hook: a service of a thousand endpoints that iptables chooses
// among takes a thousand. What more would give is an Unknown outcome.
const maxPasses = 1024

// maxTotal bounds the rules that all passes of one hook run.
const maxTotal = 4_000_000

// Run plays one hook: every base chain that hangs there in order of priority, with conntrack and NAT at
// their places. Several outcomes come back where rules choose at random or by a rate; one that is Unknown
// where an expression that is not known makes a difference.
func (s State) Run(fam Family, h Hook, p Packet, ct Conn, env Env) []Outcome {
	var passes []pass
	var outs []Outcome
	for choices, steps := []choice(nil), 0; ; {
		r := &run{state: s, fam: fam, hook: h, p: p, ct: ct, env: env, choices: choices}
		o := r.all()
		passes = append(passes, pass{r.choices[:r.at], o})
		outs = appendDistinct(outs, o)
		choices = r.next()
		if choices == nil {
			break
		}
		if steps += r.steps; len(passes) >= maxPasses || steps > maxTotal {
			o.Verdict = Unknown
			o.Chance = fmt.Sprintf("one of more than %d ways", len(passes))
			return append(outs, o)
		}
	}
	if o, ok := undecided(passes); ok {
		o.Ways = outs
		return []Outcome{o}
	}
	return outs
}

// run is one pass through a hook with given choices.
type run struct {
	state  State
	fam    Family
	hook   Hook
	p      Packet
	ct     Conn
	env    Env
	trail  []Ref
	chance string
	answer *Rejection

	choices []choice // taken so far, in order
	at      int

	table  *Table
	chain  *Chain
	rule   *Rule
	regs   registers
	depth  int
	steps  int
	natted bool // a rule of a nat chain has set the connection up
}

// stage is one thing that hangs on a hook.
type stage struct {
	prio  int32
	table *Table
	chain *Chain
	do    func() Verdict // conntrack and NAT
}

func (r *run) all() Outcome {
	for _, st := range r.ordered(r.stages()) {
		var v Verdict
		if st.do != nil {
			v = st.do()
		} else {
			r.table = st.table
			v = r.base(st.chain)
		}
		if v != Accept {
			return r.outcome(v)
		}
	}
	r.confirm()
	return r.outcome(Accept)
}

func (r *run) outcome(v Verdict) Outcome {
	o := Outcome{Verdict: v, Packet: r.p, State: r.state, Conn: r.ct, Trail: r.trail, Chance: r.chance}
	if v == Reject {
		o.Answer = r.answer
	}
	return o
}

// stages are the base chains of the hook with conntrack and NAT among them.
func (r *run) stages() []stage {
	ip := r.fam == FamilyIPv4 || r.fam == FamilyIPv6
	out := r.baseChains(func(t *Table, c *Chain) bool {
		if t.Family == FamilyInet && !ip && (r.fam != FamilyNetdev || !r.p.isIP()) {
			return false
		}
		return !(c.Type == "nat" && ip) && r.onDevice(c)
	})
	if ip && r.state.rules.tracks(r.fam) {
		out = append(out, r.trackStages()...)
	}
	return out
}

// baseChains are those of the hook in the tables of the family.
func (r *run) baseChains(want func(t *Table, c *Chain) bool) (out []stage) {
	for i := range r.state.rules.Tables {
		t := &r.state.rules.Tables[i]
		if t.Dormant || t.Family != r.fam && t.Family != FamilyInet {
			continue
		}
		for k := range t.Chains {
			if c := &t.Chains[k]; c.Base && c.Hook == r.hook && (c.Drop || len(c.Rules) > 0) && want(t, c) {
				out = append(out, stage{prio: c.Priority, table: t, chain: c})
			}
		}
	}
	return out
}

// ordered sorts by priority. Of the same priority the kernel puts the one that was registered last first
// (nf_hook_entries_grow); between tables that order is not in the dump, so both are tried.
func (r *run) ordered(sts []stage) []stage {
	slices.Reverse(sts)
	slices.SortStableFunc(sts, func(a, b stage) int { return cmp.Compare(a.prio, b.prio) })
	for i := 0; i < len(sts); {
		k := i + 1
		mixed := false
		for ; k < len(sts) && sts[k].prio == sts[i].prio; k++ {
			mixed = mixed || sts[k].table != sts[i].table
		}
		if mixed && r.choose(nil, 2, true) == 1 {
			slices.Reverse(sts[i:k])
			r.noteOrder(sts[i:k])
		}
		i = k
	}
	return sts
}

func (r *run) noteOrder(sts []stage) {
	var names []string
	for _, st := range sts {
		name := "the kernel's own"
		if st.chain != nil {
			name = st.table.Backend + " " + st.table.Name + " " + st.chain.Name
		}
		names = append(names, name)
	}
	for _, st := range sts {
		if st.chain != nil {
			ref := policyRef(st.table, st.chain)
			ref.Hook, ref.What = r.hook, WhatUnknown
			ref.Text = fmt.Sprintf("(the order of %s, all of priority %d)", strings.Join(names, ", "), st.prio)
			r.trail = append(r.trail, ref)
			return
		}
	}
}

// onDevice: chains of the netdev hooks belong to devices; a trailing * stands for any ending.
func (r *run) onDevice(c *Chain) bool {
	dev := r.p.In
	switch r.hook {
	case HookIngress:
	case HookEgress:
		if r.p.Out != "" {
			dev = r.p.Out
		}
	default:
		return true
	}
	return slices.ContainsFunc(c.Devices, func(d string) bool { return patternMatches(d, "*", dev) })
}

// next protocol numbers of Ethernet that the inet family looks into
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

func (p *Packet) isIP() bool { return p.EtherType == etherIPv4 || p.EtherType == etherIPv6 }

func (r *run) trackStages() []stage {
	switch r.hook {
	case HookPrerouting, HookOutput:
		return []stage{{prio: prioConntrack, do: r.track}, {prio: prioNATDst, do: func() Verdict { return r.nat(true) }}}
	case HookInput, HookPostrouting:
		return []stage{{prio: prioNATSrc, do: func() Verdict { return r.nat(false) }}}
	default:
		return nil
	}
}

func (r *run) track() Verdict {
	if r.ct.State == ConnNone {
		r.ct = r.state.lookup(&r.p, r.ct.zone)
	}
	return Accept
}

// maxSteps bounds the rules that one hook may run, jumps included.
const maxSteps = 200_000

// maxDepth bounds jumps; the kernel refuses more than 16 (NFT_JUMP_STACK_SIZE), legacy iptables more
// than there are chains.
const maxDepth = 256

// base runs a base chain with its policy.
func (r *run) base(c *Chain) Verdict {
	v, decided := r.runChain(c)
	if decided {
		return v
	}
	if c.Drop {
		r.trail = append(r.trail, policyRef(r.table, c))
		return Drop
	}
	return Accept
}

// runChain runs the rules of a chain; decided is false when it ran out of them or returned.
func (r *run) runChain(c *Chain) (v Verdict, decided bool) {
	if r.depth++; r.depth > maxDepth {
		return Drop, true
	}
	defer func() { r.depth-- }()
	for i := range c.Rules {
		r.chain, r.rule = c, &c.Rules[i]
		if r.steps++; r.steps > maxSteps {
			r.note(WhatUnknown)
			return Unknown, true
		}
		j := r.runRule(r.rule)
		if j == nil {
			continue
		}
		switch j.Code {
		case JumpReturn:
			return 0, false
		case JumpJump, JumpGoto:
			next := r.findChain(j.Chain)
			if next == nil {
				r.note(WhatUnknown)
				return Unknown, true
			}
			if v, decided := r.runChain(next); decided || j.Code == JumpGoto {
				return v, decided
			}
		case JumpContinue:
		default:
			return r.decide(j.Code), true
		}
	}
	return 0, false
}

// decide records the rule at hand as the one that ended the chain.
func (r *run) decide(code JumpCode) Verdict {
	switch code {
	case JumpAccept:
		r.note(WhatAccept)
		return Accept
	case JumpDrop:
		r.note(WhatDrop)
		return Drop
	case JumpReject:
		r.note(WhatReject)
		return Reject
	case JumpQueue, JumpStolen:
		r.note(WhatQueue)
		return Stolen
	default:
		r.note(WhatUnknown)
		return Unknown
	}
}

func (r *run) findChain(name string) *Chain {
	for i := range r.table.Chains {
		if r.table.Chains[i].Name == name {
			return &r.table.Chains[i]
		}
	}
	return nil
}

// runRule evaluates one rule: nil when it does not match, or matches and goes on.
func (r *run) runRule(rule *Rule) *Jump {
	r.regs = registers{}
	for i := range rule.Exprs {
		e := &rule.Exprs[i]
		if e.undetermined() && !effective(rule.Exprs[i+1:]) {
			return nil // whether it matches makes no difference
		}
		verdict, ok := r.eval(e)
		if !ok {
			return nil
		}
		if verdict != nil && verdict.Code != JumpContinue {
			return verdict
		}
	}
	return nil
}

// undetermined are expressions that make the evaluation branch whatever the packet is.
func (e *Expr) undetermined() bool {
	return e.Op == OpLimit || e.Op == OpUnknown || e.Op == OpStatistic
}

// effective reports whether expressions change a packet or decide about it.
func effective(es []Expr) bool {
	for i := range es {
		switch es[i].Op {
		case OpVerdict, OpReject, OpNotrack, OpNAT, OpSetMark, OpSetTOS, OpSetTTL, OpZone, OpWrite, OpOpaque:
			return true
		case OpLookup:
			return true // may be a map of verdicts
		case OpMeta, OpCT:
			if es[i].Sreg != 0 {
				return true
			}
		default:
		}
	}
	return false
}

// doubt is an expression whose result is not known: both ways are tried.
func (r *run) doubt(e *Expr) bool {
	if r.choose(e, 2, true) == 0 {
		return false
	}
	r.note(WhatUnknown)
	return true
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
