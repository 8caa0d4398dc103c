package listing

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/tables"
)

// The oracle is a kernel: a namespace with one of everything, read by tables.Read on one hand and by the
// commands of iproute2, as text and as JSON, on the other. Neither knows of the other.

// oracleSetup makes the devices, routes, rules, neighbours and FDB rows. Every command must succeed.
const oracleSetup = `set -e
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
ip link add br0 type bridge ageing_time 12300
ip link add veth1 type veth peer name eth1
ip link set veth1 master br0
ip link add vx0 type vxlan id 42 dstport 8472 local 10.0.0.1 dev eth1 nolearning ttl 5 df set noudpcsum gbp
ip link add vx1 type vxlan id 43 dstport 4789 group 239.1.1.1 dev eth1 tos inherit l2miss proxy srcport 1000 2000
ip link add vx2 type vxlan external dstport 6081
ip link add mac0 link eth1 type macvlan mode bridge
ip link set eth1 alias "up link" mtu 1450
ip link set lo up; ip link set br0 up; ip link set veth1 up; ip link set eth1 up; ip link set vx0 up; ip link set mac0 up
bridge link set dev veth1 hairpin on learning off isolated on
ip addr add 10.0.0.1/24 brd + dev eth1
ip addr add 10.0.0.9/24 dev eth1
ip addr add 10.9.0.1 peer 10.9.0.2/32 dev eth1
ip addr add 10.55.0.1/24 dev br0 noprefixroute brd 10.55.0.255
ip addr add 10.1.0.0/32 dev vx0
ip -6 addr add fd00::1/64 dev eth1 nodad
ip route add 10.3.0.0/24 via 10.1.1.0 dev vx0 onlink
ip route add 10.4.0.0/24 nexthop via 10.0.0.5 dev eth1 weight 3 nexthop via 10.0.0.6 dev eth1
ip route add blackhole 10.5.0.0/24 metric 7
ip route add unreachable 10.6.0.0/24 table 77
ip route add 10.7.0.0/24 via inet6 fe80::1 dev eth1 mtu lock 1400 src 10.0.0.1 tos 0x10
ip nexthop add id 5 via 10.0.0.7 dev eth1
ip nexthop add id 6 via 10.0.0.8 dev eth1
ip nexthop add id 7 group 5,3/6
ip nexthop add id 8 blackhole
ip route add 10.8.0.0/24 nhid 7
ip route add 10.8.1.0/24 nhid 5
ip route add 10.8.2.0/24 nhid 8
ip route add default via 10.0.0.254 dev eth1 proto static mtu 1300
ip route add 10.10.0.0/16 dev br0 scope link metric 9 table 100
ip -6 route add fd01::/64 via fd00::2 dev eth1 metric 5 pref high
ip -6 route add default nexthop via fd00::5 dev eth1 nexthop via fd00::6 dev eth1
ip -6 route add blackhole fd02::/64
ip rule add not from 10.0.0.0/8 to 10.1.0.0/16 fwmark 0x1/0xf iif veth1 lookup 77 priority 50
ip rule add priority 60 ipproto tcp sport 10-20 dport 80 uidrange 0-100 lookup main suppress_prefixlength 0
ip rule add priority 70 from all goto 90
ip rule add priority 90 prohibit tos 0x10
ip rule add priority 91 nop
ip rule add priority 92 oif eth1 lookup 88 suppress_ifgroup 5
ip rule add priority 93 fwmark 7 unreachable
ip -6 rule add priority 9 from fd00::/64 blackhole
ip neigh add 10.1.1.0 lladdr 02:00:00:00:00:01 dev vx0 nud permanent
ip neigh add 10.0.0.77 lladdr 02:00:00:00:00:02 dev eth1 nud permanent
ip neigh add fd00::9 lladdr 02:00:00:00:00:03 dev eth1 router nud permanent
ip neigh add 10.0.0.78 lladdr 02:00:00:00:00:09 dev eth1 extern_learn nud noarp
ip neigh add proxy 10.0.0.99 dev eth1
bridge fdb add 02:00:00:00:00:01 dev vx0 dst 10.0.0.2 port 99 vni 8 via eth1
bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.0.0.3
bridge fdb add 02:00:00:00:00:05 dev veth1 master static sticky
tc qdisc add dev eth1 root pfifo
`

