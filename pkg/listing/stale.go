package listing

import (
	"slices"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
)

// leftovers notes the FDB rows of vxlan devices that nothing uses any more: no neighbour entry of the device
// leads to their MAC, and no node announces it. They harm nobody, and look like a fault to who reads them.
func (b *builder) leftovers(nodes []inventory.Node) {
	for i, f := range b.ns.FDB {
		l := b.ns.Link(f.Index)
		if l == nil || l.Kind != "vxlan" || !f.Dst.IsValid() || f.MAC.IsZero() || f.MAC.IsMulticast() || b.ns.Lacks(tabNeighs, l.Name) {
			continue
		}
		used := slices.ContainsFunc(b.ns.Neighs, func(n tables.Neigh) bool { return n.Index == f.Index && n.MAC == f.MAC }) ||
			slices.ContainsFunc(nodes, func(n inventory.Node) bool { return n.Flannel.VtepMAC == f.MAC || n.Flannel.VtepV6MAC == f.MAC })
		if !used {
			b.c.note("%s: left over: %s: no neighbour entry of %s leads to this MAC, and no node announces it", b.at.fdb[i], b.ns.FormatFDB(f), l.Name)
		}
	}
}
