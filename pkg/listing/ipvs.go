package listing

import (
	"slices"

	"github.com/podtrace/podtrace/pkg/tables"
)

// ipvs reads ipvsadm -Ln and /proc/net/ip_vs. Names in the place of addresses (ipvsadm -L) are not understood.
type ipvs struct {
	*block
	table tables.IPVSTable
}

func newIPVS(b *block) *ipvs {
	p := &ipvs{block: b, table: tables.IPVSTable{Form: tables.IPVSAdm}}
	if slices.Contains(b.args, "/proc/net/ip_vs") {
		p.table.Form = tables.IPVSProc
	}
	return p
}

func (p *ipvs) line(l line) bool { return p.table.Line(l.text) }

func (p *ipvs) end() { p.ipvs = p.table.Servers }
