package listing

import (
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// brctlShow reads brctl show: a bridge, and below it its ports.
type brctlShow struct {
	*block
	bridge string
}

var bridgeRow = lazy(`^\s*(\S+)\s+([0-9a-f]{4}\.[0-9a-f]{12})\s+(yes|no)\s*(\S*)\s*$`)

func (p *brctlShow) line(l line) bool {
	if strings.HasPrefix(strings.TrimSpace(l.text), "bridge name") {
		return true
	}
	if m := bridgeRow().FindStringSubmatch(l.text); m != nil {
		p.bridge = m[1]
		stp := m[3] == "yes"
		k := p.link(l, m[1], 0, func(n *tables.Link) {
			if n.Bridge == nil {
				n.Bridge = &tables.Bridge{Ageing: 300}
			}
			n.Kind, n.Bridge.STP = "bridge", stp
		})
		k.isBr = true
		if m[4] != "" {
			p.port(l, m[4])
		}
		return true
	}
	w := wordsOf(l.text)
	if p.bridge == "" || len(w) != 1 || p.blank || strings.TrimLeft(l.text, " \t") == l.text {
		return false
	}
	p.port(l, w[0])
	return true
}

func (p *brctlShow) port(l line, name string) {
	p.link(l, name, 0, nil).master = p.dev(p.bridge)
}

func (p *brctlShow) end() { p.quality = fromNetTools }

// brctlMACs reads brctl showmacs.
type brctlMACs struct{ *block }

func newBrctlMACs(b *block) *brctlMACs { return &brctlMACs{b} }

var macRow = lazy(`^\s*(\d+)\s+([0-9a-f:]{17})\s+(yes|no)\s+([\d.]+)\s*$`)

func (p *brctlMACs) line(l line) bool {
	if strings.HasPrefix(strings.TrimSpace(l.text), "port no") {
		return true
	}
	m := macRow().FindStringSubmatch(l.text)
	if m == nil {
		return false
	}
	row := tables.FDB{MAC: parseMAC(m[2]), State: tables.NUDReachable, Local: m[3] == "yes"}
	if row.Local {
		row.State = tables.NUDPermanent
	}
	age, _, _ := strings.Cut(m[4], ".")
	row.Updated = number[uint32](age)
	p.macs = append(p.macs, bridgeMAC{at: p.at(l), bridge: p.opts.bridge, port: number[uint16](m[1]), row: row})
	return true
}

func (p *brctlMACs) end() {
	p.quality = fromNetTools
	if p.opts.bridge != "" && !p.opts.limited && len(p.macs) > 0 {
		p.cover(tabFDB, p.opts.bridge)
	}
}

// bridgeVLAN reads bridge vlan: a port, and in the lines below it more of its VLANs.
type bridgeVLAN struct {
	*block
	port string
}

func (p *bridgeVLAN) line(l line) bool {
	w := wordsOf(l.text)
	if len(w) > 1 && w[0] == "port" && strings.HasPrefix(w[1], "vlan") {
		return true
	}
	if len(w) == 0 || p.port == "" && isNumber(w[0]) {
		return false
	}
	if !isNumber(w[0]) {
		p.port = w.next()
	}
	if len(w) == 0 {
		return p.port != "" && !strings.ContainsAny(l.text, ".,")
	}
	if w[0] == "None" {
		return true
	}
	lo, hi, _ := strings.Cut(w.next(), "-")
	if !isNumber(lo) {
		return false
	}
	v := tables.VLAN{ID: number[uint16](lo)}
	rest := strings.Join(w, " ")
	v.PVID, v.Untagged = strings.Contains(rest, "PVID"), strings.Contains(rest, "Untagged")
	last := max(v.ID, number[uint16](hi))
	if last > 4094 {
		return false
	}
	p.link(l, p.port, 0, func(n *tables.Link) {
		for x := v; x.ID <= last; x.ID++ {
			if n.Port != nil {
				n.Port.VLANs = append(n.Port.VLANs, x)
			}
		}
	})
	return true
}

func (p *bridgeVLAN) end() {}
