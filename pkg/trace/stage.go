package trace

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
)

// stage is one probe under watch: the taps of its path, what is sent, and what was seen of it. Its case is the
// session's own, or a variation of it.
type stage struct {
	*session
	c        *Case
	spec     probe.Spec
	opts     probe.Options
	count    int
	interval time.Duration
	timeout  time.Duration
	pmtu     int // that an ICMP error told the sender; 0: none did
}

// run prepares, arms, sends, and takes in what the taps saw.
func (st *stage) run(ctx context.Context) error {
	if st.spec.Proto == probe.None {
		st.watchFlow()
		return st.observe(ctx, nil)
	}
	pr, err := st.prepare(ctx)
	if err != nil {
		return err
	}
	defer pr.Close() //nolint:errcheck // its sockets are done with
	return st.observe(ctx, pr)
}

// prepare opens the probe's sockets, so that its ports are known before the filters are made.
func (st *stage) prepare(ctx context.Context) (node.Prober, error) {
	pr, err := st.edge.Prepare(ctx, st.c.From.PodNetns, node.Probe{Spec: st.spec, Src: st.c.Flow.Src, Dst: st.c.Flow.Dst, Options: st.opts})
	if err != nil {
		return nil, err
	}
	f := pr.Flow()
	st.c.Marker = f.Marker
	flow := &st.c.Flow
	flow.Proto, flow.SrcPort, flow.DstPort = f.Proto, f.SrcPort, f.DstPort
	if f.Src.IsValid() {
		flow.Src = f.Src
	}
	if f.Proto == forward.ProtoTCP {
		flow.TCPFlags = tcpSyn
	}
	setICMP(flow)
	return pr, nil
}

// watchFlow is any packet between the two ends.
func (st *stage) watchFlow() {
	st.c.Flow.Proto, st.c.Flow.TCPFlags = forward.ProtoTCP, tcpSyn
	st.c.Flow.DstPort = st.c.Destination.Port
	if sp := st.c.Destination.ServicePort; sp != nil && sp.Proto == "UDP" {
		st.c.Flow.Proto, st.c.Flow.TCPFlags = forward.ProtoUDP, 0
	}
}

// observe arms all taps, sends, and takes in what they saw.
func (st *stage) observe(ctx context.Context, pr node.Prober) error {
	p := newPlan(st.c)
	points := st.points(p)
	taps, err := st.taps(p, points)
	if err != nil {
		return err
	}
	cfg := captureConfig(&st.o, taps)
	if pr == nil {
		cfg.MaxTotal = mostFrames
	}
	st.o.say("arming %d taps", len(taps))
	st.c.Opinion = st.ask(ctx, p)
	var ses *node.Taps
	var drops *node.DropWatch
	var g errgroup.Group
	g.Go(func() (err error) {
		ses, err = st.edge.Capture(ctx, cfg)
		return err
	})
	g.Go(func() error {
		drops = st.watchDrops(ctx, p)
		return nil
	})
	var before map[netns.ID]*counters.Snapshot
	g.Go(func() error {
		before = st.edge.Counters(ctx)
		return nil
	})
	err = g.Wait()
	if drops != nil {
		defer drops.Close() //nolint:errcheck // what it saw has been taken by then
	}
	after := context.WithoutCancel(ctx) // what was seen until an interrupt is judged
	if err != nil {
		if ses != nil {
			ses.Stop(after)
		}
		return err
	}
	st.o.say("armed in %s", ses.ArmDuration().Round(10*time.Microsecond))
	st.send(ctx, ses, pr)
	if pr != nil {
		quiesce(ctx, ses)
	}
	end := time.Now()
	res := ses.Stop(after)
	if !res.Cut.IsZero() {
		end = res.Cut
	}
	for i := range points {
		points[i].Stats = res.Points[i]
	}
	st.c.Observed = &Observed{Points: points, Frames: res.Frames, ArmNs: ses.ArmDuration().Nanoseconds(), End: end.UnixNano()}
	if pr == nil {
		st.adopt()
	}
	st.takeDrops(after, drops)
	st.takeCounters(after, before, st.edge.Counters(after))
	st.takeNeighbours(after, p)
	return nil
}

