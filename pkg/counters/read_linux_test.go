package counters

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// The startup thread must not run code inside a namespace; see netns.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fabric is a client and a server with a router between them.
type fabric struct{ a, r, b *netns.Handle }

func newFabric(t testing.TB) *fabric {
	t.Helper()
	n := &fabric{a: nstest.New(t), r: nstest.New(t), b: nstest.New(t)}
	for _, h := range []*netns.Handle{n.a, n.r, n.b} {
		sh(t, h, "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
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
	sh(t, n.a, `ping -c1 -W5 10.2.0.2 >/dev/null; ping -c1 -W5 fd00:2::2 >/dev/null`)
	return n
}

// sh runs commands inside a namespace.
func sh(t testing.TB, h *netns.Handle, lines string) string {
	t.Helper()
	var out []byte
	err := h.Do(func() (err error) {
		out, err = exec.Command("sh", "-ec", lines).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", lines, err, out)
	}
	return string(out)
}

func read(t testing.TB, h *netns.Handle) *Snapshot {
	t.Helper()
	s, err := Read(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Incomplete) > 0 {
		t.Fatalf("incomplete: %q", s.Incomplete)
	}
	return s
}

// send sends datagrams from inside a namespace, whatever the kernel says to it. proto: of a raw socket, 0 is UDP.
func send(t testing.TB, h *netns.Handle, proto int, dst string, payload []byte, times int) {
	t.Helper()
	to := netip.MustParseAddrPort(dst)
	err := h.Do(func() error {
		family, typ := unix.AF_INET, unix.SOCK_DGRAM
		var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}
		if proto != 0 {
			typ = unix.SOCK_RAW
		}
		fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
		for range times {
			_ = unix.Sendto(fd, payload, 0, sa)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLosses: for each way to lose a packet, the counter that says so.
func TestLosses(t *testing.T) {
	udp := func(t *testing.T, n *fabric) { send(t, n.a, 0, "10.2.0.2:53", make([]byte, 30), 3) }
	router := func(n *fabric) *netns.Handle { return n.r }
	client := func(n *fabric) *netns.Handle { return n.a }
	server := func(n *fabric) *netns.Handle { return n.b }
	tests := []struct {
		name   string
		where  func(*fabric) *netns.Handle
		breaks string // there
		lose   func(*testing.T, *fabric)
		want   Key
		n      int64 // at least
	}{
		{"no route", router, "", func(t *testing.T, n *fabric) { send(t, n.a, 0, "198.51.100.1:53", nil, 3) },
			Key{Proto, "", "IpExt.InNoRoutes"}, 3},
		{"forwarding off", router, "echo 0 >/proc/sys/net/ipv4/ip_forward", udp, Key{Proto, "", "Ip.InAddrErrors"}, 3},
		{"reverse path filter", router, "echo 1 >/proc/sys/net/ipv4/conf/ra/rp_filter; ip route add 10.1.0.2 dev rb", udp,
			Key{Proto, "", "TcpExt.IPReversePathFilter"}, 3},
		{"no socket", server, "", udp, Key{Proto, "", "Udp.NoPorts"}, 3},
		{"the server says so", client, "", udp, Key{Proto, "", "Icmp.InDestUnreachs"}, 1},
		{"TTL", router, "", func(t *testing.T, n *fabric) { sh(t, n.a, "ping -q -c2 -i0.01 -W1 -t1 10.2.0.2 || true") },
			Key{Proto, "", "Ip.InHdrErrors"}, 2},
		{"MTU", router, "ip link set rb mtu 1300", func(t *testing.T, n *fabric) {
			sh(t, n.a, "ping -q -c2 -i0.01 -W1 -Mdo -s1400 10.2.0.2 || true")
		}, Key{Proto, "", "Ip.FragFails"}, 1},
		{"MTU, IPv6", router, "ip link set rb mtu 1300", func(t *testing.T, n *fabric) {
			sh(t, n.a, "ping -q -c2 -i0.01 -W1 -Mdo -s1400 fd00:2::2 || true")
		}, Key{Proto, "", "Ip6.InTooBigErrors"}, 1},
		{"no route, IPv6, by device", router, "", func(t *testing.T, n *fabric) {
			sh(t, n.a, "ping -q -c1 -W1 2001:db8::1 || true")
		}, Key{Proto, "ra", "Ip6.InNoRoutes"}, 1},
		{"wrong MAC", server, "", func(t *testing.T, n *fabric) {
			sh(t, n.r, "ip neigh replace 10.2.0.2 lladdr 02:00:00:00:00:99 dev rb nud permanent")
			udp(t, n)
		}, Key{Link, "b0", "rx_otherhost_dropped"}, 3},
		{"tc filter", router, `tc qdisc add dev ra clsact; tc filter add dev ra ingress bpf da bytecode '1,6 0 0 2,'`, udp,
			Key{Qdisc, "ra", "clsact[ffff:].drops"}, 3},
		{"queue", router, "tc qdisc add dev rb root handle 7: tbf rate 8kbit burst 1540 limit 1600",
			func(t *testing.T, n *fabric) { send(t, n.a, 0, "10.2.0.2:53", make([]byte, 1000), 9) },
			Key{Qdisc, "rb", "tbf[7:].drops"}, 3},
		{"class", router, `tc qdisc add dev rb root handle 1: htb default 10
			tc class add dev rb parent 1: classid 1:10 htb rate 8kbit burst 1600 cburst 1600
			tc qdisc add dev rb parent 1:10 handle 10: pfifo limit 1`,
			func(t *testing.T, n *fabric) { send(t, n.a, 0, "10.2.0.2:53", make([]byte, 1000), 9) },
			Key{Class, "rb", "htb[1:10].drops"}, 3},
		{"VXLAN without FDB", client, vxlan("10.1.0.2"), overlay, Key{Link, "vx", "tx_dropped"}, 3},
		{"VXLAN without route", client, vxlan("10.1.0.2") + `
			ip route del default; bridge fdb add 02:00:00:00:01:02 dev vx dst 198.51.100.9`, overlay,
			Key{Link, "vx", "tx_carrier_errors"}, 3},
		{"invalid to conntrack", server, `nft add table ip x
			nft 'add chain ip x i { type filter hook input priority 0; }'
			nft add rule ip x i ct state established accept`,
			func(t *testing.T, n *fabric) { // an echo reply that nobody asked for
				send(t, n.a, unix.IPPROTO_ICMP, "10.2.0.2:0", []byte{0, 0, 0xff, 0xfd, 0, 1, 0, 1}, 3)
			}, Key{Conntrack, "", "invalid"}, 3},
		{"nobody answers ARP", router, `for k in mcast_solicit ucast_solicit; do echo 1 >/proc/sys/net/ipv4/neigh/rb/$k; done
			echo 10 >/proc/sys/net/ipv4/neigh/rb/retrans_time_ms`,
			func(t *testing.T, n *fabric) {
				send(t, n.a, 0, "10.2.0.77:53", nil, 3)
				time.Sleep(200 * time.Millisecond)
			},
			Key{Neigh, "", "arp_cache.res_failed"}, 1},
		{"spanning tree", router, "ip link add br0 type bridge stp_state 1; ip link add p0 type veth peer name p1; ip link set p0 up; ip link set br0 up",
			func(t *testing.T, n *fabric) { sh(t, n.r, "ip link set p0 master br0; ip link set p1 up") },
			Key{Bridge, "p0", "stp.transition_blk"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newFabric(t)
			sh(t, tt.where(n), ":\n"+tt.breaks)
			before := read(t, tt.where(n))
			tt.lose(t, n)
			var diff []Delta
			found := func() bool {
				diff = Diff(before, read(t, tt.where(n)))
				return slices.ContainsFunc(diff, func(d Delta) bool { return d.Key == tt.want && d.N >= tt.n })
			}
			for end := time.Now().Add(3 * time.Second); !found(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s did not move by %d, but:%s", tt.want, tt.n, lines(diff))
				}
			}
			if _, ok := Meaning(tt.want); !ok {
				t.Errorf("%s has no meaning", tt.want)
			}
		})
	}
}

func lines(diff []Delta) string {
	var b strings.Builder
	for _, d := range diff {
		fmt.Fprintf(&b, "\n%s %+d", d.Key, d.N)
	}
	return b.String()
}

func vxlan(local string) string {
	return `ip link add vx type vxlan id 1 dstport 8472 local ` + local + ` nolearning
		echo 1 >/proc/sys/net/ipv6/conf/vx/disable_ipv6
		ip link set vx address 02:00:00:00:01:01 up; ip addr add 10.9.0.1/24 dev vx
		ip neigh add 10.9.0.2 lladdr 02:00:00:00:01:02 dev vx nud permanent`
}

func overlay(t *testing.T, n *fabric) { send(t, n.a, 0, "10.9.0.2:53", make([]byte, 30), 3) }

// TestHealthy: packets that arrive move no counter that means loss, apart from those of the whole machine.
func TestHealthy(t *testing.T) {
	n := newFabric(t)
	for _, h := range []*netns.Handle{n.a, n.r, n.b} {
		before := read(t, h)
		sh(t, n.a, "ping -q -c3 -i0.01 -W5 10.2.0.2; ping -q -c3 -i0.01 -W5 fd00:2::2")
		moved := Diff(before, read(t, h))
		if len(moved) == 0 {
			t.Error("nothing moved")
		}
		for _, d := range moved {
			if l, ok := d.Loss(); ok && !l.Machine {
				t.Errorf("%s %+d: %s", d.Key, d.N, l.Text)
			}
		}
	}
}

// TestVNIFilter: a VXLAN device that counts by VNI.
func TestVNIFilter(t *testing.T) {
	n := newFabric(t)
	if out := sh(t, n.b, "ip link add vx type vxlan external vnifilter dstport 4789 local 10.2.0.2 2>&1 || echo unsupported"); out != "" {
		t.Skipf("no vnifilter here: %s", out)
	}
	sh(t, n.b, "bridge vni add dev vx vni 10; ip link set vx up")
	before := read(t, n.b)
	inner := make([]byte, 60)
	copy(inner, []byte{1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x88, 0xb5})
	for _, vni := range []byte{10, 11} {
		send(t, n.a, 0, "10.2.0.2:4789", append([]byte{8, 0, 0, 0, 0, 0, vni, 0}, inner...), 2)
	}
	diff := Diff(before, read(t, n.b))
	if !slices.ContainsFunc(diff, func(d Delta) bool { return d.Key == Key{VNI, "vx", "10.rx_packets"} && d.N == 2 }) {
		t.Errorf("VNI 10 has not counted 2 packets:%s", lines(diff))
	}
}

// TestRemade: a device that was deleted and made again counts from 0.
func TestRemade(t *testing.T) {
	n := newFabric(t)
	before := read(t, n.b)
	nstest.Delete(t, n.b, "b0")
	nstest.Veth(t, n.b, "b0", n.r, "rb")
	nstest.Addr(t, n.r, "rb", "10.2.0.1/24")
	nstest.Addr(t, n.b, "b0", "10.2.0.2/24")
	sh(t, n.b, "ping -q -c1 -W5 10.2.0.1")
	for _, d := range Diff(before, read(t, n.b)) {
		if d.Key.Device == "b0" && (!d.Reset || d.N != int64(d.After)) {
			t.Errorf("%+v is no reset", d)
		}
	}
}

// TestOracles: netlink's numbers beside those of /proc and of another reader.
func TestOracles(t *testing.T) {
	n := newFabric(t)
	sh(t, n.r, `nft add table ip x
		nft 'add chain ip x f { type filter hook forward priority 0; }'
		nft add rule ip x f ct state established accept`)
	sh(t, n.a, "ping -q -c3 -i0.01 -W5 10.2.0.2; ping -q -c3 -i0.01 -W5 fd00:2::2")
	send(t, n.a, unix.IPPROTO_ICMP, "10.2.0.2:0", []byte{0, 0, 0xff, 0xfd, 0, 1, 0, 1}, 3)
	time.Sleep(50 * time.Millisecond)
	s := read(t, n.r)

	t.Run("link", func(t *testing.T) {
		linkStats := func() (out *netlink.LinkStatistics) {
			nstest.Do(t, n.r, func(nl *netlink.Handle) error {
				l, err := nl.LinkByName("ra")
				if err == nil {
					out = l.Attrs().Statistics
				}
				return err
			})
			return out
		}
		// IPv6 talks by itself now and then: what is read lies between two other readings
		before, s, after := linkStats(), read(t, n.r), linkStats()
		for name, of := range map[string]func(*netlink.LinkStatistics) uint64{
			"rx_packets": func(st *netlink.LinkStatistics) uint64 { return st.RxPackets },
			"tx_bytes":   func(st *netlink.LinkStatistics) uint64 { return st.TxBytes },
			"rx_dropped": func(st *netlink.LinkStatistics) uint64 { return st.RxDropped },
			"multicast":  func(st *netlink.LinkStatistics) uint64 { return st.Multicast },
		} {
			if got := s.Values[Key{Link, "ra", name}]; got < of(before) || got > of(after) {
				t.Errorf("%s = %d, want %d to %d", name, got, of(before), of(after))
			}
		}
	})
	t.Run("conntrack", func(t *testing.T) {
		want := make(map[string]uint64)
		err := n.r.Do(func() error { return ctnetlink(func(name string, v uint64) { want[name] = v }) })
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]uint64)
		for name := range want {
			got[name] = s.Values[Key{Conntrack, "", name}]
		}
		if diff := cmp.Diff(want, got); diff != "" || want["invalid"] != 3 {
			t.Errorf("ctnetlink -, /proc +:\n%s", diff)
		}
	})
	t.Run("neighbour tables", func(t *testing.T) {
		if s.Values[Key{Neigh, "", "arp_cache.lookups"}] == 0 || s.Values[Key{Neigh, "", "ndisc_cache.entries"}] == 0 {
			t.Errorf("no neighbours: %v", s.Values)
		}
	})
}

// TestNames: the kernel has the protocols' counters under the names of the table.
func TestNames(t *testing.T) {
	known := make(map[string]bool)
	for _, f := range []string{"snmp", "netstat", "snmp6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + f)
		if err != nil {
			t.Skip(err)
		}
		if f == "snmp6" { // zeros are left out there
			parseSNMP6([]byte(strings.ReplaceAll(string(b), "\t0\n", "\t1\n")), func(name string, _ uint64) { known[name] = true })
			continue
		}
		parseSNMP(b, func(name string, _ uint64) { known[name] = true })
	}
	for _, m := range []map[string]Loss{protoLosses, proto6Losses} {
		for name := range m {
			if !known[name] {
				t.Errorf("this kernel has no %s", name)
			}
		}
	}
	for name := range losses[Link] {
		if !slices.Contains(linkStats, name) {
			t.Errorf("rtnl_link_stats64 has no %s", name)
		}
	}
}

// TestSize: a reading of a node with many devices stays small enough to be kept.
func TestSize(t *testing.T) {
	h := manyDevices(t)
	s := read(t, h)
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if perDevice := len(b) / len(s.Devices); perDevice > 2000 {
		t.Errorf("%d bytes, %d a device", len(b), perDevice)
	}
	t.Logf("%d devices, %d values, %d bytes", len(s.Devices), len(s.Values), len(b))
}

func manyDevices(t testing.TB) *netns.Handle {
	t.Helper()
	h := nstest.New(t)
	nstest.Do(t, h, func(nl *netlink.Handle) error {
		for i := range 25 {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = fmt.Sprintf("v%d", i)
			if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("w%d", i)}); err != nil {
				return err
			}
			for _, name := range []string{attrs.Name, fmt.Sprintf("w%d", i)} {
				l, err := nl.LinkByName(name)
				if err == nil {
					err = nl.LinkSetUp(l)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	return h
}

func BenchmarkRead(b *testing.B) {
	for name, h := range map[string]*netns.Handle{"1 device": nstest.New(b), "51 devices": manyDevices(b)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				read(b, h)
			}
		})
	}
}
