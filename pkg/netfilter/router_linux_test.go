package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// The router's devices, rc toward clients and rs toward servers, and their stations' MACs.
var (
	clientMAC  = ether.MAC{2, 0, 0, 0, 0, 0xc}
	serverMAC  = ether.MAC{2, 0, 0, 0, 0, 0xe}
	routerMACc = ether.MAC{2, 0, 0, 0, 1, 1}
	routerMACs = ether.MAC{2, 0, 0, 0, 1, 2}
)

// router is a namespace between one of clients and one of servers. Neither of those has addresses: frames
// are written and read raw, so that nothing answers by itself.
type router struct {
	t              *testing.T
	ns, cns, sns   *netns.Handle
	client, server int // AF_PACKET sockets
	raw4, raw6     int // in the router, for what it sends itself
	log            *netlink.Conn
	ct             *conntrack.Conn
	index          map[string]int
}

const observers = `table inet observer {
 chain c0 { type filter hook prerouting priority 2000000000; log prefix "0" group 7 snaplen 300; }
 chain c1 { type filter hook input priority 2000000000; log prefix "1" group 7 snaplen 300; }
 chain c2 { type filter hook forward priority 2000000000; log prefix "2" group 7 snaplen 300; }
 chain c3 { type filter hook output priority 2000000000; log prefix "3" group 7 snaplen 300; }
 chain c4 { type filter hook postrouting priority 2000000000; log prefix "4" group 7 snaplen 300; }
}
`

func needTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is needed to load rules: %v", tool, err)
			}
			t.Skipf("%s is needed to load rules: %v", tool, err)
		}
	}
}

func newRouter(t *testing.T) *router {
	t.Helper()
	needTools(t, "ip", "sysctl", "nft", "iptables-legacy-restore", "ip6tables-legacy-restore", "iptables-nft-restore", "ip6tables-nft-restore")
	w := &router{t: t, ns: nstest.New(t), cns: nstest.New(t), sns: nstest.New(t), index: map[string]int{}}
	nstest.Veth(t, w.cns, "c0", w.ns, "rc")
	nstest.Veth(t, w.sns, "s0", w.ns, "rs")
	w.sh(w.cns, "ip link set c0 address "+clientMAC.String(), "sysctl -qw net.ipv6.conf.c0.disable_ipv6=1")
	w.sh(w.sns, "ip link set s0 address "+serverMAC.String(), "sysctl -qw net.ipv6.conf.s0.disable_ipv6=1")
	script := []string{
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.rc.rp_filter=0 net.ipv4.conf.rs.rp_filter=0 " +
			"net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=10000 net.ipv6.icmp.ratelimit=0 net.ipv4.conf.all.accept_local=0 net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1",
		"ip link set rc address " + routerMACc.String(), "ip link set rs address " + routerMACs.String(),
		"ip addr add 10.1.0.1/24 brd 10.1.0.255 dev rc; ip addr add 10.2.0.1/24 brd 10.2.0.255 dev rs",
		"ip addr add fd01::1/64 dev rc nodad; ip addr add fd02::1/64 dev rs nodad",
		"ip route add default via 10.2.0.9 dev rs; ip -6 route add default via fd02::9 dev rs",
	}
	for i := 2; i < 10; i++ {
		script = append(script, fmt.Sprintf("ip neigh replace 10.1.0.%d lladdr %s dev rc nud permanent; ip -6 neigh replace fd01::%d lladdr %s dev rc nud permanent", i, clientMAC, i, clientMAC),
			fmt.Sprintf("ip neigh replace 10.2.0.%d lladdr %s dev rs nud permanent; ip -6 neigh replace fd02::%d lladdr %s dev rs nud permanent", i, serverMAC, i, serverMAC))
	}
	w.sh(w.ns, script...)
	for _, d := range []string{"rc", "rs", "lo"} {
		w.index[d] = nstest.Ifindex(t, w.ns, d)
	}
	w.client, w.server = w.packetSocket(w.cns, "c0"), w.packetSocket(w.sns, "s0")
	w.openInside()
	return w
}

func (w *router) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *router) packetSocket(h *netns.Handle, dev string) (fd int) {
	w.t.Helper()
	const all = 0x0300 // htons(ETH_P_ALL)
	w.must(h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		return err
	}))
	w.t.Cleanup(func() { unix.Close(fd) })
	w.must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: nstest.Ifindex(w.t, h, dev)}))
	w.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	return fd
}

// openInside opens what works in the router itself: raw sockets, the log of the observing chains, conntrack.
func (w *router) openInside() {
	w.t.Helper()
	w.must(w.ns.Do(func() (err error) {
		if w.raw4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		if w.raw6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		if w.log, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return err
		}
		w.ct, err = conntrack.Dial(nil)
		return err
	}))
	w.t.Cleanup(func() { unix.Close(w.raw4); unix.Close(w.raw6); _ = w.log.Close(); _ = w.ct.Close() })
	_ = w.log.SetReadBuffer(1 << 22)
	const ulogConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1
	for _, attr := range [][]byte{
		{5, 0, 1, 0, 1, 0, 0, 0},              // NFULA_CFG_CMD: bind the group
		{10, 0, 2, 0, 0, 0, 1, 0, 2, 0, 0, 0}, // NFULA_CFG_MODE: copy 256 bytes
		{8, 0, 5, 0, 0, 0, 0, 1},              // NFULA_CFG_QTHRESH: one message at a time
	} {
		_, err := w.log.Execute(netlink.Message{
			Header: netlink.Header{Type: ulogConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append([]byte{unix.AF_UNSPEC, 0, 0, 7}, attr...),
		})
		w.must(err)
	}
}

