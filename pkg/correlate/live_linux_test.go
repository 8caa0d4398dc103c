package correlate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// The startup thread stays out of other namespaces: it can't be thrown away.
func init() { runtime.LockOSThread() }

// chain is a client, a router and a server.
type chain struct {
	client, router, server *netns.Handle
	points                 []capture.Point
	a, b                   netip.Addr
	devices                []device
}

type device struct {
	ns   *netns.Handle
	name string
}

// setting is what differs between two runs.
type setting struct {
	name string
	v6   bool
	mtu  int
	off  []int // positions in chain.devices whose offloads are off
}

func newChain(t *testing.T, s setting) *chain {
	t.Helper()
	c := &chain{client: nstest.New(t), router: nstest.New(t), server: nstest.New(t)}
	for _, h := range []*netns.Handle{c.client, c.router, c.server} {
		noDAD(t, h)
	}
	nstest.Veth(t, c.client, "c0", c.router, "r0")
	nstest.Veth(t, c.router, "r1", c.server, "s0")
	c.devices = []device{{c.client, "c0"}, {c.router, "r0"}, {c.router, "r1"}, {c.server, "s0"}}
	for i, d := range c.devices {
		nstest.Do(t, d.ns, func(nl *netlink.Handle) error {
			link, err := nl.LinkByName(d.name)
			if err != nil {
				return err
			}
			return nl.LinkSetMTU(link, s.mtu)
		})
		if slices.Contains(s.off, i) {
			d.offload(t, "off")
		}
	}
	c.address(t, s.v6)
	for i, d := range c.devices {
		c.points = append(c.points, capture.Point{ID: i, Netns: d.ns, Ifindex: nstest.Ifindex(t, d.ns, d.name), Interface: d.name})
	}
	return c
}

// noDAD lets IPv6 addresses be used at once.
func noDAD(t *testing.T, h *netns.Handle) {
	t.Helper()
	err := h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

func (d device) offload(t *testing.T, on string) {
	t.Helper()
	out, err := func() (out []byte, err error) {
		err = d.ns.Do(func() error {
			out, err = exec.Command("ethtool", "-K", d.name, "tso", on, "gso", on, "gro", on, "tx", on).CombinedOutput()
			return err
		})
		return out, err
	}()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip("no ethtool")
	}
	if err != nil {
		t.Fatalf("ethtool -K %s: %v: %s", d.name, err, out)
	}
}

// address gives everybody addresses and routes.
func (c *chain) address(t *testing.T, v6 bool) {
	t.Helper()
	net1, net2, bits, sysctl := "192.0.2.%d", "198.51.100.%d", 24, "/proc/sys/net/ipv4/ip_forward"
	if v6 {
		net1, net2, bits, sysctl = "fd00:1::%d", "fd00:2::%d", 64, "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	c.a, c.b = netip.MustParseAddr(fmt.Sprintf(net1, 2)), netip.MustParseAddr(fmt.Sprintf(net2, 2))
	for _, x := range []struct {
		ns   *netns.Handle
		dev  string
		net  string
		host int
	}{{c.client, "c0", net1, 2}, {c.router, "r0", net1, 1}, {c.router, "r1", net2, 1}, {c.server, "s0", net2, 2}} {
		nstest.Addr(t, x.ns, x.dev, fmt.Sprintf(x.net+"/%d", x.host, bits))
	}
	if err := c.router.Do(func() error { return os.WriteFile(sysctl, []byte("1"), 0) }); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		ns  *netns.Handle
		via string
	}{{c.client, fmt.Sprintf(net1, 1)}, {c.server, fmt.Sprintf(net2, 1)}} {
		nstest.Do(t, x.ns, func(nl *netlink.Handle) error {
			return nl.RouteAdd(&netlink.Route{Gw: net.ParseIP(x.via)})
		})
	}
}

// port is where the server listens.
const port = 8080

