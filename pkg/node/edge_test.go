package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

// kernel is a made-up one. Its namespaces have the numbers of its boot: two of one boot give the same ones.
type kernel struct {
	Node  // what is not asked of it here
	boot  string
	ahead time.Duration
	first uint64           // number of its first namespace
	fails map[string]error // what a method answers with, by the method's name
	extra bool             // it answers with one thing more than was asked for

	mu     sync.Mutex
	names  []string
	taps   []Tap
	closed int
}

var errGone = &LostError{Err: errors.New("the agent ended")}

func (k *kernel) Machine() Machine { return Machine{Boot: k.boot, Ahead: k.ahead} }

func (k *kernel) id(i int) netns.ID { return netns.ID{Dev: 4, Ino: k.first + uint64(i)} }

func (k *kernel) Open(_ context.Context, wants []resolve.Want) (ids []netns.ID, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range wants {
		ids = append(ids, k.id(len(k.names)))
		k.names = append(k.names, w.Name)
	}
	if k.extra {
		ids = append(ids, k.id(99))
	}
	return ids, k.fails["Open"]
}

func (k *kernel) Read(context.Context, netfilter.ReadOptions) (*tables.Snapshot, error) {
	s := &tables.Snapshot{}
	for i, name := range slices.Backward(k.names) { // not in the order that is wanted
		s.Netns = append(s.Netns, &tables.Netns{ID: k.id(i), Name: name, Peers: map[int]netns.ID{0: k.id(0)}})
	}
	return s, k.fails["Read"]
}

func (k *kernel) Ask(_ context.Context, ns netns.ID, qs []Question) ([]Answer, error) {
	out := make([]Answer, len(qs))
	for i := range out {
		out[i].Err = ns.String()
	}
	if k.extra {
		out = append(out, Answer{})
	}
	return out, k.fails["Ask"]
}

func (k *kernel) Counters(context.Context) ([]*counters.Snapshot, error) {
	return []*counters.Snapshot{{Netns: k.id(0)}}, k.fails["Counters"]
}

func (k *kernel) Rules(_ context.Context, ns netns.ID) ([]netfilter.RuleCounter, error) {
	return []netfilter.RuleCounter{{Packets: ns.Ino}}, k.fails["Rules"]
}

func (k *kernel) Capture(_ context.Context, cfg CaptureConfig) (Capture, error) {
	k.taps = cfg.Taps
	return &run{k}, k.fails["Capture"]
}

func (k *kernel) WatchDrops(context.Context, kdrop.Config) (Drops, error) {
	return drops{k}, k.fails["WatchDrops"]
}

func (k *kernel) Prepare(_ context.Context, ns netns.ID, _ Probe) (Prober, error) {
	if err := k.fails["Prepare"]; err != nil {
		return nil, err
	}
	return &prober{ns: ns}, nil
}

func (k *kernel) Close() error { k.closed++; return k.fails["Close"] }

// begin is when everything happens, by this machine's clock.
var begin = time.Unix(1_800_000_000, 0).UTC()

type run struct{ k *kernel }

func (r *run) ArmDuration() time.Duration { return time.Duration(r.k.first) }
func (r *run) Idle(context.Context) (time.Duration, error) {
	return time.Millisecond, r.k.fails["Idle"]
}

// Stop gives a frame for each tap and one that nobody asked for, by this kernel's clock.
func (r *run) Stop(context.Context) (capture.Result, error) {
	if err := r.k.fails["CaptureStop"]; err != nil {
		return capture.Result{}, err
	}
	out := capture.Result{Frames: []capture.Frame{{Point: -1}}}
	for _, t := range r.k.taps {
		out.Frames = append(out.Frames, capture.Frame{Point: t.ID, Time: begin.Add(time.Duration(t.ID)*time.Millisecond + r.k.ahead)})
		out.Points = append(out.Points, capture.PointStats{ID: t.ID, Packets: 1})
	}
	return out, nil
}

type drops struct{ k *kernel }

func (d drops) Close() error { return nil }

func (d drops) Take(ctx context.Context) ([]kdrop.Drop, int, error) { return d.Stop(ctx) }

func (d drops) Stop(context.Context) ([]kdrop.Drop, int, error) {
	return []kdrop.Drop{{Time: begin.Add(d.k.ahead)}}, 1, d.k.fails["DropsStop"]
}

type prober struct {
	Prober
	ns netns.ID
}

func (p *prober) Flow() probe.Flow { return probe.Flow{SrcPort: uint16(p.ns.Ino)} }

