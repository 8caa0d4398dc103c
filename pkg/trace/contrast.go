package trace

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Contrast says when to send further probes beside the one that was asked for.
type Contrast string

// When to send further probes.
const (
	ContrastAuto   Contrast = "auto" // when the place alone does not decide, and a full-size packet on a healthy path
	ContrastAlways Contrast = "always"
	ContrastNever  Contrast = "never"
)

// contrast sends the further probes that a first judgement leaves to decide.
func (s *session) contrast(ctx context.Context, r *report.Report) {
	if s.o.Contrast == ContrastNever || s.c.Sent.Watching || ctx.Err() != nil {
		return
	}
	always := s.o.Contrast == ContrastAlways
	if r.Verdict.Status == report.Healthy || always {
		if s.c.Destination.ServicePort == nil {
			s.sizes(ctx)
		} else {
			s.sizesBehind(ctx)
		}
	}
	if strings.HasPrefix(r.Verdict.Cause, "lost-after-") || r.Verdict.Cause == "underlay-neigh-wrong" || always {
		s.betweenNodes(ctx, r.Verdict)
	}
}

// wire is the stretch between two nodes: the device that a packet leaves by, and the one that it comes in by.
type stretch struct {
	from, to     forward.Hop
	srcIP, dstIP netip.Addr
	port         uint16 // of the tunnel, 0: none
}

// stretchOf finds where a leg leaves one node for another: the one that a verdict is about, of the several that a path by
// a node port has; else the first.
func stretchOf(legs []forward.Leg, m *forward.Model, v report.Verdict) (found stretch, ok bool) {
	for _, l := range legs {
		for i := 0; i+1 < len(l.Hops); i++ {
			a, b := &l.Hops[i], &l.Hops[i+1]
			if a.Node == b.Node || !m.IsUnderlay(a.Netns, a.Ifindex) {
				continue
			}
			st := stretch{from: *a, to: *b}
			if o := a.Frame.Outer; o != nil {
				st.srcIP, st.dstIP, st.port = o.Src, o.Dst, o.DstPort
			}
			if a.Node == v.Node && a.Interface == v.Interface {
				return st, true
			}
			if !ok {
				found, ok = st, true
			}
		}
	}
	return found, ok
}

// betweenNodes sends small packets from node to node, on the stretch where the path's own were lost: ICMP, UDP
// to a port that no tunnel uses, and UDP to the tunnel's.
func (s *session) betweenNodes(ctx context.Context, v report.Verdict) {
	p := newPlan(&s.c)
	legs := p.request
	if v.Leg == report.Reply {
		legs = p.reply
	}
	st, ok := stretchOf(legs, p.model, v)
	if !ok || !s.edge.Has(st.from.Netns) || !s.edge.Has(st.to.Netns) {
		return
	}
	if !st.dstIP.IsValid() {
		st.dstIP = addrOf(s.c.Snapshot.ByID(st.to.Netns), st.to.Ifindex, s.c.Flow.Dst.Is6())
	}
	if !st.dstIP.IsValid() {
		return
	}
	s.o.say("sending contrast probes from %s to %s", st.from.Node, st.to.Node)
	const otherPort = 33434 // of traceroute: nothing listens there
	s.try(ctx, st, diagnose.ContrastNodePing, probe.Spec{Proto: probe.ICMP})
	s.try(ctx, st, diagnose.ContrastNodeUDP, probe.Spec{Proto: probe.UDP, Port: otherPort})
	if st.port != 0 {
		s.try(ctx, st, diagnose.ContrastTunnelUDP, probe.Spec{Proto: probe.UDP, Port: st.port})
	}
}

func addrOf(ns *tables.Netns, dev tables.Ifindex, v6 bool) netip.Addr {
	for _, a := range ns.Addrs {
		if ip := a.Prefix.Addr(); a.Index == dev && ip.Is6() == v6 && !ip.IsLinkLocalUnicast() {
			return ip
		}
	}
	return netip.Addr{}
}

// try sends one contrast probe and counts what arrives at the far node's device.
func (s *session) try(ctx context.Context, st stretch, name string, spec probe.Spec) {
	const count, interval, wait = 2, 20 * time.Millisecond, 200 * time.Millisecond
	out := diagnose.Contrast{Name: name}
	pr, err := s.edge.Prepare(ctx, st.from.Netns, node.Probe{Spec: spec, Src: st.srcIP, Dst: st.dstIP})
	if err != nil {
		s.c.Witness.Missed = append(s.c.Witness.Missed, fmt.Sprintf("contrast probe %s: %v", name, err))
		return
	}
	defer pr.Close() //nolint:errcheck // its sockets are done with
	f := pr.Flow()
	out.What = fmt.Sprintf("%s %s to %s %s, %s", st.from.Node, f.Src, st.to.Node, f.Dst, spec)
	flow := capture.Flow{Proto: f.Proto, A: []netip.Addr{f.Src}, B: []netip.Addr{f.Dst}, APort: f.SrcPort, BPort: f.DstPort, Marker: f.Marker}
	filter, err := capture.Filter(flow, nil, capture.FilterOptions{})
	if err != nil {
		return
	}
	ses, err := s.edge.Capture(ctx, node.CaptureConfig{Taps: []node.Tap{
		{Netns: st.to.Netns, Ifindex: int(st.to.Ifindex), Interface: st.to.Interface, Filter: filter},
	}})
	if err != nil {
		s.c.Witness.Missed = append(s.c.Witness.Missed, fmt.Sprintf("contrast probe %s: %v", name, err))
		return
	}
	r := pr.Run(ctx, count, interval, wait)
	for _, fr := range ses.Stop(context.WithoutCancel(ctx)).Frames {
		if fr.Dir == capture.In && !isNeighbour(fr.Data) {
			out.Seen++
		}
	}
	out.Sent, out.Answered, out.Errors = r.Sent, r.Answered, r.Errors
	out.Seen = min(out.Seen, out.Sent)
	s.c.Witness.Contrast = append(s.c.Witness.Contrast, out)
}

// isNeighbour tells ARP and neighbour discovery, which every filter lets pass.
func isNeighbour(b []byte) bool {
	const ethernet, ipv6, nextHeader = 14, 40, 6
	if len(b) < ethernet {
		return true
	}
	switch uint16(b[12])<<8 | uint16(b[13]) {
	case 0x0806:
		return true
	case 0x86dd:
		return len(b) > ethernet+ipv6 && b[ethernet+nextHeader] == forward.ProtoICMPv6 && b[ethernet+ipv6] >= 133 && b[ethernet+ipv6] <= 137
	default:
		return false
	}
}
