// Package trace runs the stages in order. Judge is the pure half, from tables and frames to the report,
// the same for a live trace and for one read from files; Path and Check are the live half, which gathers
// what Judge needs.
package trace

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Case is everything that a judgement rests on.
type Case struct {
	Inventory   *inventory.Inventory
	Source      inventory.Endpoint
	Destination inventory.Endpoint
	From, To    resolve.Location
	Targets     []Target // of a service: where it may send to
	Snapshot    *tables.Snapshot
	Flow        forward.Flow
	Marker      [8]byte // starts the probe's payloads; zero: nothing does
	// Observed is nil when tables alone are compared.
	Observed *Observed
	Sent     diagnose.Sent
	Probe    *report.Probe
	Version  string
	// Witness is what else was asked and heard.
	Witness diagnose.Witness
	// Sized is the trace of full-size packets; nil: none were sent.
	Sized *Sized
	// Opinion is what the kernels said when they were asked; nil: they were not.
	Opinion *Opinion
	// Incomplete names what could not be read, beside what the snapshot says itself.
	Incomplete []string
	// Lost names nodes that were out of reach, or went out of it, and why: nothing of theirs is known.
	Lost []string
}

// Observed is what the capture gave.
type Observed struct {
	Points []Point
	Frames []capture.Frame
	ArmNs  int64
	// Begin is when the last tap began to watch, in ns since the epoch; 0: all did before the first packet.
	Begin int64
	// End is when the taps were told to stop, in ns since the epoch; 0: not known.
	End int64
}

// underWay is how long before the end of a capture a packet may have set out and still be on its way: some
// taps see it and others are gone already. It is shorter than the quiet that the capture waits for, so a
// packet that was lost is older.
const underWay = 20 * time.Millisecond

// settled leaves out the journeys that were under way when the capture ended, and those that were over before
// all of it had begun: they prove nothing.
func settled(js []correlate.Journey, o *Observed) []correlate.Journey {
	return slices.DeleteFunc(js, func(j correlate.Journey) bool {
		if len(j.Sightings) == 0 {
			return false
		}
		first, last := j.Sightings[0].Time, j.Sightings[len(j.Sightings)-1].Time
		return last < o.Begin || o.End != 0 && first > o.End-underWay.Nanoseconds()
	})
}

// Point is one capture point and what became of it.
type Point struct {
	ID        int
	Netns     netns.ID
	Node      string
	Name      string // tables.Netns.Name
	Interface string
	Ifindex   tables.Ifindex
	Stats     capture.PointStats
}

// plan is what the tables alone say of a case: the model and both legs.
type plan struct {
	model   *forward.Model
	request []forward.Leg
	reply   []forward.Leg
	// answers are the replies to each request
	answers [][]forward.Leg
}

// newPlan plays the request, and the reply to it. Where the request does not arrive, the reply is played
// from where it should have: its tables are part of the path too.
func newPlan(c *Case) plan {
	port, leases := proxies(c.Inventory)
	p := plan{model: forward.New(c.Snapshot, forward.Options{Underlay: underlay(c), ProxyPort: port, Leases: leases, Unread: unreadAddrs(c)})}
	p.request = p.model.Trace(c.From.PodNetns, c.Flow)
	p.answers = make([][]forward.Leg, len(p.request))
	all := intent(c, p.model)
	for i, l := range p.request {
		switch meant := all.For(l); {
		case meant.Arrives(l):
			p.answers[i] = p.model.Reply(l)
		case len(c.Targets) > 0:
			p.answers[i] = p.model.ReplyTranslated(l, meant.Dst.Netns, meant.Dst.IP, c.Flow)
		}
		p.reply = append(p.reply, p.answers[i]...)
	}
	if len(p.reply) == 0 && !c.To.PodNetns.IsZero() && len(c.Targets) == 0 {
		p.reply = p.model.ReplyAssumed(c.To.PodNetns, c.Flow)
	}
	if len(p.reply) == 0 && len(p.request) > 0 && unread(c.Destination, c.To) {
		p.reply = p.model.ReplyUnread(p.request[0], c.Flow)
	}
	return p
}

// proxyPort is the UDP port of flannel's backend "udp" where net-conf.json names none (flannel's
// Documentation/backends.md).
const proxyPort = 8285

