package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Witness is what was asked and heard beside tables and frames.
type Witness struct {
	// Drops are the packets of the flow that a kernel said it dropped, and why.
	Drops []kdrop.Drop `json:"drops,omitempty"`
	// Moved are the counters, and Rules the rules, that counted while the probe was under way.
	Moved []Moved     `json:"moved,omitempty"`
	Rules []MovedRule `json:"rules,omitempty"`
	// Unresolved are the neighbours of the path that could not be resolved while packets waited for them.
	Unresolved []Unresolved `json:"unresolved,omitempty"`
	// Contrast are the further probes, in the order in which they were sent.
	Contrast []Contrast `json:"contrast,omitempty"`
	// Size is what became of full-size packets; nil: none were sent.
	Size *Size `json:"size,omitempty"`
	// Missed names what could not be asked.
	Missed []string `json:"missed,omitempty"`
}

// kernelSaid gives the kernel's own words on the packets of this leg that it dropped in one of two places.
func (c *leg) kernelSaid(places ...*verify.Hop) []string {
	type key struct{ reason, location, device, node string }
	var order []key
	count := make(map[key]int)
	for i := range c.in.Witness.Drops {
		d := &c.in.Witness.Drops[i]
		h := c.dropPlace(d, places)
		if h == nil || d.Neighbour || d.Reverse != (c.n == 1) || d.Unspecified && d.Location == "" {
			continue
		}
		if _, noise := kdrop.Noise(*d, c.onPath(d)); noise {
			continue
		}
		k := key{d.Reason, d.Location, d.Device, h.Node}
		if count[k] == 0 {
			order = append(order, k)
		}
		count[k]++
	}
	var out []string
	for _, k := range order {
		s := "the kernel of " + k.node + " dropped it: " + k.reason
		if k.location != "" {
			s += " in " + k.location
		}
		if k.device != "" {
			s += ", on " + k.device
		}
		out = append(out, fmt.Sprintf("%s (%d times)", s, count[k]))
	}
	return out
}

// byReason names causes that the kernel's own word decides.
var byReason = map[string]string{
	"UDP_CSUM": "vxlan-csum-offload", "TC_INGRESS": "tc-bpf-drop", "TC_EGRESS": "tc-bpf-drop", "QDISC_DROP": "qdisc-drop",
	"XDP": "tc-bpf-drop", "ICMP_CSUM": "bad-checksum", "TCP_CSUM": "bad-checksum", "IP_CSUM": "bad-checksum",
}

// reasonAt gives the name, if any, of the kernel's reason for the packets of this leg that it dropped in one of
// two places, and the place.
func (c *leg) reasonAt(places ...*verify.Hop) (cause, node, device string) {
	for i := range c.in.Witness.Drops {
		d := &c.in.Witness.Drops[i]
		h := c.dropPlace(d, places)
		if h == nil || d.Reverse != (c.n == 1) || d.Neighbour || !c.onPath(d) {
			continue // on a device that is not of the path: somebody sent it there
		}
		if cause = byReason[d.Reason]; cause != "" {
			return cause, h.Node, d.Device
		}
	}
	return "", "", ""
}

// dropPlace is the place in whose namespace a packet was dropped.
func (c *leg) dropPlace(d *kdrop.Drop, places []*verify.Hop) *verify.Hop {
	i := slices.IndexFunc(places, func(h *verify.Hop) bool { return d.In(h.Netns) })
	if i < 0 {
		return nil
	}
	return places[i]
}

// onPath reports whether a drop was on an interface of the leg.
func (c *leg) onPath(d *kdrop.Drop) bool {
	return slices.ContainsFunc(c.Hops, func(h verify.Hop) bool {
		return d.In(h.Netns) && int(h.Ifindex) == d.Ifindex
	})
}

// Names of the further probes.
const (
	ContrastNodePing  = "node-ping"  // ICMP between the nodes
	ContrastNodeUDP   = "node-udp"   // a UDP port between the nodes that no tunnel uses
	ContrastTunnelUDP = "tunnel-udp" // the tunnel's UDP port between the nodes
	ContrastOtherPort = "other-port" // the same probe from another source port
)

