package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/net/bpf"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a kernel that gives back what it was asked with.
type fake struct {
	frames  int
	stopped atomic.Int32 // captures, watches and probes that were ended
	closed  atomic.Bool
	config  node.CaptureConfig
}

var (
	idA = netns.ID{Dev: 4, Ino: 4026531840}
	idB = netns.ID{Dev: 4, Ino: 4026532999}
	ip  = netip.MustParseAddr("10.244.1.32")
	now = time.Unix(1_800_000_000, 123456789).UTC()
)

type hintedError struct{ error }

func (hintedError) Hint() string { return "run it as root" }

func (f *fake) Machine() node.Machine { return node.Machine{Boot: "other"} }

func (f *fake) Open(_ context.Context, ws []resolve.Want) ([]netns.ID, error) {
	if len(ws) == 0 {
		return nil, hintedError{errors.New("nothing is wanted")}
	}
	if ws[0].Object != `pod "shop/cart"` || ws[0].UID != "u" || ws[0].Place.PID != 7 {
		return nil, fmt.Errorf("wants %+v", ws)
	}
	return []netns.ID{idA, idB}, nil
}

func (f *fake) Read(context.Context, netfilter.ReadOptions) (*tables.Snapshot, error) {
	n := &tables.Netns{ID: idA, Node: "n1", Name: "host", Peers: map[int]netns.ID{3: idB}}
	for i := range 500 { // more than is worth compressing
		n.Neighs = append(n.Neighs, tables.Neigh{Index: tables.Ifindex(i), IP: ip, MAC: ether.MAC{2, 0, 0, 0, 0, 1}})
	}
	return &tables.Snapshot{Netns: []*tables.Netns{n}}, nil
}

func (f *fake) Ask(_ context.Context, ns netns.ID, qs []node.Question) ([]node.Answer, error) {
	return []node.Answer{{Route: tables.Route{Table: 254, Dst: netip.PrefixFrom(qs[0].Route.Dst, 32)}}, {Err: "no entry of " + ns.String()}}, nil
}

func (f *fake) Counters(context.Context) ([]*counters.Snapshot, error) {
	return []*counters.Snapshot{{Netns: idA, Taken: now, Values: map[counters.Key]uint64{{Kind: counters.Link, Device: "eth0", Name: "rx_dropped"}: 5}}}, nil
}

func (f *fake) Rules(context.Context, netns.ID) ([]netfilter.RuleCounter, error) {
	return []netfilter.RuleCounter{{Ref: netfilter.Ref{Backend: "nft", Table: "filter", Hook: netfilter.HookForward, Handle: 9}, Packets: 3}}, nil
}

func (f *fake) Capture(_ context.Context, cfg node.CaptureConfig) (node.Capture, error) {
	f.config = cfg
	return fakeRun{f}, nil
}

// Stream hands on all frames at once.
func (f *fake) Stream(_ context.Context, cfg node.CaptureConfig, sink node.Sink) (node.Stream, error) {
	f.config = cfg
	s := &fakeStream{f: f, sink: sink}
	for i := range f.frames {
		s.sink.Frame(&capture.Frame{Point: 4, Time: now.Add(time.Duration(i)), HWType: 1, WireLen: 1500, Data: bytes.Repeat([]byte{byte(i)}, 256)})
	}
	return s, nil
}

type fakeStream struct {
	f    *fake
	sink node.Sink
}

func (s *fakeStream) ArmDuration() time.Duration { return 7 * time.Millisecond }
func (s *fakeStream) Stop() error                { s.f.stopped.Add(1); return nil }
func (s *fakeStream) Stats() []capture.PointStats {
	s.sink.Round(time.Now())
	return []capture.PointStats{{ID: 4, Packets: uint64(s.f.frames), Drops: 1}}
}

func (f *fake) WatchDrops(_ context.Context, cfg kdrop.Config) (node.Drops, error) {
	if len(cfg.Flows) == 0 {
		return nil, &kdrop.UnsupportedError{Why: "no permission", Capability: "CAP_BPF"}
	}
	return fakeDrops{f, cfg}, nil
}

func (f *fake) Prepare(_ context.Context, ns netns.ID, p node.Probe) (node.Prober, error) {
	return fakeProbe{f, probe.Flow{Proto: 17, Src: p.Src, Dst: p.Dst, SrcPort: uint16(ns.Ino), DstPort: p.Spec.Port, Marker: [8]byte{1, 2}}}, nil
}

func (f *fake) Close() error { f.closed.Store(true); return nil }

type fakeRun struct{ f *fake }