// oracleForms are the ways to list everything.
var oracleForms = map[string][]string{
	"text":     {"ip -d link", "ip addr", "ip route show table all", "ip rule", "ip -6 rule", "ip neigh", "ip neigh show proxy", "bridge fdb", "ip nexthop"},
	"one line": {"ip -o -d link", "ip -o addr", "ip -o route show table all", "ip rule", "ip -6 rule", "ip -s neigh", "ip neigh show proxy", "bridge -s fdb", "ip nexthop"},
	"details":  {"ip -d addr", "ip -d route show table all", "ip -d rule", "ip -6 -d rule", "ip neigh", "ip neigh show proxy", "bridge -d fdb", "bridge -d link", "ip -d nexthop"},
	"json": {"ip -j -d link", "ip -j addr", "ip -j -4 route show table all", "ip -j -6 route show table all", "ip -j rule", "ip -j -6 rule", "ip -j neigh",
		"ip -j neigh show proxy", "bridge -j fdb", "ip -j nexthop"},
	"pretty json": {"ip -j -p -d -s link", "ip -j -p addr", "ip -j -p -d route show table all", "ip -j -p rule", "ip -j -p -6 rule", "ip -j -p neigh",
		"ip -j -p neigh show proxy", "bridge -j -p fdb", "ip -j -p nexthop"},
	"by tables": {"ip -d link", "ip addr", "ip route", "ip route show table local", "ip route show table 77", "ip route show table 100",
		"ip -6 route", "ip -6 route show table local", "ip rule", "ip -6 rule", "ip -4 neigh", "ip -6 neigh", "ip neigh show proxy", "bridge fdb", "ip nexthop"},
}

