package offline

import (
	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
)

// vlanHeader is what a frame has beyond its MTU: an Ethernet header with one tag, bytes.
const vlanHeader = 18

// side is what tells the direction of a frame at an interface, where the capture does not say: a kernel sends with
// its own address, and what lies behind a veth sends with its own.
type side struct {
	own, peer ether.MAC
	addrs     []tables.Addr
	index     tables.Ifindex
	mtu       int
}

func sides(s *tables.Snapshot, ns *tables.Netns, l *tables.Link) side {
	out := side{own: l.MAC, addrs: ns.Addrs, index: l.Index, mtu: l.MTU}
	if l.Kind != "veth" || l.Parent == 0 {
		return out
	}
	if p := s.ByID(ns.Peers[l.ParentNetns]); p != nil && l.ParentNetns >= 0 {
		if peer := p.Link(l.Parent); peer != nil {
			out.peer = peer.MAC
		}
	}
	return out
}

// direction follows epb_flags where they say it, then the addresses of the link. sure is false where these are
// nobody's here: a bridge hands on what another sent, or an address is wrong.
func (s *side) direction(f *capture.Frame, flags uint32) (d capture.Direction, sure bool) {
	const in, out = 1, 2
	switch flags & 3 {
	case in:
		return capture.In, true
	case out:
		return capture.Out, true
	}
	if f.HWType == arphrdNone || len(f.Data) < ether.HeaderLen {
		return s.byAddress(f), false
	}
	dst, src := ether.MAC(f.Data[:6]), ether.MAC(f.Data[6:12])
	switch {
	case src == s.own, !s.peer.IsZero() && dst == s.peer:
		return capture.Out, true
	case dst == s.own, !s.peer.IsZero() && src == s.peer:
		return capture.In, true
	case s.peer.IsZero():
		return capture.In, false
	default: // a bridge hands on what another sent
		return capture.Out, false
	}
}

func (s *side) byAddress(f *capture.Frame) capture.Direction {
	var d decode.Decoder
	var h decode.Frame
	d.DecodeIP(f.Data, f.WireLen, &h)
	for _, a := range s.addrs {
		if a.Index == s.index && a.Prefix.Addr() == h.Outer.Src {
			return capture.Out
		}
	}
	return capture.In
}
