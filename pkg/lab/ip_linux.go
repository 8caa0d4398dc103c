package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const tableLocal = unix.RT_TABLE_LOCAL // kept by the kernel alone

func (s *space) setAddrs(p *plan, links linkSet) error {
	for _, want := range p.links {
		l := links[want.name]
		if l == nil {
			continue
		}
		have, err := s.nl.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list addresses of %q: %w", want.name, err)
		}
		have = slices.DeleteFunc(have, func(a netlink.Addr) bool { return a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() }) // the kernel's own
		keys := make([]string, len(want.addrs))
		for i, a := range want.addrs {
			keys[i] = a.prefix.String()
		}
		missing, extra := diff(keys, have, func(a netlink.Addr) string { return a.IPNet.String() })
		for _, a := range extra {
			// Deleting a primary address takes its secondaries along.
			if err := s.nl.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("delete address %s of %q: %w", a.IPNet, want.name, err)
			}
		}
		for _, i := range missing {
			if err := s.nl.AddrAdd(l, netlinkAddr(want.addrs[i])); err != nil {
				return fmt.Errorf("add address %s to %q: %w", keys[i], want.name, err)
			}
		}
	}
	return nil
}

func netlinkAddr(a addr) *netlink.Addr {
	n := &netlink.Addr{IPNet: ipNet(a.prefix), Scope: a.scope}
	if a.prefix.Addr().Is6() {
		n.Flags = unix.IFA_F_NODAD
	}
	if a.broadcast.IsValid() {
		n.Broadcast = a.broadcast.AsSlice()
	}
	if a.noPrefixRoute {
		n.Flags = unix.IFA_F_NOPREFIXROUTE
	}
	return n
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setRules leaves the rules of tables local, main and default, and those of the plan.
func (s *space) setRules(p *plan, _ linkSet) error {
	have, err := s.nl.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	want := append([]rule{{pref: p.localPref, table: tableLocal}, {pref: 32766, table: tableMain}, {pref: 32767, table: unix.RT_TABLE_DEFAULT}}, p.rules...)
	rules, keys := make([]*netlink.Rule, len(want)), make([]string, len(want))
	for i, r := range want {
		rules[i] = netlinkRule(r)
		keys[i] = ruleKey(*rules[i])
	}
	missing, extra := diff(keys, have, ruleKey)
	for _, i := range missing { // first: without the rule of table local nothing is this machine's
		if err := s.nl.RuleAdd(rules[i]); err != nil {
			return fmt.Errorf("add rule %d: %w", want[i].pref, err)
		}
	}
	for _, r := range extra {
		r.Family = netlink.FAMILY_V4
		if err := s.nl.RuleDel(&r); err != nil {
			return fmt.Errorf("delete rule %d: %w", r.Priority, err)
		}
	}
	return nil
}

func netlinkRule(r rule) *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Table, n.Mark = netlink.FAMILY_V4, r.pref, r.table, r.mark
	if r.mask != 0 {
		n.Mask = &r.mask
	}
	if r.src.IsValid() {
		n.Src = ipNet(r.src)
	}
	if r.dst.IsValid() {
		n.Dst = ipNet(r.dst)
	}
	return n
}

// ruleKey is everything of a rule that the lab sets or that someone may have put in.
func ruleKey(r netlink.Rule) string {
	mask := uint32(0)
	if r.Mask != nil && r.Mark != 0 {
		mask = *r.Mask
	}
	pref := max(r.Priority, 0) // the library gives -1 where the attribute is absent, as it is for 0
	return fmt.Sprint(pref, " ", r.Table, " ", r.Src, " ", r.Dst, " ", r.Mark, " ", mask, " ", r.IifName, " ", r.OifName, " ", r.Invert)
}