// edge reaches made-up kernels by the names of their nodes. One that is nil is out of reach.
func edge(t *testing.T, kernels map[string]*kernel, wants ...string) (*Edge, error) {
	t.Helper()
	e := NewEdge(func(_ context.Context, name string) (Node, error) {
		k := kernels[name]
		if k == nil {
			return nil, fmt.Errorf("no way to %s", name)
		}
		return k, nil
	})
	return e, e.Open(t.Context(), want(wants...))
}

// want makes wants of "NODE/NAME".
func want(names ...string) (out []resolve.Want) {
	for _, n := range names {
		node, name, _ := strings.Cut(n, "/")
		out = append(out, resolve.Want{Object: n, Node: node, Name: name})
	}
	return out
}

func sources(e *Edge) (out []string) {
	for _, s := range e.Sources() {
		out = append(out, fmt.Sprintf("%s/%s %d@%d", s.Node, s.Name, s.ID.Ino, s.ID.Machine()))
	}
	return out
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netns.ID) bool { return a == b })); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestEdgeTellsMachinesApart: the same number on two machines is two namespaces, and on one machine, reached twice, one.
func TestEdgeTellsMachinesApart(t *testing.T) {
	a, b := &kernel{boot: "a", first: 100}, &kernel{boot: "b", first: 100}
	e, err := edge(t, map[string]*kernel{"n1": a, "n2": b}, "n1/host", "n2/host", "n1/pod")
	if err != nil {
		t.Fatal(err)
	}
	got := sources(e)
	if len(got) != 3 || !strings.HasPrefix(got[0], "n1/host 100@") || !strings.HasPrefix(got[1], "n2/host 100@") || got[0][len(got[0])-1] == got[1][len(got[1])-1] {
		t.Errorf("sources %q", got)
	}
	if err := e.Open(t.Context(), want("n1/pod", "n2/pod")); err != nil { // one of them is open
		t.Fatal(err)
	}
	equal(t, "names on n1", a.names, []string{"host", "pod"})
	equal(t, "names on n2", b.names, []string{"host", "pod"})

	s, err := e.Read(t.Context(), netfilter.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range s.Netns {
		src := e.Sources()[i]
		if n.ID != src.ID || n.Name != src.Name || n.Peers[0].Machine() != n.ID.Machine() {
			t.Errorf("tables %d are those of %s %s with peers %v, want %+v", i, n.Name, n.ID, n.Peers, src)
		}
	}
	for i, src := range e.Sources() {
		as, err := e.Ask(t.Context(), src.ID, make([]Question, 2))
		rs, err2 := e.Rules(t.Context(), src.ID)
		if err := errors.Join(err, err2); err != nil || len(as) != 2 || as[0].Err != src.ID.On(0).String() || rs[0].Packets != src.ID.Ino || !e.Has(src.ID) {
			t.Errorf("source %d: %v, %+v, %+v", i, err, as, rs)
		}
		p, err := e.Prepare(t.Context(), src.ID, Probe{})
		if err != nil || p.Flow().SrcPort != uint16(src.ID.Ino) {
			t.Errorf("source %d: %v", i, err)
		}
	}
	if cs := e.Counters(t.Context()); len(cs) != 2 || cs[e.Sources()[0].ID] == nil || cs[e.Sources()[1].ID] == nil {
		t.Errorf("counters %v", cs)
	}

	one, err := edge(t, map[string]*kernel{"n1": {boot: "a", first: 100}, "n2": {boot: "a", first: 200}}, "n1/host", "n2/host")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "two agents of one machine", sources(one), []string{"n1/host 100@0", "n2/host 200@0"})
	if _, err = edge(t, map[string]*kernel{"n1": {boot: "a", first: 100}, "n2": {boot: "a", first: 100}}, "n1/host", "n2/host"); !errors.Is(err, resolve.ErrShared) {
		t.Errorf("two nodes in one namespace: %v", err)
	}
	a.fails = map[string]error{"Close": errors.New("busy")}
	if err := e.Close(); err == nil || a.closed != 1 || b.closed != 1 {
		t.Errorf("Close = %v, and %d, %d times", err, a.closed, b.closed)
	}
}

