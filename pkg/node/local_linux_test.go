package node

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

// The startup thread cannot exit and /proc/self describes it: keep it away from helper goroutines.
func init() { runtime.LockOSThread() }

// TestLocal: this machine's kernel does what a Node does, in two namespaces with a cable between them.
func TestLocal(t *testing.T) {
	a, b := nstest.New(t), nstest.New(t)
	nstest.Veth(t, a, "net0", b, "net1")
	nstest.Addr(t, a, "net0", "10.7.0.1/24")
	nstest.Addr(t, b, "net1", "10.7.0.2/24")
	l := NewLocal()
	ids, err := l.Open(t.Context(), []resolve.Want{
		{Object: "a", Node: "n1", Name: tables.HostName, Place: inventory.Place{Netns: a.Path()}},
		{Object: "b", Node: "n1", Name: "x/b", Place: inventory.Place{Netns: b.Path()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "identities", ids, []netns.ID{a.ID(), b.ID()})
	if l.Machine().Boot != BootID() || BootID() == "" {
		t.Errorf("machine %+v, boot %q", l.Machine(), BootID())
	}

	s, err := l.Read(t.Context(), netfilter.ReadOptions{})
	if err != nil || len(s.Netns) != 2 || s.Netns[0].LinkByName("net0") == nil || s.Netns[1].LinkByName("net1") == nil {
		t.Fatalf("tables %+v, %v", s, err)
	}
	out := s.Netns[0].LinkByName("net0")
	as, err := l.Ask(t.Context(), a.ID(), []Question{
		{Kind: AskRoute, Route: tables.RouteQuestion{Dst: netip.MustParseAddr("10.7.0.2")}},
		{Kind: AskRoute, Route: tables.RouteQuestion{Dst: netip.MustParseAddr("192.0.2.1")}},
		{Kind: "weather"},
	})
	if err != nil || as[0].Err != "" || as[0].Route.Dst.String() == "" || as[1].Err == "" || as[2].Err == "" {
		t.Errorf("answers %+v, %v", as, err)
	}
	if cs, err := l.Counters(t.Context()); err != nil || len(cs) != 2 {
		t.Errorf("counters of %d namespaces, %v", len(cs), err)
	}
	if rs, err := l.Rules(t.Context(), b.ID()); err != nil || len(rs) != 0 {
		t.Errorf("rules %+v, %v", rs, err)
	}
	capturesProbe(t, l, a.ID(), int(out.Index))

	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"Ask":     second(l.Ask(t.Context(), a.ID(), nil)),
		"Rules":   second(l.Rules(t.Context(), a.ID())),
		"Capture": second(l.Capture(t.Context(), CaptureConfig{Taps: []Tap{{Netns: a.ID()}}})),
		"Prepare": second(l.Prepare(t.Context(), a.ID(), Probe{})),
	} {
		if err == nil {
			t.Errorf("%s: a closed namespace answers", what)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func capturesProbe(t *testing.T, l *Local, ns netns.ID, ifindex int) {
	t.Helper()
	c, err := l.Capture(t.Context(), CaptureConfig{Taps: []Tap{{ID: 5, Netns: ns, Ifindex: ifindex, Interface: "net0"}}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Prepare(t.Context(), ns, Probe{Spec: probe.Spec{Proto: probe.ICMP}, Dst: netip.MustParseAddr("10.7.0.2")})
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Run(t.Context(), 2, 0, time.Second); r.Answered != 2 {
		t.Errorf("probe %+v", r)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if d, err := c.Idle(t.Context()); err != nil || d > time.Minute {
		t.Errorf("idle for %s, %v", d, err)
	}
	r, err := c.Stop(t.Context())
	if err != nil || len(r.Frames) < 4 || len(r.Points) != 1 || r.Points[0].ID != 5 || r.Points[0].Drops != 0 {
		t.Errorf("%d frames, points %+v, %v", len(r.Frames), r.Points, err)
	}
}

// TestFrameBudget: all taps together keep no more bytes than was given, and each keeps something.
func TestFrameBudget(t *testing.T) {
	const overhead = 128
	for _, c := range []struct{ taps, snap, want int }{
		{10, 256, (64 << 20) / (256 + overhead) / 10}, {400, 65535, 64}, {1, 0, min(capture.DefaultMaxFrames, (64<<20)/(capture.DefaultSnapLen+overhead))},
	} {
		if got := frameBudget(CaptureConfig{Taps: make([]Tap, c.taps), SnapLen: c.snap, Budget: 64 << 20}); got != c.want {
			t.Errorf("%d taps, %d bytes: %d frames each, want %d", c.taps, c.snap, got, c.want)
		}
	}
}