// setRoutes makes all tables but "local" hold the routes of the plan. Routes over a device that is
// down are left out, as the kernel drops them with the device.
func (s *space) setRoutes(p *plan, links linkSet) error {
	have, err := s.routes()
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var want []*netlink.Route
	var keys []string
	for _, r := range p.routes {
		if r.dev != "" && r.dev != "lo" && (!p.isUp(r.dev) || links[r.dev] == nil) {
			continue
		}
		n := netlinkRoute(r, links)
		want, keys = append(want, n), append(keys, routeKey(*n))
	}
	missing, extra := diff(keys, have, routeKey)
	for _, r := range extra {
		if err := s.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route %s: %w", r, err)
		}
	}
	// A next hop must be reachable by the time that a route over it is added.
	slices.SortStableFunc(missing, func(a, b int) int { return cmp.Compare(len(want[a].Gw), len(want[b].Gw)) })
	for _, i := range missing {
		if err := s.nl.RouteAdd(want[i]); err != nil {
			return fmt.Errorf("add route %s: %w", want[i], err)
		}
	}
	return nil
}

// routes lists the routes of both families without those that the kernel keeps by itself: table
// local, and in IPv6 those of link-local and multicast addresses.
func (s *space) routes() ([]netlink.Route, error) {
	var all []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := s.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return slices.DeleteFunc(all, func(r netlink.Route) bool {
		own6 := r.Family == netlink.FAMILY_V6 && r.Dst != nil && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast())
		return r.Table == tableLocal || own6
	}), nil
}

func netlinkRoute(r route, links linkSet) *netlink.Route {
	n := &netlink.Route{
		Family: netlink.FAMILY_V4, Table: orDefault(r.table, tableMain), Type: orDefault(r.typ, routeUnicast),
		Protocol: netlink.RouteProtocol(orDefault(r.proto, protoBoot)), Scope: netlink.Scope(r.scope), Priority: r.metric,
		Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
	}
	dev := r.dev
	if r.is6() {
		n.Family, n.Priority = netlink.FAMILY_V6, orDefault(r.metric, metricUser6)
		n.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		if n.Type != routeUnicast {
			dev = "lo" // where the kernel puts it
		}
	}
	if r.dst.IsValid() {
		n.Dst = ipNet(r.dst)
	}
	if r.via.IsValid() {
		n.Gw = r.via.AsSlice()
	}
	if r.src.IsValid() {
		n.Src = r.src.AsSlice()
	}
	if dev != "" {
		n.LinkIndex = links[dev].Attrs().Index
	}
	if r.onlink {
		n.Flags = int(netlink.FLAG_ONLINK)
	}
	return n
}

// routeKey is everything of a route that the lab sets or that someone may have changed.
func routeKey(r netlink.Route) string {
	dst := "default"
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones != 0 {
			dst = r.Dst.String()
		}
	}
	gw, src := "", ""
	if r.Gw != nil {
		gw = r.Gw.String()
	}
	if r.Src != nil {
		src = r.Src.String()
	}
	return fmt.Sprint(r.Family, " ", r.Table, " ", r.Type, " ", dst, " via ", gw, " dev ", r.LinkIndex, " src ", src, " ", int(r.Protocol), " ",
		int(r.Scope), " ", r.Priority, " ", r.Flags&int(netlink.FLAG_ONLINK), " ", r.Tos, " ", r.MTU, " ", len(r.MultiPath), " ", r.Via)
}