func (r fakeRun) ArmDuration() time.Duration                  { return 7 * time.Millisecond }
func (r fakeRun) Idle(context.Context) (time.Duration, error) { return 9 * time.Millisecond, nil }

func (r fakeRun) Stop(context.Context) (capture.Result, error) {
	r.f.stopped.Add(1)
	res := capture.Result{Points: []capture.PointStats{{ID: 4, Packets: 10, Drops: 1, Err: errors.New("went down")}}}
	for i := range r.f.frames {
		res.Frames = append(res.Frames, capture.Frame{
			Point: 4, Time: now.Add(time.Duration(i)), Dir: capture.Direction(i % 2), HWType: 1, WireLen: 1500, Data: bytes.Repeat([]byte{byte(i)}, 256), GSO: i%3 == 0, GSOSize: uint16(i), Stamp: capture.Stamp(i % 3),
		})
	}
	return res, nil
}

type fakeDrops struct {
	f   *fake
	cfg kdrop.Config
}

func (d fakeDrops) Take(context.Context) ([]kdrop.Drop, int, error) {
	return []kdrop.Drop{{Time: now, Reason: "NO_SOCKET"}}, 1, nil
}

func (d fakeDrops) Stop(context.Context) ([]kdrop.Drop, int, error) {
	return []kdrop.Drop{{Time: now, Reason: "NETFILTER_DROP", NetnsInode: idA.Ino, Frame: []byte{1}, Length: int(d.cfg.Flows[0].DstPort)}}, 2, errors.New("no names")
}
func (d fakeDrops) Close() error { d.f.stopped.Add(1); return nil }

type fakeProbe struct {
	f    *fake
	flow probe.Flow
}

func (p fakeProbe) Flow() probe.Flow { return p.flow }
func (p fakeProbe) Close() error     { p.f.stopped.Add(1); return nil }
func (p fakeProbe) Run(ctx context.Context, count int, _, timeout time.Duration) probe.Result {
	select {
	case <-ctx.Done():
		return probe.Result{Sent: 1, Errors: []string{"ended early"}}
	case <-time.After(timeout):
	}
	return probe.Result{Sent: count, Answered: count, Replies: []probe.Reply{{Seq: 1, From: ip, TTL: 62, RTT: time.Millisecond}}}
}

// dial connects a Client to a fake kernel.
func dial(t *testing.T, f *fake) *Client {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), far, far, f, "v1") }()
	c, err := New(t.Context(), near, "v1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
		if !f.closed.Load() {
			t.Error("the kernel is still open")
		}
	})
	return c
}

func check[T any](t *testing.T, what string, got T, err error, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
	}
}

// TestOperations: what the far kernel says arrives as it was said.
func TestOperations(t *testing.T) {
	f := &fake{}
	c, ctx := dial(t, f), t.Context()
	ids, err := c.Open(ctx, []resolve.Want{{Object: `pod "shop/cart"`, Node: "n1", UID: "u", Place: struct {
		Netns string
		PID   int
	}{PID: 7}}})
	check(t, "Open", ids, err, []netns.ID{idA, idB})
	want, _ := f.Read(ctx, netfilter.ReadOptions{})
	snap, err := c.Read(ctx, netfilter.ReadOptions{})
	check(t, "Read", snap, err, want)
	as, err := c.Ask(ctx, idB, []node.Question{{Kind: node.AskRoute, Route: tables.RouteQuestion{Dst: ip}}})
	wantAs, _ := f.Ask(ctx, idB, []node.Question{{Route: tables.RouteQuestion{Dst: ip}}})
	check(t, "Ask", as, err, wantAs)
	cs, err := c.Counters(ctx)
	wantCs, _ := f.Counters(ctx)
	check(t, "Counters", cs, err, wantCs)
	rs, err := c.Rules(ctx, idA)
	wantRs, _ := f.Rules(ctx, idA)
	check(t, "Rules", rs, err, wantRs)

	_, err = c.Open(ctx, nil)
	var hint interface{ Hint() string }
	if err == nil || err.Error() != "nothing is wanted" || !errors.As(err, &hint) || hint.Hint() != "run it as root" {
		t.Errorf("an error comes as %v", err)
	}
}

