package netfilter

import "slices"

// choice is one decision of a pass that neither packet nor tables make.
type choice struct {
	expr  *Expr // where it is made; nil for the order of chains
	n     int   // the way that was taken
	arity int
	doubt bool // not chance: an expression that is not known
}

// pass is one evaluation of a hook.
type pass struct {
	choices []choice
	out     Outcome
}

func (o *Outcome) same(e *Outcome) bool {
	return e.Verdict == o.Verdict && e.Packet == o.Packet && e.Conn.State == o.Conn.State && e.Conn.zone == o.Conn.zone &&
		e.Conn.Entry.Reply == o.Conn.Entry.Reply && e.Conn.Entry.Mark == o.Conn.Entry.Mark
}

// sameFate: a packet that is dropped or rejected goes no further in either case.
func (o *Outcome) sameFate(e *Outcome) bool {
	stopped := func(v Verdict) bool { return v == Drop || v == Reject }
	return stopped(o.Verdict) && stopped(e.Verdict) || o.same(e)
}

func appendDistinct(outs []Outcome, o Outcome) []Outcome {
	for i := range outs {
		if outs[i].same(&o) {
			return outs
		}
	}
	return append(outs, o)
}

// undecided looks for two passes that agree on all that is chance and still end differently: then an
// expression that is not known makes the difference, and the outcome is Unknown.
func undecided(passes []pass) (Outcome, bool) {
	doubts := slices.DeleteFunc(slices.Clone(passes), func(p pass) bool {
		return !slices.ContainsFunc(p.choices, func(c choice) bool { return c.doubt })
	})
	for i := range doubts {
		for k := range passes {
			if !doubts[i].out.sameFate(&passes[k].out) && agree(doubts[i].choices, passes[k].choices) {
				return unknownOutcome(doubts[i].out, passes[k].out), true
			}
		}
	}
	return Outcome{}, false
}

// agree reports whether no chance choice that both made went differently.
func agree(a, b []choice) bool {
	for _, x := range a {
		for _, y := range b {
			if !x.doubt && !y.doubt && x.expr == y.expr && x.n != y.n {
				return false
			}
		}
	}
	return true
}

// unknownOutcome stands for outcomes that differ by an expression which is not known: that one's rule is
// the last of the trail.
func unknownOutcome(outs ...Outcome) Outcome {
	for _, e := range outs {
		for _, r := range e.Trail {
			if r.What == WhatUnknown {
				e.Trail = append(slices.Clone(e.Trail), r)
				e.Verdict = Unknown
				return e
			}
		}
	}
	o := outs[0]
	o.Verdict = Unknown
	return o
}

// choose is a choice point with n ways.
func (r *run) choose(e *Expr, n int, doubt bool) int {
	if r.at == len(r.choices) {
		r.choices = append(r.choices, choice{expr: e})
	}
	c := &r.choices[r.at]
	c.expr, c.arity, c.doubt = e, n, doubt
	r.at++
	return c.n
}

// chanceOf is a choice that the running system makes; words say which way was taken.
func (r *run) chanceOf(e *Expr, n int, words func(n int) string) int {
	c := r.choose(e, n, false)
	if n > 1 {
		if r.chance != "" {
			r.chance += ", "
		}
		r.chance += words(c)
	}
	return c
}

// next gives the choices of the following pass, nil when all have been made.
func (r *run) next() []choice {
	c := slices.Clone(r.choices[:r.at])
	for i := len(c) - 1; i >= 0; i-- {
		if c[i].n+1 < c[i].arity {
			c[i].n++
			return c[:i+1]
		}
	}
	return nil
}
