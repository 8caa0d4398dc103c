package listing

import (
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// ipsetList reads ipset save ("create NAME TYPE …", "add NAME MEMBER …") and ipset list ("Name: …" and the
// members in lines of their own).
type ipsetList struct {
	*block
	index   map[string]int   // in ipsets, by name
	set     *netfilter.IPSet // the last one
	members bool
}

func (p *ipsetList) line(l line) bool {
	w := wordsOf(l.text)
	if len(w) == 0 {
		return true
	}
	switch verb := w.next(); {
	case verb == "create" && len(w) > 1:
		p.begin(w.next(), w.next(), w)
	case verb == "add" && len(w) > 1:
		i, ok := p.index[w[0]]
		if !ok {
			return false
		}
		p.ipsets[i].Members = append(p.ipsets[i].Members, ipsetMember(p.ipsets[i].Type, w[1:]))
	case verb == "Name:":
		p.begin(w.next(), "", nil)
		p.members = false
	case p.set == nil:
		return false
	case verb == "Type:":
		p.set.Type = w.next()
	case verb == "Header:":
		p.header(p.set, w)
	case verb == "Members:":
		p.members = true
	case p.members:
		p.set.Members = append(p.set.Members, ipsetMember(p.set.Type, wordsOf(l.text)))
	}
	return true
}

func (p *ipsetList) begin(name, typ string, options words) {
	if p.index == nil {
		p.index = make(map[string]int)
	}
	p.index[name] = len(p.ipsets)
	p.ipsets = append(p.ipsets, netfilter.IPSet{Name: name, Type: typ})
	p.set = &p.ipsets[len(p.ipsets)-1]
	p.header(p.set, options)
}

// header reads the options of a set that say how it compares.
func (p *ipsetList) header(s *netfilter.IPSet, w words) {
	if s.Type == "bitmap:ip" {
		s.Family = netfilter.FamilyIPv4
	}
	for len(w) > 0 {
		switch w.next() {
		case "family":
			s.Family = map[string]netfilter.Family{"inet": netfilter.FamilyIPv4, "inet6": netfilter.FamilyIPv6}[w.next()]
		case "netmask", "bitmask":
			s.Type += " netmask" // compares under a mask, which is not modelled
		}
	}
}

func (p *ipsetList) end() {}

// ipsetMember reads a member; Other where it has what the model has not.
func ipsetMember(typ string, w words) netfilter.IPSetEntry {
	var m netfilter.IPSetEntry
	_, dims, _ := strings.Cut(typ, ":")
	parts := strings.Split(w.next(), ",")
	m.NoMatch = slices.Contains(w, "nomatch")
	kinds := strings.Split(dims, ",")
	if len(parts) != len(kinds) || slices.Contains(w, "wildcard") {
		m.Other = true
		return m
	}
	for i, kind := range kinds {
		ok := false
		switch kind {
		case "ip", "net":
			to := &m.Addr
			if m.Addr.IsValid() {
				to = &m.Addr2
			}
			*to, ok = parsePrefix(parts[i])
		case "port":
			ok = ipsetPort(&m, parts[i])
		case "iface":
			m.Device, ok = parts[i], !strings.Contains(parts[i], ":")
		case "set":
			m.Set, ok = parts[i], true
		}
		m.Other = m.Other || !ok
	}
	return m
}

// ipsetPort reads "80" and "udp:53"; of ICMP the port is type and code.
func ipsetPort(m *netfilter.IPSetEntry, s string) bool {
	proto, port, named := strings.Cut(s, ":")
	if !named {
		m.Port = number[uint16](s)
		return isNumber(s)
	}
	m.Proto = ipProto(proto)
	types := symbols["icmp_type"]
	if m.Proto == ipProtos["icmpv6"] {
		types = symbols["icmpv6_type"]
	}
	typ, code, both := strings.Cut(port, "/")
	switch t, known := types[port]; {
	case m.Proto == 0:
		return false
	case both:
		m.Port = uint16(number[uint8](typ))<<8 | uint16(number[uint8](code))
		return isNumber(typ) && isNumber(code)
	case known && strings.HasPrefix(port, "echo-"): // the other names are of types with codes
		m.Port = uint16(t) << 8
		return true
	}
	m.Port = number[uint16](port)
	return isNumber(port)
}

// joinSets gives the sets that rules ask for their indexes. One that is not listed gets an index that no set
// has, so that what asks for it is in doubt; their names come back.
func joinSets(rs *netfilter.Ruleset, sets []netfilter.IPSet) (missing []string) {
	index := make(map[string]uint32)
	for _, s := range sets {
		i, again := index[s.Name]
		if !again {
			i = uint32(len(rs.IPSets))
			rs.IPSets = append(rs.IPSets, netfilter.IPSet{})
			index[s.Name] = i
		}
		s.Index = uint16(i)
		rs.IPSets[i] = s
		if i == maxIPSets {
			break
		}
	}
	eachExpr(rs, func(e *netfilter.Expr) {
		if e.Op != netfilter.OpSet {
			return
		}
		i, ok := index[e.Set]
		if !ok {
			i = noIPSet
			missing = append(missing, e.Set)
		}
		e.Mod, e.Set = i, ""
	})
	slices.Sort(missing)
	return slices.Compact(missing)
}

// maxIPSets is what an index of 16 bits can tell apart (IPSET_INVALID_ID is the last one); noIPSet is none.
const (
	maxIPSets = 1<<16 - 2
	noIPSet   = 1<<16 - 1
)

func eachExpr(rs *netfilter.Ruleset, f func(*netfilter.Expr)) {
	for i := range rs.Tables {
		for k := range rs.Tables[i].Chains {
			rules := rs.Tables[i].Chains[k].Rules
			for n := range rules {
				for x := range rules[n].Exprs {
					f(&rules[n].Exprs[x])
				}
			}
		}
	}
}
