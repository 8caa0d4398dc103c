package trace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Options say what to trace and how.
type Options struct {
	Inventory   *inventory.Inventory
	Source      string // as typed
	Destination string
	Namespace   string // of names without one
	Probe       probe.Spec
	Count       int
	Interval    time.Duration
	Timeout     time.Duration // for the last answer; without a probe, how long to watch
	Full        bool          // keep payloads
	// Progress, if set, is told each step; it must not block.
	Progress func(format string, args ...any)
	Version  string
}

func (o *Options) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(format, args...)
	}
}

// Error is a refusal with a word on what to do next.
type Error struct {
	Msg  string
	hint string
}

// Error gives the message.
func (e *Error) Error() string { return e.Msg }

// Hint says what to do next.
func (e *Error) Hint() string { return e.hint }

// session is one live trace: the case as it grows, and what has to be closed.
type session struct {
	o       Options
	c       Case
	sources []tables.Source
	close   func() error
	marker  [8]byte // starts the probe's payloads
}

// start resolves both ends and reads every table on the way.
func start(ctx context.Context, o Options) (*session, error) {
	s := &session{o: o}
	var err error
	if s.c.Source, err = o.Inventory.Lookup(o.Source, o.Namespace); err != nil {
		return nil, err
	}
	if s.c.Destination, err = o.Inventory.Lookup(o.Destination, o.Namespace); err != nil {
		return nil, err
	}
	if err := refuse(s.c.Source, s.c.Destination); err != nil {
		return nil, err
	}
	s.c.Inventory, s.c.Version = o.Inventory, o.Version
	o.say("resolving %s and %s", o.Source, o.Destination)
	s.sources, s.close, err = resolve.Places(o.Inventory, s.c.Source, s.c.Destination)
	if err != nil {
		return nil, err
	}
	if err := s.read(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// refuse says plainly what cannot be traced.
func refuse(a, b inventory.Endpoint) error {
	if a.Kind == b.Kind && a.Namespace == b.Namespace && a.Name == b.Name && a.IP() == b.IP() {
		return &Error{
			Msg:  fmt.Sprintf("source and destination are the same: %q", a.String()),
			hint: "name two endpoints: the packets of an endpoint to itself never leave its namespace",
		}
	}
	for _, e := range []inventory.Endpoint{a, b} {
		if e.Kind == inventory.KindPod && e.HostNetwork {
			return &Error{
				Msg:  fmt.Sprintf("pod %q is on the host network: it has no interface of its own", e.String()),
				hint: fmt.Sprintf("trace its node instead: node/%s", e.Node),
			}
		}
	}
	return nil
}

// read takes the snapshot and finds both ends in it.
func (s *session) read(ctx context.Context) error {
	s.o.say("reading the tables of %d namespaces", len(s.sources))
	snap, err := tables.Read(ctx, s.sources)
	if err != nil {
		return err
	}
	s.c.Snapshot = snap
	if s.c.From, err = resolve.Locate(snap, s.o.Inventory, s.c.Source); err != nil {
		return err
	}
	if s.c.To, err = resolve.Locate(snap, s.o.Inventory, s.c.Destination); err != nil {
		return err
	}
	s.c.Flow = forward.Flow{Dst: s.c.Destination.IP(), Src: sourceAddr(s.c.Source, s.c.Destination.IP())}
	return nil
}

// sourceAddr is the source's address of the destination's family. A node has several, and its kernel
// chooses.
func sourceAddr(e inventory.Endpoint, dst netip.Addr) netip.Addr {
	if e.Kind == inventory.KindNode {
		return netip.Addr{}
	}
	for _, a := range e.IPs {
		if a.Is6() == dst.Is6() {
			return a
		}
	}
	return netip.Addr{}
}

// Check compares intent and tables, without a packet.
func Check(ctx context.Context, o Options) (*report.Report, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer s.close() //nolint:errcheck // descriptors that were only read
	s.c.Flow.Proto, s.c.Flow.SrcPort, s.c.Flow.DstPort = protoOf(o.Probe, s.c.Flow.Dst), 40000, o.Probe.Port
	if s.c.Flow.Proto == forward.ProtoTCP {
		s.c.Flow.TCPFlags = tcpSyn
	}
	s.setICMP()
	s.c.Opinion = s.ask(newPlan(&s.c))
	return Judge(&s.c), nil
}

const tcpSyn = 0x02

func protoOf(p probe.Spec, dst netip.Addr) uint8 {
	switch p.Proto {
	case probe.TCP:
		return forward.ProtoTCP
	case probe.UDP:
		return forward.ProtoUDP
	}
	if dst.Is6() {
		return forward.ProtoICMPv6
	}
	return forward.ProtoICMP
}

func (s *session) setICMP() {
	switch s.c.Flow.Proto {
	case forward.ProtoICMP:
		s.c.Flow.ICMPType = 8
	case forward.ProtoICMPv6:
		s.c.Flow.ICMPType = 128
	}
}

// Path traces live: probe, capture at every point, judge. A cancelled context ends the capture early and
// judges what was seen; the report then comes with the context's error.
func Path(ctx context.Context, o Options) (*report.Report, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer s.close() //nolint:errcheck // descriptors that were only read
	var pr *probe.Prober
	if o.Probe.Proto != probe.None {
		if pr, err = s.prepare(); err != nil {
			return nil, err
		}
		defer pr.Close() //nolint:errcheck // its sockets are done with
	} else {
		s.watchFlow()
	}
	if err := s.observe(ctx, pr); err != nil {
		return nil, err
	}
	s.o.say("judging %d frames", len(s.c.Observed.Frames))
	return Judge(&s.c), errors.Join(s.vanished(), ctx.Err())
}

// vanished is the error for an interface that went away while it was watched: what was seen until then is
// judged, and the trace is not what was asked for.
func (s *session) vanished() error {
	for _, p := range s.c.Observed.Points {
		if p.Stats.Err != nil {
			return &Error{
				Msg:  fmt.Sprintf("interface %q in %s of node %q went away during the capture: %v", p.Interface, p.Name, p.Node, p.Stats.Err),
				hint: "run it again; \"ip monitor link\" on the node shows who takes the interface down",
			}
		}
	}
	return nil
}

// prepare opens the probe's sockets, so that its ports are known before the filters are made.
func (s *session) prepare() (*probe.Prober, error) {
	h := s.handle(s.c.From.PodNetns)
	if h == nil {
		return nil, &Error{Msg: fmt.Sprintf("the namespace of %q is not on this machine", s.o.Source), hint: "use --probe none on real traffic"}
	}
	spec := s.o.Probe
	pr, err := probe.Prepare(h, spec, s.c.Flow.Src, s.c.Flow.Dst, probe.Options{})
	if err != nil {
		return nil, err
	}
	f := pr.Flow()
	s.marker = f.Marker
	s.c.Flow.Proto, s.c.Flow.SrcPort, s.c.Flow.DstPort = f.Proto, f.SrcPort, f.DstPort
	if f.Src.IsValid() {
		s.c.Flow.Src = f.Src
	}
	if f.Proto == forward.ProtoTCP {
		s.c.Flow.TCPFlags = tcpSyn
	}
	s.setICMP()
	return pr, nil
}

// watchFlow is any packet between the two ends.
func (s *session) watchFlow() {
	s.c.Flow.Proto = forward.ProtoTCP
	s.c.Flow.TCPFlags = tcpSyn
}

func (s *session) handle(id netns.ID) *netns.Handle {
	for _, src := range s.sources {
		if src.Netns.ID() == id {
			return src.Netns
		}
	}
	return nil
}

// observe arms all taps, sends, and takes in what they saw.
func (s *session) observe(ctx context.Context, pr *probe.Prober) error {
	pts, points, err := s.points()
	if err != nil {
		return err
	}
	var last atomic.Int64 // when the newest frame was read, in ns
	cfg := capture.Config{Points: pts, OnFrame: func(capture.Frame) { last.Store(time.Now().UnixNano()) }}
	if s.o.Full {
		cfg.SnapLen = fullSnapLen
	}
	s.o.say("arming %d taps", len(pts))
	ses, err := capture.Open(ctx, cfg)
	if err != nil {
		return err
	}
	ses.Start()
	s.send(ctx, pr)
	quiesce(ctx, &last)
	end := time.Now().UnixNano()
	res := ses.Stop()
	for i := range points {
		points[i].Stats = res.Points[i]
	}
	s.c.Observed = &Observed{Points: points, Frames: res.Frames, ArmNs: ses.ArmDuration().Nanoseconds(), End: end}
	return nil
}

// What is still under way when the last answer has come: the far end of a closing TCP connection.
const (
	quiet     = 25 * time.Millisecond // longer than the rings hold a frame back
	quietMost = 300 * time.Millisecond
)

// quiesce waits until no frame has come for a while, counted from now: what was sent last may not have been
// read yet.
func quiesce(ctx context.Context, last *atomic.Int64) {
	last.Store(time.Now().UnixNano())
	for end := time.Now().Add(quietMost); time.Now().Before(end) && ctx.Err() == nil; {
		left := quiet - time.Since(time.Unix(0, last.Load()))
		if left <= 0 {
			return
		}
		time.Sleep(left)
	}
}

// fullSnapLen keeps any frame whole, super-packets included.
const fullSnapLen = 262144

// send runs the probe, or waits while others send.
func (s *session) send(ctx context.Context, pr *probe.Prober) {
	if pr == nil {
		s.o.say("watching for %s", s.o.Timeout)
		s.c.Sent.Watching = true
		s.c.Probe = &report.Probe{Protocol: probe.None}
		select {
		case <-ctx.Done():
		case <-time.After(s.o.Timeout):
		}
		return
	}
	s.o.say("sending %d %s probes", s.o.Count, s.o.Probe)
	r := pr.Run(ctx, s.o.Count, s.o.Interval, s.o.Timeout)
	s.c.Sent = diagnose.Sent{Sent: r.Sent, Answered: r.Answered, Errors: r.Errors}
	s.c.Probe = &report.Probe{
		Protocol: s.o.Probe.Proto, SrcPort: s.c.Flow.SrcPort, DstPort: s.c.Flow.DstPort,
		Sent: r.Sent, Answered: r.Answered, RTTNanos: medianRTT(r.Replies),
	}
	if len(r.Errors) > 0 {
		s.c.Probe.Error = r.Errors[0]
	}
}

// points are the interfaces to watch: where the tables lead, how both pods are attached, and every
// device of both nodes by which a packet could leave the way that was meant.
func (s *session) points() ([]capture.Point, []Point, error) {
	p := newPlan(&s.c)
	s.c.Opinion = s.ask(p)
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
	for _, legs := range [][]forward.Leg{p.request, p.reply} {
		for _, l := range legs {
			for _, h := range l.Hops {
				add(s.c.Snapshot.ByID(h.Netns), h.Ifindex)
			}
		}
	}
	for _, loc := range []resolve.Location{s.c.From, s.c.To} {
		host := s.c.Snapshot.ByID(loc.HostNetns)
		add(s.c.Snapshot.ByID(loc.PodNetns), loc.Ifindex)
		add(host, loc.VethIndex)
		add(host, loc.BridgeIndex)
		if host == nil || s.c.From.Node == s.c.To.Node {
			continue
		}
		for i := range host.Links {
			l := &host.Links[i]
			if l.Kind == "vxlan" || p.model.IsUnderlay(host.ID, l.Index) && l.LowerUp {
				add(host, l.Index)
			}
		}
	}
	taps, err := s.taps(p, pts)
	return taps, pts, err
}

// taps gives each point its namespace and its filter.
func (s *session) taps(p plan, pts []Point) ([]capture.Point, error) {
	a, b := aliases(&s.c, p)
	flow := capture.Flow{Proto: s.c.Flow.Proto, A: a, B: b, APort: s.c.Flow.SrcPort, BPort: s.c.Flow.DstPort, Marker: s.marker}
	if s.o.Probe.Proto == probe.None {
		flow.Proto = 0
	}
	var encap []capture.Encap
	for _, port := range vxlanPorts(s.c.Snapshot) {
		encap = append(encap, capture.Encap{UDPPort: port})
	}
	out := make([]capture.Point, len(pts))
	var g errgroup.Group
	for i, pt := range pts {
		g.Go(func() error {
			l := s.c.Snapshot.ByID(pt.Netns).Link(pt.Ifindex)
			var e []capture.Encap
			if p.model.IsUnderlay(pt.Netns, pt.Ifindex) {
				e = encap
			}
			f, err := capture.Filter(flow, e, capture.FilterOptions{NoLink: l.HardwareTy == arphrdNone})
			out[i] = capture.Point{ID: pt.ID, Netns: s.handle(pt.Netns), Ifindex: int(pt.Ifindex), Interface: pt.Interface, Filter: f}
			return err
		})
	}
	return out, g.Wait()
}

func medianRTT(rs []probe.Reply) int64 {
	if len(rs) == 0 {
		return 0
	}
	ds := make([]time.Duration, len(rs))
	for i, r := range rs {
		ds[i] = r.RTT
	}
	for i := range ds {
		for k := i; k > 0 && ds[k] < ds[k-1]; k-- {
			ds[k], ds[k-1] = ds[k-1], ds[k]
		}
	}
	return ds[len(ds)/2].Nanoseconds()
}
