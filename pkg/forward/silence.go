package forward

import (
	"fmt"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// silent is why a station that has an address does not answer for it: it refuses to, or the question does not get there.
type silent struct {
	s    station
	step Step
}

// silence looks for the station that has an address which nobody on the segment answers for, and says what keeps it from
// answering; nil: no station there has the address, or nothing is known to. src is the source of the packet that waits.
func (m *Model) silence(h *host, out *tables.Link, ip, src netip.Addr) (why *silent) {
	asker := h.addrOn(out.Index, ip, false)
	if ip.Is6() {
		asker = h.solicitFrom(out, src)
	}
	f := flooder{m: m, seen: make(map[*tables.Link]bool), through: true}
	f.visit = func(s station) {
		if why != nil || !s.h.hasAddr(ip) || s.h == h {
			return
		}
		if f.held != nil {
			step := f.held.step
			step.Note = fmt.Sprintf("%s, so the question who has %s does not get to %s %s", step.Note, ip, s.h.Name, s.l.Name)
			why = &silent{f.held.s, step}
		} else if step, ok := s.silentTo(station{h, out}, ip, asker); ok {
			why = &silent{s, step}
		}
	}
	f.flood(h, out)
	if why != nil {
		why.step.Netns, why.step.Node = why.s.h.ID, why.s.h.Node
		if why.step.Kind != StepNeigh {
			why.step.Target = ip
		}
	}
	return why
}

// silentTo is refuses, and for IPv6 an entry that sends the answer elsewhere: it goes by the answerer's own table.
func (s station) silentTo(from station, ip, asker netip.Addr) (Step, bool) {
	if ip.Is4() {
		return s.refuses(ip, asker)
	}
	n := s.misled(from, asker)
	if n == nil {
		return Step{}, false
	}
	step := s.h.neighStep(n, s.l, asker, fmt.Sprintf("it has %s, and its own entry for %s, which asks, sends the answer elsewhere", ip, asker))
	step.MAC = n.MAC
	return step, true
}

// misled is the entry by which a station would send an answer to another address than the asker's: a permanent one
// stays, whatever the solicitation says.
func (s station) misled(from station, asker netip.Addr) *tables.Neigh {
	n := s.h.neigh[neighKey{s.l.Index, asker}]
	if n == nil || n.State&(tables.NUDPermanent|tables.NUDNoARP) == 0 || n.MAC == from.l.MAC {
		return nil
	}
	return n
}

// refuses names what makes arp_process leave a request without an answer, on a device of a host that has the address.
func (s station) refuses(ip, asker netip.Addr) (Step, bool) {
	h, l := s.h, s.l
	what := fmt.Sprintf("it has %s and does not answer who asks for it: ", ip)
	if l.NoARP {
		return h.linkStep(l, what+"it is set to no ARP (NOARP)"), true
	}
	if asker.IsValid() && h.hasAddr(asker) && h.confMax("accept_local", l.Name, false) == 0 {
		return Step{
			Kind: StepRoute, Ifindex: l.Index, Via: asker, Entry: h.addrEntry(asker), Command: h.cmd("ip addr show to %s", asker),
			Note: what + fmt.Sprintf("%s, which asks, is an address of its own", asker),
		}, true
	}
	if !h.takesARP(l, ip, asker) {
		mode := h.confMax("rp_filter", l.Name, false)
		q := query{dst: asker, src: ip, iif: loopback}
		step := h.rpStep(l, mode, h.routes(q), q)
		step.Note = what + step.Note
		return step, true
	}
	for _, name := range []string{"arp_filter", "arp_ignore"} {
		if h.confMax(name, l.Name, false) != 0 && !h.arpReplies(l, ip, asker) {
			step := h.sysctlStep(h.greater(name, l), l, "")
			step.Note = what + step.Entry
			return step, true
		}
	}
	return Step{}, false
}

// greater is the switch that decides among those of all devices and of one, of which the greater value holds.
func (h *host) greater(name string, l *tables.Link) string {
	all, _ := h.conf(name, "all", false)
	if own, ok := h.conf(name, l.Name, false); ok && own >= all {
		return confName(name, l.Name, false)
	}
	return confName(name, "all", false)
}

// withheld is what keeps a broadcast from a port of a bridge.
func (h *host) withheld(br, from, to *tables.Link) *silent {
	words := ""
	switch {
	case to.Port.State != portForwarding:
		words = fmt.Sprintf("port %s is in state %s", to.Name, to.Port.State)
	case from != nil && from.Port != nil && from.Port.Isolated && to.Port.Isolated:
		words = fmt.Sprintf("ports %s and %s of %s are both isolated", from.Name, to.Name, br.Name)
	case !to.Port.BroadcastFl && from != nil:
		words = fmt.Sprintf("%s does not flood broadcasts out of port %s (bcast_flood off)", br.Name, to.Name)
	default:
		return nil
	}
	return &silent{station{h, to}, h.portStep(to, words)}
}

// Silence says why nobody on the segment behind a device answers for an address that a station there has: the
// interface that is silent or held back, and the entry. ok is false where nothing is known to be the reason.
func (m *Model) Silence(ns netns.ID, dev tables.Ifindex, ip netip.Addr) (d Drop, ok bool) {
	h := m.hosts[ns]
	if h == nil || h.link(dev) == nil {
		return Drop{}, false
	}
	out := h.link(dev)
	why := m.silence(h, out, ip, h.addrOn(out.Index, ip, ip.Is6()))
	if why == nil {
		return Drop{}, false
	}
	return Drop{Reason: ReasonNeigh, Silent: true, Netns: why.s.h.ID, Node: why.s.h.Node, Interface: why.s.l.Name, Step: why.step}, true
}