// Contrast is one further probe and what became of it.
type Contrast struct {
	Name     string   `json:"name"`
	What     string   `json:"what"` // in words, with addresses
	Sent     int      `json:"sent"`
	Seen     int      `json:"seen"`               // that arrived, by a tap at the far node
	Answered int      `json:"answered,omitempty"` // that were answered, where an answer is expected
	Errors   []string `json:"errors,omitempty"`
}

func (c Contrast) words() string {
	s := fmt.Sprintf("contrast: %s: %d of %d arrived", c.What, c.Seen, c.Sent)
	if len(c.Errors) > 0 {
		s += " (" + strings.Join(c.Errors, "; ") + ")"
	}
	return s
}

// sentAstray looks at how the last node sends to the other one, when nothing gets there: by a policy rule's table
// instead of main, or by a device that does not ask for addresses.
func (c *leg) sentAstray(f *Finding) bool {
	for i := c.Last; i >= 0 && i >= c.Last-1; i-- {
		for k := range c.Hops[i].Steps {
			s := &c.Hops[i].Steps[k]
			l := c.link(s)
			switch {
			case s.Kind == forward.StepRoute && s.PolicyRule != nil && c.byForeignRule(s):
				f.Cause = "policy-rule-hijack"
				f.Summary = fmt.Sprintf("%s: a policy rule takes %s, the far node, before table main: %s (%s)", s.Node, s.Target, s.Entry, s.Note)
				f.Evidence, f.Remedy = append(f.Evidence, stepEvidence(s)...), c.remedy("policy-rule-hijack", s, nil)
				return true
			case l != nil && l.NoARP && l.Broadcast && c.intent.Model.IsUnderlay(s.Netns, s.Ifindex):
				f.Cause = "arp-off"
				f.Summary = fmt.Sprintf("%s %s does not ask for link-layer addresses (NOARP): packets carry its own", s.Node, l.Name)
				f.Evidence = append(f.Evidence, stepEvidence(s)...)
				if ns := c.intent.Snapshot.ByID(s.Netns); ns != nil {
					f.Remedy = command(ns, "ip link set "+l.Name+" arp on")
				}
				return true
			}
		}
	}
	return false
}

// impostor: somebody else answers for the far node's address on the network between them. What is sent there goes to
// another MAC than the node's own, and is answered though nothing arrives.
func (c *leg) impostor(f *Finding, last, next *verify.Hop) bool {
	from, to := c.intent.Snapshot.ByID(last.Netns), c.intent.Snapshot.ByID(next.Netns)
	ip := last.Frame.Outer.Dst
	if from == nil || to == nil || len(last.Sightings) == 0 || !to.HasAddr(ip) || !slices.ContainsFunc(from.Addrs, func(a tables.Addr) bool {
		return a.Index == last.Ifindex && a.Prefix.Masked().Contains(ip) // else a router's is right
	}) {
		return false
	}
	answered := slices.ContainsFunc(c.in.Witness.Contrast, func(t Contrast) bool {
		return t.Seen == 0 && (t.Answered > 0 || slices.ContainsFunc(t.Errors, func(e string) bool { return strings.HasSuffix(e, " from "+ip.String()) }))
	})
	l, mac := to.Link(next.Ifindex), last.Sightings[0].Frame.Outer.EthDst
	if !answered || l == nil || mac.IsZero() || l.MAC == mac {
		return false
	}
	f.Cause, f.Node, f.Interface = "underlay-neigh-wrong", last.Node, last.Interface
	f.Summary = fmt.Sprintf("%s %s: somebody else answers for %s, the address of %s: packets go to %s, and %s has %s",
		last.Node, last.Interface, ip, next.Node, mac, next.Interface, l.MAC)
	f.Remedy = fmt.Sprintf("find who else has the address (%s), and take it away there", command(from, fmt.Sprintf("arping -D -I %s %s", last.Interface, ip)))
	return true
}