// TestEdgeOutOfReach: what one node would have said is missing, and all of them missing is an error.
func TestEdgeOutOfReach(t *testing.T) {
	e, err := edge(t, map[string]*kernel{"n1": {boot: "a", first: 100}}, "n1/host", "n2/host", "n2/pod")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "sources", sources(e), []string{"n1/host 100@0"})
	if l := e.Lost(); len(l) != 1 || l[0].Error() != `node "n2": no way to n2` || !e.IsLost("n2") || e.IsLost("n1") {
		t.Errorf("lost: %v", l)
	}
	if _, err := e.Ask(t.Context(), netns.ID{}, nil); err == nil {
		t.Error("the unknown namespace answers")
	}

	for name, c := range map[string]struct {
		dial Dialer
		want string
	}{
		"each for its own reason": {func(_ context.Context, n string) (Node, error) { return nil, errors.New("no " + n) }, "node \"n1\": no n1\nnode \"n2\": no n2"},
		"all for the same":        {func(context.Context, string) (Node, error) { return nil, errors.New("no") }, `node "n1", node "n2": no`},
	} {
		if err := NewEdge(c.dial).Open(t.Context(), want("n1/host", "n2/host", "n2/pod")); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e = NewEdge(func(ctx context.Context, _ string) (Node, error) { return nil, fmt.Errorf("ask: %w", ctx.Err()) })
	if err := e.Open(ctx, want("n1/host")); err != context.Canceled { //nolint:errorlint // itself: nobody is to blame
		t.Errorf("interrupted: %v", err)
	}
}

// TestEdgeLosesNode: a node may go at every step. The other's part stands, and no call goes there again.
func TestEdgeLosesNode(t *testing.T) {
	steps := map[string]func(*Edge) error{
		"Open":     func(e *Edge) error { return e.Open(t.Context(), want("n2/pod", "n1/pod")) },
		"Read":     func(e *Edge) error { _, err := e.Read(t.Context(), netfilter.ReadOptions{}); return err },
		"Counters": func(e *Edge) error { e.Counters(t.Context()); return nil },
		"Ask":      func(e *Edge) error { return wanted(e.Ask(t.Context(), e.ids[1], nil)) },
		"Rules":    func(e *Edge) error { return wanted(e.Rules(t.Context(), e.ids[1])) },
		"Prepare":  func(e *Edge) error { return wanted(e.Prepare(t.Context(), e.ids[1], Probe{})) },
		"Capture": func(e *Edge) error {
			c, err := e.Capture(t.Context(), CaptureConfig{Taps: taps(e)})
			if err == nil {
				equal(t, "points", points(c.Stop(t.Context())), []string{"0: 1", "1: its node went out of reach"})
			}
			return err
		},
		"Idle": func(e *Edge) error {
			c, err := e.Capture(t.Context(), CaptureConfig{Taps: taps(e)})
			if err == nil && c.Idle(t.Context()) > time.Millisecond {
				err = errors.New("the node that is left was not asked")
			}
			return err
		},
		"CaptureStop": func(e *Edge) error {
			c, err := e.Capture(t.Context(), CaptureConfig{Taps: taps(e)})
			if err == nil {
				equal(t, "points", points(c.Stop(t.Context())), []string{"0: 1", "1: its node went out of reach"})
			}
			return err
		},
		"DropsStop": func(e *Edge) error {
			w, _ := e.WatchDrops(t.Context(), kdrop.Config{})
			_, _, errs := w.Stop(t.Context())
			return errors.Join(errs...)
		},
		"WatchDrops": func(e *Edge) error {
			if _, missed := e.WatchDrops(t.Context(), kdrop.Config{}); len(missed) != 1 || !strings.HasPrefix(missed[0], "n2: ") {
				return fmt.Errorf("missed: %q", missed)
			}
			return nil
		},
	}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			far := &kernel{boot: "b", first: 100}
			e, err := edge(t, map[string]*kernel{"n1": {boot: "a", first: 100}, "n2": far}, "n1/host", "n2/host")
			if err != nil {
				t.Fatal(err)
			}
			far.fails = map[string]error{name: errGone}
			if err := step(e); err != nil {
				t.Errorf("the node that is left is of no use: %v", err)
			}
			if l := e.Lost(); len(l) != 1 || l[0].Node != "n2" || !errors.Is(l[0].Err, errGone.Err) {
				t.Errorf("lost: %v", l)
			}
			s, err := e.Read(t.Context(), netfilter.ReadOptions{})
			if err != nil || len(s.Netns) == 0 || slices.ContainsFunc(s.Netns, func(n *tables.Netns) bool { return n.ID.Machine() != e.ids[0].Machine() }) {
				t.Errorf("afterwards: %v, %+v", err, s)
			}
		})
	}
}