// run prints what a shell command does in the namespace.
func run(t *testing.T, h *netns.Handle, script string) string {
	t.Helper()
	var out []byte
	err := h.Do(func() (err error) {
		out, err = exec.Command("bash", "-c", script).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
}

func TestAgainstKernel(t *testing.T) {
	need(t, "bash", "ip", "bridge", "tc", "sysctl")
	h := nstest.New(t)
	run(t, h, oracleSetup)
	for form, commands := range oracleForms {
		t.Run(form, func(t *testing.T) {
			snap, text := still(t, h, commands)
			l := Parse([]Input{{File: "page.txt", Text: []byte(text)}})
			if len(l.NotUnderstood) > 0 {
				for _, u := range l.NotUnderstood {
					t.Errorf("not understood: %s: %s (%s)", u.Origin, u.Text, u.Why)
				}
			}
			if len(l.Snapshot.Netns) != 1 {
				t.Fatalf("%d namespaces", len(l.Snapshot.Netns))
			}
			compareNetns(t, form, snap.Netns[0], l.Snapshot.Netns[0])
		})
	}
}

// still lists and reads until nothing has changed in between: a namespace that was just made does so by
// itself for a second.
func still(t *testing.T, h *netns.Handle, commands []string) (*tables.Snapshot, string) {
	t.Helper()
	read := func() *tables.Snapshot {
		s, err := tables.Read(context.Background(), []tables.Source{{Netns: h, Node: "n", Name: tables.HostName}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	rest := func(s *tables.Snapshot) string {
		n := s.Netns[0]
		return jsonOf([]any{n.Addrs, n.Routes, n.Neighs, mapAll(n.FDB, carriedFDB)})
	}
	before := read()
	for range 50 {
		text := paste(t, h, commands)
		after := read()
		if rest(before) == rest(after) {
			return after, text
		}
		before = after
	}
	t.Fatal("the namespace does not come to rest")
	return nil, ""
}

// paste is what somebody pastes: a prompt, the command, its output.
func paste(t *testing.T, h *netns.Handle, commands []string) string {
	t.Helper()
	var b strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&b, "[root@n ~]# %s\n%s\n", c, run(t, h, c))
	}
	return b.String()
}

// compareNetns compares everything that the listings carry. What they don't is taken out of want, and why.
func compareNetns(t *testing.T, form string, want, got *tables.Netns) {
	t.Helper()
	n := *want
	rows(t, "links", form, mapAll(n.Links, func(l tables.Link) tables.Link {
		l.Stats = tables.Stats{} // counters: ip -s, and they move
		l.EthtoolPeer, l.Hooks = 0, nil
		l.OperState = "" // a veth that has just come up
		if form == "details" && l.Loopback {
			l.GSOMax = 0
		}
		return l
	}), mapAll(got.Links, func(l tables.Link) tables.Link {
		l.Stats = tables.Stats{}
		l.OperState = ""
		if form == "details" && l.Loopback {
			l.GSOMax = 0
		}
		return l
	}))
	rows(t, "addresses", form, mapAll(n.Addrs, settled), mapAll(got.Addrs, settled))
	rows(t, "routes", form, mapAll(n.Routes, carriedRoute), mapAll(got.Routes, carriedRoute))
	rows(t, "rules", form, mapAll(n.Rules, carriedRule), mapAll(got.Rules, carriedRule))
	rows(t, "neighbours", form, slices.DeleteFunc(slices.Clone(n.Neighs), unshownNeigh), slices.DeleteFunc(got.Neighs, unshownNeigh))
	rows(t, "fdb", form, mapAll(n.FDB, carriedFDB), mapAll(got.FDB, carriedFDB))
	rows(t, "nexthops", form, n.Nexthops, got.Nexthops)
}

// settled hides what changes in the second after an address was made: duplicate address detection.
func settled(a tables.Addr) tables.Addr {
	a.Flags &^= 0x40 | 0x04
	return a
}

// carriedRoute leaves out what iproute2 does not print of a route.
func carriedRoute(r tables.Route) tables.Route {
	r.Flags = 0       // the kernel's own, but for those that NextHops shows
	r.MTULock = false // not in JSON
	if r.Dst.Addr().Is6() && len(r.NextHops) == 0 && r.Type == tables.RouteBlackhole {
		r.Flags = 0
	}
	return r
}

// carriedRule: who made a rule is shown for other makers than kernel and boot.
func carriedRule(r tables.Rule) tables.Rule {
	r.Protocol = 0
	return r
}

// unshownNeigh: ip neigh leaves out what needs no address resolution (without "nud all"); and the flood of
// an IGMP report through a vxlan device makes the kernel look for its destinations meanwhile.
func unshownNeigh(n tables.Neigh) bool {
	return n.State == tables.NUDNoARP && !n.ExtLrn || n.State&(tables.NUDIncomplete|tables.NUDFailed) != 0
}

// carriedFDB: the age is in bridge -s only, and moves.
// Of several bits of the state the first is printed.
func carriedFDB(f tables.FDB) tables.FDB {
	f.Updated = 0
	if f.State&tables.NUDPermanent != 0 {
		f.State = tables.NUDPermanent
	}
	return f
}

func mapAll[T any](in []T, f func(T) T) []T {
	out := make([]T, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

// rows compares two tables as sets of rows.
func rows[T any](t *testing.T, what, form string, want, got []T) {
	t.Helper()
	w, g := printed(want), printed(got)
	for _, s := range w {
		if !slices.Contains(g, s) {
			t.Errorf("%s, %s: the kernel has\n  %s", form, what, s)
		}
	}
	for _, s := range g {
		if !slices.Contains(w, s) {
			t.Errorf("%s, %s: the listing gives\n  %s", form, what, s)
		}
	}
	if len(w) != len(g) {
		t.Errorf("%s, %s: %d rows, the kernel has %d", form, what, len(g), len(w))
	}
}

func printed[T any](in []T) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = jsonOf(v)
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
