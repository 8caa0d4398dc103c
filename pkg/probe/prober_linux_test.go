package probe

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	hostA = netip.MustParseAddr("192.0.2.1")
	hostB = netip.MustParseAddr("192.0.2.2")
	v6A   = netip.MustParseAddr("2001:db8::1")
	v6B   = netip.MustParseAddr("2001:db8::2")
	// gone is on the link, and nobody has it.
	gone = netip.MustParseAddr("192.0.2.99")
)

// two joins two namespaces by a veth.
func two(t *testing.T) (a, b *netns.Handle) {
	t.Helper()
	a, b = nstest.New(t), nstest.New(t)
	nstest.Veth(t, a, "eth0", b, "eth0")
	nstest.Addr(t, a, "eth0", hostA.String()+"/24")
	nstest.Addr(t, b, "eth0", hostB.String()+"/24")
	nstest.Addr(t, a, "eth0", v6A.String()+"/64")
	nstest.Addr(t, b, "eth0", v6B.String()+"/64")
	warm(t, a, hostB)
	warm(t, a, v6B)
	return a, b
}

// warm pings until the first answer: on a busy machine a new IPv6 interface joins its multicast groups so
// late that the first neighbour solicitation is lost, and the next one comes a second after.
func warm(t *testing.T, a *netns.Handle, dst netip.Addr) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		p, err := Prepare(a, Spec{Proto: ICMP}, netip.Addr{}, dst, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := p.Run(t.Context(), 1, 0, 1500*time.Millisecond)
		_ = p.Close()
		if r.Answered == 1 {
			return
		}
	}
	t.Fatalf("%s does not answer", dst)
}

func prepare(t *testing.T, h *netns.Handle, spec string, src, dst netip.Addr, opts Options) *Prober {
	t.Helper()
	s, err := ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(h, s, src, dst, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// within runs and checks the time that it took.
func within(t *testing.T, p *Prober, count int, timeout, limit time.Duration) Result {
	t.Helper()
	begin := time.Now()
	r := p.Run(t.Context(), count, time.Millisecond, timeout)
	if took := time.Since(begin); took > 4*limit { // four times: the machine may be busy with other tests
		t.Errorf("Run took %v, want at most %v", took, limit)
	}
	t.Logf("%+v", r)
	return r
}

// whole checks that every probe was answered by from, each with its own number.
func whole(t *testing.T, r Result, count int, from netip.Addr) {
	t.Helper()
	if r.Sent != count || r.Answered != count || len(r.Replies) != count {
		t.Errorf("sent %d, answered %d, %d replies, want %d", r.Sent, r.Answered, len(r.Replies), count)
	}
	var seqs []int
	for _, reply := range r.Replies {
		seqs = append(seqs, reply.Seq)
		if reply.From != from || reply.RTT <= 0 || reply.RTT > time.Second {
			t.Errorf("reply %+v, want it from %s", reply, from)
		}
	}
	slices.Sort(seqs)
	for i, seq := range seqs {
		if seq != i+1 {
			t.Errorf("numbers %v", seqs)
			break
		}
	}
}

func wantErrors(t *testing.T, r Result, want ...string) {
	t.Helper()
	if !slices.Equal(r.Errors, want) {
		t.Errorf("Errors = %q, want %q", r.Errors, want)
	}
}

func TestICMP(t *testing.T) {
	a, _ := two(t)
	tests := []struct {
		name     string
		src, dst netip.Addr
		opts     Options
		proto    uint8
	}{
		{"IPv4", netip.Addr{}, hostB, Options{}, 1},
		{"IPv4 with source", hostA, hostB, Options{Size: 1200, DF: true, TTL: 9}, 1},
		{"IPv4 fragments", hostA, hostB, Options{Size: 4000}, 1},
		{"IPv4 mapped", netip.Addr{}, netip.MustParseAddr("::ffff:192.0.2.2"), Options{}, 1},
		{"IPv6", netip.Addr{}, v6B, Options{Size: 1}, 58},
		{"IPv6 with source", v6A, v6B, Options{DF: true, TTL: 9}, 58},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := prepare(t, a, "icmp", tt.src, tt.dst, tt.opts)
			f := p.Flow()
			src := hostA
			if tt.proto == 58 {
				src = v6A
			}
			if f.Proto != tt.proto || f.Src != src || f.SrcPort == 0 || f.DstPort != 0 || f.Marker == [8]byte{} {
				t.Errorf("Flow = %+v, want source %s", f, src)
			}
			r := within(t, p, 3, time.Second, 500*time.Millisecond)
			whole(t, r, 3, tt.dst.Unmap())
			wantErrors(t, r)
			if r.Replies[0].TTL != 64 {
				t.Errorf("TTL = %d, want 64", r.Replies[0].TTL)
			}
			whole(t, within(t, p, 1, time.Second, 500*time.Millisecond), 1, tt.dst.Unmap())
		})
	}
}

