package listing

import (
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Leftover is an FDB row of a vxlan device that nothing uses any more.
type Leftover struct {
	Origin
	Node, Interface string
	Entry           string // as Netns.FormatFDB prints it
}

// leftovers finds the FDB rows of vxlan devices that nothing uses any more: no neighbour entry of the device
// leads to their MAC, and no node announces it. They harm nobody, and look like a fault to who reads them.
func (b *builder) leftovers(nodes []inventory.Node) {
	type entry struct {
		dev tables.Ifindex
		mac ether.MAC
	}
	used := make(map[entry]bool)
	for _, n := range b.ns.Neighs {
		used[entry{n.Index, n.MAC}] = true
	}
	announced := make(map[ether.MAC]bool)
	for _, n := range nodes {
		announced[n.Flannel.VtepMAC], announced[n.Flannel.VtepV6MAC] = true, true
	}
	for i, f := range b.ns.FDB {
		l := b.linkAt(f.Index)
		if l == nil || l.Kind != "vxlan" || !f.Dst.IsValid() || f.MAC.IsZero() || f.MAC.IsMulticast() || b.ns.Lacks(tabNeighs, l.Name) {
			continue
		}
		if !used[entry{f.Index, f.MAC}] && !announced[f.MAC] {
			b.c.leftovers = append(b.c.leftovers, Leftover{Origin: b.at.fdb[i], Node: b.ns.Node, Interface: l.Name, Entry: b.ns.FormatFDB(f)})
		}
	}
}
