package forward

import (
	"fmt"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

const (
	portForwarding = "forwarding"
	portLearning   = "learning"
)

// portTakes reports whether a bridge reads frames from a port (br_handle_frame); what comes in by one that is only
// learning ends behind PREROUTING.
func portTakes(br, port *tables.Link) bool {
	return br.Up && port.Up && port.Port != nil && (port.Port.State == portForwarding || port.Port.State == portLearning)
}

// portGives is should_deliver of net/bridge/br_forward.c: whether a frame that came in by one port may
// leave by the other. from is nil for frames of the bridge itself.
func portGives(from, to *tables.Link) bool {
	if to.Port == nil || to.Port.State != portForwarding {
		return false
	}
	if from == nil {
		return true
	}
	if from == to {
		return to.Port.Hairpin
	}
	return from.Port == nil || !from.Port.Isolated || !to.Port.Isolated
}

// bridgeReceive is br_handle_frame: a frame that a port hands to its bridge.
func (w *walk) bridgeReceive(h *host, port *tables.Link, p *packet) {
	br := h.links[port.Master]
	if br == nil {
		w.unknown(fmt.Sprintf("the bridge of %s is not in the snapshot", port.Name))
		return
	}
	if !portTakes(br, port) {
		note := fmt.Sprintf("port %s is in state %s", port.Name, port.Port.State)
		l := port
		if !br.Up {
			note, l = fmt.Sprintf("bridge %s is down", br.Name), br
		}
		w.drop(ReasonPortState, h, l, h.portStep(port, note))
		return
	}
	if !p.enterVLAN(br, port.Port.VLANs) {
		w.drop(ReasonVLAN, h, port, h.vlanStep(port, fmt.Sprintf("the bridge filters VLANs, and port %s is not in that of the frame (%s)", port.Name, p.tag())))
		return
	}
	if w.locked(h, br, port, p) {
		return
	}
	p.in, p.physIn = br, port
	w.bridgeHook(h, netfilter.HookPrerouting, p, port, nil, func(w *walk, p *packet) {
		w.callIP(h, netfilter.HookPrerouting, br, port, nil, p, func(w *walk, p *packet, changed bool) {
			if changed && !w.bridgeDNAT(h, br, p) {
				return
			}
			w.bridgeDecide(h, br, port, p)
		})
	})
}

// bridgeDNAT readdresses a frame whose destination PREROUTING changed inside the bridge
// (br_nf_pre_routing_finish): to the station that the new destination is on, or to the bridge itself.
func (w *walk) bridgeDNAT(h *host, br *tables.Link, p *packet) bool {
	as := h.routes(p.query(br.Name, ""))
	if as[0].reason == "" && as[0].route.Type == tables.RouteUnicast && as[0].hop.Index == br.Index {
		mac, _, ok := w.resolveNeigh(h, br, p.Dst, p.Src)
		p.EthDst = mac
		return ok
	}
	p.EthDst = br.MAC
	return true
}

// bridgeDecide is br_handle_frame_finish: learn the source, look the destination up.
func (w *walk) bridgeDecide(h *host, br, port *tables.Link, p *packet) {
	if port.Port.Learning {
		w.leg.state.learned[learnKey{h.ID, p.bridgeKey(br, p.EthSrc)}] = port.Index
	}
	if port.Port.State == portLearning {
		w.drop(ReasonPortState, h, port, h.portStep(port, fmt.Sprintf("port %s is in state learning: it learns addresses and hands nothing on", port.Name)))
		return
	}
	if p.EthDst == br.MAC || p.EthDst.IsMulticast() {
		w.passUp(h, br, port, p)
		return
	}
	if row := h.brfdb[p.bridgeKey(br, p.EthDst)]; row != nil && row.Local {
		s := h.fdbStep(StepBridge, row, br, p.EthDst, "an address of the bridge itself")
		w.step(s)
		w.passUp(h, br, port, p)
		return
	}
	w.hopBridge(h, br, p)
	w.toPort(h, br, port, p)
}

// passUp is br_pass_frame_up: the frame is for the bridge's own IP stack.
func (w *walk) passUp(h *host, br, port *tables.Link, p *packet) {
	if !p.leaveVLAN(br, bridgeVLANs(br)) {
		w.drop(ReasonVLAN, h, br, h.vlanStep(br, fmt.Sprintf("bridge %s itself is not in VLAN %d", br.Name, p.vid)))
		return
	}
	w.bridgeHook(h, netfilter.HookInput, p, port, nil, func(w *walk, p *packet) {
		p.nfDone = w.m.callsIP(h, br, p)
		w.arrive(h, br, p)
	})
}

// hopBridge marks the bridge as a place of the path though its own device never carries the frame.
func (w *walk) hopBridge(h *host, br *tables.Link, p *packet) {
	w.leg.Hops = append(w.leg.Hops, Hop{
		Netns: h.ID, Node: h.Node, Name: h.Name, Interface: br.Name, Ifindex: br.Index, Kind: br.Kind,
		Dir: In, Frame: p.frame(), Steps: w.pending, Bridged: true,
		Hidden: "bridged from port to port: a tap on the bridge itself sees that in promiscuous mode only",
	})
	w.pending = nil
}

// bridgeSend is br_dev_xmit: a frame that the node's own stack sends by the bridge.
func (w *walk) bridgeSend(h *host, br *tables.Link, p *packet) {
	if p.EthDst == br.MAC {
		w.drop(ReasonNoPort, h, br, h.linkStep(br, "the frame is addressed to the bridge itself"))
		return
	}
	p.physIn = nil
	if !p.enterVLAN(br, bridgeVLANs(br)) {
		w.drop(ReasonVLAN, h, br, h.vlanStep(br, fmt.Sprintf("bridge %s itself is not in the VLAN of the frame (%s)", br.Name, p.tag())))
		return
	}
	w.bridgeHook(h, netfilter.HookOutput, p, nil, br, func(w *walk, p *packet) { w.toPort(h, br, nil, p) })
}

// toPort sends the frame to the port that the FDB names, else to all.
func (w *walk) toPort(h *host, br, from *tables.Link, p *packet) {
	port, step := w.findPort(h, br, p)
	if port == nil {
		w.step(step)
		w.floodFrame(h, br, from, p)
		return
	}
	w.step(step)
	if p.vid != 0 && !inVLAN(port.Port.VLANs, p.vid) {
		w.drop(ReasonVLAN, h, port, h.vlanStep(port, fmt.Sprintf("port %s is not in VLAN %d", port.Name, p.vid)))
		return
	}
	if !portGives(from, port) {
		note := fmt.Sprintf("port %s may not send it (state %s)", port.Name, port.Port.State)
		why := ReasonNoPort
		if port.Port.State != portForwarding {
			why = ReasonPortState
		} else if from == port {
			note = fmt.Sprintf("the frame would leave by the port that it came in by, and hairpin is off on %s", port.Name)
		} else {
			note = fmt.Sprintf("ports %s and %s are isolated from each other", from.Name, port.Name)
		}
		w.drop(why, h, port, h.portStep(port, note))
		return
	}
	w.outPort(h, br, from, port, p)
}

func (w *walk) findPort(h *host, br *tables.Link, p *packet) (*tables.Link, Step) {
	mac, key := p.EthDst, p.bridgeKey(br, p.EthDst)
	row := h.brfdb[key]
	if row != nil && (row.State&tables.NUDPermanent != 0 || row.Sticky) {
		return h.links[row.Index], h.fdbStep(StepBridge, row, br, mac, "")
	}
	if i, ok := w.leg.state.learned[learnKey{h.ID, key}]; ok {
		s := h.fdbStep(StepBridge, row, br, mac, fmt.Sprintf("learned on port %s", h.linkName(i)))
		return h.links[i], s
	}
	if row != nil {
		return h.links[row.Index], h.fdbStep(StepBridge, row, br, mac, "")
	}
	return nil, h.fdbStep(StepBridge, nil, br, mac, "no entry: flooded to all ports")
}

// outPort is __br_forward: the hooks on the way, then the port's device.
func (w *walk) outPort(h *host, br, from, port *tables.Link, p *packet) {
	if !p.leaveVLAN(br, port.Port.VLANs) {
		w.drop(ReasonVLAN, h, port, h.vlanStep(port, fmt.Sprintf("port %s is not in VLAN %d", port.Name, p.vid)))
		return
	}
	if w.tooLong(h, br, port, p) {
		return
	}
	send := func(w *walk, p *packet) {
		w.bridgeHook(h, netfilter.HookPostrouting, p, nil, port, func(w *walk, p *packet) {
			if p.physIn == nil {
				w.xmit(h, port, p)
				return
			}
			w.callIP(h, netfilter.HookPostrouting, br, nil, port, p, func(w *walk, p *packet, _ bool) { w.xmit(h, port, p) })
		})
	}
	if from == nil {
		send(w, p)
		return
	}
	w.bridgeHook(h, netfilter.HookForward, p, from, port, func(w *walk, p *packet) {
		w.callIP(h, netfilter.HookForward, br, from, port, p, func(w *walk, p *packet, _ bool) { send(w, p) })
	})
}

// floodFrame sends a copy to every port. The copy that comes to the station with the frame's address is the
// path; when there is none, the frame ends here, whatever became of the copies. Who is behind a port that
// leads out of the snapshot is not known: one such port may have the station, of several nobody can say which.
func (w *walk) floodFrame(h *host, br, from *tables.Link, p *packet) {
	var ports, outside []*tables.Link
	for _, port := range h.ports[br.Index] {
		if !portGives(from, port) || !port.Port.Flood || p.vid != 0 && !inVLAN(port.Port.VLANs, p.vid) {
			continue
		}
		ports = append(ports, port)
		has, out := w.m.behind(h, port, p.EthDst)
		if has {
			w.outPort(h, br, from, port, p)
			return
		}
		if out {
			outside = append(outside, port)
		}
	}
	switch len(outside) {
	case 0:
		w.floodTaken(h, br, from, ports, p)
	case 1:
		w.outPort(h, br, from, outside[0], p)
	default:
		w.unknown(fmt.Sprintf("%s floods the frame for %s, and behind which of %d ports that lead out of the snapshot its station is, is not known",
			br.Name, p.EthDst, len(outside)))
	}
}

// behind reports whether a station behind a port has an address, and whether the port also leads to stations
// that are not in the snapshot.
func (m *Model) behind(h *host, port *tables.Link, mac ether.MAC) (has, outside bool) {
	f := flooder{m: m, seen: make(map[*tables.Link]bool), visit: func(s station) { has = has || s.l.MAC == mac }}
	outside = f.flood(h, port)
	return has, outside
}

// floodTaken plays every copy: a station may take a frame that is not for its own address.
func (w *walk) floodTaken(h *host, br, from *tables.Link, ports []*tables.Link, p *packet) {
	var legs []Leg
	for _, port := range ports {
		c := w.fork("")
		c.done = &legs
		c.outPort(h, br, from, port, p.clone())
	}
	for _, l := range legs {
		if l.End == Dropped && (l.Drop.Reason == ReasonOtherHost || l.Drop.Reason == ReasonNoCarrier || l.Drop.Reason == ReasonNoPort) {
			continue
		}
		*w.done = append(*w.done, l)
		return
	}
	w.drop(ReasonNoPort, h, br, h.fdbStep(StepBridge, nil, br, p.EthDst,
		fmt.Sprintf("flooded to %d ports, and no station behind them has the address %s", len(ports), p.EthDst)))
}