// transfer sends bytes over TCP, and datagrams that have to be cut into fragments; it returns when all arrived.
func (c *chain) transfer(t *testing.T, bytes, datagrams, size int) (sport [2]uint16) {
	t.Helper()
	addr := netip.AddrPortFrom(c.b, port)
	var l net.Listener
	var pc, uc *net.UDPConn
	var conn net.Conn
	err := c.server.Do(func() (err error) {
		if l, err = net.Listen("tcp", addr.String()); err != nil {
			return err
		}
		pc, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer pc.Close()
	got := make(chan int64, 1)
	go func() {
		s, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		n, _ := io.Copy(io.Discard, s)
		s.Close()
		got <- n
	}()
	if err := c.client.Do(func() (err error) {
		if conn, err = net.DialTimeout("tcp", addr.String(), 5*time.Second); err != nil {
			return err
		}
		uc, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	sport = [2]uint16{uint16(conn.LocalAddr().(*net.TCPAddr).Port), uint16(uc.LocalAddr().(*net.UDPAddr).Port)}
	if _, err := conn.Write(make([]byte, bytes)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := <-got; n != int64(bytes) {
		t.Fatalf("%d bytes arrived, want %d", n, bytes)
	}
	buf := make([]byte, 1<<16)
	for i := range datagrams {
		payload := make([]byte, size)
		copy(payload, fmt.Sprintf("datagram %d", i))
		if _, err := uc.Write(payload); err != nil {
			t.Fatal(err)
		}
		_ = pc.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, _, err := pc.ReadFrom(buf); err != nil || n != size {
			t.Fatalf("datagram %d: %d bytes, %v", i, n, err)
		}
	}
	time.Sleep(20 * time.Millisecond) // the connection's end
	return sport
}

func sightings(r capture.Result) []correlate.Sighting {
	var d decode.Decoder
	out := make([]correlate.Sighting, len(r.Frames))
	for i, f := range r.Frames {
		s := &out[i]
		d.Decode(f.Data, f.WireLen, &s.Frame)
		s.Point, s.Time, s.Wire, s.GSO, s.Dir = f.Point, f.Time.UnixNano(), f.WireLen, f.GSO, correlate.In
		if f.Dir == capture.Out {
			s.Dir = correlate.Out
		}
		s.Hash = decode.PayloadHash(f.Data, &s.Frame, 64)
	}
	return out
}

// TestCorrelatesWhateverTheDevicesDo: whatever is cut, joined or fragmented on the way, each packet that
// nobody lost is one journey that every point saw, and nothing is left over.
func TestCorrelatesWhateverTheDevicesDo(t *testing.T) {
	settings := []setting{
		{name: "as devices come", mtu: 1500},
		{name: "offloads off", mtu: 1500, off: []int{0, 1, 2, 3}},
		{name: "off at the client", mtu: 1500, off: []int{0}},
		{name: "off at the router's near side", mtu: 1500, off: []int{1}},
		{name: "off at the router's far side", mtu: 1500, off: []int{2}},
		{name: "off at the server", mtu: 1500, off: []int{3}},
		{name: "MTU 1450", mtu: 1450}, {name: "MTU 1450, offloads off", mtu: 1450, off: []int{0, 1, 2, 3}},
		{name: "MTU 9000", mtu: 9000}, {name: "MTU 9000, offloads off", mtu: 9000, off: []int{0, 1, 2, 3}},
	}
	for _, v6 := range []bool{false, true} {
		for _, s := range settings {
			s.v6 = v6
			if v6 {
				s.name = "IPv6, " + s.name
			}
			t.Run(s.name, func(t *testing.T) { c := newChain(t, s); c.check(t, s) })
		}
	}
}

func (c *chain) check(t *testing.T, s setting) {
	const bytes, datagrams, size = 400_000, 10, 12_000
	ses, err := capture.Open(context.Background(), capture.Config{Points: c.points})
	if err != nil {
		t.Fatal(err)
	}
	ses.Start()
	sports := c.transfer(t, bytes, datagrams, size)
	r := ses.Stop()
	for _, st := range r.Points {
		if st.Drops != 0 || st.Err != nil {
			t.Fatalf("point %d: %+v", st.ID, st)
		}
	}
	all := sightings(r)
	for i, proto := range []uint8{decode.ProtoTCP, decode.ProtoUDP} {
		flow := correlate.Flow{Proto: proto, A: []netip.Addr{c.a}, B: []netip.Addr{c.b}, APort: sports[i], BPort: port}
		res := correlate.Journeys(flow, all)
		legs := map[string][]correlate.Journey{"request": res.Request}
		if proto == decode.ProtoTCP {
			legs["reply"] = res.Reply
		}
		for name, js := range legs {
			if len(js) == 0 {
				t.Errorf("protocol %d, %s: no journey", proto, name)
			}
			for _, j := range js {
				seen := map[int]bool{}
				for k := range j.Sightings {
					seen[j.Sightings[k].Point] = true
				}
				if len(seen) != len(c.points) || j.Looped {
					t.Errorf("protocol %d, %s, %s: seen at %v of %d points", proto, name, j.Key, seen, len(c.points))
				}
			}
		}
		if proto == decode.ProtoUDP && len(res.Request) != datagrams {
			t.Errorf("%d journeys of %d datagrams in fragments", len(res.Request), datagrams)
		}
	}
}

// TestCorrelatesTagged sends frames with one tag, two and none over one link: each is one journey that both ends saw,
// with its tags in place though the kernel takes the outer one out.
func TestCorrelatesTagged(t *testing.T) {
	a, b := nstest.New(t), nstest.New(t)
	nstest.Veth(t, a, "a0", b, "b0")
	points := []capture.Point{
		{ID: 0, Netns: a, Ifindex: nstest.Ifindex(t, a, "a0"), Interface: "a0"}, {ID: 1, Netns: b, Ifindex: nstest.Ifindex(t, b, "b0"), Interface: "b0"},
	}
	ses, err := capture.Open(context.Background(), capture.Config{Points: points})
	if err != nil {
		t.Fatal(err)
	}
	ses.Start()
	fd := -1
	if err := a.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: points[0].Ifindex}); err != nil {
		t.Fatal(err)
	}
	tags := [][]byte{nil, {0x81, 0, 0, 5}, {0x88, 0xa8, 0, 7, 0x81, 0, 0x20, 5}}
	for i, tag := range tags {
		f := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}, tag...)
		f = append(f, 8, 0, 0x45, 0, 0, 30, 0, byte(i+1), 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2)
		f = append(f, 0x9c, 0x40, 0x1f, 0x90, 0, 10, 0, 0, 'h', 'i')
		f = append(f, make([]byte, 20)...)
		if _, err := unix.Write(fd, f); err != nil {
			t.Fatal(err)
		}
	}
	all := sightings(ses.Stop())
	flow := correlate.Flow{Proto: decode.ProtoUDP, A: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, B: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, APort: 40000, BPort: 8080}
	js := correlate.Journeys(flow, all).Request
	if len(js) != len(tags) {
		t.Fatalf("%d journeys of %d frames", len(js), len(tags))
	}
	for i, j := range js {
		if len(j.Sightings) != 2 || j.Sightings[0].Point != 0 || j.Sightings[1].Point != 1 {
			t.Errorf("frame %d has %d sightings", i, len(j.Sightings))
		}
		for _, s := range j.Sightings {
			if h := s.Frame.Outer; int(h.VLANCount) != i || i > 0 && h.VLANs[i-1].ID() != 5 {
				t.Errorf("frame %d at point %d has %d tags: %+v", i, s.Point, h.VLANCount, h.VLANs)
			}
		}
	}
}
