package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// The startup thread must not run code inside a namespace; see netns.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	before := countFDs()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if after := countFDs(); code == 0 && after > before+2 { // epoll and eventfd of the runtime itself
			fmt.Fprintln(os.Stderr, "file descriptors left open:", after-before)
			code = 1
		}
		os.Exit(code)
	}))
}

func countFDs() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// pair is two namespaces with a veth between them, and a raw socket at the far end.
type pair struct {
	near, far *netns.Handle
	index     int // of "near0" in near
	raw       int
}

func newPair(t testing.TB) *pair {
	t.Helper()
	p := &pair{near: nstest.New(t), far: nstest.New(t)}
	for _, h := range []*netns.Handle{p.near, p.far} {
		quiet(t, h)
	}
	nstest.Veth(t, p.near, "near0", p.far, "far0")
	nstest.Addr(t, p.near, "near0", "192.0.2.1/24")
	nstest.Addr(t, p.far, "far0", "192.0.2.2/24")
	p.index = nstest.Ifindex(t, p.near, "near0")
	p.raw = rawSocket(t, p.far, nstest.Ifindex(t, p.far, "far0"))
	return p
}

// quiet keeps the kernel from sending neighbour discovery of its own accord.
func quiet(t testing.TB, h *netns.Handle) {
	t.Helper()
	err := h.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func rawSocket(t testing.TB, h *netns.Handle, index int) int {
	t.Helper()
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func (p *pair) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := unix.Write(p.raw, frame); err != nil {
		t.Fatalf("send frame of %d bytes: %v", len(frame), err)
	}
}

func (p *pair) point() Point {
	return Point{ID: 7, Netns: p.near, Ifindex: p.index, Interface: "near0"}
}

func mustOpen(t testing.TB, cfg Config) *Session {
	t.Helper()
	s, err := Open(context.Background(), cfg)
	if err != nil {
		nstest.Skip(t, err)
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

// numbered is a frame of its own EtherType (IEEE 802 local experimental 1) with a number.
func numbered(n, size int) []byte {
	b := make([]byte, size)
	copy(b, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	binary.BigEndian.PutUint32(b[14:], uint32(n))
	return b
}

func numbers(frames []Frame) []int {
	var out []int
	for _, f := range frames {
		if len(f.Data) >= 18 && f.Data[12] == 0x88 && f.Data[13] == 0xb5 {
			out = append(out, int(binary.BigEndian.Uint32(f.Data[14:])))
		}
	}
	return out
}

func count(from, to int) []int {
	var out []int
	for n := from; n < to; n++ {
		out = append(out, n)
	}
	return out
}

func TestArmedFromOpenToStop(t *testing.T) {
	p := newPair(t)
	for n := range 10 {
		p.send(t, numbered(n, 60))
	}
	s := mustOpen(t, Config{Points: []Point{p.point()}})
	for n := range 100 { // before Start: the ring holds them
		p.send(t, numbered(100+n, 60))
	}
	s.Start()
	for n := range 100 {
		p.send(t, numbered(200+n, 60))
	}
	r := s.Stop()
	p.send(t, numbered(999, 60))
	if got, want := numbers(r.Frames), count(100, 300); !slices.Equal(got, want) {
		t.Errorf("frames %v, want 100 to 299", got)
	}
	if st := r.Points[0]; st.ID != 7 || st.Packets != 200 || st.Drops != 0 || st.Err != nil || st.Truncated != 0 {
		t.Errorf("stats = %+v, want 200 packets, nothing dropped", st)
	}
	for i, f := range r.Frames {
		if f.Dir != In || f.Point != 7 || f.WireLen != 60 || len(f.Data) != 60 || f.HWType != 1 {
			t.Fatalf("frame %d = %+v", i, f)
		}
		if i > 0 && f.Time.Before(r.Frames[i-1].Time) {
			t.Fatalf("frame %d is before the one in front of it", i)
		}
		if d := time.Since(f.Time); d < 0 || d > time.Minute {
			t.Fatalf("frame %d is of %v", i, f.Time)
		}
	}
	if again := s.Stop(); len(again.Frames) != len(r.Frames) {
		t.Error("a second Stop gives another result")
	}
}

// TestForeignInterface floods a second interface while the tap is opened: none of it may show.
func TestForeignInterface(t *testing.T) {
	p := newPair(t)
	nstest.Veth(t, p.near, "other0", p.far, "other1")
	other := rawSocket(t, p.far, nstest.Ifindex(t, p.far, "other1"))
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_, _ = unix.Write(other, numbered(1, 60))
		}
	}()
	for range 5 {
		r := mustOpen(t, Config{Points: []Point{p.point()}}).Stop()
		if len(r.Frames) != 0 || r.Points[0].Packets != 0 {
			t.Errorf("%d frames, %+v from another interface", len(r.Frames), r.Points[0])
		}
	}
	stop.Store(true)
	<-done
}

func TestDirection(t *testing.T) {
	p := newPair(t)
	nstest.Up(t, p.near, "lo")
	lo := Point{ID: 1, Netns: p.near, Ifindex: 1, Interface: "lo"}
	s := mustOpen(t, Config{Points: []Point{p.point(), lo}})
	s.Start()
	udpSend(t, p.near, "192.0.2.2:9", "out to the far end")
	udpSend(t, p.near, "127.0.0.1:9", "over lo")
	foreign := numbered(5, 60)
	foreign[5] = 99 // a destination MAC that is nobody's
	p.send(t, foreign)
	r := s.Stop()
	if got := dirs(r, 7, "out to the far end"); !slices.Equal(got, []Direction{Out}) {
		t.Errorf("veth: %v, want [out]", got)
	}
	if got := dirs(r, 1, "over lo"); len(got) < 2 || got[0] != Out || got[1] != In {
		t.Errorf("lo: %v, want out, then in", got)
	}
	for _, f := range r.Frames {
		if slices.Equal(numbers([]Frame{f}), []int{5}) && (!f.OtherHost || f.Dir != In) {
			t.Errorf("frame to another host: %+v", f)
		}
	}
}

// dirs are the directions of the UDP frames with the text at a point (an ICMP error quotes it too).
func dirs(r Result, point int, text string) []Direction {
	var out []Direction
	for _, f := range r.Frames {
		if f.Point == point && len(f.Data) > 23 && f.Data[23] == 17 && bytes.Contains(f.Data, []byte(text)) {
			out = append(out, f.Dir)
		}
	}
	return out
}

func udpSend(t testing.TB, h *netns.Handle, to, text string) {
	t.Helper()
	var conn *net.UDPConn
	err := h.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestTruncation(t *testing.T) {
	p := newPair(t)
	for _, filter := range []string{"none", "given"} {
		pt := p.point()
		if filter == "given" {
			pt.Filter = snapped(nil, keepAll)
		}
		s := mustOpen(t, Config{Points: []Point{pt}, SnapLen: 64})
		p.send(t, numbered(1, 1000))
		p.send(t, numbered(2, 64))
		r := s.Stop()
		if len(r.Frames) != 2 || r.Points[0].Truncated != 1 {
			t.Fatalf("%s: %d frames, stats %+v", filter, len(r.Frames), r.Points[0])
		}
		if f := r.Frames[0]; len(f.Data) != 64 || f.WireLen != 1000 || !f.Truncated() {
			t.Errorf("%s: %d bytes of %d, want 64 of 1000", filter, len(f.Data), f.WireLen)
		}
		if r.Frames[1].Truncated() {
			t.Errorf("%s: a frame of the snap length counts as truncated", filter)
		}
	}
}

func TestLargeSnap(t *testing.T) {
	p := newPair(t)
	s := mustOpen(t, Config{Points: []Point{p.point()}, SnapLen: 256 << 10, RingBytes: 64 << 10})
	p.send(t, numbered(1, 1500))
	if r := s.Stop(); len(r.Frames) != 1 || len(r.Frames[0].Data) != 1500 {
		t.Errorf("%d frames", len(r.Frames))
	}
}

func TestVLAN(t *testing.T) {
	p := newPair(t)
	s := mustOpen(t, Config{Points: []Point{p.point()}})
	sent := [][]byte{
		tagged(numbered(1, 60), cTag), tagged(numbered(2, 60), sTag, cTag), numbered(3, 60),
	}
	for _, f := range sent {
		p.send(t, f)
	}
	r := s.Stop()
	if len(r.Frames) != len(sent) {
		t.Fatalf("%d frames, want %d", len(r.Frames), len(sent))
	}
	for i, f := range r.Frames {
		if !bytes.Equal(f.Data, sent[i]) || f.WireLen != len(sent[i]) {
			t.Errorf("frame %d: %x (%d bytes), want %x", i, f.Data, f.WireLen, sent[i])
		}
	}
}

func TestDrops(t *testing.T) {
	p := newPair(t)
	const sent = 20000
	s := mustOpen(t, Config{Points: []Point{p.point()}, RingBytes: 16 << 10}) // not started: nobody reads
	for n := range sent {
		p.send(t, numbered(n, 60))
	}
	r := s.Stop()
	st := r.Points[0]
	if st.Drops == 0 || st.Packets != sent || int(st.Drops)+len(r.Frames) != sent || st.FreezeQueue == 0 {
		t.Errorf("%d frames, stats %+v: frames and drops do not add up to %d", len(r.Frames), st, sent)
	}
}

func TestFloodAddsUp(t *testing.T) {
	p := newPair(t)
	const sent = 50000
	s := mustOpen(t, Config{Points: []Point{p.point()}})
	s.Start()
	for n := range sent {
		p.send(t, numbered(n, 60))
	}
	r := s.Stop()
	if st := r.Points[0]; st.Packets != sent || int(st.Drops)+len(r.Frames) != sent {
		t.Errorf("%d frames, stats %+v do not add up to %d", len(r.Frames), st, sent)
	}
	t.Logf("%d of %d kept", len(r.Frames), sent)
}

func TestMaxFrames(t *testing.T) {
	p := newPair(t)
	var seen atomic.Int64
	s := mustOpen(t, Config{Points: []Point{p.point()}, MaxFrames: 10, OnFrame: func(*Frame) { seen.Add(1) }})
	s.Start()
	for n := range 50 {
		p.send(t, numbered(n, 60))
	}
	r := s.Stop()
	if st := r.Points[0]; len(r.Frames) != 10 || st.Drops != 40 || st.Overflow != 40 || seen.Load() != 10 {
		t.Errorf("%d frames, %d calls, stats %+v, want 10 and 40 dropped", len(r.Frames), seen.Load(), st)
	}
}

func TestOnFrame(t *testing.T) {
	p := newPair(t)
	got := make(chan Frame, 10)
	s := mustOpen(t, Config{Points: []Point{p.point()}, OnFrame: func(f *Frame) { got <- *f }})
	s.Start()
	p.send(t, numbered(1, 60))
	begin := time.Now()
	select {
	case <-got:
		t.Logf("seen after %v", time.Since(begin))
	case <-time.After(2 * time.Second):
		t.Fatal("no call while the capture runs")
	}
}

func TestInterfaceVanishes(t *testing.T) {
	p := newPair(t)
	s := mustOpen(t, Config{Points: []Point{p.point()}})
	s.Start()
	p.send(t, numbered(1, 60))
	nstest.Delete(t, p.near, "near0")
	time.Sleep(20 * time.Millisecond)
	r := s.Stop()
	if st := r.Points[0]; !errors.Is(st.Err, unix.ENETDOWN) || !strings.Contains(st.Err.Error(), "went down") {
		t.Errorf("Err = %v, want ENETDOWN", st.Err)
	}
	if got := numbers(r.Frames); !slices.Equal(got, []int{1}) {
		t.Errorf("frames %v, want the one before", got)
	}
}

func TestInterfaceFlaps(t *testing.T) {
	p := newPair(t)
	s := mustOpen(t, Config{Points: []Point{p.point()}})
	s.Start()
	p.send(t, numbered(1, 60))
	nstest.Do(t, p.near, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName("near0")
		if err != nil {
			return err
		}
		return errors.Join(nl.LinkSetDown(link), nl.LinkSetUp(link))
	})
	nstest.Up(t, p.near, "near0")
	p.send(t, numbered(2, 60))
	time.Sleep(20 * time.Millisecond)
	r := s.Stop()
	if st := r.Points[0]; !errors.Is(st.Err, unix.ENETDOWN) || !st.Flapped {
		t.Errorf("%+v, want one that flapped", st)
	}
	if got := numbers(r.Frames); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("frames %v, want both", got)
	}
}

func TestInterfaceDown(t *testing.T) {
	p := newPair(t)
	nstest.Do(t, p.near, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName("near0")
		if err != nil {
			return err
		}
		return nl.LinkSetDown(link)
	})
	r := mustOpen(t, Config{Points: []Point{p.point()}}).Stop()
	if st := r.Points[0]; !errors.Is(st.Err, unix.ENETDOWN) || !strings.Contains(st.Err.Error(), "is down") {
		t.Errorf("Err = %v, want ENETDOWN", st.Err)
	}
}

