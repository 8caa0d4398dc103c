package forward

import (
	"fmt"

	"github.com/podtrace/podtrace/pkg/tables"
)

// isUpper reports whether devices of a kind are stacked on another one, which carries their frames.
func isUpper(kind string) bool {
	switch kind {
	case "macvlan", "macvtap", "ipvlan", "ipvtap", "vlan":
		return true
	default:
		return false
	}
}

func (m *Model) indexUppers() {
	m.uppers = make(map[*tables.Link][]station)
	for _, h := range m.order {
		for i := range h.Links {
			l := &h.Links[i]
			if !isUpper(l.Kind) {
				continue
			}
			if _, lower := m.peer(h, l); lower != nil {
				m.uppers[lower] = append(m.uppers[lower], station{h, l})
			}
		}
	}
}

// upperXmit is ndo_start_xmit of a stacked device: a sibling on the same lower device takes the frame, or it
// leaves by the lower device.
func (w *walk) upperXmit(h *host, l *tables.Link, p *packet) {
	lh, lower := w.m.peer(h, l)
	if lower == nil {
		w.unknown(fmt.Sprintf("the device below %s is not in the snapshot", l.Name))
		return
	}
	if (l.Kind == "ipvlan" || l.Kind == "ipvtap") && l.Macvlan != "l2" {
		w.unknown(fmt.Sprintf("%s is an ipvlan of mode %s, which is not followed", l.Name, l.Macvlan))
		return
	}
	if l.Kind == "vlan" {
		p.vlan = l.VLANID
	}
	p.scrub(lh != h)
	if w.m.hasSibling(l, lower, p) {
		w.arrive(lh, lower, p) // by way of the lower device, for its taps (macvlan_queue_xmit)
		return
	}
	w.xmit(lh, lower, p)
}

// hasSibling reports whether another device on the same lower one takes the frame directly: macvlans of mode
// bridge by MAC, ipvlans, which share one MAC, by address.
func (m *Model) hasSibling(l, lower *tables.Link, p *packet) bool {
	for _, up := range m.uppers[lower] {
		if up.l == l {
			continue
		}
		switch l.Kind {
		case "macvlan", "macvtap":
			if l.Macvlan == "bridge" && up.l.Macvlan == "bridge" && up.l.MAC == p.EthDst {
				return true
			}
		case "ipvlan", "ipvtap":
			if p.EthDst == l.MAC && up.h.onDevice(up.l, p.Dst) {
				return true
			}
		}
	}
	return false
}

// toUpper hands a frame that a device received to the one stacked on it which it is for (macvlan_handle_frame,
// ipvlan_handle_frame, vlan_do_receive). It reports whether the walk went there.
func (w *walk) toUpper(h *host, l *tables.Link, p *packet) bool {
	for _, up := range w.m.uppers[l] {
		if !up.takes(p) {
			continue
		}
		p.vlan = 0
		p.scrub(up.h != h)
		w.arrive(up.h, up.l, p)
		return true
	}
	if p.vlan == 0 || l.Port != nil {
		return false // a bridge knows what to do with tags
	}
	w.drop(ReasonVLAN, h, l, h.linkStep(l, fmt.Sprintf("the frame carries VLAN %d, and no VLAN device on %s takes it", p.vlan, l.Name)))
	return true
}

func (s station) takes(p *packet) bool {
	switch s.l.Kind {
	case "vlan":
		return p.vlan == s.l.VLANID
	case "macvlan", "macvtap":
		return p.vlan == 0 && (s.l.Macvlan == "passthru" || s.l.MAC == p.EthDst)
	default: // ipvlan
		return p.vlan == 0 && s.l.MAC == p.EthDst && s.h.onDevice(s.l, p.Dst)
	}
}
