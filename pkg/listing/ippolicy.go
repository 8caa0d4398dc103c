package listing

import (
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// ipRule reads ip rule.
type ipRule struct {
	*block
	fam uint8
}

func newIPRule(b *block) *ipRule {
	p := &ipRule{block: b, fam: afInet}
	if b.opts.family == afInet6 {
		p.fam = afInet6
	}
	return p
}

var ruleHead = lazy(`^\s*(\d+):\s+(.*)$`)

func (p *ipRule) line(l line) bool {
	m := ruleHead().FindStringSubmatch(l.text)
	if m == nil {
		return false
	}
	w := wordsOf(m[2])
	r := tables.Rule{Family: p.fam, Priority: number[uint32](m[1]), Action: tables.RuleTable, Protocol: 2, SuppressPrefixLen: -1, SuppressIfGroup: -1}
	r.Invert = w.skip("not")
	if w.peek() != "from" {
		return false
	}
	for len(w) > 0 {
		key := w.next()
		if !ruleSelector(&r, key, &w) && !p.ruleAction(&r, key, &w) {
			r.Unknown = strings.TrimSpace(r.Unknown + " " + key)
			p.unread(l, quote(key)+" is not known: the rule is kept with an unknown selector")
		}
	}
	if r.Src.IsValid() && r.Src.Addr().Is6() || r.Dst.IsValid() && r.Dst.Addr().Is6() {
		r.Family = afInet6
	}
	p.rules = append(p.rules, fact[tables.Rule]{p.at(l), r})
	return true
}

func rulePrefix(s string) (out tables.Rule) {
	if pre, ok := parsePrefix(s); ok && s != "all" {
		out.Src = pre.Masked()
	}
	return out
}

func ruleSelector(r *tables.Rule, key string, w *words) bool {
	switch key {
	case "from":
		r.Src = rulePrefix(w.next()).Src
	case "to":
		r.Dst = rulePrefix(w.next()).Src
	case "tos", "dsfield":
		r.TOS = number[uint8](w.next())
	case "fwmark":
		mark, mask, ok := strings.Cut(w.next(), "/")
		r.Mark, r.Mask = number[uint32](mark), ^uint32(0)
		if ok {
			r.Mask = number[uint32](mask)
		}
	case "iif":
		r.IIF = w.next()
	case "oif":
		r.OIF = w.next()
	case "ipproto":
		r.IPProto = ipProto(w.next())
	case "sport":
		r.SPort = portRange(w.next())
	case "dport":
		r.DPort = portRange(w.next())
	case "uidrange":
		lo, hi, _ := strings.Cut(w.next(), "-")
		r.UIDRange = &tables.UIDRange{Lo: number[uint32](lo), Hi: number[uint32](hi)}
	case "tun_id":
		r.TunID = number[uint64](w.next())
	case "[detached]", "[unresolved]":
	default:
		return false
	}
	return true
}

func portRange(s string) *tables.PortRange {
	lo, hi, ok := strings.Cut(s, "-")
	p := &tables.PortRange{Lo: number[uint16](lo)}
	p.Hi = p.Lo
	if ok {
		p.Hi = number[uint16](hi)
	}
	return p
}

// ipProtos are the names of /etc/protocols that tools print.
var ipProtos = map[string]uint8{
	"icmp": 1, "igmp": 2, "ipip": 4, "ipencap": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
	"ipv6-icmp": 58, "ospf": 89, "sctp": 132, "udplite": 136,
}

func ipProto(s string) uint8 {
	if v, ok := ipProtos[strings.ToLower(s)]; ok {
		return v
	}
	return number[uint8](strings.TrimPrefix(s, "ipproto-"))
}

func (p *ipRule) ruleAction(r *tables.Rule, key string, w *words) bool {
	switch key {
	case "lookup", "table":
		if w.skip("[l3mdev-table]") {
			r.L3MDev = true
			return true
		}
		r.Table = p.tableID(w.next())
	case "goto":
		r.Action, r.Goto = tables.RuleGoto, number[uint32](w.next())
	case "nop", "blackhole", "unreachable", "prohibit":
		r.Action = tables.RuleAction(key)
	case "suppress_prefixlength":
		r.SuppressPrefixLen = number[int](w.next())
	case "suppress_ifgroup":
		r.SuppressIfGroup = number[int](w.next())
	case "proto", "protocol":
		r.Protocol = protocol(w.next())
	case "realms", "map-to":
		w.next()
	default:
		return false
	}
	return true
}

func (p *ipRule) end() {
	if !p.opts.limited && len(p.rules) > 0 {
		p.cover(tabRules, routeKey(p.fam, 0))
	}
}

// ipNeigh reads ip neigh.
type ipNeigh struct{ *block }

func newIPNeigh(b *block) *ipNeigh { return &ipNeigh{b} }

// neighStates are NUD_* by the words of ip-neighbour(8).
var neighStates = map[string]tables.NeighState{
	"INCOMPLETE": tables.NUDIncomplete, "REACHABLE": tables.NUDReachable, "STALE": tables.NUDStale, "DELAY": tables.NUDDelay,
	"PROBE": tables.NUDProbe, "FAILED": tables.NUDFailed, "NOARP": tables.NUDNoARP, "PERMANENT": tables.NUDPermanent, "NONE": 0,
}

func (p *ipNeigh) line(l line) bool {
	w := wordsOf(strings.Replace(l.text, "probes", " probes", 1)) // ip -s leaves the space out
	n := tables.Neigh{IP: parseIP(w.next()), Index: p.dev(p.opts.dev), Proxy: p.opts.proxy}
	if !n.IP.IsValid() || len(w) == 0 && p.opts.dev == "" {
		return false
	}
	for len(w) > 0 {
		key := w.next()
		if s, ok := neighStates[key]; ok {
			n.State |= s
			continue
		}
		switch key {
		case "dev":
			n.Index = p.dev(w.next())
		case "lladdr":
			n.MAC = parseMAC(w.next())
		case "router":
			n.Router = true
		case "proxy":
			n.Proxy = true
		case "extern_learn":
			n.ExtLrn = true
		case "offload", "managed":
		case "used", "ref", "probes", "proto", "protocol":
			w.next()
		default:
			return false
		}
	}
	p.neighs = append(p.neighs, fact[tables.Neigh]{p.at(l), n})
	return true
}

func (p *ipNeigh) end() {
	if !p.opts.limited && !p.opts.proxy && p.opts.family == 0 && len(p.cut) == 0 {
		p.cover(tabNeighs, p.opts.dev)
	}
}

// fdbRows reads bridge fdb.
type fdbRows struct{ *block }

func newFDB(b *block) *fdbRows { return &fdbRows{b} }

func (p *fdbRows) line(l line) bool {
	w := wordsOf(l.text)
	if !isMAC(w.peek()) {
		return false
	}
	f := tables.FDB{MAC: parseMAC(w.next()), Index: p.dev(p.opts.dev), State: tables.NUDReachable}
	for len(w) > 0 {
		if !p.word(&f, w.next(), &w) {
			return false
		}
	}
	finishFDB(&f)
	p.facts.fdb = append(p.facts.fdb, fact[tables.FDB]{p.at(l), f})
	return true
}

// finishFDB: only a bridge's permanent rows are its own addresses.
func finishFDB(f *tables.FDB) { f.Local = f.Master != 0 && f.State&tables.NUDPermanent != 0 }

func (p *fdbRows) word(f *tables.FDB, key string, w *words) bool {
	switch key {
	case "dev":
		f.Index = p.dev(w.next())
	case "dst":
		f.Dst = parseIP(w.next())
	case "vlan":
		f.VLAN = number[uint16](w.next())
	case "port":
		f.Port = number[uint16](w.next())
	case "vni":
		f.VNI = number[tables.VNI](w.next())
	case "src_vni":
		f.SrcVNI = number[tables.VNI](w.next())
	case "via":
		f.Via = p.dev(w.next())
	case "nhid":
		f.NHID = number[uint32](w.next())
	case "link-netnsid", "nh_group":
		w.next()
	case "used":
		_, updated, _ := strings.Cut(w.next(), "/")
		f.Updated = number[uint32](updated)
	case "master":
		f.Master = p.dev(w.next())
	case "sticky":
		f.Sticky = true
	case "extern_learn":
		f.ExtLrn = true
	case "permanent":
		f.State = tables.NUDPermanent
	case "static":
		f.State = tables.NUDNoARP
	case "stale":
		f.State = tables.NUDStale
	case "self", "offload", "router", "added_by_user", "dynamic", "locked", "[NVE]":
	default:
		if v, ok := strings.CutPrefix(key, "state="); ok {
			f.State = number[tables.NeighState](v)
			return true
		}
		return false
	}
	return true
}

func (p *fdbRows) end() {
	switch {
	case p.opts.limited || len(p.cut) > 0:
	case p.opts.bridge != "":
		p.cover(tabFDB, p.opts.bridge)
	default:
		p.cover(tabFDB, p.opts.dev)
	}
}
