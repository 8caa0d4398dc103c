package kdrop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// TestHealthy: traffic that arrives, by VXLAN and with a tap at both ends, accuses nobody. What the kernel calls
// drops on the way has to be noise.
func TestHealthy(t *testing.T) {
	n := newNetwork(t)
	vxlan(t, n, "1")
	sh(t, n.a, "bridge fdb add 02:00:00:00:01:02 dev vx dst 10.2.0.2")
	sh(t, n.b, "bridge fdb add 02:00:00:00:01:01 dev vx dst 10.1.0.2; ip neigh add 10.9.0.1 lladdr 02:00:00:00:01:01 dev vx nud permanent")
	for _, h := range []*netns.Handle{n.a, n.r, n.b} {
		tap(t, h)
	}
	flows := []Flow{udpFlow("10.9.0.1:1", "10.9.0.2:1"), udpFlow("10.1.0.2:1", "10.2.0.2:1"), udpFlow("[fd00:1::2]:1", "[fd00:2::2]:1")}
	for i := range flows {
		flows[i].Proto = 0 // anything between the two
	}
	w := watch(t, Config{Flows: flows})
	sh(t, n.a, "ping -q -c3 -i0.01 -W5 10.9.0.2; ping -q -c3 -i0.01 -W5 fd00:2::2")
	for range 5 {
		transfer(t, n, "10.9.0.2:8080")
		transfer(t, n, "10.2.0.2:8080")
		transfer(t, n, "[fd00:2::2]:8080")
	}
	drops := collect(t, w, 0)
	for _, d := range drops {
		why, ok := Noise(d, true)
		t.Logf("%q: %s", brief([]Drop{d}), why)
		if !ok {
			t.Errorf("healthy traffic: %q on the frame % x is no noise", brief([]Drop{d}), d.Frame)
		}
	}
}

// tap opens a packet socket that nobody reads: it fills up, and drops its copies.
func tap(t *testing.T, h *netns.Handle) {
	t.Helper()
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(bigEndian(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
}

// transfer sends a request and reads the answer to its end.
func transfer(t *testing.T, n *network, addr string) {
	t.Helper()
	var l net.Listener
	var c net.Conn
	err := n.b.Do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	answer := bytes.Repeat([]byte("coffee "), 10_000)
	go func() {
		s, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		_, err = io.ReadFull(s, make([]byte, 4))
		if err == nil {
			_, err = s.Write(answer)
		}
		done <- errors.Join(err, s.Close())
	}()
	err = n.a.Do(func() (err error) {
		c, err = net.Dial("tcp", addr)
		return err
	})
	if err != nil {
		l.Close()
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("GET ")); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d bytes of %d: %v", len(got), len(answer), err)
	}
	if err := errors.Join(c.Close(), <-done, l.Close()); err != nil {
		t.Error(err)
	}
}