func TestTooBig(t *testing.T) {
	a, _ := two(t)
	r := within(t, prepare(t, a, "icmp", hostA, hostB, Options{Size: 2000, DF: true}), 2, time.Second, 500*time.Millisecond)
	if r.Sent != 0 || len(r.Errors) == 0 || !strings.Contains(r.Errors[0], "message too long") {
		t.Errorf("Result = %+v, want nothing sent", r)
	}
}

// TestTwoProbers shows that one prober does not take the other's answers.
func TestTwoProbers(t *testing.T) {
	a, _ := two(t)
	p, q := prepare(t, a, "icmp", hostA, hostB, Options{}), prepare(t, a, "icmp", hostA, hostB, Options{})
	if p.Flow().SrcPort == q.Flow().SrcPort {
		t.Skip("the same random identifier")
	}
	whole(t, within(t, p, 2, time.Second, 500*time.Millisecond), 2, hostB)
	whole(t, within(t, q, 2, time.Second, 500*time.Millisecond), 2, hostB)
}

func TestTimeout(t *testing.T) {
	a, _ := two(t)
	for _, spec := range []string{"icmp", "udp:9", "tcp:9"} {
		r := within(t, prepare(t, a, spec, hostA, gone, Options{}), 2, 60*time.Millisecond, 300*time.Millisecond)
		if r.Answered != 0 || r.Sent == 0 {
			t.Errorf("%s: %+v, want no answer", spec, r)
		}
	}
}

func TestContextEnds(t *testing.T) {
	a, _ := two(t)
	for _, spec := range []string{"icmp", "udp:9", "tcp:9"} {
		p := prepare(t, a, spec, hostA, gone, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		begin := time.Now()
		p.Run(ctx, 100, time.Second, time.Minute)
		cancel()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("%s: Run took %v after the end of its context", spec, took)
		}
	}
}

func TestNoRoute(t *testing.T) {
	a, _ := two(t)
	far, far6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:9::1")
	tests := []struct {
		spec string
		dst  netip.Addr
		want string
	}{
		{"icmp", far, "send: network is unreachable"},
		{"udp:9", far, "connect: network is unreachable"},
		{"tcp:9", far, "connect: network is unreachable"},
		{"icmp", far6, "send: network is unreachable"},
		{"udp:9", far6, "connect: network is unreachable"},
	}
	for _, tt := range tests {
		p := prepare(t, a, tt.spec, netip.Addr{}, tt.dst, Options{})
		if f := p.Flow(); f.Src.IsValid() {
			t.Errorf("%s: source %s without a route", tt.spec, f.Src)
		}
		r := within(t, p, 2, time.Second, 500*time.Millisecond)
		wantErrors(t, r, tt.want)
		if r.Sent != 0 || r.Answered != 0 {
			t.Errorf("%s: %+v, want nothing sent", tt.spec, r)
		}
	}
}

