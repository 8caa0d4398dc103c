package listing

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// assemble puts together what the outputs say.
func assemble(c *collector) *Listing {
	mergeObjects(&c.kube)
	settlePlaces(c)
	l := &Listing{Snapshot: &tables.Snapshot{}, origins: make(map[entryKey][]Origin)}
	builders := group(c)
	for i, b := range builders {
		// identities of a machine that is not here: only that they differ means something
		b.ns.ID = netns.ID{Ino: uint64(i + 1)}
		b.build()
		l.Snapshot.Netns = append(l.Snapshot.Netns, b.ns)
	}
	announce(c, l.Snapshot)
	pairUp(c, builders)
	for _, b := range builders {
		b.infer(&c.kube)
		b.finish()
		b.leftovers(c.kube.inv.Nodes)
		b.cite(l.origins)
	}
	for _, f := range c.blocks {
		l.Outputs = append(l.Outputs, f.Output)
	}
	if c.dropped > 0 {
		c.note("%d more lines that were not understood are not shown", c.dropped)
	}
	l.Inventory, l.NotUnderstood, l.Notes, l.Leftovers = &c.kube.inv, c.unread, c.notes, c.leftovers
	return l
}

// builder makes the value of one namespace.
type builder struct {
	c     *collector
	ns    *tables.Netns
	facts []*facts // worst first
	links []*linkState
	named map[string]*linkState
	nsids map[string]int // of other namespaces whose netnsid is not listed
	// byIndex is linkAt's: it fills itself anew when it misses one
	byIndex map[tables.Ifindex]*linkState

	at struct {
		addrs, rules, routes, neighs, fdb []Origin
	}
	assumed []string
}

// linkState is an interface while it is put together.
type linkState struct {
	tables.Link
	pos                   int // in builder.links
	at                    []Origin
	detail, slave, isBr   bool
	parent, lower, master tables.Ifindex // by name, as the interner numbers it
	away                  string
	iflink                tables.Ifindex
	portNo                uint16
}

// holds reports whether an output says anything of a namespace.
func (f *facts) holds() bool {
	return len(f.links)+len(f.addrs)+len(f.rules)+len(f.routes)+len(f.neighs)+len(f.fdb)+len(f.nexthop)+len(f.macs)+len(f.sysctls)+
		len(f.tables)+len(f.conns)+len(f.ipvs)+len(f.ipsets)+len(f.nfSeen) > 0
}

// group sorts the outputs by namespace, in the order in which the namespaces come up.
func group(c *collector) []*builder {
	var out []*builder
	at := make(map[[2]string]*builder)
	for _, f := range c.blocks {
		if !f.holds() {
			continue
		}
		key := [2]string{f.Node, f.Netns}
		b := at[key]
		if b == nil {
			b = &builder{
				c: c, ns: &tables.Netns{Node: f.Node, Name: f.Netns, Peers: make(map[int]netns.ID)},
				named: make(map[string]*linkState), nsids: make(map[string]int), byIndex: make(map[tables.Ifindex]*linkState),
			}
			at[key] = b
			out = append(out, b)
		}
		b.facts = append(b.facts, f)
	}
	for _, b := range out {
		slices.SortStableFunc(b.facts, func(x, y *facts) int { return cmp.Compare(x.quality, y.quality) })
		b.facts = slices.DeleteFunc(b.facts, b.contradicts())
	}
	return out
}

// contradicts finds outputs that show other interfaces under the same index: those of another namespace,
// taken in a shell that had entered it without saying so.
func (b *builder) contradicts() func(*facts) bool {
	type first struct {
		name string
		at   Origin
	}
	seen := make(map[tables.Ifindex]first)
	return func(f *facts) bool {
		for _, k := range f.links {
			if s, ok := seen[k.index]; ok && k.index != 0 && s.name != k.name {
				b.c.note("%s: interface %d is %s here and %s at %s: an output of another namespace, left out", k.at, k.index, quote(k.name), quote(s.name), s.at)
				return true
			}
		}
		for _, k := range f.links {
			if k.index != 0 {
				seen[k.index] = first{k.name, k.at}
			}
		}
		return false
	}
}

