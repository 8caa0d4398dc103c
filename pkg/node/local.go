package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Local is the kernel of this machine.
type Local struct {
	mu   sync.RWMutex // write: while namespaces are opened or closed
	open resolve.Namespaces
	// reserve has rings for the taps to come; nil: none were asked for
	reserve *capture.Reserve
}

var _ Node = (*Local)(nil)

// NewLocal gives the kernel of this machine, with no namespace open.
func NewLocal() *Local { return &Local{} }

// BootID tells this kernel from others; "" where it is not Linux.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Machine is this one; its clock is the program's own.
func (l *Local) Machine() Machine { return Machine{Boot: BootID()} }

// Open opens namespaces.
func (l *Local) Open(_ context.Context, wants []resolve.Want) ([]netns.ID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open.Open(wants)
}

// Close closes them. What is open inside goes on until it is closed itself.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserve.Close()
	return l.open.Close()
}

// makeRings begins to make rings: one for a pod, and for a node as many as the usual path has (the pod's veth, a
// bridge, a tunnel, the uplink).
func (l *Local) makeRings(cfg CaptureConfig) {
	const perNode = 4
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserve != nil {
		return
	}
	want := make(map[*netns.Handle]int)
	for _, s := range l.open.Sources() {
		want[s.Netns] = 1
		if s.Name == tables.HostName {
			want[s.Netns] = perNode
		}
	}
	l.reserve = capture.NewReserve(capture.Config{SnapLen: cfg.SnapLen}, want)
}

// Read takes a snapshot.
func (l *Local) Read(ctx context.Context, conns netfilter.ReadOptions) (*tables.Snapshot, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	sources := slices.Clone(l.open.Sources())
	for i := range sources {
		sources[i].Conns = conns
	}
	return tables.Read(ctx, sources)
}

// handle finds an open namespace. The caller holds the lock.
func (l *Local) handle(id netns.ID) (*netns.Handle, error) {
	for _, s := range l.open.Sources() {
		if s.Netns.ID() == id {
			return s.Netns, nil
		}
	}
	return nil, fmt.Errorf("namespace %s is not open", id)
}

// Ask puts lookups to a kernel.
func (l *Local) Ask(_ context.Context, ns netns.ID, qs []Question) ([]Answer, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	h, err := l.handle(ns)
	if err != nil {
		return nil, err
	}
	a, err := tables.OpenAsker(h)
	if err != nil {
		return nil, err
	}
	defer a.Close() //nolint:errcheck // a socket that was only read
	out := make([]Answer, len(qs))
	for i, q := range qs {
		if err := ask(a, q, &out[i]); err != nil {
			out[i] = Answer{Err: err.Error()}
		}
	}
	return out, nil
}

func ask(a *tables.Asker, q Question, to *Answer) (err error) {
	switch q.Kind {
	case AskRoute:
		to.Route, err = a.Route(q.Route)
	case AskNeigh:
		to.Neigh, err = a.Neigh(q.Dev, q.IP)
	case AskFDB:
		to.FDB, err = a.FDB(q.Dev, false, q.MAC, 0)
	default:
		err = fmt.Errorf("question %q is not known", q.Kind)
	}
	return err
}

// Counters reads all namespaces side by side.
func (l *Local) Counters(ctx context.Context) ([]*counters.Snapshot, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	sources := l.open.Sources()
	read := make([]*counters.Snapshot, len(sources))
	var g errgroup.Group
	for i, src := range sources {
		g.Go(func() error {
			if s, err := counters.Read(ctx, src.Netns); err == nil {
				read[i] = s
			}
			return nil // without counters there is one witness less
		})
	}
	_ = g.Wait()
	var out []*counters.Snapshot
	for _, s := range read {
		if s != nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// Rules reads the rules' counters.
func (l *Local) Rules(_ context.Context, ns netns.ID) ([]netfilter.RuleCounter, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	h, err := l.handle(ns)
	if err != nil {
		return nil, err
	}
	rs, err := netfilter.Read(h, netfilter.ReadOptions{Addrs: []netip.Addr{}}) // no connections
	if err != nil {
		return nil, err
	}
	return rs.Counters(), nil
}

// defaultBudget bounds the bytes of frames that one capture keeps.
const defaultBudget = 512 << 20

// Capture arms taps.
func (l *Local) Capture(ctx context.Context, cfg CaptureConfig) (Capture, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	c := &localCapture{}
	full := capture.Config{
		SnapLen: cfg.SnapLen, MaxFrames: frameBudget(cfg), MaxTotal: cfg.MaxTotal, Engine: cfg.Engine, Reserve: l.reserve,
		OnFrame: func(*capture.Frame) { c.last.Store(time.Now().UnixNano()) },
	}
	var err error
	if full.Points, err = l.points(cfg.Taps); err != nil {
		return nil, err
	}
	if c.session, err = capture.Open(ctx, full); err != nil {
		return nil, err
	}
	c.last.Store(time.Now().UnixNano())
	c.session.Start()
	return c, nil
}

// points are the taps with their namespaces. The caller holds the lock.
func (l *Local) points(taps []Tap) (out []capture.Point, err error) {
	for _, t := range taps {
		h, err := l.handle(t.Netns)
		if err != nil {
			return nil, err
		}
		out = append(out, capture.Point{ID: t.ID, Netns: h, Ifindex: t.Ifindex, Interface: t.Interface, Filter: t.Filter})
	}
	return out, nil
}

// frameBudget is how many frames a tap may keep so that all taps together stay within the budget.
func frameBudget(cfg CaptureConfig) int {
	const overhead = 128 // of a capture.Frame beside its data
	snap := cfg.SnapLen
	if snap <= 0 {
		snap = capture.DefaultSnapLen
	}
	return max(min(cmp.Or(cfg.Budget, defaultBudget)/(snap+overhead)/max(len(cfg.Taps), 1), capture.DefaultMaxFrames), 64)
}

type localCapture struct {
	session *capture.Session
	last    atomic.Int64 // when the newest frame was read, in ns since the epoch
}

func (c *localCapture) ArmDuration() time.Duration { return c.session.ArmDuration() }

func (c *localCapture) Idle(context.Context) (time.Duration, error) {
	return time.Since(time.Unix(0, c.last.Load())), nil
}

func (c *localCapture) Stop(context.Context) (capture.Result, error) { return c.session.Stop(), nil }

// WatchDrops asks the kernel to tell when it drops a packet.
func (l *Local) WatchDrops(_ context.Context, cfg kdrop.Config) (Drops, error) {
	w, err := kdrop.Open(cfg)
	if err != nil {
		return nil, err
	}
	return localDrops{w}, nil
}

type localDrops struct{ *kdrop.Watcher }

func (d localDrops) Take(context.Context) ([]kdrop.Drop, int, error) { return d.Watcher.Take() }
func (d localDrops) Stop(context.Context) ([]kdrop.Drop, int, error) { return d.Watcher.Stop() }

// Prepare opens a probe's sockets.
func (l *Local) Prepare(_ context.Context, ns netns.ID, p Probe) (Prober, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	h, err := l.handle(ns)
	if err != nil {
		return nil, err
	}
	return probe.Prepare(h, p.Spec, p.Src, p.Dst, p.Options)
}
