package listing

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// ipRoute reads ip route.
type ipRoute struct {
	*block
	table uint32 // that rows without one are of
	all   bool
	last  *fact[tables.Route]
}

func newIPRoute(b *block) *ipRoute {
	p := &ipRoute{block: b, table: tables.TableMain}
	switch b.opts.table {
	case "":
	case "all", "cache", "0":
		p.all = true
	default:
		p.table = b.tableID(b.opts.table)
	}
	return p
}

// namedTable is where the numbers of tables begin that are listed by a name of /etc/iproute2/rt_tables only.
const namedTable = 1 << 31

func (b *block) tableID(s string) uint32 {
	switch {
	case s == "main":
		return tables.TableMain
	case s == "local":
		return tables.TableLocal
	case s == "default":
		return tables.TableDefault
	case isNumber(s):
		return number[uint32](s)
	default:
		return namedTable + uint32(-b.dev("table "+s))
	}
}

// routeTypes are RTN_* by the first word of a row.
var routeTypes = map[string]tables.RouteType{
	"unicast": tables.RouteUnicast, "local": tables.RouteLocal, "broadcast": tables.RouteBroadcast, "anycast": tables.RouteAnycast,
	"multicast": tables.RouteMulticast, "blackhole": tables.RouteBlackhole, "unreachable": tables.RouteUnreachable,
	"prohibit": tables.RouteProhibit, "throw": tables.RouteThrow,
}

// protocols are RTPROT_* by the names of rt_protos.
var protocols = map[string]uint8{
	"unspec": 0, "redirect": 1, "kernel": 2, "boot": 3, "static": 4, "gated": 8, "ra": 9, "mrt": 10, "zebra": 11, "bird": 12,
	"dnrouted": 13, "xorp": 14, "ntk": 15, "dhcp": 16, "keepalived": 18, "babel": 42, "openr": 99, "bgp": 186, "isis": 187,
	"ospf": 188, "rip": 189, "eigrp": 192,
}

func protocol(s string) uint8 {
	if v, ok := protocols[s]; ok {
		return v
	}
	return number[uint8](s)
}

