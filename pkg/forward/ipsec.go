package forward

import (
	"fmt"

	"github.com/podtrace/podtrace/pkg/tables"
)

// policyCheck is xfrm_policy_check for a packet that came in by l, for direction "in" or "fwd": a policy that blocks, or
// that asks for transformations which a packet in the clear has not had, drops it.
func (w *walk) policyCheck(h *host, l *tables.Link, p *packet, dir string) (dropped bool) {
	if len(h.IPsec) == 0 || l == nil || l.Loopback || !p.Dst.Is6() && h.confMax("disable_policy", l.Name, false) != 0 {
		return false
	}
	policy := h.ipsecPolicy(dir, l, p)
	if policy == nil || !policy.Block && policy.Needs == 0 {
		return false
	}
	note := "a policy of IPsec blocks the packet"
	if !policy.Block {
		note = "a policy of IPsec takes the packet only if it was encrypted, and it was not"
	}
	w.drop(ReasonIPsec, h, l, h.ipsecStep(policy, note))
	return true
}

// policyRoute is xfrm_lookup_route for a packet that a route sends out of a device: a policy blocks it, or has it
// transformed, which is not followed.
func (w *walk) policyRoute(h *host, in, out *tables.Link, p *packet) (ended bool) {
	if len(h.IPsec) == 0 || out == nil || out.Loopback || !p.Dst.Is6() && h.confMax("disable_xfrm", out.Name, false) != 0 {
		return false
	}
	switch policy := h.ipsecPolicy("out", out, p); {
	case policy == nil || !policy.Block && policy.Needs == 0:
		return false
	case policy.Block:
		w.drop(ReasonIPsec, h, in, h.ipsecStep(policy, "a policy of IPsec blocks the packet"))
	default:
		w.step(h.ipsecStep(policy, "a policy of IPsec transforms the packet"))
		w.unknown(fmt.Sprintf("IPsec of %s encrypts the packet, which is not followed: %s", h.Node, policy))
	}
	return true
}

// ipsecPolicy is xfrm_policy_lookup: of those that match the one with the least priority value, and the oldest of these, which stands behind the others.
func (h *host) ipsecPolicy(dir string, l *tables.Link, p *packet) (found *tables.IPsecPolicy) {
	f := tables.IPsecFlow{
		Src: p.Src, Dst: p.Dst, Proto: p.Proto, SrcPort: p.portFor(p.SrcPort), DstPort: p.portFor(p.DstPort), Index: l.Index, Mark: p.mark,
	}
	for i := range h.IPsec {
		q := &h.IPsec[i]
		if q.Dir == dir && q.Matches(f) && (found == nil || q.Priority <= found.Priority) {
			found = q
		}
	}
	return found
}

func (h *host) ipsecStep(p *tables.IPsecPolicy, note string) Step {
	return Step{Kind: StepIPsec, Netns: h.ID, Node: h.Node, IPsec: p, Entry: p.String(), Command: h.cmd("ip xfrm policy"), Note: note}
}