// build fills the tables. Interfaces come first: the others refer to them.
func (b *builder) build() {
	for _, f := range b.facts {
		for i := range f.links {
			b.addLink(&f.links[i])
		}
	}
	addrs := mergeRows(b.facts, tabAddrs, func(f *facts) []fact[tables.Addr] { return f.addrs }, func(c coverage, a tables.Addr) bool {
		return c.key == "" || b.c.names.name(a.Index) == c.key
	})
	rules := mergeRows(b.facts, tabRules, func(f *facts) []fact[tables.Rule] { return f.rules }, func(c coverage, r tables.Rule) bool {
		return c.key == routeKey(r.Family, 0)
	})
	routes := mergeRows(b.facts, tabRoutes, func(f *facts) []fact[tables.Route] { return f.routes }, func(c coverage, r tables.Route) bool {
		fam := family(r.Dst.Addr())
		return c.key == routeKey(fam, 0) || c.key == routeKey(fam, r.Table)
	})
	neighs := mergeRows(b.facts, tabNeighs, func(f *facts) []fact[tables.Neigh] { return f.neighs }, func(c coverage, n tables.Neigh) bool {
		return c.key == "" || c.key == "ipv4" && n.IP.Is4() || b.c.names.name(n.Index) == c.key
	})
	fdb := mergeRows(b.facts, tabFDB, func(f *facts) []fact[tables.FDB] { return f.fdb }, func(c coverage, r tables.FDB) bool {
		return c.key == "" || b.c.names.name(r.Index) == c.key || b.c.names.name(r.Master) == c.key
	})
	b.ns.Addrs, b.at.addrs = split(addrs)
	b.ns.Rules, b.at.rules = split(rules)
	b.ns.Routes, b.at.routes = split(routes)
	b.ns.Neighs, b.at.neighs = split(neighs)
	b.ns.FDB, b.at.fdb = split(fdb)
	slices.SortStableFunc(b.ns.Rules, func(x, y tables.Rule) int {
		return cmp.Or(cmp.Compare(x.Family, y.Family), cmp.Compare(x.Priority, y.Priority))
	})
	b.nexthops()
	b.sysctls()
	b.rulesets()
}

// mergeRows joins the rows of a table. What a better or a later output shows whole replaces what others said
// of it.
func mergeRows[T any](fs []*facts, table string, rows func(*facts) []fact[T], covers func(coverage, T) bool) []fact[T] {
	var out []fact[T]
	seen := make(map[string]bool)
	for _, f := range fs {
		mine := rows(f)
		for _, c := range f.covers {
			if c.table == table {
				out = slices.DeleteFunc(out, func(r fact[T]) bool {
					gone := covers(c, r.v)
					if gone {
						delete(seen, fmt.Sprintf("%+v", r.v))
					}
					return gone
				})
			}
		}
		for _, r := range mine {
			if key := fmt.Sprintf("%+v", r.v); !seen[key] {
				seen[key] = true
				out = append(out, r)
			}
		}
	}
	return out
}

func split[T any](rows []fact[T]) ([]T, []Origin) {
	vs, at := make([]T, len(rows)), make([]Origin, len(rows))
	for i, r := range rows {
		vs[i], at[i] = r.v, r.at
	}
	return vs, at
}

// state finds or makes an interface by name; nil when there are too many.
func (b *builder) state(name string) *linkState {
	s := b.named[name]
	if s == nil && len(b.links) < maxLinks {
		s = &linkState{Link: tables.Link{Name: name, ParentNetns: -1}, pos: len(b.links)}
		b.named[name] = s
		b.links = append(b.links, s)
	}
	return s
}

