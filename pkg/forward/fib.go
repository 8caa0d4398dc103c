package forward

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// Linux address families, as tables.Rule.Family holds them.
const (
	afInet  uint8 = 2
	afInet6 uint8 = 10
)

// loopback is the name under which policy rules know packets of local origin ("iif lo").
const loopback = "lo"

// query is a route question, with everything that a policy rule can ask about (struct flowi).
type query struct {
	dst, src     netip.Addr // src invalid: not chosen yet
	iif, oif     string     // iif "lo": local origin; oif "": any
	tos          uint8
	mark         uint32
	proto        uint8
	sport, dport uint16
	uid          uint32
}

// answer is one route that the tables allow, or the reason why there is none.
type answer struct {
	reason Reason // "" when there is a route
	route  *tables.Route
	hop    tables.NextHop
	hopIdx int // which of the route's next hops
	rule   *tables.Rule
	// alternatives counts the next hops among which a hash decides.
	alternatives int
	// passed is what made the kernel skip an answer: a throw route or a goto rule; nil: nothing.
	thrown *tables.Route
	jumped *tables.Rule
	// pmtu is the path MTU that the kernel learned for this destination and way, 0: none.
	pmtu int
}

// reasonUnknown marks an answer that the tables do not give: a rule asks for what a question does not hold.
const reasonUnknown Reason = "unknown"

// routes answers a route question as fib_lookup and fib6_lookup do: policy rules in order of priority,
// in each table the longest prefix first. It returns one answer, or one for each next hop of a
// multipath route.
func (h *host) routes(q query) []answer {
	var skip answer // what was passed over on the way
	rules := h.rulesFor(q.dst)
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		matches, known := h.ruleMatches(r, q)
		if !known {
			return []answer{{reason: reasonUnknown, rule: r}}
		}
		if !matches {
			continue
		}
		switch r.Action {
		case tables.RuleGoto:
			skip.jumped = r
			i = gotoIndex(rules, i, r.Goto) - 1
			continue
		case tables.RuleNop:
			continue
		case tables.RuleBlackhole:
			return []answer{{reason: ReasonBlackhole, rule: r}}
		case tables.RuleUnreachable:
			return []answer{{reason: ReasonUnreachable, rule: r}}
		case tables.RuleProhibit:
			return []answer{{reason: ReasonProhibit, rule: r}}
		case tables.RuleTable:
		default:
			return []answer{{reason: reasonUnknown, rule: r}}
		}
		got, ok, thrown := h.lookupTable(h.ruleTable(r, q), q, r)
		if thrown != nil {
			skip.thrown = thrown
		}
		if ok {
			for i := range got {
				got[i].thrown, got[i].jumped = skip.thrown, skip.jumped
			}
			return got
		}
	}
	skip.reason = ReasonNoRoute
	return []answer{skip}
}

// defaultRules are those of a namespace whose rules were not read or given.
var defaultRules = []*tables.Rule{
	{Priority: 0, Action: tables.RuleTable, Table: tables.TableLocal, SuppressPrefixLen: -1, SuppressIfGroup: -1},
	{Priority: tables.PrefMain, Action: tables.RuleTable, Table: tables.TableMain, SuppressPrefixLen: -1, SuppressIfGroup: -1},
	{Priority: 32767, Action: tables.RuleTable, Table: tables.TableDefault, SuppressPrefixLen: -1, SuppressIfGroup: -1},
}

func (h *host) rulesFor(dst netip.Addr) []*tables.Rule {
	family := afInet
	if dst.Is6() {
		family = afInet6
	}
	if rs := h.rules[family]; len(rs) > 0 {
		return rs
	}
	return defaultRules
}

// gotoIndex finds the first rule at or after the priority that a goto names. A target that is not
// there makes the goto a no-op (FIB_RULE_UNRESOLVED).
func gotoIndex(rules []*tables.Rule, at int, target uint32) int {
	for j := at + 1; j < len(rules); j++ {
		if rules[j].Priority == target {
			return j
		}
	}
	return at + 1
}

// ruleTable gives the table that a rule looks into: an l3mdev rule takes it from the VRF that the
// packet's device is in.
func (h *host) ruleTable(r *tables.Rule, q query) uint32 {
	if !r.L3MDev {
		return r.Table
	}
	t, _ := h.vrfTable(q)
	return t
}

