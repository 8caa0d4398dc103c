package netfilter

import "fmt"

// note records the rule at hand.
func (r *run) note(what string) {
	ref := ruleRef(r.table, r.chain, r.rule)
	ref.Hook, ref.What = r.hook, what
	r.trail = append(r.trail, ref)
}

func ruleRef(t *Table, c *Chain, rule *Rule) Ref {
	return Ref{
		Backend: t.Backend, Family: t.Family, Table: t.Name, Chain: c.Name, Hook: c.Hook, Rule: rule.Number, Handle: rule.Handle,
		Text: rule.Text(), Command: showCommand(t, c.Name), Packets: rule.Packets, Bytes: rule.Bytes,
	}
}

func policyRef(t *Table, c *Chain) Ref {
	text := "accept"
	if c.Drop {
		text = "drop"
	}
	return Ref{
		Backend: t.Backend, Family: t.Family, Table: t.Name, Chain: c.Name, Hook: c.Hook, What: WhatPolicy, Text: text,
		Command: showCommand(t, c.Name), Packets: c.Packets, Bytes: c.Bytes,
	}
}

// showCommand is how a person sees a chain.
func showCommand(t *Table, chain string) string {
	if t.Backend == BackendNFT {
		return fmt.Sprintf("nft -a list chain %s %s %s", t.Family, t.Name, chain)
	}
	bin := "iptables-legacy"
	switch t.Family {
	case FamilyIPv6:
		bin = "ip6tables-legacy"
	case FamilyARP:
		return "arptables-legacy -L -v -n --line-numbers"
	case FamilyBridge:
		return fmt.Sprintf("ebtables-legacy -t %s -L --Lc --Ln", t.Name)
	default:
	}
	return fmt.Sprintf("%s -t %s -L %s -v -n --line-numbers", bin, t.Name, chain)
}

// RuleCounter is what the kernel has counted at one place of the rules.
type RuleCounter struct {
	// Ref is the rule (What "drop" or "reject" if it ends packets), the policy (Rule 0, What "policy") or the
	// named counter (What "counter", Chain its name).
	Ref     Ref
	Packets uint64
	Bytes   uint64
}

// WhatCounter marks the Ref of a named counter of nftables.
const WhatCounter = "counter"

// ends says how the rule ends a packet: WhatDrop or WhatReject, "" when it lets it go on.
func (r *Rule) ends() string {
	for i := range r.Exprs {
		switch e := &r.Exprs[i]; {
		case e.Op == OpReject:
			return WhatReject
		case e.Op == OpVerdict && e.Jump != nil && e.Jump.Code == JumpDrop:
			return WhatDrop
		}
	}
	return ""
}

// Counters lists every rule and policy that the kernel counts, and the named counters, in the order of the
// tables. Rules of nftables count only where they hold a counter statement.
func (r *Ruleset) Counters() []RuleCounter {
	var out []RuleCounter
	for i := range r.Tables {
		t := &r.Tables[i]
		for k := range t.Chains {
			c := &t.Chains[k]
			for n := range c.Rules {
				if rule := &c.Rules[n]; rule.Counted {
					ref := ruleRef(t, c, rule)
					ref.What = rule.ends()
					out = append(out, RuleCounter{Ref: ref, Packets: rule.Packets, Bytes: rule.Bytes})
				}
			}
			if c.Counted {
				out = append(out, RuleCounter{Ref: policyRef(t, c), Packets: c.Packets, Bytes: c.Bytes})
			}
		}
		for _, o := range t.Objects {
			if o.Counted {
				ref := Ref{
					Backend: t.Backend, Family: t.Family, Table: t.Name, Chain: o.Name, What: WhatCounter, Text: "counter " + o.Name,
					Command: fmt.Sprintf("nft list counter %s %s %s", t.Family, t.Name, o.Name), Packets: o.Packets, Bytes: o.Bytes,
				}
				out = append(out, RuleCounter{Ref: ref, Packets: o.Packets, Bytes: o.Bytes})
			}
		}
	}
	return out
}

// Counters lists the counters of the rules that the state began with.
func (s State) Counters() []RuleCounter { return s.rules.Counters() }