// TestReserve: rings that were made ahead see what a tap has to see from the moment on at which it is armed, whatever
// passes before, and those that nobody takes are closed.
func TestReserve(t *testing.T) {
	p := newPair(t)
	fds := countFDs()
	r := NewReserve(Config{}, map[*netns.Handle]int{p.near: 3, p.far: 1})
	for n := range 50 {
		p.send(t, numbered(n, 60))
	}
	pt := p.point()
	pt.Filter = snapped(nil, keepAll)
	s := mustOpen(t, Config{Points: []Point{pt, pt}, Reserve: r})
	for n := range 50 {
		p.send(t, numbered(100+n, 60))
	}
	res := s.Stop()
	r.Close()
	r.Close()
	for i, st := range res.Points {
		if st.Packets != 50 || st.Drops != 0 || st.Err != nil {
			t.Errorf("point %d: %+v", i, st)
		}
	}
	if got, want := len(numbers(res.Frames)), 100; got != want {
		t.Errorf("%d frames, want %d", got, want)
	}
	if got := countFDs(); got != fds {
		t.Errorf("%d file descriptors open, want %d as before", got, fds)
	}
}

// TestMaxTotal: the capture ends at the same moment at both ends, whichever is read first, and what came later is no
// loss.
func TestMaxTotal(t *testing.T) {
	p := newPair(t)
	far := Point{ID: 8, Netns: p.far, Ifindex: nstest.Ifindex(t, p.far, "far0"), Interface: "far0"}
	s := mustOpen(t, Config{Points: []Point{p.point(), far}, MaxTotal: 100})
	for n := range 500 {
		p.send(t, numbered(n, 60))
	}
	s.Start()
	r := s.Stop()
	count := map[int]int{}
	for _, f := range r.Frames {
		count[f.Point]++
		if f.Time.After(r.Cut) {
			t.Fatalf("a frame of %v is after the cut at %v", f.Time, r.Cut)
		}
	}
	// one of them is cut at its hundredth frame; the same one passes the other a little earlier or later
	if lo, hi := min(count[7], count[8]), max(count[7], count[8]); r.Cut.IsZero() || lo < 99 || hi < 100 || hi > 101 {
		t.Errorf("%v frames until %v", count, r.Cut)
	}
	for _, st := range r.Points {
		if st.Drops != 0 || st.After == 0 {
			t.Errorf("point %d: %+v", st.ID, st)
		}
	}
}