func (h *host) vrfTable(q query) (uint32, bool) {
	for _, name := range []string{q.oif, q.iif} {
		l := h.byName[name]
		if l == nil {
			continue
		}
		if l.VRF != 0 {
			return l.VRF, true
		}
		if m := h.links[l.Master]; m != nil && m.VRF != 0 {
			return m.VRF, true
		}
	}
	return 0, false
}

// ruleMatches is fib_rule_match of net/core/fib_rules.c with the family's own selectors. known is false
// when it hangs on a selector that the reader does not know: one that does not hold is enough to say no.
func (h *host) ruleMatches(r *tables.Rule, q query) (matches, known bool) {
	ok := h.selectorsMatch(r, q)
	if r.Unknown != "" && ok {
		return false, false
	}
	return ok != r.Invert, true
}

func (h *host) selectorsMatch(r *tables.Rule, q query) bool {
	switch {
	case r.IIF != "" && r.IIF != q.iif,
		r.OIF != "" && r.OIF != q.oif,
		(q.mark^r.Mark)&r.Mask != 0,
		r.TunID != 0,
		!prefixHas(r.Src, q.src),
		!prefixHas(r.Dst, q.dst),
		r.TOS != 0 && r.TOS != q.tos,
		r.IPProto != 0 && r.IPProto != q.proto,
		!portIn(r.SPort, q.sport),
		!portIn(r.DPort, q.dport),
		r.UIDRange != nil && (q.uid < r.UIDRange.Lo || q.uid > r.UIDRange.Hi):
		return false
	}
	if r.L3MDev {
		_, ok := h.vrfTable(q)
		return ok
	}
	return true
}

// prefixHas reports whether a selector matches; the zero prefix and a /0 match every address, even one
// that is not chosen yet.
func prefixHas(p netip.Prefix, a netip.Addr) bool {
	if !p.IsValid() || p.Bits() == 0 {
		return true
	}
	return a.IsValid() && p.Contains(a)
}

func portIn(r *tables.PortRange, port uint16) bool {
	return r == nil || (port >= r.Lo && port <= r.Hi)
}

// lookupTable walks one table from the longest matching prefix to the shortest. ok is false when the
// table has no answer, so that the next rule is tried; thrown is the route that said so, if one did.
func (h *host) lookupTable(table uint32, q query, rule *tables.Rule) (got []answer, ok bool, thrown *tables.Route) {
	t := h.fib[fibKey{table, q.dst.Is6()}]
	if t == nil {
		return nil, false, nil
	}
	var missed netip.Addr
	for _, rs := range t.Supernets(netip.PrefixFrom(q.dst, q.dst.BitLen())) {
		if q.dst.Is6() {
			rs = h.order6(rs, q)
		}
		for _, r := range rs {
			if !routeEligible(r, q) || r.Dst.Addr() == missed {
				continue
			}
			got, done, throw := h.tryRoute(r, q, rule)
			if throw {
				return nil, false, r
			}
			if done && got[0].reason == "" && h.suppressed(rule, r) {
				return nil, false, nil
			}
			if done {
				return got, true, nil
			}
			if r.NexthopID != 0 && q.dst.Is4() {
				// none of an object's next hops will do: fib_table_lookup leaves the whole leaf of the trie,
				// which is every prefix of this table that begins with the same address
				missed = r.Dst.Addr()
			}
		}
	}
	return nil, false, nil
}

// order6 puts the routes of one IPv6 prefix in the order of rt6_score_route (net/ipv6/route.c): the
// lowest metric, then the router preference and the device: the output device that was asked for, or the
// one that the packet came in by.
func (h *host) order6(rs []*tables.Route, q query) []*tables.Route {
	if len(rs) < 2 {
		return rs
	}
	out := slices.Clone(rs)
	slices.SortStableFunc(out, func(a, b *tables.Route) int {
		return cmp.Or(cmp.Compare(a.Metric, b.Metric), cmp.Compare(h.score6(b, q), h.score6(a, q)))
	})
	return out
}

func (h *host) score6(r *tables.Route, q query) int {
	score := int(r.Pref^2) << 2 // RTA_PREF: 1 high, 0 medium, 3 low
	dev := q.oif
	if dev == "" && q.iif != loopback {
		dev = q.iif
	}
	if dev == "" || h.usesDevice(r, dev) {
		score += 2
	}
	return score
}

func (h *host) usesDevice(r *tables.Route, dev string) bool {
	return slices.ContainsFunc(r.NextHops, func(nh tables.NextHop) bool { return h.linkName(nh.Index) == dev })
}

func routeEligible(r *tables.Route, q query) bool {
	if r.TOS != 0 && r.TOS != q.tos {
		return false
	}
	return prefixHas(r.Src, q.src)
}

