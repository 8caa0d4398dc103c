package forward

import (
	"fmt"
	"slices"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
)

// bridgeKey is where a bridge's FDB keeps an address for this packet.
func (p *packet) bridgeKey(br *tables.Link, mac ether.MAC) bridgeKey {
	return bridgeKey{macKey{br.Index, mac}, p.vid}
}

func filtersVLANs(br *tables.Link) bool { return br.Bridge != nil && br.Bridge.VLANFiltering }

func bridgeVLANs(br *tables.Link) []tables.VLAN {
	if br.Bridge == nil {
		return nil
	}
	return br.Bridge.VLANs
}

// enterVLAN is br_allowed_ingress: the VLAN that a frame is in from here on, its tag's or the port's PVID. It
// reports whether the port is in that VLAN.
func (p *packet) enterVLAN(br *tables.Link, vlans []tables.VLAN) bool {
	p.vid = 0
	if !filtersVLANs(br) {
		return true
	}
	p.vid = p.vlan
	if p.vid == 0 {
		i := slices.IndexFunc(vlans, func(v tables.VLAN) bool { return v.PVID })
		if i < 0 {
			return false
		}
		p.vid = vlans[i].ID
	}
	return inVLAN(vlans, p.vid)
}

// leaveVLAN is br_allowed_egress and br_handle_vlan: whether the port is in the frame's VLAN, and whether the
// frame leaves with a tag.
func (p *packet) leaveVLAN(br *tables.Link, vlans []tables.VLAN) bool {
	if !filtersVLANs(br) {
		return true
	}
	i := slices.IndexFunc(vlans, func(v tables.VLAN) bool { return v.ID == p.vid })
	if i < 0 {
		return false
	}
	p.vlan = p.vid
	if vlans[i].Untagged {
		p.vlan = 0
	}
	return true
}

func inVLAN(vlans []tables.VLAN, vid uint16) bool {
	return slices.ContainsFunc(vlans, func(v tables.VLAN) bool { return v.ID == vid })
}

func (p *packet) tag() string {
	if p.vlan == 0 {
		return "untagged"
	}
	return fmt.Sprintf("VLAN %d", p.vlan)
}

func (h *host) vlanStep(l *tables.Link, note string) Step {
	s := h.linkStep(l, note)
	s.Kind, s.Command = StepBridge, h.cmd("bridge vlan show dev %s", l.Name)
	return s
}

// locked drops a frame at a locked port (802.1X) unless the FDB has its source on that port
// (br_handle_frame_finish).
func (w *walk) locked(h *host, br, port *tables.Link, p *packet) bool {
	if !port.Port.Locked || h.onPort(br, port, p.EthSrc) {
		return false
	}
	w.drop(ReasonPortState, h, port, h.portStep(port, fmt.Sprintf("port %s is locked, and the FDB does not have %s on it", port.Name, p.EthSrc)))
	return true
}

// onPort reports whether a bridge's FDB has an address on a port, in any VLAN.
func (h *host) onPort(br, port *tables.Link, mac ether.MAC) bool {
	return slices.ContainsFunc(h.FDB, func(f tables.FDB) bool {
		return f.Master == br.Index && f.Index == port.Index && f.MAC == mac && !f.Local
	})
}

// tooLong drops a frame that is longer than the port takes (is_skb_forwardable), in silence. Where br_netfilter shows
// frames to the IP layer, it fragments those that may be, and drops the others (br_nf_dev_queue_xmit).
func (w *walk) tooLong(h *host, br, port *tables.Link, p *packet) bool {
	if p.flow.GSO || port.MTU == 0 || p.length <= port.MTU {
		return false
	}
	note := fmt.Sprintf("frame with %d bytes is longer than the MTU %d of the port", p.length, port.MTU)
	switch {
	case p.physIn != nil && w.m.callsIP(h, br, p):
		if !p.flow.DF && p.Dst.Is4() {
			p.length = port.MTU // of the first fragment
			return false
		}
		note += ", and br_netfilter may not fragment it"
	case p.length <= port.MTU+vlanTag:
		return false
	}
	w.drop(ReasonTooBig, h, port, h.linkStep(port, note))
	return true
}