// TestGSOSize: a super-packet says how it is cut; the segments that a device without offloads gets do not.
func TestGSOSize(t *testing.T) {
	if !saysGSO() {
		t.Skip("needs Linux 6.2")
	}
	p := newPair(t)
	s := mustOpen(t, Config{Points: []Point{p.point()}})
	s.Start()
	const segment, parts = 1000, 8
	var conn *net.UDPConn
	if err := p.far.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	if _, err := conn.Write(make([]byte, parts*segment)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	sizes := map[uint16]int{}
	for _, f := range s.Stop().Frames {
		if len(f.Data) > 23 && f.Data[12] == 8 && f.Data[23] == 17 && f.Dir == In {
			sizes[f.GSOSize] += f.WireLen
		}
	}
	if sizes[segment] < parts*segment || len(sizes) != 1 {
		t.Errorf("bytes by segment size: %v", sizes)
	}
}

func TestOpenErrors(t *testing.T) {
	p := newPair(t)
	fds := countFDs()
	good := p.point()
	tests := []struct {
		name   string
		point  Point
		errno  error
		inText string
	}{
		{"no such index", Point{ID: 3, Netns: p.near, Ifindex: 4711, Interface: "gone0"}, unix.ENODEV, "gone0"},
		{"index 0", Point{ID: 3, Netns: p.near, Interface: "zero"}, unix.ENODEV, "zero"},
		{"reused index", Point{ID: 3, Netns: p.near, Ifindex: p.index, Interface: "was0"}, unix.ENODEV, `"near0" by now`},
		{"bad filter", Point{ID: 3, Netns: p.near, Ifindex: p.index, Filter: snapped(nil, 1)[:0]}, unix.EINVAL, "filter"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(t.Context(), Config{Points: []Point{good, tt.point}})
			var pe *PointError
			if !errors.As(err, &pe) || pe.ID != 3 || !errors.Is(err, tt.errno) || !strings.Contains(err.Error(), tt.inText) {
				t.Errorf("Open = %v", err)
			}
		})
	}
	if got := countFDs(); got != fds {
		t.Errorf("%d file descriptors open, want %d as before", got, fds)
	}
}

