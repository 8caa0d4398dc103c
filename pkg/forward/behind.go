package forward

import (
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
)

// ReplyUnread plays the answer of an end whose own tables were not read, from where it comes in at the sender's node:
// the device by which the request left for the network between the nodes. Its headers there mirror the request's;
// what its sender wrote into the rest is not in the tables. It gives nothing for a request that did
// not leave the node. f is the request's flow.
func (m *Model) ReplyUnread(request Leg, f Flow) []Leg {
	for i := range request.Hops {
		out := &request.Hops[i]
		h := m.hosts[out.Netns]
		if out.Dir != Out || h == nil || h.link(out.Ifindex) == nil || !m.isUnderlay(h, h.link(out.Ifindex)) {
			continue
		}
		l := h.link(out.Ifindex)
		var done []Leg
		w := &walk{m: m, done: &done}
		w.leg.state = request.state.clone()
		w.arrive(h, l, mirrored(h, l, out, f))
		return done
	}
	return nil
}

// mirrored is the packet that answers the one that left by a device.
func mirrored(h *host, l *tables.Link, out *Hop, flow Flow) *packet {
	f := &out.Frame
	flow.Src, flow.Dst, flow.SrcPort, flow.DstPort, flow.Any = f.Src, f.Dst, f.SrcPort, f.DstPort, f.Any
	p := newPacket(h, replyFlow(flow))
	p.TTL-- // its own node has routed it, if its sender's TTL is the usual one
	if f.Outer == nil || f.Outer.Bare {
		p.EthDst, p.Any = l.MAC, p.Any|FieldEthSrc
		return p
	}
	p.EthSrc, p.EthDst = f.EthDst, f.EthSrc
	o := newPacket(h, Flow{Proto: ProtoUDP, Src: f.Outer.Dst, Dst: f.Outer.Src, DstPort: f.Outer.DstPort})
	o.inner, o.vni = p, f.Outer.VNI
	o.EthSrc, o.EthDst = ether.MAC{}, l.MAC
	o.Any = FieldEthSrc | FieldTTL | FieldSrcPort
	return o
}