// otherInterface: the tunnel's far address is on another interface of the far node than the one by which that node
// answers: its VTEP was given the wrong one.
func (c *leg) otherInterface(f *Finding, outer *forward.Outer) bool {
	for _, ns := range c.intent.Snapshot.Netns {
		for _, a := range ns.Addrs {
			if ns.Name != tables.HostName || a.Prefix.Addr() != outer.Dst {
				continue
			}
			back := bestRoute(ns, outer.Src)
			for _, l := range ns.Links {
				if back == nil || back.NextHops[0].Index == a.Index || l.VXLAN == nil || l.VXLAN.Local != outer.Dst {
					continue
				}
				on, by := ns.Link(a.Index), ns.Link(back.NextHops[0].Index)
				if on == nil || by == nil {
					continue
				}
				f.Cause, f.Node, f.Interface = "wrong-iface", ns.Node, l.Name
				f.Summary = fmt.Sprintf("%s %s sends from %s, an address of %s, and %s is reached by %s", ns.Node, l.Name, outer.Dst, on.Name, outer.Src, by.Name)
				f.Evidence = append(f.Evidence, "link entry: "+ns.FormatLink(l), "route entry: "+ns.FormatRoute(*back))
				f.Remedy = keep["wrong-iface"]
				return true
			}
		}
	}
	return false
}

// bestRoute is the longest prefix of table main for an address.
func bestRoute(ns *tables.Netns, ip netip.Addr) (best *tables.Route) {
	for i := range ns.Routes {
		r := &ns.Routes[i]
		if r.Table == tables.TableMain && len(r.NextHops) > 0 && r.Dst.Contains(ip) && (best == nil || r.Dst.Bits() > best.Dst.Bits()) {
			best = r
		}
	}
	return best
}

func (w *Witness) contrast(name string) *Contrast {
	i := slices.IndexFunc(w.Contrast, func(c Contrast) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &w.Contrast[i]
}

func passes(c *Contrast) bool { return c != nil && c.Sent > 0 && (c.Seen == c.Sent || c.Answered > 0) }

func fails(c *Contrast) bool { return c != nil && c.Sent > 0 && c.Seen == 0 && c.Answered == 0 }

// byContrast names what lies between two nodes by what passes there and what does not.
func (c *leg) byContrast(f *Finding, last, next *verify.Hop) {
	w := &c.in.Witness
	if last.Node == next.Node || len(w.Contrast) == 0 {
		return
	}
	for _, t := range w.Contrast {
		f.Evidence = append(f.Evidence, t.words())
	}
	ping, udp, tunnel := w.contrast(ContrastNodePing), w.contrast(ContrastNodeUDP), w.contrast(ContrastTunnelUDP)
	where := fmt.Sprintf("between %s %s and %s %s", last.Node, last.Interface, next.Node, next.Interface)
	outer := last.Frame.Outer
	switch {
	case outer != nil && c.impostor(f, last, next):
	case outer != nil && fails(tunnel) && (passes(ping) || passes(udp)):
		f.Cause = "vxlan-port-underlay-drop"
		f.Summary = fmt.Sprintf("%s: the network drops UDP port %d; other traffic from node to node passes, and the tables of both are right", where, outer.DstPort)
		f.Remedy = fmt.Sprintf("allow UDP port %d between the nodes, both ways, in the security group or firewall between them", outer.DstPort)
	case outer == nil && (passes(ping) || passes(udp)) && c.fromRuleMissing(f, last):
	case outer == nil && (passes(ping) || passes(udp)):
		f.Cause = "src-dst-check"
		f.Summary = fmt.Sprintf("%s: the network drops packets from %s; those from the node's own address pass", where, last.Frame.Src)
		f.Remedy = "turn off the source/destination check of the instances, allow the pods' addresses (allowed-address-pairs), or use an overlay"
	case fails(ping) && c.sentAstray(f):
	case fails(ping) && outer != nil && c.otherInterface(f, outer):
	case fails(ping) && fails(udp):
		f.Cause = "underlay-down"
		f.Summary = fmt.Sprintf("%s: nothing passes from node to node, whatever the protocol", where)
		f.Remedy = "mend the network between the nodes: ping from node to node fails as well"
	}
}