func (p *ipRoute) line(l line) bool {
	w := wordsOf(strings.ReplaceAll(l.text, `\`, " ")) // ip -o writes it for the end of a line
	switch first := w.peek(); {
	case first == "nexthop" && p.last != nil:
		w.next()
		p.hop(l, w)
		return true
	case (first == "nh_info" || first == "cache") && p.last != nil:
		return true
	case first == "nexthop" || first == "":
		return false
	}
	r := tables.Route{Type: tables.RouteUnicast, Table: p.table, Protocol: 3}
	if t, ok := routeTypes[w.peek()]; ok {
		r.Type = t
		w.next()
	}
	dst := w.next()
	pre, ok := parsePrefix(dst)
	if !ok && dst != "default" {
		return false
	}
	six := dst == "default" && p.isSix(w) || ok && pre.Addr().Is6()
	r.Dst = anyPrefix(six)
	if ok {
		r.Dst = pre.Masked()
	}
	if len(w) == 0 && !leadsNowhere(r.Type) && !p.multipathNext() {
		return false // a lone address is no route
	}
	p.attributes(l, &r, w)
	p.routes = append(p.routes, fact[tables.Route]{p.at(l), r})
	p.last = &p.routes[len(p.routes)-1]
	return true
}

// multipathNext: "10.4.0.0/24" alone is followed by its next hops.
func (p *ipRoute) multipathNext() bool {
	return p.next < len(p.lines) && strings.HasPrefix(strings.TrimSpace(p.lines[p.next].text), "nexthop")
}

func anyPrefix(six bool) netip.Prefix {
	if six {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// isSix tells the family of a default route: by its gateway, or by what only IPv6 rows have.
func (p *ipRoute) isSix(w words) bool {
	if p.opts.family != 0 {
		return p.opts.family == afInet6
	}
	for i, s := range w {
		if s == "pref" || s == "via" && i+1 < len(w) && strings.Contains(w[i+1], ":") {
			return true
		}
	}
	return false
}

func leadsNowhere(t tables.RouteType) bool {
	return t == tables.RouteBlackhole || t == tables.RouteUnreachable || t == tables.RouteProhibit || t == tables.RouteThrow
}

// attributes reads what follows the destination.
func (p *ipRoute) attributes(l line, r *tables.Route, w words) {
	hop := tables.NextHop{Weight: 1}
	if p.opts.dev != "" {
		hop.Index = p.dev(p.opts.dev)
	}
	for len(w) > 0 && w.peek() != "nexthop" {
		key := w.next()
		if !p.routeWord(r, key, &w) && !p.hopWord(&hop, key, &w) && !ignoredRouteWord(key, &w) {
			p.unread(l, fmt.Sprintf("%s is not known; the rest of the route is used", quote(key)))
		}
	}
	blackhole := leadsNowhere(r.Type)
	if !blackhole && (hop.Index != 0 || hop.Gateway.IsValid()) {
		r.NextHops = []tables.NextHop{hop}
	}
	hopToFlags(r, hop)
	for w.skip("nexthop") {
		h := tables.NextHop{Weight: 1}
		for len(w) > 0 && w.peek() != "nexthop" {
			p.hopWord(&h, w.next(), &w)
		}
		r.NextHops = append(r.NextHops, h)
	}
}

// Flags of rtnetlink(7) that a route has as its only next hop has them.
func hopToFlags(r *tables.Route, h tables.NextHop) {
	for _, f := range []struct {
		on  bool
		bit uint32
	}{{h.Dead, 1}, {h.Onlink, 4}, {h.LinkDn, 16}} {
		if f.on {
			r.Flags |= f.bit
		}
	}
}

func (p *ipRoute) routeWord(r *tables.Route, key string, w *words) bool {
	switch key {
	case "table":
		r.Table = p.tableID(w.next())
	case "proto":
		r.Protocol = protocol(w.next())
	case "scope":
		r.Scope = scope(w.next())
	case "src":
		r.PrefSrc = parseIP(w.next())
	case "metric":
		r.Metric = number[uint32](w.next())
	case "tos":
		r.TOS = number[uint8](w.next())
	case "from":
		if s, ok := parsePrefix(w.next()); ok {
			r.Src = s.Masked()
		}
	case "nhid":
		r.NexthopID = number[uint32](w.next())
	case "mtu":
		r.MTULock = w.skip("lock")
		r.MTU = number[uint32](w.next())
	case "pref":
		r.Pref = map[string]uint8{"medium": 0, "high": 1, "low": 3}[w.next()]
	case "expires":
		r.Expires = number[uint32](strings.TrimSuffix(w.next(), "sec"))
	case "offload":
		r.Flags |= 8
	case "trap":
		r.Flags |= 64
	default:
		return false
	}
	return true
}

// hopWord reads a word of a next hop.
func (p *ipRoute) hopWord(h *tables.NextHop, key string, w *words) bool {
	switch key {
	case "via":
		s := w.next()
		if s == "inet" || s == "inet6" {
			s = w.next()
		}
		h.Gateway = parseIP(s)
	case "dev":
		h.Index = p.dev(w.next())
	case "weight":
		h.Weight = number[int](w.next())
	case "onlink":
		h.Onlink = true
	case "dead":
		h.Dead = true
	case "linkdown":
		h.LinkDn = true
	case "encap":
		h.Encap = w.next()
		for len(*w) > 0 && w.peek() != "via" && w.peek() != "dev" { // its own attributes come before the hop's
			w.next()
		}
	default:
		return false
	}
	return true
}

// ignoredRouteWord takes what changes no packet's way.
func ignoredRouteWord(key string, w *words) bool {
	switch key {
	case "pervasive", "unresolved", "notify", "linkdown", "rt_trap", "rt_offload", "rt_offload_failed", "offload_failed", "cache", "used", "local", "redirected":
		return true
	case "realm", "realms", "advmss", "hoplimit", "cwnd", "initcwnd", "initrwnd", "rtt", "rttvar", "rto_min", "ssthresh", "window",
		"reordering", "features", "quickack", "congctl", "fastopen_no_cookie", "error", "age", "users", "ttl-propagate", "iif", "uid", "mfc_cache":
		w.skip("lock")
		w.next()
		return true
	}
	return false
}

// hop reads a line "nexthop via 10.0.0.5 dev eth0 weight 1".
func (p *ipRoute) hop(l line, w words) {
	h := tables.NextHop{Weight: 1}
	for len(w) > 0 {
		if key := w.next(); !p.hopWord(&h, key, &w) && !ignoredRouteWord(key, &w) {
			p.unread(l, fmt.Sprintf("%s is not known; the rest of the next hop is used", quote(key)))
		}
	}
	r := &p.last.v
	if h.Gateway.Is6() && r.Dst.Bits() == 0 && r.Dst.Addr().Is4() && len(r.NextHops) == 0 && !p.seen4Other() {
		r.Dst = anyPrefix(true)
	}
	r.NextHops = append(r.NextHops, h)
}

// seen4Other reports whether rows of IPv4 stand before the last one: then it is one too.
func (p *ipRoute) seen4Other() bool {
	for i := range p.routes[:len(p.routes)-1] {
		if p.routes[i].v.Dst.Addr().Is4() {
			return true
		}
	}
	return false
}

func (p *ipRoute) end() {
	if p.opts.limited || p.opts.dev != "" || len(p.cut) > 0 {
		return
	}
	coverRoutes(p.facts, p.opts, p.table, p.all)
}

func coverRoutes(f *facts, o listOptions, table uint32, all bool) {
	families := []uint8{afInet}
	switch {
	case o.family == afInet6:
		families = []uint8{afInet6}
	case all && o.family == 0:
		families = []uint8{afInet, afInet6}
	}
	for _, fam := range families {
		if all {
			f.cover(tabRoutes, routeKey(fam, 0))
			continue
		}
		f.cover(tabRoutes, routeKey(fam, table))
	}
}

// routeKey names the routes of one family and table; table 0 is all of them.
func routeKey(fam uint8, table uint32) string {
	v := "ipv4"
	if fam == afInet6 {
		v = "ipv6"
	}
	if table == 0 {
		return v
	}
	return fmt.Sprintf("%s table %d", v, table)
}

// ipNexthop reads ip nexthop.
type ipNexthop struct{ *block }

func (p *ipNexthop) line(l line) bool {
	w := wordsOf(l.text)
	if !w.skip("id") || !isNumber(w.peek()) {
		return false
	}
	var n nexthopFact
	n.ID = number[uint32](w.next())
	r := ipRoute{block: p.block}
	for len(w) > 0 {
		switch key := w.next(); key {
		case "blackhole":
			n.Blackhole = true
		case "group":
			for g := range strings.SplitSeq(w.next(), "/") {
				id, weight, ok := strings.Cut(g, ",")
				n.Group = append(n.Group, number[uint32](id))
				wt := 1
				if ok {
					wt = number[int](weight)
				}
				n.weights = append(n.weights, wt)
			}
		case "scope", "proto", "type", "buckets", "idle_timer", "unbalanced_timer":
			w.next()
		default:
			if !r.hopWord(&n.Hop, key, &w) && key != "fdb" && key != "offload" {
				p.unread(l, quote(key)+" is not known; the rest of the nexthop is used")
			}
		}
	}
	if n.Group == nil && !n.Blackhole {
		n.Hop.Weight = 1
	}
	p.nexthop = append(p.nexthop, fact[nexthopFact]{p.at(l), n})
	return true
}

func (p *ipNexthop) end() {}