func TestCaptureOverTheWire(t *testing.T) {
	f := &fake{frames: 3000} // several parts
	c, ctx := dial(t, f), t.Context()
	cfg := node.CaptureConfig{Taps: []node.Tap{{ID: 4, Netns: idA, Ifindex: 2, Interface: "eth0", Filter: []bpf.RawInstruction{{Op: 6, K: 0xffff}}}}}
	run, err := c.Capture(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Budget = maxKept
	check(t, "config", f.config, nil, cfg)
	d, err := run.Idle(ctx)
	check(t, "Idle", d, err, 9*time.Millisecond)
	got, err := run.Stop(ctx)
	want, _ := fakeRun{f}.Stop(ctx)
	check(t, "frames", got.Frames, err, want.Frames)
	if len(got.Points) != 1 || got.Points[0].Err == nil || got.Points[0].Drops != 1 || got.Points[0].Err.Error() != "went down" {
		t.Errorf("points %+v", got.Points)
	}
	if _, err := run.Stop(ctx); err == nil {
		t.Error("a capture is stopped twice")
	}
}

// TestStreamOverTheWire: every frame is handed on in its order, or counted as dropped, and what is said to be complete
// was asked for by then.
func TestStreamOverTheWire(t *testing.T) {
	for _, sent := range []int{3000, 40_000} { // several parts; more than may wait
		f := &fake{frames: sent}
		c, begin := dial(t, f), time.Now()
		var mu sync.Mutex
		var last time.Time
		got, rounds := 0, 0
		sink := node.Sink{
			Frame: func(fr *capture.Frame) {
				mu.Lock()
				defer mu.Unlock()
				if want := now.Add(time.Duration(got)); !fr.Time.Equal(want) || fr.Point != 4 || len(fr.Data) != 256 || fr.Data[0] != byte(got) {
					t.Errorf("frame %d: %+v", got, fr)
				}
				got++
			},
			Round: func(complete time.Time) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				if complete.Before(begin) || complete.After(time.Now()) || complete.Before(last) {
					t.Errorf("complete until %s, after %s", complete, last)
				}
				last = complete
				rounds++
				return time.Millisecond
			},
		}
		s, err := c.Stream(t.Context(), node.CaptureConfig{Taps: []node.Tap{{ID: 4, Netns: idA}}}, sink)
		if err != nil {
			t.Fatal(err)
		}
		for enough := false; !enough; time.Sleep(time.Millisecond) {
			mu.Lock()
			enough = rounds > 3
			mu.Unlock()
		}
		st := s.Stats()
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		mu.Lock()
		if len(st) != 1 || st[0].Packets != uint64(sent) || st[0].Drops != 1+uint64(sent-got) || got < min(sent, maxWaiting/(256+frameHead)) || sent == 3000 && got != sent {
			t.Errorf("%d of %d handed on, %+v", got, sent, st)
		}
		mu.Unlock()
		if n := f.stopped.Load(); n != 1 {
			t.Errorf("stopped %d times", n)
		}
		if err := s.Stop(); err == nil {
			t.Error("a stream is stopped twice")
		}
	}
}

// TestStreamGone: a far end that goes says so at every tap, and the stream can still be ended.
func TestStreamGone(t *testing.T) {
	f := &fake{}
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), far, far, f, "v1") }()
	c, err := New(t.Context(), near, "v1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Stream(t.Context(), node.CaptureConfig{Taps: []node.Tap{{ID: 4}, {ID: 5}}}, node.Sink{
		Frame: func(*capture.Frame) {}, Round: func(time.Time) time.Duration { return time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	<-done
	for begin := time.Now(); s.Stats()[0].Err == nil || s.Stats()[1].Err == nil; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("taps of a far end that is gone: %+v", s.Stats())
		}
	}
	var lost *node.LostError
	if err := s.Stop(); !errors.As(err, &lost) {
		t.Errorf("Stop = %v", err)
	}
	_ = c.Close()
}

func TestProbeAndDropsOverTheWire(t *testing.T) {
	f := &fake{}
	c, ctx := dial(t, f), t.Context()
	p, err := c.Prepare(ctx, idA, node.Probe{Spec: probe.Spec{Proto: "udp", Port: 53}, Dst: ip})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "Flow", p.Flow(), nil, probe.Flow{Proto: 17, Dst: ip, SrcPort: uint16(idA.Ino & 0xffff), DstPort: 53, Marker: [8]byte{1, 2}})
	check(t, "Run", p.Run(ctx, 3, 0, time.Millisecond), nil, probe.Result{Sent: 3, Answered: 3, Replies: []probe.Reply{{Seq: 1, From: ip, TTL: 62, RTT: time.Millisecond}}})
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if r := p.Run(short, 3, 0, time.Hour); r.Sent != 1 || len(r.Errors) != 1 || r.Errors[0] != "ended early" || time.Since(begin) > time.Second {
		t.Errorf("an interrupted run gives %+v after %s", r, time.Since(begin))
	}
	if err := p.Close(); err != nil || f.stopped.Load() != 1 {
		t.Errorf("Close = %v", err)
	}
	d, err := c.WatchDrops(ctx, kdrop.Config{Flows: []kdrop.Flow{{Src: ip, Dst: ip, DstPort: 9}}})
	if err != nil {
		t.Fatal(err)
	}
	drops, lost, err := d.Stop(ctx)
	if len(drops) != 1 || drops[0].Length != 9 || !drops[0].Time.Equal(now) || lost != 2 || err == nil || err.Error() != "no names" {
		t.Errorf("%+v, %d, %v", drops, lost, err)
	}
	if _, err := c.WatchDrops(ctx, kdrop.Config{}); err == nil || !strings.Contains(err.Error(), "no permission") {
		t.Errorf("WatchDrops = %v", err)
	}
}