// proxies are the nodes whose packets a process carries, by what they announced; port is 0 where there is none.
func proxies(inv *inventory.Inventory) (port uint16, leases []forward.Lease) {
	for _, n := range inv.Nodes {
		if n.Flannel.BackendType != "udp" {
			continue
		}
		port = proxyPort
		for _, r := range n.PodCIDRs {
			leases = append(leases, forward.Lease{Range: r, Node: n.Flannel.PublicIP})
		}
	}
	return port, leases
}

// proxyPorts are the UDP ports on which processes carry bare IP packets, on either leg.
func (p plan) proxyPorts() (out []uint16) {
	for _, l := range slices.Concat(p.request, p.reply) {
		for _, h := range l.Hops {
			if o := h.Frame.Outer; o != nil && o.Bare && !slices.Contains(out, o.DstPort) {
				out = append(out, o.DstPort)
			}
		}
	}
	return out
}

// underlay maps the addresses that nodes announced and do not have on an interface.
func underlay(c *Case) map[netip.Addr]netns.ID {
	out := make(map[netip.Addr]netns.ID)
	for _, n := range c.Inventory.Nodes {
		host := c.Snapshot.Host(n.Name)
		if host == nil {
			continue
		}
		for _, a := range append([]netip.Addr{n.Flannel.PublicIP, n.Flannel.PublicIPv6}, n.InternalIPs...) {
			if a.IsValid() {
				out[a] = host.ID
			}
		}
	}
	return out
}

// Judge compares the three sources and makes the report.
func Judge(c *Case) *report.Report {
	p, in := compare(c)
	path := verify.Verify(in)
	witness := c.Witness
	witness.Size = size(c)
	fs, v := diagnose.Diagnose(diagnose.Input{
		Path: path, Intent: in.Intent, Wire: in.Wire, Sent: c.Sent, Incomplete: incomplete(c), Witness: witness,
		Data: data(c, p, &path), Replay: c.replay,
		Rest: rest(c, p.model, in.Intent, &path),
	})
	fs, v = withOther(c, fs, v)
	v = withLost(c, v)
	return assemble(c, p, in.Intent.Dst, path, fs, v)
}

// rest plays a leg that dies on the way from where it should have come to the far node: by the device that the other
// leg leaves by. A reply to a request that does not arrive would find no connection, and says nothing.
func rest(c *Case, m *forward.Model, in *verify.Intent, path *verify.Result) (out [2][]forward.Leg) {
	req, rep := &path.Request.Forward, &path.Reply.Forward
	switch {
	case len(c.Targets) > 0: // of several ends
	case req.Drop != nil && !at(req.Drop, in.Dst):
		if h := leaves(rep, in.Dst); h != nil {
			out[0] = m.Arriving(h.Netns, h.Ifindex, c.Flow, nil)
		}
	case req.Drop == nil && rep.Drop != nil && !at(rep.Drop, in.Src):
		if h := leaves(req, in.Src); h != nil {
			out[1] = m.Arriving(h.Netns, h.Ifindex, forward.ReplyFlow(req.FinalFlow), req)
		}
	}
	return out
}

func at(d *forward.Drop, e verify.End) bool { return d.Netns == e.Host || d.Netns == e.Netns }

// leaves is the last hop at which a leg leaves an end's node, before any tunnel.
func leaves(l *forward.Leg, e verify.End) (last *forward.Hop) {
	for i := range l.Hops {
		if h := &l.Hops[i]; h.Netns == e.Host && h.Dir == forward.Out && h.Frame.Outer == nil {
			last = h
		}
	}
	return last
}

// replay plays a leg with other tables.
func (c *Case) replay(s *tables.Snapshot, reply bool) []forward.Leg {
	other := *c
	other.Snapshot = s
	p := newPlan(&other)
	if reply {
		return p.reply
	}
	return p.request
}

// dataSize is a first request of some application: larger than any segment of a handshake.
const dataSize = 600

// data plays a data segment after a TCP handshake that passes by the tables.
func data(c *Case, p plan, path *verify.Result) []forward.Leg {
	rep := path.Reply.Forward
	if c.Flow.Proto != forward.ProtoTCP || rep.End != forward.Delivered || path.Request.Forward.End != forward.Delivered {
		return nil
	}
	return p.model.Data(c.From.PodNetns, c.Flow, rep, dataSize)
}