func (b *builder) addLink(f *linkFact) {
	s := b.state(f.name)
	if s == nil {
		b.c.notUnderstood(f.at, f.name, fmt.Sprintf("more than %d interfaces in one namespace", maxLinks))
		return
	}
	s.at = append(s.at, f.at)
	if f.index != 0 {
		s.Index = f.index
	}
	before := s.MAC
	f.set(&s.Link)
	if !before.IsZero() && s.MAC != before {
		b.c.note("%s: %s has %s here and %s before (%s): two machines, or made anew; this one is used", f.at, quote(f.name), s.MAC, before, s.at[0])
	}
	s.detail, s.slave, s.isBr = s.detail || f.detail, s.slave || f.slave, s.isBr || f.isBr
	s.parent, s.lower, s.master = orIndex(f.parent, s.parent), orIndex(f.lower, s.lower), orIndex(f.master, s.master)
	s.iflink, s.portNo = orIndex(f.iflink, s.iflink), cmp.Or(f.portNo, s.portNo)
	if f.away != "" && f.away != "?" || s.away == "" {
		s.away = f.away
	}
}

func orIndex(a, b tables.Ifindex) tables.Ifindex {
	if a != 0 {
		return a
	}
	return b
}

// firstUnlisted is where the indexes begin that stand for interfaces whose own index no output shows.
const firstUnlisted = 1 << 20

// ix turns a name's number into the interface's index. Interfaces that only other tables name are made.
func (b *builder) ix(id tables.Ifindex) tables.Ifindex {
	if id >= 0 {
		return id
	}
	s := b.state(b.c.names.name(id))
	if s == nil {
		return 0
	}
	if s.Index == 0 {
		s.Index = tables.Ifindex(firstUnlisted + s.pos)
	}
	return s.Index
}

// netnsid gives a number to a namespace that is known by name, or known to be another one and no more.
func (b *builder) netnsid(away string, s *linkState) int {
	if isNumber(away) {
		return number[int](away)
	}
	if away == "?" {
		away = "of " + s.Name
	}
	if _, ok := b.nsids[away]; !ok {
		b.nsids[away] = firstUnlisted + len(b.nsids)
	}
	return b.nsids[away]
}

func (b *builder) nexthops() {
	weights := make(map[uint32][]int)
	hops := make(map[uint32]tables.Nexthop)
	for _, f := range b.facts {
		for _, n := range f.nexthop {
			if _, again := hops[n.v.ID]; !again {
				b.ns.Nexthops = append(b.ns.Nexthops, n.v.Nexthop)
			}
			hops[n.v.ID], weights[n.v.ID] = n.v.Nexthop, n.v.weights
		}
	}
	for i := range b.ns.Routes {
		r := &b.ns.Routes[i]
		o, ok := hops[r.NexthopID]
		switch {
		case !ok || len(r.NextHops) > 0 || o.Blackhole:
		case o.Group == nil:
			r.NextHops = []tables.NextHop{o.Hop}
		default:
			for k, id := range o.Group {
				h := hops[id].Hop
				h.Weight = weights[r.NexthopID][k]
				r.NextHops = append(r.NextHops, h)
			}
		}
	}
}

func (b *builder) sysctls() {
	for _, f := range b.facts {
		for k, v := range f.sysctls {
			if b.ns.Sysctls == nil {
				b.ns.Sysctls = make(map[string]string)
			}
			b.ns.Sysctls[k] = v
		}
	}
}

// cite remembers where each row was read, by the row as evidence prints it.
func (b *builder) cite(to map[entryKey][]Origin) {
	add := func(entry string, at ...Origin) {
		k := entryKey{b.ns.ID, entry}
		to[k] = append(to[k], at...)
	}
	for i, l := range b.ns.Links {
		add(b.ns.FormatLink(l), b.links[i].at...)
	}
	cite(b.ns.Addrs, b.at.addrs, b.ns.FormatAddr, add)
	cite(b.ns.Rules, b.at.rules, b.ns.FormatRule, add)
	cite(b.ns.Routes, b.at.routes, b.ns.FormatRoute, add)
	cite(b.ns.Neighs, b.at.neighs, b.ns.FormatNeigh, add)
	cite(b.ns.FDB, b.at.fdb, b.ns.FormatFDB, add)
}

func cite[T any](rows []T, at []Origin, format func(T) string, add func(string, ...Origin)) {
	for i, r := range rows {
		add(format(r), at[i])
	}
}

// where is the place of a namespace in words.
func (b *builder) where() string {
	return strings.TrimSpace(b.ns.Node + " " + b.ns.Name)
}

func deviceNumber(name, head string) (int, bool) {
	s, ok := strings.CutPrefix(name, head)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}