// TestGone: when the near end is gone, everything that went on is ended.
func TestGone(t *testing.T) {
	f := &fake{}
	c, ctx := dial(t, f), t.Context()
	if _, err := c.Capture(ctx, node.CaptureConfig{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prepare(ctx, idA, node.Probe{Dst: ip}); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	for end := time.Now().Add(5 * time.Second); f.stopped.Load() != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of 2 ended", f.stopped.Load())
		}
	}
	var lost *node.LostError
	if _, err := c.Read(ctx, netfilter.ReadOptions{}); !errors.As(err, &lost) {
		t.Errorf("Read on a closed client = %v", err)
	}
}

// far plays a far end by hand.
func far(t *testing.T, say func(w io.Writer, c *codec)) io.ReadWriteCloser {
	t.Helper()
	near, other := net.Pipe()
	t.Cleanup(func() { _ = other.Close() })
	go func() {
		c, err := newCodec(other, other, maxRequest)
		if err != nil {
			panic(err)
		}
		say(other, c)
	}()
	return near
}

func greeting(version string) func(io.Writer, *codec) {
	return func(w io.Writer, c *codec) {
		_, _ = io.WriteString(w, "Welcome to node1\r\n\nlast login: never\n"+preamble)
		if _, err := c.read(); err != nil {
			return
		}
		_ = c.write(frame{kindHello, 0, fmt.Appendf(nil, `{"protocol":2,"version":%q,"boot":"b"}`, version)})
	}
}

func TestGreeting(t *testing.T) {
	tests := []struct {
		name string
		say  func(io.Writer, *codec)
		want string
	}{
		{"other version", greeting("v2"), `the agent is podtrace "v2", and this is "v1"`},
		{"same version, other protocol", func(w io.Writer, c *codec) {
			_, _ = io.WriteString(w, preamble)
			_, _ = c.read()
			_ = c.write(frame{kindHello, 0, []byte(`{"protocol":1,"version":"v1"}`)})
		}, `another build of podtrace "v1"`},
		{"a version without end", greeting(strings.Repeat("x", 1<<16)), `podtrace "` + strings.Repeat("x", maxVersion) + `", and`},
		{"a shell", func(w io.Writer, _ *codec) { _, _ = io.WriteString(w, strings.Repeat("login incorrect\n", 9000)) }, "no podtrace agent"},
		{"one endless line", func(w io.Writer, _ *codec) { _, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20)) }, "no podtrace agent"},
		{"a length beyond all bounds", func(w io.Writer, c *codec) {
			_, _ = io.WriteString(w, preamble)
			_, _ = c.read()
			_, _ = w.Write([]byte{0xff, 0xff, 0xff, 0xff, byte(kindHello), 0, 0, 0, 0})
		}, "too long"},
		{"a bomb", func(w io.Writer, c *codec) {
			_, _ = io.WriteString(w, preamble)
			_, _ = c.read()
			data := c.enc.EncodeAll(make([]byte, maxResponse+1), nil)
			b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
			_, _ = w.Write(append(append(b, byte(kindHello|compressed), 0, 0, 0, 0), data...))
		}, "message of kind"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(t.Context(), far(t, tt.say), "v1")
			if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := New(ctx, far(t, func(io.Writer, *codec) {}), "v1"); err == nil || !strings.Contains(err.Error(), "no agent answers") {
			t.Errorf("New = %v", err)
		}
	})
}

