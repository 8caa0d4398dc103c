package trace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/node"
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
	SourcePort  uint16        // to send from, 0: the kernel chooses
	Filter      string        // pcap-filter expression that frames have to match as well, "": none
	Engine      capture.Engine
	NoBPF       bool     // do not ask the kernel for its drop reasons
	Contrast    Contrast // when to send further probes
	// Dial reaches the nodes' kernels; nil: they are all namespaces of this machine.
	Dial node.Dialer
	// Notes are what is known of the endpoints beforehand, and not judged.
	Notes []string
	// Progress, if set, is told each step; it must not block.
	Progress func(format string, args ...any)
	Version  string

	taps bool // the interfaces of the path will be tapped
	lean bool // the tables only have to say where to tap: without connections
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
	o    Options
	c    Case
	edge *node.Edge
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
	if s.o.Probe, s.c.Destination, err = aim(o.Inventory, o.Probe, s.c.Destination); err != nil {
		return nil, err
	}
	if err := refuse(s.c.Source, s.c.Destination); err != nil {
		return nil, err
	}
	s.c.Inventory, s.c.Version, s.c.Incomplete = o.Inventory, o.Version, append(s.far(), o.Notes...)
	o.say("resolving %s and %s", o.Source, o.Destination)
	wants, err := resolve.Wants(o.Inventory, s.c.Source, s.c.Destination)
	if err != nil {
		return nil, err
	}
	if o.Dial == nil {
		o.Dial = node.Direct()
	}
	s.edge = node.NewEdge(o.Dial)
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return s.edge.Open(ctx, wants) }, s.prepareTaps, s.read, s.widen,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.edge.Close())
		}
	}
	return s, nil
}

// prepareTaps begins to make rings while the tables are read.
func (s *session) prepareTaps(context.Context) error {
	if s.o.taps && s.o.Engine != capture.EnginePcap {
		s.edge.MakeRings(captureConfig(&s.o, nil))
	}
	return nil
}

// end closes everything. Which nodes went out of reach meanwhile has its place in the case.
func (s *session) end() {
	s.c.Lost = nil
	for _, l := range s.edge.Lost() {
		s.c.Lost = append(s.c.Lost, l.Error())
	}
	_ = s.edge.Close() // what is open was only read
}

// refuse says plainly what cannot be traced.
func refuse(a, b inventory.Endpoint) error {
	if a.Kind == b.Kind && b.ServicePort == nil && a.Namespace == b.Namespace && a.Name == b.Name && a.IP() == b.IP() {
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
	s.o.say("reading the tables of %d namespaces", len(s.edge.Sources()))
	snap, err := s.edge.Read(ctx, s.connections())
	if err != nil {
		return err
	}
	s.c.Snapshot = snap
	if s.c.From, err = s.locate(s.c.Source); err != nil {
		return err
	}
	if s.c.To, err = s.locate(s.c.Destination); err != nil {
		return err
	}
	if err = s.targets(); err != nil {
		return err
	}
	s.c.Flow = forward.Flow{Dst: s.c.Destination.IP(), Src: sourceAddr(s.c.Source, s.c.Destination.IP())}
	return nil
}

// connections are those that a packet of the path may meet: of its two ends and of a service's endpoints, whatever
// is translated on the way, and of the tunnel between the nodes.
func (s *session) connections() (o netfilter.ReadOptions) {
	if s.o.lean {
		return netfilter.ReadOptions{Addrs: []netip.Addr{}}
	}
	o.Addrs = slices.Concat(s.c.Source.IPs, s.c.Destination.IPs)
	if svc := s.c.Destination.Service; svc != nil && s.c.Destination.ServicePort != nil {
		for _, b := range s.o.Inventory.Backends(svc, s.c.Destination.ServicePort) {
			o.Addrs = append(o.Addrs, b.IP)
		}
	}
	for _, src := range s.edge.Sources() {
		n := s.o.Inventory.Node(src.Node)
		if n == nil || src.Name != tables.HostName {
			continue
		}
		for _, a := range append([]netip.Addr{n.Flannel.PublicIP, n.Flannel.PublicIPv6}, n.InternalIPs...) {
			if a.IsValid() && !slices.Contains(o.Nodes, a) {
				o.Nodes = append(o.Nodes, a)
			}
		}
	}
	return o
}

// locate finds an endpoint in the snapshot. Of one whose node is out of reach, only the node is known.
func (s *session) locate(e inventory.Endpoint) (resolve.Location, error) {
	if e.Node != "" && s.edge.IsLost(e.Node) {
		return resolve.Location{Node: e.Node}, nil
	}
	return resolve.Locate(s.c.Snapshot, s.o.Inventory, e)
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
	(&stage{session: s, c: &s.c, spec: s.o.Probe}).guess()
	s.c.Opinion = s.ask(ctx, newPlan(&s.c))
	s.end()
	return Judge(&s.c), nil
}

const tcpSyn = 0x02

// tablePort is the source port of a packet that is only played.
const tablePort = 40000

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

func setICMP(f *forward.Flow) {
	switch f.Proto {
	case forward.ProtoICMP:
		f.ICMPType = 8
	case forward.ProtoICMPv6:
		f.ICMPType = 128
	}
}

// Path traces live: probe, capture at every point, judge. What the place alone does not decide is decided by
// further probes. A cancelled context ends the capture early and judges what was seen; the report then comes
// with the context's error.
func Path(ctx context.Context, o Options) (*report.Report, error) {
	c, err := Gather(ctx, o)
	if c == nil {
		return nil, err
	}
	return Judge(c), err
}

// vanished is the error for an interface that went away while it was watched: what was seen until then is
// judged, and the trace is not what was asked for.
func (s *session) vanished() error {
	for _, p := range s.c.Observed.Points {
		if p.Stats.Err != nil && !p.Stats.Flapped && !s.edge.IsLost(p.Node) {
			return &Error{
				Msg:  fmt.Sprintf("interface %q in %s of node %q went away during the capture: %v", p.Interface, p.Name, p.Node, p.Stats.Err),
				hint: "run it again; \"ip monitor link\" on the node shows who takes the interface down",
			}
		}
	}
	return nil
}
