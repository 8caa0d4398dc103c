package forward

import (
	"net/netip"

	"github.com/gaissmai/bart"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Model is a snapshot with the indexes that lookups need. It is immutable and safe for concurrent use.
type Model struct {
	hosts map[netns.ID]*host
	order []*host
	opts  Options
	// uppers are the devices stacked on a device: macvlan, ipvlan, vlan. A container's may be in another
	// namespace than the device below.
	uppers map[*tables.Link][]station
}

// host is one namespace with its indexes.
type host struct {
	*tables.Netns
	links  map[tables.Ifindex]*tables.Link
	byName map[string]*tables.Link
	fib    map[fibKey]*bart.Table[[]*tables.Route]
	rules  map[uint8][]*tables.Rule
	neigh  map[neighKey]*tables.Neigh
	proxy  map[neighKey]*tables.Neigh
	vxfdb  map[macKey][]*tables.FDB
	brfdb  map[bridgeKey]*tables.FDB
	addrs  map[netip.Addr][]*tables.Addr
	ports  map[tables.Ifindex][]*tables.Link // of a bridge
	// exceptions are the learned routes (path MTU, redirect) by their destination
	exceptions map[netip.Addr][]*tables.Route
	ownRoutes  bool // customLocal
}

type fibKey struct {
	table uint32
	v6    bool
}

type neighKey struct {
	dev tables.Ifindex
	ip  netip.Addr
}

// macKey indexes the FDB of a vxlan device.
type macKey struct {
	dev tables.Ifindex
	mac ether.MAC
}

// bridgeKey indexes a bridge's FDB. vlan is 0 on a bridge that does not filter VLANs.
type bridgeKey struct {
	macKey
	vlan uint16
}

// New indexes a snapshot.
func New(s *tables.Snapshot, opts Options) *Model {
	m := &Model{hosts: make(map[netns.ID]*host, len(s.Netns)), opts: opts}
	for _, n := range s.Netns {
		h := newHost(n)
		m.hosts[n.ID] = h
		m.order = append(m.order, h)
	}
	m.indexUppers()
	return m
}

func newHost(n *tables.Netns) *host {
	h := &host{
		Netns:  n,
		links:  make(map[tables.Ifindex]*tables.Link, len(n.Links)),
		byName: make(map[string]*tables.Link, len(n.Links)),
		fib:    make(map[fibKey]*bart.Table[[]*tables.Route]),
		rules:  make(map[uint8][]*tables.Rule),
		neigh:  make(map[neighKey]*tables.Neigh, len(n.Neighs)),
		proxy:  make(map[neighKey]*tables.Neigh),
		vxfdb:  make(map[macKey][]*tables.FDB),
		brfdb:  make(map[bridgeKey]*tables.FDB),
		addrs:  make(map[netip.Addr][]*tables.Addr, len(n.Addrs)),
		ports:  make(map[tables.Ifindex][]*tables.Link),

		exceptions: make(map[netip.Addr][]*tables.Route),
	}
	h.indexLinks()
	h.indexRoutes()
	h.indexNeighs()
	h.ownRoutes = h.customLocal()
	return h
}

func (h *host) indexLinks() {
	for i := range h.Links {
		l := &h.Links[i]
		h.links[l.Index] = l
		h.byName[l.Name] = l
		if l.Port != nil {
			h.ports[l.Master] = append(h.ports[l.Master], l)
		}
	}
	for i := range h.Addrs {
		a := &h.Addrs[i]
		h.addrs[a.Prefix.Addr()] = append(h.addrs[a.Prefix.Addr()], a)
	}
	for i := range h.Rules {
		r := &h.Rules[i]
		h.rules[r.Family] = append(h.rules[r.Family], r)
	}
}

func (h *host) indexRoutes() {
	merged := h.localMerged()
	for i := range h.Routes {
		r := &h.Routes[i]
		v6 := r.Dst.Addr().Is6()
		h.indexRoute(fibKey{r.Table, v6}, r)
		if merged && !v6 && r.Table == tables.TableMain {
			h.indexRoute(fibKey{tables.TableLocal, false}, r)
		}
	}
	for i := range h.Exceptions {
		e := &h.Exceptions[i]
		h.exceptions[e.Dst.Addr()] = append(h.exceptions[e.Dst.Addr()], e)
	}
}

func (h *host) indexRoute(key fibKey, r *tables.Route) {
	t := h.fib[key]
	if t == nil {
		t = new(bart.Table[[]*tables.Route])
		h.fib[key] = t
	}
	same, _ := t.Get(r.Dst)
	t.Insert(r.Dst, insertRoute(same, r))
}

// localMerged reports whether tables local and main are one: without policy rules of its own, a namespace
// keeps both in one trie, so that a longer prefix of main wins over a shorter one of local (fib_unmerge in
// net/ipv4/fib_frontend.c).
func (h *host) localMerged() bool {
	rs := h.rules[afInet]
	if len(rs) == 0 {
		return true
	}
	if len(rs) != len(defaultRules) {
		return false
	}
	for i, r := range rs {
		d := defaultRules[i]
		if r.Priority != d.Priority || r.Table != d.Table || r.Action != d.Action || r.Invert || r.IIF != "" || r.OIF != "" ||
			r.Src.IsValid() || r.Dst.IsValid() || r.Mask != 0 || r.SuppressPrefixLen >= 0 {
			return false
		}
	}
	return true
}

// insertRoute keeps the routes of one prefix in the order in which the kernel tries them: the most
// specific TOS first, then the lowest metric, then the older one (fib_insert_alias in
// net/ipv4/fib_trie.c; the dump is in that order already, so the sort has to be stable).
func insertRoute(rs []*tables.Route, r *tables.Route) []*tables.Route {
	at := len(rs)
	for at > 0 && routeBefore(r, rs[at-1]) {
		at--
	}
	out := make([]*tables.Route, 0, len(rs)+1)
	out = append(out, rs[:at]...)
	out = append(out, r)
	return append(out, rs[at:]...)
}

func routeBefore(a, b *tables.Route) bool {
	if a.TOS != b.TOS {
		return a.TOS > b.TOS
	}
	return a.Metric < b.Metric
}

func (h *host) indexNeighs() {
	for i := range h.Neighs {
		n := &h.Neighs[i]
		k := neighKey{n.Index, n.IP}
		if n.Proxy {
			h.proxy[k] = n
			continue
		}
		h.neigh[k] = n
	}
	for i := range h.FDB {
		f := &h.FDB[i]
		if f.Master != 0 {
			h.brfdb[bridgeKey{macKey{f.Master, f.MAC}, f.VLAN}] = f
			continue
		}
		k := macKey{f.Index, f.MAC}
		h.vxfdb[k] = append(h.vxfdb[k], f)
	}
}

// link returns the device with that index, nil when there is none.
func (h *host) link(i tables.Ifindex) *tables.Link { return h.links[i] }

func (h *host) linkName(i tables.Ifindex) string {
	if l := h.links[i]; l != nil {
		return l.Name
	}
	return "?"
}

// hasAddr reports whether ip is an address of any interface.
func (h *host) hasAddr(ip netip.Addr) bool { return len(h.addrs[ip]) > 0 }

// isHost reports whether this is a node's own namespace.
func (h *host) isHost() bool { return h.Name == tables.HostName }

// peer finds the other end of a veth, or the device that one is stacked on; nil when it is not in the snapshot.
func (m *Model) peer(h *host, l *tables.Link) (*host, *tables.Link) {
	if l.Parent == 0 {
		return nil, nil
	}
	other := h
	if l.ParentNetns >= 0 {
		id, ok := h.Peers[l.ParentNetns]
		if !ok {
			return nil, nil
		}
		other = m.hosts[id]
	}
	if other == nil {
		return nil, nil
	}
	return other, other.link(l.Parent)
}

// isUnderlay reports whether a device leads to hosts that share no tables with this one: hardware, or
// a veth whose other end is in a namespace outside the snapshot. Such a veth without an address of its own, or in
// a bridge, is a pod's that nobody asked for.
func (m *Model) isUnderlay(h *host, l *tables.Link) bool {
	if l.Loopback {
		return false
	}
	switch l.Kind {
	case "veth":
		other, _ := m.peer(h, l)
		return other == nil && h.isHost() && l.Port == nil && !h.noAddr(l)
	case "", "vlan", "bond", "team", "macvlan", "ipvlan":
		return h.isHost()
	default:
		return false
	}
}