// watchDrops asks the kernel to tell when it drops a packet of the path. Where it can't, the trace does without
// and says so.
func (st *stage) watchDrops(ctx context.Context, p plan) *node.DropWatch {
	if st.o.NoBPF {
		return nil
	}
	w, missed := st.edge.WatchDrops(ctx, kdrop.Config{Flows: dropFlows(st.c, p), Neighbours: p.neighbours(st.c)})
	for _, why := range missed {
		st.c.Witness.Missed = append(st.c.Witness.Missed, "the kernel's drop reasons: "+why)
	}
	return w
}

// dropFlows are the flow under every address that either end has on the way.
func dropFlows(c *Case, p plan) (out []kdrop.Flow) {
	const enough = 32
	as, bs := aliases(c, p)
	f := kdrop.Flow{Proto: c.Flow.Proto, SrcPort: c.Flow.SrcPort, DstPort: c.Flow.DstPort}
	if c.Flow.ICMPType != 0 {
		f.ICMPID, f.SrcPort, f.DstPort = c.Flow.SrcPort, 0, 0
	}
	if len(as)*len(bs) > 1 {
		f.SrcPort, f.DstPort = 0, 0 // ports may be translated along with the addresses
	}
	for _, a := range as {
		for _, b := range bs {
			if a.IsValid() && a.Is4() == b.Is4() && len(out) < enough {
				f.Src, f.Dst = a, b
				out = append(out, f)
			}
		}
	}
	return out
}

// neighbours are the addresses that somebody on the path may have to ask for.
func (p plan) neighbours(c *Case) []netip.Addr {
	out := []netip.Addr{c.Flow.Dst}
	for _, l := range slices.Concat(p.request, p.reply) {
		steps := slices.Clone(l.Tail)
		for _, h := range l.Hops {
			steps = append(steps, h.Steps...)
		}
		for _, s := range steps {
			if s.Kind == forward.StepNeigh && s.Target.IsValid() && !slices.Contains(out, s.Target) {
				out = append(out, s.Target)
			}
		}
	}
	return out
}

func (st *stage) takeDrops(ctx context.Context, w *node.DropWatch) {
	if w == nil {
		return
	}
	drops, lost, errs := w.Stop(ctx)
	st.c.Witness.Drops = drops
	st.missDrops(lost, errs)
}

// missDrops says what the kernels' drops do not show.
func (st *stage) missDrops(lost int, errs []error) {
	if lost > 0 {
		st.c.Witness.Missed = append(st.c.Witness.Missed, fmt.Sprintf("%d of the kernel's drop reports found no room", lost))
	}
	for _, err := range errs {
		st.c.Witness.Missed = append(st.c.Witness.Missed, "the kernel's drop reasons: "+err.Error())
	}
}

// What is still under way when the last answer has come: the far end of a closing TCP connection.
const (
	quiet     = 25 * time.Millisecond // longer than the rings hold a frame back
	quietMost = 300 * time.Millisecond
)

// quiesce waits until no frame has come for a while, counted from now: what was sent last may not have been
// read yet.
func quiesce(ctx context.Context, ses *node.Taps) {
	begin := time.Now()
	for end := begin.Add(quietMost); time.Now().Before(end) && ctx.Err() == nil; {
		left := quiet - min(time.Since(begin), ses.Idle(ctx))
		if left <= 0 {
			return
		}
		time.Sleep(left)
	}
}

// captureConfig is what the options say of a capture.
func captureConfig(o *Options, taps []node.Tap) node.CaptureConfig {
	cfg := node.CaptureConfig{Taps: taps, Engine: o.Engine}
	if o.Full {
		cfg.SnapLen = fullSnapLen
	}
	return cfg
}

// fullSnapLen keeps any frame whole, super-packets included.
const fullSnapLen = 262144

// watch waits while others send, as long as any node is in reach.
func (st *stage) watch(ctx context.Context, ses *node.Taps) {
	ctx, cancel := context.WithTimeout(ctx, st.timeout)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for st.edge.InReach() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			ses.Idle(ctx) // a node that is gone does not answer
		}
	}
}