// compare lays the three sources of a case side by side.
func compare(c *Case) (plan, verify.Input) {
	p := newPlan(c)
	in := verify.Input{Request: p.request, Reply: p.reply, Intent: intent(c, p.model)}
	if c.Observed != nil {
		in.Wire = wire(c, p)
	}
	if len(c.Targets) > 0 && len(p.request) > 0 {
		took := verify.Pick(p.request, in.Wire)
		in.Intent, in.Reply = in.Intent.For(p.request[took]), p.answers[took]
	}
	return p, in
}

func intent(c *Case, m *forward.Model) *verify.Intent {
	in := &verify.Intent{
		Src: end(c.From, c.Flow.Src), Dst: end(c.To, c.Flow.Dst),
		Port: askedPort(c.Flow), Nodes: c.Inventory.Nodes, Snapshot: c.Snapshot, Model: m,
	}
	in.Src.Unread, in.Dst.Unread = unread(c.Source, c.From), unread(c.Destination, c.To)
	if c.Destination.ServicePort == nil {
		return in
	}
	in.Asked, in.Masked = c.Flow.Dst, c.Destination.Kind != inventory.KindService
	for _, t := range c.Targets {
		e := end(t.At, t.IP)
		e.Port = t.Port
		in.Dsts = append(in.Dsts, e)
	}
	return in
}

// unread reports whether an end must have tables, and nobody read them.
func unread(e inventory.Endpoint, l resolve.Location) bool {
	return (e.Kind == inventory.KindPod || e.Kind == inventory.KindNode) && l.PodNetns.IsZero()
}

// unreadAddrs are the addresses of ends that nobody read.
func unreadAddrs(c *Case) (out []netip.Addr) {
	if unread(c.Source, c.From) {
		out = append(out, c.Source.IPs...)
	}
	if unread(c.Destination, c.To) {
		out = append(out, c.Destination.IPs...)
	}
	return out
}

func askedPort(f forward.Flow) uint16 {
	if f.Proto == forward.ProtoTCP || f.Proto == forward.ProtoUDP {
		return f.DstPort
	}
	return 0
}

func end(l resolve.Location, ip netip.Addr) verify.End {
	return verify.End{
		IP: ip, Node: l.Node, Netns: l.PodNetns, Host: l.HostNetns, Pod: l.VethIndex != 0,
		Interface: l.Ifindex, Veth: l.VethIndex, Bridge: l.BridgeIndex,
	}
}

// wire turns frames into journeys.
func wire(c *Case, p plan) *verify.Wire {
	w := &verify.Wire{}
	for _, pt := range c.Observed.Points {
		t := verify.Tap{Point: pt.ID, Netns: pt.Netns, Ifindex: pt.Ifindex, Node: pt.Node, Name: pt.Interface, Drops: pt.Stats.Drops, Flapped: pt.Stats.Flapped}
		if pt.Stats.Err != nil {
			t.Err = pt.Stats.Err.Error()
		}
		w.Taps = append(w.Taps, t)
	}
	w.Journeys = correlate.Journeys(correlateFlow(c, p), sightings(c, p))
	w.Journeys.Request = settled(w.Journeys.Request, c.Observed)
	w.Journeys.Reply = settled(w.Journeys.Reply, c.Observed)
	return w
}

// payloadHashed is how many bytes of payload tell packets apart: what a headers-only capture keeps.
const payloadHashed = 64

func sightings(c *Case, p plan) []correlate.Sighting {
	encap := decode.Decoder{VXLANPorts: c.Snapshot.VXLANPorts(), IPUDPPorts: p.proxyPorts()}
	var plain decode.Decoder
	under := make(map[int]bool)
	for _, pt := range c.Observed.Points {
		under[pt.ID] = p.model.IsUnderlay(pt.Netns, pt.Ifindex)
	}
	out := make([]correlate.Sighting, len(c.Observed.Frames))
	for i := range c.Observed.Frames {
		f, s := &c.Observed.Frames[i], &out[i]
		d := &plain
		if under[f.Point] {
			d = &encap
		}
		if f.HWType == arphrdNone {
			d.DecodeIP(f.Data, f.WireLen, &s.Frame)
		} else {
			d.Decode(f.Data, f.WireLen, &s.Frame)
		}
		s.Frame.Outer.NoEthDst = f.HWType == capture.HWCooked
		s.Point, s.Time, s.Wire, s.GSO = f.Point, f.Time.UnixNano(), f.WireLen, f.GSO
		s.Stamp = stamps[f.Stamp]
		s.Dir = correlate.In
		if f.Dir == capture.Out {
			s.Dir = correlate.Out
		}
		s.Hash = decode.PayloadHash(f.Data, &s.Frame, payloadHashed)
		s.Own = c.Marker != [8]byte{} && s.Frame.PayloadEnd <= len(f.Data) &&
			bytes.HasPrefix(f.Data[s.Frame.PayloadOff:s.Frame.PayloadEnd], c.Marker[:])
	}
	return out
}