func TestPermissionNamesCapability(t *testing.T) {
	tp := tap{Point: Point{ID: 1, Interface: "x"}}
	if err := tp.fail("open packet socket", unix.EPERM); !strings.Contains(err.Error(), "CAP_NET_RAW") || !errors.Is(err, os.ErrPermission) {
		t.Errorf("error = %v", err)
	}
}

func TestContextEndsReading(t *testing.T) {
	p := newPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Open(ctx, Config{Points: []Point{p.point()}})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	p.send(t, numbered(1, 60))
	cancel()
	select {
	case <-s.done:
	case <-time.After(2 * time.Second):
		t.Error("reader still runs")
	}
	if r := s.Stop(); len(r.Frames) != 1 {
		t.Errorf("%d frames, want the one before the end", len(r.Frames))
	}
}

// TestKernelAgrees runs the filter cases through the kernel's own machine: each frame is sent over
// a veth, and those that must pass have to arrive, byte for byte, and no others.
func TestKernelAgrees(t *testing.T) {
	icmp, tcp := encapCases(t, icmpCases(t)), encapCases(t, tcpCases(t))
	for name, in := range map[string]struct {
		flow  Flow
		encap []Encap
		cases []filterCase
	}{
		"tcp": {tcpFlow, nil, tcpCases(t)}, "icmp": {icmpFlow, nil, icmpCases(t)},
		"tcp behind VXLAN": {tcpFlow, bothPorts, tcp}, "icmp behind VXLAN": {icmpFlow, bothPorts, icmp},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			pt := p.point()
			pt.Filter = mustFilter(t, in.flow, in.encap, FilterOptions{})
			s := mustOpen(t, Config{Points: []Point{pt}, SnapLen: 2048})
			s.Start()
			var want, got []string
			for _, c := range in.cases {
				if len(c.frame) < 18 || c.name == "three tags" { // the kernel takes one off first
					continue
				}
				p.send(t, c.frame)
				if c.want {
					want = append(want, string(c.frame))
				}
			}
			for _, f := range s.Stop().Frames {
				if f.Dir == In {
					got = append(got, string(f.Data))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("the kernel passes %d frames, want %d", len(got), len(want))
			}
		})
	}
}