// send runs the probe, or waits while others send.
func (st *stage) send(ctx context.Context, ses *node.Taps, pr node.Prober) {
	if pr == nil {
		st.o.say("watching for %s", st.timeout)
		st.c.Sent.Watching = true
		st.c.Probe = &report.Probe{Protocol: probe.None}
		st.watch(ctx, ses)
		return
	}
	st.o.say("sending %d %s probes", st.count, st.spec)
	r := pr.Run(ctx, st.count, st.interval, st.timeout)
	st.pmtu = r.PMTU
	st.c.Sent = diagnose.Sent{Sent: r.Sent, Answered: r.Answered, Errors: r.Errors}
	st.c.Probe = &report.Probe{
		Protocol: st.spec.Proto, SrcPort: st.c.Flow.SrcPort, DstPort: st.c.Flow.DstPort,
		Sent: r.Sent, Answered: r.Answered, RTTNanos: medianRTT(r.Replies),
	}
	if len(r.Errors) > 0 {
		st.c.Probe.Error = r.Errors[0]
	}
}

func medianRTT(rs []probe.Reply) int64 {
	if len(rs) == 0 {
		return 0
	}
	ds := make([]time.Duration, len(rs))
	for i, r := range rs {
		ds[i] = r.RTT
	}
	slices.Sort(ds)
	return ds[len(ds)/2].Nanoseconds()
}

// points are the interfaces to watch: where the tables lead, how both pods are attached, and every
// device of both nodes by which a packet could leave the way that was meant.
func (st *stage) points(p plan) []Point {
	c := st.c
	var pts []Point
	add := func(ns *tables.Netns, i tables.Ifindex) {
		if ns == nil || i == 0 {
			return
		}
		l := ns.Link(i)
		if l == nil || !l.Up {
			return
		}
		for _, x := range pts {
			if x.Netns == ns.ID && x.Ifindex == i {
				return
			}
		}
		pts = append(pts, Point{ID: len(pts), Netns: ns.ID, Node: ns.Node, Name: ns.Name, Interface: l.Name, Ifindex: i})
	}
	for _, l := range slices.Concat(p.request, p.reply) {
		for _, h := range l.Hops {
			add(c.Snapshot.ByID(h.Netns), h.Ifindex)
		}
	}
	for _, loc := range c.places() {
		host := c.Snapshot.ByID(loc.HostNetns)
		add(c.Snapshot.ByID(loc.PodNetns), loc.Ifindex)
		add(host, loc.VethIndex)
		add(host, loc.BridgeIndex)
		if host == nil || c.From.Node == c.To.Node && len(c.Targets) == 0 {
			continue
		}
		for i := range host.Links {
			l := &host.Links[i]
			if l.Kind == "vxlan" || p.model.IsUnderlay(host.ID, l.Index) && l.LowerUp {
				add(host, l.Index)
			}
		}
	}
	return pts
}

// taps gives each point its filter.
func (st *stage) taps(p plan, pts []Point) ([]node.Tap, error) {
	c := st.c
	a, b := aliases(c, p)
	flow := capture.Flow{
		Proto: c.Flow.Proto, A: a, B: b, APort: c.Flow.SrcPort, BPort: c.Flow.DstPort, Ports: translatedPorts(c, p), Marker: c.Marker,
	}
	if st.spec.Proto == probe.None {
		flow.Proto = 0
	}
	var encap []capture.Encap
	for _, port := range c.Snapshot.VXLANPorts() {
		encap = append(encap, capture.Encap{UDPPort: port})
	}
	for _, port := range p.proxyPorts() {
		encap = append(encap, capture.Encap{UDPPort: port, IP: true})
	}
	out := make([]node.Tap, len(pts))
	var g errgroup.Group
	for i, pt := range pts {
		g.Go(func() error {
			l := c.Snapshot.ByID(pt.Netns).Link(pt.Ifindex)
			var e []capture.Encap
			if p.model.IsUnderlay(pt.Netns, pt.Ifindex) {
				e = encap
			}
			opts := capture.FilterOptions{NoLink: l.HardwareTy == arphrdNone}
			f, err := capture.Filter(flow, e, opts)
			if err == nil && st.o.Filter != "" {
				f, err = capture.WithExpression(f, st.o.Filter, e, opts)
			}
			out[i] = node.Tap{ID: pt.ID, Netns: pt.Netns, Ifindex: int(pt.Ifindex), Interface: pt.Interface, Filter: f}
			return err
		})
	}
	return out, g.Wait()
}
