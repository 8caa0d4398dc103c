package forward

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
)

// cmd is a command that a person runs in the namespace.
func (h *host) cmd(format string, args ...any) string {
	c := fmt.Sprintf(format, args...)
	if h.Exec == "" {
		return c
	}
	return h.Exec + " " + c
}

// routeStep shows the answer to a route question. in is the input device, "" for local origin.
func (h *host) routeStep(a answer, q query, in string) Step {
	s := Step{Kind: StepRoute, Netns: h.ID, Node: h.Node, Target: q.dst, Command: h.routeGet(q, in), Question: h.question(q, in)}
	s.Thrown, s.PolicyRule = a.thrown, a.jumped
	if a.route == nil {
		if a.rule != nil {
			s.PolicyRule = a.rule
			s.Kind, s.Entry, s.Command = StepRule, h.FormatRule(*a.rule), h.cmd("ip %srule show", familyFlag(q.dst))
			s.Note = fmt.Sprintf("the rule answers %s for %s", a.reason, q.dst)
			return s
		}
		s.Note = fmt.Sprintf("no route to %s", q.dst) + h.skipped(a)
		return s
	}
	s.Via = a.hop.Gateway
	s.Route, s.Ifindex, s.Entry = a.route, a.hop.Index, h.FormatRoute(*a.route)
	if a.rule != nil && a.rule.Table != tables.TableMain && a.rule.Table != tables.TableLocal {
		s.Note, s.PolicyRule = fmt.Sprintf("by rule %q", h.FormatRule(*a.rule)), a.rule
	}
	s.Note += h.skipped(a)
	return s
}

// question is q in the words of the kernel.
func (h *host) question(q query, in string) *tables.RouteQuestion {
	out := &tables.RouteQuestion{
		Dst: q.dst, Src: q.src, TOS: q.tos, Mark: q.mark, Proto: q.proto, SPort: q.sport, DPort: q.dport,
	}
	if l := h.byName[in]; l != nil {
		out.IIF = l.Index
	}
	if l := h.byName[q.oif]; l != nil {
		out.OIF = l.Index
	}
	return out
}

// skipped says what made the kernel pass over tables.
func (h *host) skipped(a answer) string {
	s := ""
	if a.thrown != nil {
		s += fmt.Sprintf(", after %q sent it on to the next rule", h.FormatRoute(*a.thrown))
	}
	if a.jumped != nil {
		s += fmt.Sprintf(", after rule %q skipped others", h.FormatRule(*a.jumped))
	}
	return s
}

// routeGet is the question that the kernel answers with the same entry.
func (h *host) routeGet(q query, in string) string {
	c := fmt.Sprintf("ip %sroute get %s", familyFlag(q.dst), q.dst)
	if q.src.IsValid() {
		c += " from " + q.src.String()
	}
	if in != "" {
		c += " iif " + in
	}
	if q.oif != "" {
		c += " oif " + q.oif
	}
	if q.mark != 0 {
		c += fmt.Sprintf(" mark %#x", q.mark)
	}
	return h.cmd("%s", c)
}

func familyFlag(a netip.Addr) string {
	if a.Is6() {
		return "-6 "
	}
	return ""
}

func (h *host) neighStep(n *tables.Neigh, out *tables.Link, next netip.Addr, note string) Step {
	s := Step{
		Kind: StepNeigh, Netns: h.ID, Node: h.Node, Ifindex: out.Index, Target: next, Neigh: n, Note: note,
		Fields: []string{"ethDst"}, Command: h.cmd("ip neigh show %s dev %s", next, out.Name),
	}
	if n != nil {
		s.Entry, s.MAC = h.FormatNeigh(*n), n.MAC
	}
	return s
}

func (h *host) fdbStep(kind StepKind, row *tables.FDB, dev *tables.Link, mac ether.MAC, note string) Step {
	s := Step{Kind: kind, Netns: h.ID, Node: h.Node, Ifindex: dev.Index, MAC: mac, FDB: row, Note: note}
	if kind == StepBridge {
		s.Command = h.cmd("bridge fdb show br %s", dev.Name)
	} else {
		s.Command = h.cmd("bridge fdb show dev %s", dev.Name)
	}
	if row != nil {
		s.Entry, s.Target = h.FormatFDB(*row), row.Dst
	}
	return s
}

func (h *host) linkStep(l *tables.Link, note string) Step {
	return Step{
		Kind: StepLink, Netns: h.ID, Node: h.Node, Ifindex: l.Index, MAC: l.MAC, Note: note,
		Entry: h.FormatLink(*l), Command: h.cmd("ip link show dev %s", l.Name),
	}
}

func (h *host) portStep(l *tables.Link, note string) Step {
	s := h.linkStep(l, note)
	s.Kind, s.Command = StepBridge, h.cmd("bridge -d link show dev %s", l.Name)
	return s
}

// sysctlStep shows a switch by the name that sysctl(8) takes, with slashes: a device name may have dots.
func (h *host) sysctlStep(name string, l *tables.Link, note string) Step {
	path := "net." + name
	if strings.Count(name, ".") > 3 {
		path = slashed(name, l)
	}
	v, _ := h.Sysctl(name)
	s := Step{Kind: StepSysctl, Netns: h.ID, Node: h.Node, Entry: path + " = " + v, Command: h.cmd("sysctl %s", path), Note: note}
	if l != nil {
		s.Ifindex = l.Index
	}
	return s
}

func slashed(name string, l *tables.Link) string {
	if l == nil {
		return "net." + name
	}
	before, after, ok := strings.Cut(name, "."+l.Name+".")
	if !ok {
		return "net." + name
	}
	return "net/" + strings.ReplaceAll(before, ".", "/") + "/" + l.Name + "/" + after
}

// rpStep shows the reverse path filter's setting and the route that it went by.
func (h *host) rpStep(l *tables.Link, mode int, as []answer, q query) Step {
	all, _ := h.conf("rp_filter", "all", false)
	own, _ := h.conf("rp_filter", l.Name, false)
	word := "strict"
	if mode == 2 {
		word = "loose"
	}
	s := h.sysctlStep(confName("rp_filter", l.Name, false), l, "")
	back := h.routeStep(as[0], q, "")
	s.Route, s.Target = back.Route, q.dst
	way := "there is no route back"
	if as[0].reason == "" {
		way = fmt.Sprintf("the route back is %q", back.Entry)
	}
	s.Note = fmt.Sprintf("reverse path filter is %s (the greater of all=%d and %s=%d), and for source %s %s", word, all, l.Name, own, q.dst, way)
	return s
}

func (h *host) addrEntry(ip netip.Addr) string {
	for _, a := range h.addrs[ip] {
		return h.FormatAddr(*a)
	}
	return ""
}
