package verify

import (
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/tables"
)

// GoesDirect reports whether a node reaches the far one without its tunnel (flannel's DirectRouting), by what is left:
// to others of its own subnet there are direct routes, or only those behind a router have FDB rows.
func (in *Intent) GoesDirect(ns *tables.Netns) bool {
	if ns == nil {
		return false
	}
	direct, far := false, false
	for _, n := range in.Nodes {
		ip := n.Flannel.PublicIP
		if n.Name == ns.Node || !ip.IsValid() {
			continue
		}
		near := onLink(ns, ip)
		row := slices.ContainsFunc(ns.FDB, func(f tables.FDB) bool { return f.Dst == ip })
		if near && row {
			return false
		}
		direct = direct || row || near && slices.ContainsFunc(ns.Routes, func(r tables.Route) bool {
			return r.Dst.Bits() > 0 && slices.ContainsFunc(r.NextHops, func(h tables.NextHop) bool { return h.Gateway == ip })
		})
		far = far || near && n.Name == in.Dst.Node
	}
	return direct && far
}

// onLink reports whether an address is in a subnet of one of the node's interfaces.
func onLink(ns *tables.Netns, ip netip.Addr) bool {
	return slices.ContainsFunc(ns.Addrs, func(a tables.Addr) bool { return a.Prefix.Bits() < ip.BitLen() && a.Prefix.Masked().Contains(ip) })
}