// setNeighs makes the permanent neighbours those of the plan.
func (s *space) setNeighs(p *plan, links linkSet) error {
	for _, l := range links {
		if err := s.setNeighsOf(p, l); err != nil {
			return fmt.Errorf("neighbours of %q: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

func (s *space) setNeighsOf(p *plan, l netlink.Link) error {
	name, index := l.Attrs().Name, l.Attrs().Index
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := s.nl.NeighList(index, family)
		if err != nil {
			return err
		}
		have = slices.DeleteFunc(have, func(n netlink.Neigh) bool { return n.State&netlink.NUD_PERMANENT == 0 })
		var want []neigh
		var keys []string
		for _, n := range p.neighs {
			if n.dev == name && !n.stale && n.ip.Is6() == (family == netlink.FAMILY_V6) && p.isUp(name) {
				want, keys = append(want, n), append(keys, n.ip.String()+" "+n.mac)
			}
		}
		missing, extra := diff(keys, have, func(n netlink.Neigh) string { return n.IP.String() + " " + n.HardwareAddr.String() })
		for _, n := range extra {
			if err := s.nl.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete %s: %w", n.IP, err)
			}
		}
		for _, i := range missing {
			if err := s.addNeigh(netlink.Neigh{LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT}, want[i].ip, want[i].mac); err != nil {
				return fmt.Errorf("set %s: %w", want[i].ip, err)
			}
		}
	}
	return nil
}

func (s *space) addNeigh(n netlink.Neigh, ip netip.Addr, mac string) (err error) {
	if n.HardwareAddr, err = net.ParseMAC(mac); err != nil {
		return err
	}
	n.Type, n.IP = unix.RTN_UNICAST, ip.AsSlice()
	return s.nl.NeighSet(&n)
}

// setFDB makes the forwarding databases of the VXLAN devices hold the rows of the plan alone.
func (s *space) setFDB(p *plan, links linkSet) error {
	for _, l := range links {
		if l.Type() != string(kindVXLAN) {
			continue
		}
		name, index := l.Attrs().Name, l.Attrs().Index
		have, err := s.nl.NeighList(index, unix.AF_BRIDGE)
		if err != nil {
			return fmt.Errorf("list FDB of %q: %w", name, err)
		}
		var keys []string
		var want []fdbRow
		for _, f := range p.fdb {
			if f.dev == name {
				want, keys = append(want, f), append(keys, fmt.Sprint(f.mac, " ", f.dst, " ", fdbState(f)&netlink.NUD_PERMANENT))
			}
		}
		missing, extra := diff(keys, have, func(n netlink.Neigh) string {
			return fmt.Sprint(n.HardwareAddr, " ", n.IP, " ", n.State&netlink.NUD_PERMANENT)
		})
		for _, n := range extra {
			if err := s.nl.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete FDB row %s of %q: %w", n.HardwareAddr, name, err)
			}
		}
		for _, i := range missing {
			row := netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: fdbState(want[i])}
			if err := s.addNeigh(row, want[i].dst, want[i].mac); err != nil {
				return fmt.Errorf("set FDB row %s of %q: %w", want[i].mac, name, err)
			}
		}
	}
	return nil
}

func fdbState(f fdbRow) int {
	if f.dynamic {
		return netlink.NUD_REACHABLE
	}
	return netlink.NUD_PERMANENT
}

// forget drops what the kernel has learnt: neighbours, which would go on being used for a while
// after a change, and conntrack entries, where flows keep the NAT that they began with.
func (s *space) forget() error {
	var have []netlink.Neigh
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := s.nl.NeighList(0, family)
		if err != nil {
			return fmt.Errorf("list neighbours of netns %q: %w", s.name, err)
		}
		have = append(have, list...)
	}
	for _, n := range have {
		if n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
			continue
		}
		if err := s.nl.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete neighbour %s of netns %q: %w", n.IP, s.name, err)
		}
	}
	if err := s.nl.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("flush conntrack of netns %q: %w", s.name, err)
	}
	return nil
}

// remember puts in what the kernel would learn by itself, and what forget drops: neighbours that are not
// permanent, conntrack entries.
func (s *space) remember(p *plan) error {
	for _, n := range p.neighs {
		if !n.stale {
			continue
		}
		l, err := s.nl.LinkByName(n.dev)
		if err != nil {
			continue // a fault took the device away
		}
		family := netlink.FAMILY_V4
		if n.ip.Is6() {
			family = netlink.FAMILY_V6
		}
		if err := s.addNeigh(netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family, State: netlink.NUD_STALE}, n.ip, n.mac); err != nil {
			return fmt.Errorf("set neighbour %s: %w", n.ip, err)
		}
	}
	if err := s.addFlows(p.flows); err != nil || !p.fullConns {
		return err
	}
	return s.fillConns()
}