func runIn(h *netns.Handle, stdin string, args ...string) error {
	var out []byte
	var err error
	derr := h.Do(func() error {
		c := exec.Command(args[0], args[1:]...)
		c.Stdin = strings.NewReader(stdin)
		out, err = c.CombinedOutput()
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return errors.Join(err, derr)
}

func (w *router) sh(h *netns.Handle, lines ...string) {
	w.t.Helper()
	w.must(runIn(h, "", "sh", "-ec", strings.Join(lines, "\n")))
}

// script is the input of one of the commands that load rules.
type script struct{ command, text string }

// load replaces all rules and forgets all connections.
func (w *router) load(scripts []script) error {
	const empty = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n"
	for _, c := range []string{"iptables-legacy-restore", "ip6tables-legacy-restore"} {
		if err := runIn(w.ns, empty, c); err != nil {
			return err
		}
	}
	if err := runIn(w.ns, "flush ruleset\n"+observers, "nft", "-f", "-"); err != nil {
		return err
	}
	for i := range scripts {
		if err := w.loadOne(&scripts[i]); err != nil {
			return err
		}
	}
	return w.ct.Flush()
}

// loadOne loads a script without the lines that the command refuses: matches are put together at random,
// and some exclude each other.
func (w *router) loadOne(s *script) error {
	args := []string{s.command}
	if s.command == "nft" {
		args = append(args, "-f", "-")
	}
	for range 20 {
		err := runIn(w.ns, s.text, args...)
		if err == nil {
			return nil
		}
		lines := strings.Split(s.text, "\n")
		found := refusedLine.FindAllStringSubmatch(err.Error(), -1)
		for _, m := range found {
			n, _ := strconv.Atoi(m[1] + m[2])
			if n < 1 || n > len(lines) || !strings.HasPrefix(lines[n-1], "-A") && !strings.HasPrefix(lines[n-1], "  ") {
				return err
			}
			lines[n-1] = ""
		}
		if len(found) == 0 {
			return err
		}
		s.text = strings.Join(lines, "\n")
	}
	return fmt.Errorf("%s refuses too much", s.command)
}

var refusedLine = regexp.MustCompile(`/dev/stdin:(\d+):\d+-\d+: Error|(?:line:? |line )(\d+)`)

func (w *router) read() *Ruleset {
	w.t.Helper()
	rs, err := Read(w.ns, ReadOptions{})
	w.must(err)
	if len(rs.Incomplete) > 0 {
		w.t.Fatalf("not read: %q", rs.Incomplete)
	}
	return rs
}

// AddrType and the rest answer what the evaluator asks: the router's addresses and routes.
func (w *router) AddrType(a netip.Addr, dev string) (string, bool) {
	switch {
	case a.IsMulticast():
		return "multicast", true
	case a == netip.MustParseAddr("10.1.0.255") && (dev == "" || dev == "rc"), a == netip.MustParseAddr("10.2.0.255") && (dev == "" || dev == "rs"):
		return "broadcast", true
	case a.IsLoopback() && (dev == "" || dev == "lo"):
		return "local", true
	}
	for d, list := range routerAddrs {
		if (a == list[0] || a == list[1]) && (dev == "" || dev == d) {
			return "local", true
		}
	}
	return "unicast", true
}

var routerAddrs = map[string][2]netip.Addr{
	"rc": {netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd01::1")},
	"rs": {netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("fd02::1")},
}

func (w *router) MasqueradeAddr(out string, dst netip.Addr) (netip.Addr, bool) {
	switch { // lo has no address of a wider scope: another device's is taken
	case out == "lo" && dst.Is6():
		return dst, true
	case out == "lo":
		out = "rc"
	}
	return w.PrimaryAddr(out, dst.Is6())
}

func (w *router) PrimaryAddr(dev string, v6 bool) (netip.Addr, bool) {
	a, ok := routerAddrs[dev]
	if v6 {
		return a[1], ok
	}
	return a[0], ok
}

func (w *router) ReverseDevice(a netip.Addr, _ uint32) string {
	if t, _ := w.AddrType(a, ""); t != "unicast" {
		return ""
	}
	return w.route(a)
}

func (w *router) DeviceType(name string) (uint16, bool) {
	if name == "lo" {
		return unix.ARPHRD_LOOPBACK, true
	}
	return unix.ARPHRD_ETHER, true
}

func (w *router) DeviceIndex(name string) (int, bool) { return w.index[name], w.index[name] != 0 }

// route is the device toward an address.
func (w *router) route(a netip.Addr) string {
	t, _ := w.AddrType(a, "")
	switch {
	case t == "local":
		return "lo"
	case netip.MustParsePrefix("10.1.0.0/24").Contains(a), netip.MustParsePrefix("fd01::/64").Contains(a):
		return "rc"
	}
	return "rs"
}