// wanted turns the error that is wanted into none, and none into one.
func wanted[T any](_ T, err error) error {
	if !errors.Is(err, errGone) {
		return fmt.Errorf("it gives %w", err)
	}
	return nil
}

// taps has one in each open namespace.
func taps(e *Edge) (out []Tap) {
	for i, s := range e.Sources() {
		out = append(out, Tap{ID: i, Netns: s.ID})
	}
	return out
}

func points(r capture.Result) (out []string) {
	for _, p := range r.Points {
		what := any(p.Packets)
		if p.Err != nil {
			what = p.Err
		}
		out = append(out, fmt.Sprintf("%d: %v", p.ID, what))
	}
	return out
}

// TestEdgeLosesAll: with nobody left there are no tables, and the error says of each node why.
func TestEdgeLosesAll(t *testing.T) {
	a, b := &kernel{boot: "a", first: 100}, &kernel{boot: "b", first: 100}
	e, err := edge(t, map[string]*kernel{"n1": a, "n2": b}, "n1/host", "n2/host")
	if err != nil {
		t.Fatal(err)
	}
	a.fails, b.fails = map[string]error{"Read": errGone}, map[string]error{"Read": &LostError{Err: errors.New("silence")}}
	if !e.InReach() {
		t.Error("nobody is in reach before anybody is lost")
	}
	if _, err := e.Read(t.Context(), netfilter.ReadOptions{}); err == nil || e.InReach() || err.Error() != "node \"n1\": the agent ended\nnode \"n2\": silence" {
		t.Errorf("Read = %v", err)
	}
}

// TestEdgeHonestErrors: an error that is no loss is one of the whole, and so is an answer that does not fit.
func TestEdgeHonestErrors(t *testing.T) {
	refused := errors.New("operation not permitted")
	k := &kernel{boot: "a", first: 100}
	e, err := edge(t, map[string]*kernel{"n1": k}, "n1/host")
	if err != nil {
		t.Fatal(err)
	}
	k.fails = map[string]error{"Read": refused, "Open": refused, "Capture": refused}
	if _, err := e.Read(t.Context(), netfilter.ReadOptions{}); !errors.Is(err, refused) {
		t.Errorf("Read = %v", err)
	}
	if err := e.Open(t.Context(), want("n1/pod")); !errors.Is(err, refused) {
		t.Errorf("Open = %v", err)
	}
	if _, err := e.Capture(t.Context(), CaptureConfig{Taps: taps(e)}); !errors.Is(err, refused) {
		t.Errorf("Capture = %v", err)
	}
	if len(e.Lost()) != 0 {
		t.Errorf("lost: %v", e.Lost())
	}
	k.fails, k.extra = nil, true
	if _, err := e.Ask(t.Context(), e.ids[0], make([]Question, 1)); err == nil {
		t.Error("two answers to one question are taken")
	}
	if err := e.Open(t.Context(), want("n1/other")); err == nil {
		t.Error("two namespaces for one are taken")
	}
}

// TestCaptureOfSeveralClocks: frames come in the order in which they were, by this machine's clock, and none that was
// not asked for.
func TestCaptureOfSeveralClocks(t *testing.T) {
	e, err := edge(t, map[string]*kernel{
		"n1": {boot: "a", first: 100, ahead: time.Hour}, "n2": {boot: "b", first: 200, ahead: -time.Hour},
	}, "n2/host", "n1/host", "n2/pod")
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.Capture(t.Context(), CaptureConfig{Taps: taps(e)})
	if err != nil {
		t.Fatal(err)
	}
	if c.ArmDuration() != 200 {
		t.Errorf("armed after %d ns, want the slowest node's 200", c.ArmDuration())
	}
	var got []string
	for _, f := range c.Stop(t.Context()).Frames {
		got = append(got, fmt.Sprintf("%d at %s", f.Point, f.Time.Sub(begin)))
	}
	equal(t, "frames", got, []string{"0 at 0s", "1 at 1ms", "2 at 2ms"})
	w, missed := e.WatchDrops(t.Context(), kdrop.Config{})
	ds, lost, errs := w.Stop(t.Context())
	if len(missed) != 0 || len(errs) != 0 || lost != 2 || len(ds) != 2 || !ds[0].Time.Equal(begin) || !ds[1].Time.Equal(begin) || ds[0].Machine == ds[1].Machine {
		t.Errorf("drops %+v, %d lost, %v, %v", ds, lost, missed, errs)
	}
}
