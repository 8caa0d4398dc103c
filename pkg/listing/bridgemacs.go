package listing

import (
	"fmt"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
)

// bridgeMACs finds the ports behind the numbers of brctl showmacs: listed, or by the rows that are a port's
// own address.
func (b *builder) bridgeMACs() {
	type key struct {
		br  tables.Ifindex
		mac ether.MAC
	}
	seen := make(map[key]bool)
	for _, f := range b.ns.FDB {
		seen[key{f.Master, f.MAC}] = true
	}
	for _, f := range b.facts {
		ports := b.portNumbers(f.macs)
		for _, m := range f.macs {
			port := ports[portKey{m.bridge, m.port}]
			if port == nil {
				b.c.notUnderstood(m.at, m.row.MAC.String(), fmt.Sprintf("no listing says which interface is port %d of %s", m.port, quote(m.bridge)))
				continue
			}
			row := m.row
			row.Index, row.Master = port.Index, port.Master
			if k := (key{row.Master, row.MAC}); !seen[k] {
				seen[k] = true
				b.ns.FDB, b.at.fdb = append(b.ns.FDB, row), append(b.at.fdb, m.at)
			}
		}
	}
}

// portKey names a port of a bridge by number.
type portKey struct {
	bridge string
	port   uint16
}

func (b *builder) portNumbers(macs []bridgeMAC) map[portKey]*linkState {
	out := make(map[portKey]*linkState)
	if len(macs) == 0 {
		return out
	}
	type own struct {
		bridge string
		mac    ether.MAC
	}
	byMAC := make(map[own]*linkState)
	for _, s := range b.links {
		br := b.linkAt(s.Master)
		if br == nil {
			continue
		}
		if s.portNo != 0 {
			out[portKey{br.Name, s.portNo}] = s
			continue
		}
		byMAC[own{br.Name, s.MAC}] = s
	}
	for _, m := range macs {
		k := portKey{m.bridge, m.port}
		if s := byMAC[own{m.bridge, m.row.MAC}]; s != nil && m.row.Local && out[k] == nil {
			out[k] = s
		}
	}
	return out
}
