package listing

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// covered reports whether an output shows a table whole, or one of its parts.
func (b *builder) covered(table string, keys ...string) bool {
	for _, f := range b.facts {
		for _, c := range f.covers {
			if c.table == table && slices.Contains(keys, c.key) {
				return true
			}
		}
	}
	return false
}

const notListed = "not listed"

// finish gives the links their final form, and says what nobody listed.
func (b *builder) finish() {
	for _, s := range b.links {
		b.ns.Links = append(b.ns.Links, s.Link)
	}
	b.incompleteLinks()
	b.incompleteRoutes()
	b.incompleteNeighs()
	b.incompleteRest()
	b.ns.Incomplete = append(b.ns.Incomplete, b.assumed...)
	for _, f := range b.facts {
		for _, at := range f.cut {
			b.lacks(f.Kind, "", "the text leaves lines out at "+at.String())
		}
	}
}

func (b *builder) lacks(table, dev, why string) {
	b.ns.Incomplete = append(b.ns.Incomplete, tables.NotListed(table, dev, why))
}

func (b *builder) incompleteLinks() {
	if !b.covered(tabLinks, "") {
		b.lacks(tabLinks, "", "not listed whole: those that outputs name")
	}
	if !b.covered(tabAddrs, "") && !b.onlyIfconfig() {
		b.lacks(tabAddrs, "", "not listed whole")
	}
	var unlisted []string
	for _, s := range b.links {
		if s.Index >= firstUnlisted {
			unlisted = append(unlisted, s.Name)
		}
	}
	if len(unlisted) > 0 {
		b.assume(tabLinks, "the indexes of %s are not listed: numbers of podtrace's own stand for them", strings.Join(unlisted, ", "))
	}
}

// onlyIfconfig: ifconfig without -a shows the addresses of all interfaces that are up.
func (b *builder) onlyIfconfig() bool {
	return slices.ContainsFunc(b.facts, func(f *facts) bool { return f.Kind == kindIfconfig && len(f.addrs) > 0 })
}

func (b *builder) incompleteRoutes() {
	four, six := routeKey(afInet, 0), routeKey(afInet6, 0)
	if !b.covered(tabRules, four) {
		b.lacks(tabRules, "", "not listed: the kernel's own three are assumed")
	}
	main := routeKey(afInet, tables.TableMain)
	if !b.covered(tabRoutes, four, main) {
		b.lacks(tabRoutes, "", "not listed: only the subnets of the addresses are known")
	}
	if !b.covered(tabRoutes, four, routeKey(afInet, tables.TableLocal)) {
		b.lacks(tabRoutes+" table local", "", "not listed: made from the addresses")
	}
	if !b.covered(tabRoutes, six, routeKey(afInet6, tables.TableMain)) {
		b.lacks(tabRoutes+" ipv6", "", notListed)
	}
	for _, r := range b.ns.Rules {
		own := r.Table == tables.TableMain || r.Table == tables.TableLocal || r.Table == tables.TableDefault
		if r.Action != tables.RuleTable || r.Family != afInet || own || b.covered(tabRoutes, four, routeKey(afInet, r.Table)) {
			continue
		}
		b.lacks(fmt.Sprintf("%s table %d", tabRoutes, r.Table), "", "not listed, and a rule leads there")
	}
}

// incompleteNeighs names the devices that have neighbours or an FDB and whose rows nobody listed.
func (b *builder) incompleteNeighs() {
	b.perDevice(tabNeighs, func(l tables.Link) bool { return !l.Loopback && l.Port == nil }, "ipv4")
	b.perDevice(tabFDB, func(l tables.Link) bool { return l.Kind == "bridge" || l.Kind == "vxlan" })
}

func (b *builder) perDevice(table string, has func(tables.Link) bool, whole ...string) {
	if b.covered(table, append(whole, "")...) || !slices.ContainsFunc(b.ns.Links, has) {
		return
	}
	any := slices.ContainsFunc(b.facts, func(f *facts) bool {
		return slices.ContainsFunc(f.covers, func(c coverage) bool { return c.table == table })
	})
	if !any {
		b.lacks(table, "", notListed)
		return
	}
	for _, l := range b.ns.Links {
		if has(l) && !b.covered(table, l.Name) {
			b.lacks(table, l.Name, notListed)
		}
	}
}

func (b *builder) incompleteRest() {
	if !b.covered(tabSysctls, "") {
		b.lacks(tabSysctls, "", "sysctls are not listed: forwarding is taken as on, reverse path filters as off, and the rest as the kernel's defaults")
	}
	if b.ns.Netfilter == nil {
		b.lacks(tabNetfilter, "", "not listed: rules are taken as letting packets pass")
	}
	if !slices.ContainsFunc(b.facts, func(f *facts) bool { return f.Kind == kindFilter }) {
		b.lacks(tabFilters, "", "not listed: programs that see packets are not known")
	}
}

// rulesets joins the tables of all netfilter outputs. A table that both iptables-save and nft show is the
// former's: nft hides what it has no words for.
func (b *builder) rulesets() {
	rs := &netfilter.Ruleset{}
	saved := make(map[string]bool)
	key := func(t *netfilter.Table) string { return t.Backend + " " + t.Family.String() + " " + t.Name }
	any, conns := false, false
	var sets []netfilter.IPSet
	for _, nft := range []bool{false, true} {
		for _, f := range b.facts {
			if (f.Kind == kindNFT) != nft {
				continue
			}
			any = any || len(f.nfSeen) > 0
			for i := range f.tables {
				if t := &f.tables[i]; !nft || !saved[key(t)] {
					rs.Tables = replaceTable(rs.Tables, *t)
					saved[key(t)] = saved[key(t)] || !nft
				}
			}
			conns = conns || f.Kind == kindConntrack
			rs.Conns = append(rs.Conns, f.conns...)
			b.ns.IPVS = append(b.ns.IPVS, f.ipvs...)
			sets = append(sets, f.ipsets...)
		}
	}
	if !any && !conns {
		return
	}
	if !any {
		rs.Incomplete = append(rs.Incomplete, "rules: not listed")
		b.lacks(tabNetfilter, "", "rules are not listed: taken as letting packets pass")
	}
	if !conns {
		b.lacks(tabConns, "", notListed)
	}
	if missing := joinSets(rs, sets); len(missing) > 0 {
		b.lacks(tabNetfilter+" ipset", "", "rules ask for sets that are not listed: "+strings.Join(missing[:min(len(missing), 8)], ", "))
	}
	b.ns.Netfilter = rs
	b.netfilterParts()
}

func replaceTable(to []netfilter.Table, t netfilter.Table) []netfilter.Table {
	for i := range to {
		if to[i].Backend == t.Backend && to[i].Family == t.Family && to[i].Name == t.Name {
			to[i] = t
			return to
		}
	}
	return append(to, t)
}

// netfilterParts names the halves that were not listed: iptables does not show nft's rules, nor one backend
// the other's.
func (b *builder) netfilterParts() {
	seen := make(map[string]bool)
	for _, f := range b.facts {
		for _, s := range f.nfSeen {
			seen[s] = true
		}
	}
	if len(seen) == 0 {
		return
	}
	for _, s := range []string{nfLegacy, nfNFT} {
		if !seen[s] {
			b.lacks(tabNetfilter+" of "+s, "", notListed)
		}
	}
}

// What an output of netfilter shows whole.
const (
	nfLegacy = "legacy iptables"
	nfNFT    = "nftables"
)