// suppressed implements suppress_prefixlength and suppress_ifgroup: the rule's answer is dropped when it is
// not more specific than that, or leads to a device of that group (fib4_rule_suppress).
func (h *host) suppressed(rule *tables.Rule, r *tables.Route) bool {
	if rule == nil {
		return false
	}
	if rule.SuppressPrefixLen >= 0 && r.Dst.Bits() <= rule.SuppressPrefixLen {
		return true
	}
	if rule.SuppressIfGroup < 0 || len(r.NextHops) == 0 {
		return false
	}
	l := h.link(r.NextHops[0].Index)
	return l != nil && l.Group == uint32(rule.SuppressIfGroup)
}

// tryRoute turns one route into answers. done is false when none of its next hops can be used, so that
// a less specific route is tried, as fib_table_lookup goes on.
func (h *host) tryRoute(r *tables.Route, q query, rule *tables.Rule) (got []answer, done, throw bool) {
	if q.dst.Is6() && q.oif != "" && isReject(r.Type) && !h.usesDevice(r, q.oif) {
		return nil, false, false // in IPv6 such a route is one of device lo
	}
	switch r.Type {
	case tables.RouteThrow:
		return nil, false, true
	case tables.RouteBlackhole:
		return []answer{{reason: ReasonBlackhole, route: r, rule: rule}}, true, false
	case tables.RouteUnreachable:
		return []answer{{reason: ReasonUnreachable, route: r, rule: rule}}, true, false
	case tables.RouteProhibit:
		return []answer{{reason: ReasonProhibit, route: r, rule: rule}}, true, false
	case tables.RouteUnicast, tables.RouteLocal, tables.RouteBroadcast, tables.RouteAnycast, tables.RouteMulticast:
	}
	if h.isBlackholeNexthop(r.NexthopID) {
		return []answer{{reason: ReasonBlackhole, route: r, rule: rule}}, true, false
	}
	for i, nh := range r.NextHops {
		if h.hopUsable(nh, q) {
			got = append(got, h.learned(answer{route: r, hop: nh, hopIdx: i, rule: rule}, q.dst))
		}
	}
	for i := range got {
		got[i].alternatives = len(got)
	}
	return got, len(got) > 0, false
}

// learned applies what the kernel learned for one destination on one next hop: a path MTU, or by an ICMP
// redirect another gateway (struct fib_nh_exception; in IPv6 rt6_exception).
func (h *host) learned(a answer, dst netip.Addr) answer {
	for _, e := range h.exceptions[dst] {
		if len(e.NextHops) != 1 || e.NextHops[0].Index != a.hop.Index {
			continue
		}
		a.pmtu = int(e.MTU)
		if gw := e.NextHops[0].Gateway; gw.IsValid() && gw != a.hop.Gateway {
			a.hop.Gateway, a.hop.Onlink = gw, true
		}
	}
	return a
}

func isReject(t tables.RouteType) bool {
	return t == tables.RouteBlackhole || t == tables.RouteUnreachable || t == tables.RouteProhibit || t == tables.RouteThrow
}

func (h *host) isBlackholeNexthop(id uint32) bool {
	if id == 0 {
		return false
	}
	for i := range h.Nexthops {
		if h.Nexthops[i].ID == id {
			return h.Nexthops[i].Blackhole
		}
	}
	return false
}

// hopUsable is the test of a next hop in fib_table_lookup (net/ipv4/fib_trie.c).
func (h *host) hopUsable(nh tables.NextHop, q query) bool {
	if nh.Dead {
		return false
	}
	name := h.linkName(nh.Index)
	if nh.LinkDn && h.confMax("ignore_routes_with_linkdown", name, q.dst.Is6()) > 0 {
		return false
	}
	return q.oif == "" || q.oif == name
}

// conf reads net.ipvX.conf.DEV.NAME; ok is false when it was not read.
func (h *host) conf(name, dev string, v6 bool) (int, bool) {
	return h.SysctlInt(confName(name, dev, v6))
}

func confName(name, dev string, v6 bool) string {
	family := "ipv4"
	if v6 {
		family = "ipv6"
	}
	return strings.Join([]string{family, "conf", dev, name}, ".")
}

// confMax is the greater of all and the device (IN_DEV_MAXCONF), 0 when neither was read.
func (h *host) confMax(name, dev string, v6 bool) int {
	all, _ := h.conf(name, "all", v6)
	own, _ := h.conf(name, dev, v6)
	return max(all, own)
}