// TestHostileFarEnd: answers to nothing, and answers that are none, end the client and nothing else.
func TestHostileFarEnd(t *testing.T) {
	for name, answer := range map[string]frame{
		"to nothing":        {kindResponse, 99, nil},
		"of no known kind":  {42, 5, nil},
		"malformed JSON":    {kindResponse, 5, []byte("{")},
		"frames unasked":    {kindPart, 5, []byte("x")},
		"a null namespace":  {kindResponse, 5, []byte(`{"netns":[null]}`)},
		"too many elements": {kindResponse, 5, []byte(`{"netns":[` + strings.Repeat("0,", 3<<20) + `0]}`)},
	} {
		t.Run(name, func(t *testing.T) {
			stream := far(t, func(w io.Writer, c *codec) {
				greeting("v1")(w, c)
				for range 4 { // the clock
					f, err := c.read()
					if err != nil {
						return
					}
					_ = c.write(frame{kindResponse, f.id, []byte("1")})
				}
				if _, err := c.read(); err == nil {
					_ = c.write(answer)
				}
			})
			c, err := New(t.Context(), stream, "v1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if s, err := c.Read(t.Context(), netfilter.ReadOptions{}); err == nil {
				t.Errorf("Read = %+v", s)
			}
		})
	}
}

// TestHostileNearEnd: what no client asks for is refused.
func TestHostileNearEnd(t *testing.T) {
	c, ctx := dial(t, &fake{}), t.Context()
	var out any
	for op, args := range map[string]any{
		"format-disk": nil,
		opCapture:     node.CaptureConfig{SnapLen: 1 << 30},
		opOpen:        openArgs{make([]resolve.Want, maxWants+1)},
		opAsk:         askArgs{idA, make([]node.Question, maxQuestions+1)},
		opRun:         runArgs{Count: 1 << 30},
		opCaptureStop: handle{77},
		opDrops:       kdrop.Config{Buffer: 1 << 30},
	} {
		if err := c.call(ctx, op, args, &out, nil); err == nil {
			t.Errorf("%s is done", op)
		}
	}
	for i := range maxHandles + 1 {
		_, err := c.Prepare(ctx, idA, node.Probe{Dst: ip})
		if (err != nil) != (i == maxHandles) {
			t.Fatalf("probe %d: %v", i, err)
		}
	}
}

func TestSSHCommand(t *testing.T) {
	for in, want := range map[string]string{
		"ssh://root@n2":      "-- root@n2 podtrace agent",
		"ssh://n2:2222":      "-p 2222 -- n2 podtrace agent",
		"ssh://[fd00::1]":    "-- fd00::1 podtrace agent",
		"http://n2":          "",
		"ssh://":             "",
		"ssh://-oProxy=x":    "",
		"ssh://-x@n2":        "",
		"ssh://u:secret@n2":  "",
		"ssh://n2/etc":       "",
		"ssh://u%20x@n2":     "",
		"n2":                 "",
		"ssh://u@n2?x=y":     "",
		"ssh://u@n2:22x":     "",
		"ssh://u%0a@n2":      "",
		"ssh://u@n2#command": "",
	} {
		argv, err := SSHCommand(in, "")
		if got := strings.Join(argv, " "); (err == nil) != (want != "") || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, %v", in, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password", in)
		}
	}
}

// TestDialSaysWhy: what the program between says last is the error.
func TestDialSaysWhy(t *testing.T) {
	_, err := Dial(t.Context(), "v1", "sh", "-c", "echo warming up >&2; echo ssh: connect to host n2: refused >&2; exit 255")
	if err == nil || !strings.Contains(err.Error(), "connect to host n2: refused") {
		t.Errorf("Dial = %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(nil, &capture.Frame{Point: 1, Time: now, Data: []byte{1, 2}, WireLen: 60, Dir: capture.Out, GSO: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs, err := decodeFrames(b, 100)
		if err != nil {
			if fs != nil {
				t.Error("frames with an error")
			}
			return
		}
		var again []byte
		for i := range fs {
			again = appendFrame(again, &fs[i])
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x reads as %x", b, again)
		}
	})
}

func FuzzWire(f *testing.F) {
	var b bytes.Buffer
	c, err := newCodec(&b, &b, 1<<16)
	if err != nil {
		f.Fatal(err)
	}
	_ = c.write(frame{kindRequest, 1, bytes.Repeat([]byte("a"), 5000)})
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 2, byte(kindRequest), 0, 0, 0, 1, '{', '}'})
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := newCodec(bytes.NewReader(in), io.Discard, 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		for {
			m, err := c.read()
			if err != nil {
				return
			}
			if len(m.data) > 1<<16 {
				t.Fatalf("%d bytes", len(m.data))
			}
		}
	})
}