func TestTCP(t *testing.T) {
	a, b := two(t)
	for _, dst := range []netip.Addr{hostB, v6B} {
		var l net.Listener
		err := b.Do(func() (err error) {
			l, err = net.Listen("tcp", netip.AddrPortFrom(dst, 0).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		p, err := Prepare(a, Spec{TCP, port}, netip.Addr{}, dst, Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := p.Flow()
		r := within(t, p, 5, time.Second, 500*time.Millisecond)
		whole(t, r, 1, dst)
		wantErrors(t, r)
		_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := c.RemoteAddr().String(), netip.AddrPortFrom(f.Src, f.SrcPort).String(); got != want || f.Proto != 6 {
			t.Errorf("connection from %s, Flow says %s", got, want)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("read %d bytes, %v, want the end", n, err)
		}
		_, _ = c.Close(), l.Close()
		wantErrors(t, p.Run(t.Context(), 1, 0, time.Second), "probe socket is closed")
		_ = p.Close()
	}
}

func TestTCPRefused(t *testing.T) {
	a, _ := two(t)
	for _, dst := range []netip.Addr{hostB, v6B, hostA} {
		r := within(t, prepare(t, a, "tcp:9", netip.Addr{}, dst, Options{}), 1, time.Second, 500*time.Millisecond)
		whole(t, r, 1, dst)
		wantErrors(t, r, "connection refused")
	}
}

func TestUDPEcho(t *testing.T) {
	a, b := two(t)
	for _, dst := range []netip.Addr{hostB, v6B} {
		var conn *net.UDPConn
		err := b.Do(func() (err error) {
			conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 2048)
			for {
				n, from, err := conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
		p, err := Prepare(a, Spec{UDP, uint16(conn.LocalAddr().(*net.UDPAddr).Port)}, netip.Addr{}, dst, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := within(t, p, 4, time.Second, 500*time.Millisecond)
		whole(t, r, 4, dst)
		wantErrors(t, r)
		if r.Replies[0].TTL != 64 {
			t.Errorf("TTL = %d, want 64", r.Replies[0].TTL)
		}
		_, _ = p.Close(), conn.Close()
		<-done
	}
}

func TestUDPUnreachable(t *testing.T) {
	a, _ := two(t)
	for _, dst := range []netip.Addr{hostB, v6B} {
		r := within(t, prepare(t, a, "udp:9", netip.Addr{}, dst, Options{}), 3, 500*time.Millisecond, 400*time.Millisecond)
		whole(t, r, 3, dst)
		wantErrors(t, r, "port unreachable from "+dst.String())
	}
}

// TestRouter has a router in between that has no way on, and one that finds the TTL used up.
func TestRouter(t *testing.T) {
	a, router := two(t)
	c := nstest.New(t)
	nstest.Veth(t, router, "eth1", c, "eth0")
	nstest.Addr(t, router, "eth1", "203.0.113.1/24")
	nstest.Addr(t, c, "eth0", "203.0.113.2/24")
	defaultVia(t, a, hostB)
	defaultVia(t, c, netip.MustParseAddr("203.0.113.1"))
	err := router.Do(func() error { // without a limit on errors, or the third one is withheld
		if err := os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	nowhere, behind := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.2")
	tests := []struct {
		spec     string
		dst      netip.Addr
		ttl      int
		answered int
		want     []string
	}{
		{"icmp", nowhere, 0, 0, []string{"network unreachable from 192.0.2.2"}},
		{"udp:9", nowhere, 0, 0, []string{"network unreachable from 192.0.2.2"}},
		{"tcp:9", nowhere, 0, 0, []string{"network unreachable from 192.0.2.2"}},
		{"icmp", behind, 1, 0, []string{"ttl exceeded in transit from 192.0.2.2"}},
		{"icmp", behind, 0, 1, nil},
		{"udp:9", behind, 0, 1, []string{"port unreachable from 203.0.113.2"}},
		{"tcp:9", behind, 0, 1, []string{"connection refused"}},
	}
	for _, tt := range tests {
		r := within(t, prepare(t, a, tt.spec, netip.Addr{}, tt.dst, Options{TTL: tt.ttl}), 1, time.Second, 500*time.Millisecond)
		if r.Sent != 1 || r.Answered != tt.answered {
			t.Errorf("%s to %s: %+v, want %d answered", tt.spec, tt.dst, r, tt.answered)
		}
		wantErrors(t, r, tt.want...)
		if tt.spec == "icmp" && tt.answered == 1 && r.Replies[0].TTL != 63 {
			t.Errorf("TTL = %d, want 63", r.Replies[0].TTL)
		}
	}
}

func defaultVia(t *testing.T, h *netns.Handle, gw netip.Addr) {
	t.Helper()
	nstest.Do(t, h, func(nl *netlink.Handle) error {
		return nl.RouteAdd(&netlink.Route{Gw: gw.AsSlice()})
	})
}

func TestNone(t *testing.T) {
	a, _ := two(t)
	p := prepare(t, a, "none", netip.Addr{}, hostB, Options{})
	if f := p.Flow(); f.Src != hostA || f.Dst != hostB || f.Proto != 0 {
		t.Errorf("Flow = %+v", f)
	}
	if r := p.Run(t.Context(), 3, 0, time.Second); r.Sent != 0 || r.Errors != nil {
		t.Errorf("Run = %+v, want nothing", r)
	}
}

func TestPrepareErrors(t *testing.T) {
	a, _ := two(t)
	tests := []struct {
		name     string
		spec     Spec
		src, dst netip.Addr
		opts     Options
	}{
		{"no destination", Spec{Proto: ICMP}, hostA, netip.Addr{}, Options{}},
		{"two families", Spec{Proto: ICMP}, hostA, v6B, Options{}},
		{"no port", Spec{Proto: TCP}, hostA, hostB, Options{}},
		{"unknown protocol", Spec{Proto: "sctp"}, hostA, hostB, Options{}},
		{"zero spec", Spec{}, hostA, hostB, Options{}},
		{"size", Spec{Proto: ICMP}, hostA, hostB, Options{Size: 70000}},
		{"TTL", Spec{Proto: ICMP}, hostA, hostB, Options{TTL: 256}},
		{"foreign source, icmp", Spec{Proto: ICMP}, hostB, hostA, Options{}},
		{"foreign source, tcp", Spec{TCP, 80}, hostB, hostA, Options{}},
	}
	fds := openFDs(t)
	for _, tt := range tests {
		if p, err := Prepare(a, tt.spec, tt.src, tt.dst, tt.opts); err == nil || p != nil {
			t.Errorf("%s: Prepare = %v, %v, want an error", tt.name, p, err)
		}
	}
	if got := openFDs(t); got != fds {
		t.Errorf("%d file descriptors open, want %d as before", got, fds)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestMark(t *testing.T) {
	a, _ := two(t)
	p := prepare(t, a, "icmp", hostA, hostB, Options{Mark: 0x4000})
	got, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_MARK)
	if err != nil || got != 0x4000 {
		t.Errorf("mark = %#x, %v", got, err)
	}
}

func TestCloseTwice(t *testing.T) {
	a, _ := two(t)
	p := prepare(t, a, "udp:9", hostA, hostB, Options{})
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wantErrors(t, p.Run(t.Context(), 1, 0, time.Second), "probe socket is closed")
}
