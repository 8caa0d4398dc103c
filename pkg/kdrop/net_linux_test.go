package kdrop

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// The startup thread must not run code inside a namespace; see netns.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

// The network of the tests: a client and a server with a router between them.
var (
	client  = netip.MustParseAddr("10.1.0.2")
	server  = netip.MustParseAddr("10.2.0.2")
	client6 = netip.MustParseAddr("fd00:1::2")
	server6 = netip.MustParseAddr("fd00:2::2")
)

type network struct{ a, r, b *netns.Handle }

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{a: nstest.New(t), r: nstest.New(t), b: nstest.New(t)}
	for _, h := range []*netns.Handle{n.a, n.r, n.b} {
		sh(t, h, "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad") // saves a second of waiting
	}
	nstest.Veth(t, n.a, "a0", n.r, "ra")
	nstest.Veth(t, n.b, "b0", n.r, "rb")
	for _, v := range []struct {
		h           *netns.Handle
		dev, prefix string
	}{
		{n.a, "a0", "10.1.0.2/24"}, {n.r, "ra", "10.1.0.1/24"}, {n.r, "rb", "10.2.0.1/24"}, {n.b, "b0", "10.2.0.2/24"},
		{n.a, "a0", "fd00:1::2/64"}, {n.r, "ra", "fd00:1::1/64"}, {n.r, "rb", "fd00:2::1/64"}, {n.b, "b0", "fd00:2::2/64"},
	} {
		nstest.Addr(t, v.h, v.dev, v.prefix)
	}
	sh(t, n.r, `echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		for f in all ra; do echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter; done`)
	sh(t, n.a, `ip route add default via 10.1.0.1; ip -6 route add default via fd00:1::1`)
	sh(t, n.b, `ip route add default via 10.2.0.1; ip -6 route add default via fd00:2::1`)
	// what is dropped because nobody has answered yet is not what a test wants to see
	sh(t, n.a, `ping -c1 -W5 10.2.0.2 >/dev/null; ping -c1 -W5 fd00:2::2 >/dev/null`)
	return n
}

// sh runs commands inside a namespace.
func sh(t testing.TB, h *netns.Handle, lines string) {
	t.Helper()
	var out []byte
	err := h.Do(func() (err error) {
		out, err = exec.Command("sh", "-ec", lines).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", lines, err, out)
	}
}

// udp sends one datagram from inside a namespace. What the kernel says to it does not matter: some of the
// drops are reported to the sender.
func udp(t testing.TB, h *netns.Handle, src, dst string, payload int) {
	t.Helper()
	from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	err := h.Do(func() error {
		family := unix.AF_INET
		if from.Addr().Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, sockaddr(from)); err != nil {
			return fmt.Errorf("bind to %s: %w", src, err)
		}
		_ = unix.Sendto(fd, make([]byte, payload), 0, sockaddr(to))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// watch opens a Watcher, and skips the test where this machine has none.
func watch(t testing.TB, cfg Config) *Watcher {
	t.Helper()
	w, err := Open(cfg)
	if err != nil {
		nstest.Skip(t, err)
		if errors.Is(err, errors.ErrUnsupported) && os.Getenv("CI") != "true" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// collect waits for n drops, and a little for one too many.
func collect(t testing.TB, w *Watcher, n int) []Drop {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); w.ring.AvailableBytes() < n*recordSize && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	drops, lost, err := w.Stop()
	if err != nil || lost != 0 {
		t.Fatalf("Stop: %d lost, %v", lost, err)
	}
	return drops
}

// recordSize is an event in the ring with its header.
const recordSize = 272 + 8

// brief is what the tests compare: "REASON@location device flags".
func brief(drops []Drop) []string {
	var out []string
	for _, d := range drops {
		s := []string{d.Reason + "@" + d.Location, d.Device}
		for _, f := range []struct {
			on   bool
			name string
		}{{d.Reverse, "reverse"}, {d.Neighbour, "neighbour"}, {d.Inner, "inner"}, {d.Quoted, "quoted"}} {
			if f.on {
				s = append(s, f.name)
			}
		}
		out = append(out, strings.Join(s, " "))
	}
	return out
}