// stamps are those of a capture as correlate has them.
var stamps = map[capture.Stamp]correlate.Stamp{
	capture.StampTap: correlate.ByTap, capture.StampStack: correlate.ByStack, capture.StampDevice: correlate.ByDevice,
}

// arphrdNone is the hardware type of devices whose frames start at the IP header.
const arphrdNone = 65534

// aliases are all addresses that either end is known by on the way: the model's own rewrites included.
func aliases(c *Case, p plan) (a, b []netip.Addr) {
	a, b = []netip.Addr{c.Flow.Src}, []netip.Addr{c.Flow.Dst}
	add := func(to *[]netip.Addr, ip netip.Addr) {
		if ip.IsValid() && !slices.Contains(*to, ip) {
			*to = append(*to, ip)
		}
	}
	for _, l := range p.request {
		for _, h := range l.Hops {
			add(&a, h.Frame.Src)
			add(&b, h.Frame.Dst)
		}
	}
	for _, l := range p.reply {
		for _, h := range l.Hops {
			add(&b, h.Frame.Src)
			add(&a, h.Frame.Dst)
		}
	}
	return a, b
}

func correlateFlow(c *Case, p plan) correlate.Flow {
	a, b := aliases(c, p)
	f := correlate.Flow{Proto: c.Flow.Proto, A: a, B: b, APort: c.Flow.SrcPort, BPort: c.Flow.DstPort}
	if len(p.request) == 0 || len(p.request[0].Hops) == 0 || !hasPorts(f.Proto) {
		return f
	}
	h := &p.request[0].Hops[0].Frame.Headers // the sender's own node may have translated already
	if h.SrcPort != 0 && h.DstPort != 0 {
		f.APort, f.BPort = h.SrcPort, h.DstPort
	}
	return f
}

// translatedPorts are the ports that rules put in the place of the flow's own.
func translatedPorts(c *Case, p plan) (out []uint16) {
	if !hasPorts(c.Flow.Proto) {
		return nil
	}
	for _, l := range slices.Concat(p.request, p.reply) {
		for _, h := range l.Hops {
			for _, port := range []uint16{h.Frame.SrcPort, h.Frame.DstPort} {
				if port != 0 && port != c.Flow.SrcPort && port != c.Flow.DstPort && !slices.Contains(out, port) {
					out = append(out, port)
				}
			}
		}
	}
	return out
}

// withLost takes a clean bill of health back where a node did not speak, and says why nothing can be said.
func withLost(c *Case, v diagnose.Verdict) diagnose.Verdict {
	if len(c.Lost) > 0 && (v.Status == diagnose.Healthy || v.Status == diagnose.Inconclusive) {
		if v.Status == diagnose.Inconclusive && c.Sent.Answered > 0 && c.Sent.Answered == c.Sent.Sent {
			v.Summary = fmt.Sprintf("all of %d probes were answered", c.Sent.Sent)
		}
		seen := "; as far as the others saw: " + v.Summary
		if allLost(c) {
			seen = ""
		}
		v.Status, v.Summary = diagnose.Inconclusive, strings.Join(c.Lost, "; ")+seen
	}
	return v
}

// allLost reports whether none of the nodes whose tables there are was in reach to the end.
func allLost(c *Case) bool {
	return !slices.ContainsFunc(c.Snapshot.Netns, func(n *tables.Netns) bool {
		prefix := fmt.Sprintf("node %q: ", n.Node)
		return !slices.ContainsFunc(c.Lost, func(l string) bool { return strings.HasPrefix(l, prefix) })
	})
}

func incomplete(c *Case) []string {
	out := slices.Concat(c.Lost, c.Incomplete, c.Witness.Missed)
	for _, n := range c.Snapshot.Netns {
		for _, s := range n.Incomplete {
			out = append(out, n.Node+" "+n.Name+": "+s)
		}
	}
	return out
}