// twenty is ten namespaces in a row with two points each, as a path and its reply have.
func twenty(t testing.TB) []Point {
	var points []Point
	for i := range 10 {
		a := nstest.New(t)
		nstest.Veth(t, a, "a", a, "b")
		for j, name := range []string{"a", "b"} {
			points = append(points, Point{
				ID: 2*i + j, Netns: a, Ifindex: nstest.Ifindex(t, a, name), Interface: name,
				Filter: mustFilter(t, tcpFlow, bothPorts, FilterOptions{}),
			})
		}
	}
	return points
}

func TestArmTwenty(t *testing.T) {
	points := twenty(t)
	s := mustOpen(t, Config{Points: points})
	s.Start()
	begin := time.Now()
	r := s.Stop()
	t.Logf("20 taps armed in %v, stopped in %v", s.ArmDuration(), time.Since(begin))
	if len(r.Points) != 20 {
		t.Errorf("%d points", len(r.Points))
	}
	for _, st := range r.Points {
		if st.Err != nil {
			t.Errorf("point %d: %v", st.ID, st.Err)
		}
	}
}

func BenchmarkArm(b *testing.B) {
	points := twenty(b)
	var arm, stop time.Duration
	for b.Loop() {
		s := mustOpen(b, Config{Points: points})
		arm += s.ArmDuration()
		begin := time.Now()
		s.Stop()
		stop += time.Since(begin)
	}
	b.ReportMetric(float64(arm.Milliseconds())/float64(b.N), "arm-ms/op")
	b.ReportMetric(float64(stop.Milliseconds())/float64(b.N), "stop-ms/op")
}
