package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// IPSet is one set of ipset(8).
type IPSet struct {
	Index   uint16       `json:"index"` // by which rules refer to it
	Name    string       `json:"name"`
	Type    string       `json:"type"` // "hash:net", "bitmap:port", "list:set", …
	Family  Family       `json:"family,omitempty"`
	Members []IPSetEntry `json:"members,omitempty"`
}

// IPSetEntry is one element; which fields mean something says the type of the set.
type IPSetEntry struct {
	Addr    netip.Prefix `json:"addr"`
	Addr2   netip.Prefix `json:"addr2"`
	Proto   uint8        `json:"proto,omitempty"`
	Port    uint16       `json:"port,omitempty"`
	Device  string       `json:"device,omitempty"`
	Set     string       `json:"set,omitempty"` // list:set: a set's name
	NoMatch bool         `json:"nomatch,omitempty"`
	Other   bool         `json:"other,omitempty"` // has what is not in this model: a range, a mark, a MAC
}

// ipset is -m set: Mod is the set's index, Flags the directions (bit n: dimension n is the source), Len
// how many dimensions are given.
func (r *run) ipset(e *Expr) bool {
	i := slices.IndexFunc(r.state.rules.IPSets, func(s IPSet) bool { return uint32(s.Index) == e.Mod })
	if i < 0 {
		return r.doubt(e)
	}
	in, known := r.inSet(&r.state.rules.IPSets[i], e, 0)
	if !known {
		return r.doubt(e)
	}
	return in != e.Invert
}

// setDims are the types whose members the model knows, with how many directions each needs at least.
var setDims = map[string]uint32{
	"hash:ip": 1, "hash:net": 1, "hash:ip,port": 2, "hash:net,port": 2, "hash:ip,port,ip": 3, "hash:ip,port,net": 3,
	"hash:net,net": 2, "hash:net,iface": 2, "bitmap:ip": 1, "bitmap:port": 1, "list:set": 1,
}

func (r *run) inSet(s *IPSet, e *Expr, depth int) (in, known bool) {
	dims, ok := setDims[s.Type]
	switch {
	case !ok || depth > 1:
		return false, false
	case e.Len < dims, s.Family != 0 && s.Family != r.p.Family:
		return false, true // ip_set_test
	case s.Type == "list:set":
		return r.inList(s, e, depth)
	}
	best, match := -1, false
	for i := range s.Members {
		m := &s.Members[i]
		if m.Other {
			return false, false
		}
		// of networks the longest prefix decides, and may say nomatch
		if bits := m.Addr.Bits() + m.Addr2.Bits(); r.isMember(s.Type, m, e.Flags) && bits > best {
			best, match = bits, !m.NoMatch
		}
	}
	return match, true
}

func (r *run) inList(s *IPSet, e *Expr, depth int) (in, known bool) {
	sets := r.state.rules.IPSets
	for _, m := range s.Members {
		i := slices.IndexFunc(sets, func(o IPSet) bool { return o.Name == m.Set })
		if i < 0 {
			return false, false
		}
		if in, known := r.inSet(&sets[i], e, depth+1); in || !known {
			return in, known
		}
	}
	return false, true
}

// isMember compares dimension by dimension, as the type's name lists them.
func (r *run) isMember(typ string, m *IPSetEntry, flags uint32) bool {
	_, parts, _ := strings.Cut(typ, ":")
	addrs := 0
	for i, part := range strings.Split(parts, ",") {
		src := flags&(1<<(i+1)) != 0
		switch part {
		case "port":
			if !r.portMember(m, src, typ != "bitmap:port") {
				return false
			}
		case "iface":
			dev := r.p.Out
			if src {
				dev = r.p.In
			}
			if dev != m.Device {
				return false
			}
		default:
			a, want := r.p.Dst, m.Addr
			if src {
				a = r.p.Src
			}
			if addrs++; addrs == 2 {
				want = m.Addr2
			}
			if !want.IsValid() || !want.Contains(a) {
				return false
			}
		}
	}
	return true
}

// portMember: of ICMP the port of a set is type and code.
func (r *run) portMember(m *IPSetEntry, src, proto bool) bool {
	p := &r.p
	port := p.DstPort
	switch {
	case isICMP(p.Proto):
		port = uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
	case src:
		port = p.SrcPort
	}
	if !proto {
		return (p.Proto == protoTCP || p.Proto == protoUDP) && port == m.Port
	}
	return p.Proto == m.Proto && port == m.Port
}

// RecentList is one list of -m recent (/proc/net/xt_recent).
type RecentList struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs,omitempty"`
}

// Operations of xt_recent (check_set).
const (
	recentCheck  = 1 << 0
	recentSet    = 1 << 1
	recentUpdate = 1 << 2
	recentRemove = 1 << 3
	recentTTL    = 1 << 4
)

// recent is recent_mt: Set the list, Flags the operation, Mod the seconds, Len the hits that are asked for,
// Key the side. How long ago an address was seen is not in the tables' terms, so that a limit of time
// leaves both ways open for an address that is listed.
func (r *run) recent(e *Expr) bool {
	a := r.p.Src
	if e.Key == "dst" {
		a = r.p.Dst
	}
	listed, fresh := r.listed(e.Set, a)
	if len(e.Data) == 0 && e.Flags&(recentSet|recentRemove) != 0 {
		r.state = r.state.put(addition{set: e.Set, el: Element{Key: a.AsSlice()}, gone: e.Flags&recentSet == 0})
	}
	if e.Flags&recentSet != 0 {
		return !e.Invert
	}
	switch {
	case !listed:
		return e.Invert
	case e.Flags&recentTTL != 0, len(e.Data) > 0:
		return r.doubt(e)
	case e.Mod != 0 && !fresh || e.Len > 1:
		n := r.chanceOf(e, 2, func(n int) string { return fmt.Sprintf("%s: %v", e.Text, n == 0) })
		return (n == 0) != e.Invert
	}
	return !e.Invert
}

// listed reports whether a list has an address, and whether a rule on the walk has just put it there.
func (r *run) listed(list string, a netip.Addr) (listed, fresh bool) {
	for i := len(r.state.added) - 1; i >= 0; i-- {
		if d := &r.state.added[i]; d.table == nil && d.set == list && addrOf(d.el.Key) == a {
			return !d.gone, !d.gone
		}
	}
	for _, l := range r.state.rules.Recent {
		if l.Name == list {
			return slices.Contains(l.Addrs, a), false
		}
	}
	return false, false
}

// parseRecent reads one file of /proc/net/xt_recent: "src=10.0.0.1 ttl: 64 last_seen: …" a line.
func parseRecent(name, text string) RecentList {
	l := RecentList{Name: name}
	for line := range strings.Lines(text) {
		first, _, _ := strings.Cut(line, " ")
		if s, ok := strings.CutPrefix(first, "src="); ok {
			if a, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil {
				l.Addrs = append(l.Addrs, a)
			}
		}
	}
	return l
}
