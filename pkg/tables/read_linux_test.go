package tables_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/tables"
)

// The startup thread cannot exit and /proc/self describes it: keep it away from helper goroutines.
func init() { runtime.LockOSThread() }

// run starts a command inside and gives its output.
func run(t testing.TB, h *netns.Handle, command string) string {
	t.Helper()
	var out []byte
	args := strings.Fields(command)
	err := h.Do(func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// script runs lines of commands; an empty line is none.
func script(t testing.TB, h *netns.Handle, lines string) {
	t.Helper()
	for l := range strings.Lines(lines) {
		if l = strings.TrimSpace(l); l != "" {
			run(t, h, l)
		}
	}
}

func read(t testing.TB, sources ...tables.Source) *tables.Snapshot {
	t.Helper()
	s, err := tables.Read(t.Context(), sources)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// node is a namespace with as much in it as one kernel allows, and a pod beside it.
func node(t testing.TB) (host, pod *netns.Handle) {
	t.Helper()
	host, pod = nstest.New(t), nstest.New(t)
	script(t, host, hostScript)
	nstest.Veth(t, host, "veth1", pod, "eth0")
	script(t, host, `
		ip link set veth1 master br0
		bridge link set dev veth1 hairpin on isolated on learning off flood off neigh_suppress on guard on
	`)
	script(t, pod, `
		ip addr add 10.1.0.7/24 dev eth0
		ip route add default via 10.1.0.1
	`)
	return host, pod
}

const hostScript = `
	ip link add br0 address 02:00:00:00:00:01 type bridge ageing_time 12000
	ip link set br0 up
	ip addr add 10.1.0.1/24 brd + dev br0
	ip addr add fd00:1::1/64 dev br0 nodad
	ip link add vx0 address 02:00:00:00:00:02 mtu 1430 type vxlan id 42 dstport 8472 local 192.0.2.1 nolearning gbp ttl 7 tos 4 df set ageing 77 noudpcsum srcport 4000 5000
	ip link set vx0 up
	ip addr add 10.1.0.0/32 dev vx0
	ip link add vx1 type vxlan id 43 dstport 4789 remote 192.0.2.9 dev br0 ttl inherit proxy l2miss l3miss rsc
	ip link add vx2 type vxlan external dstport 4790
	ip link add up0 mtu 1480 type veth peer name up1
	ip link set up0 alias uplink-of-the-node group 5
	ip link set up0 up
	ip link set up1 up
	ip addr add 192.0.2.1/24 dev up0
	ip addr add 192.0.2.11 peer 192.0.2.12/32 dev up0
	ip addr add 192.0.2.3/24 dev up0
	ip addr add fd00:2::1/64 dev up0 nodad
	ip link set up1 group 9
	ip route add 10.2.0.0/24 via 10.2.0.0 dev vx0 onlink
	ip route add 10.3.0.0/16 nexthop via 192.0.2.20 dev up0 weight 3 nexthop via 192.0.2.21 dev up0
	ip route add 10.4.0.0/16 via 192.0.2.20 metric 50 mtu lock 1300 src 192.0.2.3 proto 186
	ip route add 10.4.0.0/16 via 192.0.2.21 metric 60 mtu 1200 tos 0x10
	ip route add blackhole 10.5.0.0/16
	ip route add unreachable 10.6.0.0/16 table 100
	ip route add prohibit 10.7.0.0/16 table 100
	ip route add throw 10.8.0.0/16 table 1000
	ip route add default via 192.0.2.20 table 100
	ip route add 10.9.0.1 via inet6 fd00:2::9 dev up0
	ip nexthop add id 1 via 192.0.2.30 dev up0
	ip nexthop add id 2 via 192.0.2.31 dev up0
	ip nexthop add id 3 group 1,5/2
	ip nexthop add id 4 blackhole
	ip route add 10.10.0.0/16 nhid 3
	ip route add 10.11.0.0/16 nhid 1
	ip route add 10.12.0.0/16 nhid 4
	ip -6 route add fd00:9::/64 via fd00:2::9 dev up0 pref high metric 9
	ip -6 route add fd00:a::/64 nexthop via fd00:2::9 dev up0 nexthop via fd00:2::a dev up0 weight 2
	ip -6 route add unreachable fd00:b::/64
	ip -6 route add fd00:c::/64 from fd00:1::/64 via fd00:2::9 dev up0 mtu 1300
	ip rule add pref 100 from 10.1.0.0/24 to 10.2.0.0/16 fwmark 0x10/0xf0 iif br0 table 100
	ip rule add pref 101 not from 10.1.0.9 oif up0 ipproto tcp sport 80 dport 1000-2000 table 1000
	ip rule add pref 102 uidrange 10-20 goto 32766
	ip rule add pref 103 to 10.6.0.1 blackhole
	ip rule add pref 104 to 10.6.0.2 unreachable
	ip rule add pref 105 to 10.6.0.3 prohibit
	ip rule add pref 106 tos 0x10 table main suppress_prefixlength 0
	ip rule add pref 107 fwmark 7 nop
	ip rule add pref 108 table main suppress_ifgroup 5
	ip rule add pref 109 tun_id 77 table 100
	ip -6 rule add pref 110 from fd00:1::/64 iif lo table 100 proto 186
	ip neigh add 192.0.2.20 lladdr 02:00:00:00:01:20 dev up0 nud permanent
	ip neigh add 192.0.2.21 lladdr 02:00:00:00:01:21 dev up0 nud stale
	ip neigh add 10.2.0.0 lladdr 02:00:00:00:02:00 dev vx0 nud permanent extern_learn
	ip neigh add fd00:2::9 lladdr 02:00:00:00:01:29 dev up0 router nud reachable
	ip neigh add proxy 10.1.0.99 dev br0
	ip neigh add proxy fd00:1::99 dev br0
	bridge fdb add 02:00:00:00:02:00 dev vx0 dst 192.0.2.2 self permanent
	bridge fdb add 02:00:00:00:02:01 dev vx0 dst 192.0.2.4 port 4789 vni 77 via up0 self permanent
	bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.5 self permanent
	bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.6 self permanent
	bridge fdb add 02:00:00:00:02:07 dev vx2 dst 192.0.2.7 src_vni 5 vni 6 self permanent
`

func source(h *netns.Handle, name string) tables.Source {
	return tables.Source{Netns: h, Node: "n1", Name: name, Exec: "ip netns exec " + name}
}

// rows gives a listing's entries, one a row, sorted, with what ip(8) breaks over several lines put
// together.
func rows(s string) []string {
	s = strings.ReplaceAll(s, "\n\t", " ")
	s = strings.ReplaceAll(s, "\\", " ")
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.Join(strings.Fields(l), " "); l != "" {
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return out
}

func format[T any](list []T, f func(T) string) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(f(e) + "\n")
	}
	return b.String()
}

// listings pairs what iproute2 prints with our rendering of the snapshot.
var listings = []struct {
	name     string
	commands []string
	ours     func(*tables.Netns) string
	edit     func(string) string // of a row of iproute2: what we do not print
}{
	{
		"routes", []string{"ip route show table all"},
		func(n *tables.Netns) string { return format(n.Routes, n.FormatRoute) }, nil,
	},
	{
		"rules", []string{"ip rule", "ip -6 rule"},
		func(n *tables.Netns) string { return format(n.Rules, n.FormatRule) }, nil,
	},
	{
		"neighbours", []string{"ip neigh show nud all", "ip neigh show proxy"},
		func(n *tables.Netns) string { return format(n.Neighs, n.FormatNeigh) }, nil,
	},
	{
		"fdb", []string{"bridge fdb show"},
		func(n *tables.Netns) string { return format(n.FDB, n.FormatFDB) }, nil,
	},
	{
		"addresses", []string{"ip -o addr show"},
		func(n *tables.Netns) string { return format(n.Addrs, n.FormatAddr) },
		func(row string) string { row, _, _ = strings.Cut(row, " valid_lft"); return row },
	},
	{
		"links", []string{"ip -o link show"},
		func(n *tables.Netns) string {
			return format(n.Links, func(l tables.Link) string {
				l.Promisc, l.VXLAN, l.Port = 0, nil, nil
				return n.FormatLink(l)
			})
		},
		func(row string) string {
			head, tail, _ := strings.Cut(row, " mode ")
			_, tail, _ = strings.Cut(tail, "link/")
			tail, _, _ = strings.Cut(tail, " alias")
			f := strings.Fields(tail)
			out := head + " link/" + strings.Join(f[:2], " ")
			if i := slices.Index(f, "link-netnsid"); i > 0 {
				out += " " + strings.Join(f[i:i+2], " ")
			}
			return out
		},
	},
}

// TestFormatOracle compares every row with iproute2's own.
func TestFormatOracle(t *testing.T) {
	host, pod := node(t)
	for _, l := range listings {
		t.Run(l.name, func(t *testing.T) {
			for _, h := range []*netns.Handle{host, pod} {
				var diff string
				// states of neighbours and addresses move on by themselves: ask again
				for range 30 {
					var theirs string
					for _, c := range l.commands {
						theirs += run(t, h, c) + "\n"
					}
					want := rows(theirs)
					for i := range want {
						if l.edit != nil {
							want[i] = l.edit(want[i])
						}
					}
					slices.Sort(want)
					got := rows(l.ours(read(t, source(h, "host")).Netns[0]))
					if diff = cmp.Diff(want, got); diff == "" {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if diff != "" {
					t.Errorf("against iproute2 (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// detail is what ip -j -d link show says, as far as the tests ask.
type detail struct {
	Ifname    string `json:"ifname"`
	Ifindex   int    `json:"ifindex"`
	Link      string `json:"link"`
	MTU       int    `json:"mtu"`
	Operstate string `json:"operstate"`
	Address   string `json:"address"`
	Promisc   int    `json:"promiscuity"`
	Alias     string `json:"ifalias"`
	Info      struct {
		Kind      string         `json:"info_kind"`
		Data      map[string]any `json:"info_data"`
		SlaveKind string         `json:"info_slave_kind"`
		SlaveData map[string]any `json:"info_slave_data"`
	} `json:"linkinfo"`
	Stats struct {
		Rx struct{ Packets, Errors, Dropped uint64 }
		Tx struct{ Packets, Errors, Dropped uint64 }
	} `json:"stats64"`
}

// TestLinkOracle compares what FormatLink does not print.
func TestLinkOracle(t *testing.T) {
	host, _ := node(t)
	var want []detail
	if err := json.Unmarshal([]byte(run(t, host, "ip -j -d -s link show")), &want); err != nil {
		t.Fatal(err)
	}
	ns := read(t, source(host, "host")).Netns[0]
	if len(want) != len(ns.Links) {
		t.Errorf("%d links, want %d", len(ns.Links), len(want))
	}
	for _, w := range want {
		l := ns.Link(tables.Ifindex(w.Ifindex))
		if l == nil || l != ns.LinkByName(w.Ifname) {
			t.Errorf("link %d (%s) is missing", w.Ifindex, w.Ifname)
			continue
		}
		type fields struct {
			Kind, Oper, Alias string
			MTU, Promisc      int
			Data, Slave       map[string]any
		}
		got := fields{l.Kind, strings.ToUpper(l.OperState), l.Alias, l.MTU, l.Promisc, ourData(l), ourSlave(l)}
		theirs := fields{w.Info.Kind, w.Operstate, w.Alias, w.MTU, w.Promisc, pick(w.Info.Data, got.Data), pick(w.Info.SlaveData, got.Slave)}
		if diff := cmp.Diff(theirs, got); diff != "" {
			t.Errorf("%s (-ip +read):\n%s", w.Ifname, diff)
		}
		if l.Stats.TxPackets < w.Stats.Tx.Packets || l.Stats.RxPackets < w.Stats.Rx.Packets || l.Stats.RxDropped < w.Stats.Rx.Dropped {
			t.Errorf("%s: counters %+v, ip says %+v before", w.Ifname, l.Stats, w.Stats)
		}
	}
}

// pick keeps of theirs what ours speaks about.
func pick(theirs, ours map[string]any) map[string]any {
	if ours == nil {
		return nil
	}
	out := make(map[string]any)
	for k := range ours {
		if v, ok := theirs[k]; ok {
			out[k] = v
		}
	}
	return out
}

func ourData(l *tables.Link) map[string]any {
	switch {
	case l.VXLAN != nil:
		x := l.VXLAN
		out := map[string]any{
			"id": float64(x.VNI), "port": float64(x.Port), "learning": x.Learning, "ageing": float64(x.Ageing),
			"port_range": map[string]any{"low": float64(x.SrcPortLow), "high": float64(x.SrcPortHigh)},
			"udp_csum":   x.UDPCsum, "udp_zero_csum6_tx": x.UDP6ZeroTx, "udp_zero_csum6_rx": x.UDP6ZeroRx,
		}
		set := func(ok bool, name string, v any) {
			if ok {
				out[name] = v
			}
		}
		set(x.Local.IsValid(), "local", x.Local.String())
		set(x.Group.IsValid(), "remote", x.Group.String())
		set(x.GBP, "gbp", true)
		set(x.FlowBased, "external", true)
		set(x.Proxy, "proxy", true)
		set(x.RSC, "rsc", true)
		set(x.L2Miss, "l2miss", true)
		set(x.L3Miss, "l3miss", true)
		set(x.TTL != 0, "ttl", float64(x.TTL))
		set(x.DF != "unset", "df", x.DF)
		set(x.TOS > 1, "tos", fmt.Sprintf("%#x", x.TOS))
		return out
	case l.Bridge != nil:
		bit := func(b bool) float64 {
			if b {
				return 1
			}
			return 0
		}
		return map[string]any{
			"ageing_time": float64(l.Bridge.Ageing * 100), "stp_state": bit(l.Bridge.STP), "vlan_filtering": bit(l.Bridge.VLANFiltering),
			"nf_call_iptables": bit(l.Bridge.NFCallIP), "nf_call_ip6tables": bit(l.Bridge.NFCallIP6), "nf_call_arptables": bit(l.Bridge.NFCallARP),
		}
	}
	return nil
}

func ourSlave(l *tables.Link) map[string]any {
	if l.Port == nil {
		return nil
	}
	p := l.Port
	return map[string]any{
		"state": p.State, "no": fmt.Sprintf("%#x", p.No), "hairpin": p.Hairpin, "guard": p.Guard, "isolated": p.Isolated,
		"learning": p.Learning, "flood": p.Flood, "mcast_flood": p.MulticastFl, "bcast_flood": p.BroadcastFl,
		"proxy_arp": p.ProxyARP, "neigh_suppress": p.NeighSuppress, "locked": p.Locked,
	}
}

// TestSysctlOracle compares the per-device arrays with the files that they stand for.
func TestSysctlOracle(t *testing.T) {
	host, _ := node(t)
	script(t, host, `
		sysctl -qw net.ipv4.conf.up0.rp_filter=2
		sysctl -qw net.ipv4.conf.up0.arp_ignore=3
		sysctl -qw net.ipv4.conf.up0.proxy_arp_pvlan=1
		sysctl -qw net.ipv4.conf.vx0.route_localnet=1
		sysctl -qw net.ipv4.conf.vx0.log_martians=1
		sysctl -qw net.ipv4.conf.br0.accept_local=1
		sysctl -qw net.ipv4.conf.br0.ignore_routes_with_linkdown=1
		sysctl -qw net.ipv6.conf.br0.proxy_ndp=1
		sysctl -qw net.ipv6.conf.vx1.disable_ipv6=1
		sysctl -qw net.ipv4.ip_forward=1
	`)
	ns := read(t, source(host, "host")).Netns[0]
	for name, got := range ns.Sysctls {
		want := strings.TrimSpace(run(t, host, "cat /proc/sys/net/"+strings.ReplaceAll(name, ".", "/")))
		if got != want && name != "netfilter.nf_conntrack_count" {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{
		"ipv4.ip_forward", "ipv4.ip_default_ttl", "ipv4.fib_multipath_hash_policy", "ipv4.fwmark_reflect", "ipv4.icmp_echo_ignore_all",
		"ipv4.conf.all.rp_filter", "ipv4.conf.default.forwarding", "ipv4.conf.up0.forwarding", "ipv4.conf.up0.accept_local",
		"ipv4.conf.up0.arp_filter", "ipv4.conf.up0.arp_announce", "ipv4.conf.up0.proxy_arp", "ipv4.conf.up0.disable_policy",
		"ipv4.conf.up0.src_valid_mark", "ipv6.conf.all.forwarding", "ipv6.conf.up0.accept_ra", "ipv6.conf.up0.forwarding",
	} {
		if _, ok := ns.SysctlInt(name); !ok {
			t.Errorf("%s was not read", name)
		}
	}
	if v, _ := ns.SysctlInt("ipv4.conf.up0.rp_filter"); v != 2 {
		t.Errorf("rp_filter = %d, want 2", v)
	}
	if ns.SNMP["Ip.Forwarding"] != 1 || len(ns.SNMP) < 100 {
		t.Errorf("SNMP: forwarding %d of %d counters", ns.SNMP["Ip.Forwarding"], len(ns.SNMP))
	}
}

func TestPeer(t *testing.T) {
	host, pod := node(t)
	s := read(t, source(host, "host"), source(pod, "shop/web"), source(host, "again"))
	if len(s.Netns) != 2 {
		t.Fatalf("%d namespaces, want each once", len(s.Netns))
	}
	h, p := s.Host("n1"), s.ByID(pod.ID())
	veth, eth := h.LinkByName("veth1"), p.LinkByName("eth0")
	tests := []struct {
		name     string
		ns       *tables.Netns
		link     *tables.Link
		wantNs   *tables.Netns
		wantPeer *tables.Link
	}{
		{"pod to host", p, eth, h, veth},
		{"host to pod", h, veth, p, eth},
		{"both ends here", h, h.LinkByName("up0"), h, h.LinkByName("up1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns, l, err := tables.Peer(s, tt.ns, tt.link)
			if err != nil || ns != tt.wantNs || l != tt.wantPeer {
				t.Errorf("Peer = %v, %v, %v", ns, l, err)
			}
			if tt.link.EthtoolPeer != tt.wantPeer.Index {
				t.Errorf("ethtool says %d, want %d", tt.link.EthtoolPeer, tt.wantPeer.Index)
			}
		})
	}
	broken := *eth
	broken.Parent = h.LinkByName("up1").Index
	if _, l, err := tables.Peer(s, p, &broken); l == nil || err == nil || !strings.Contains(err.Error(), "iflink") {
		t.Errorf("Peer of a link that leads elsewhere = %v, %v", l, err)
	}
	alone := read(t, source(pod, "shop/web"))
	if _, _, err := tables.Peer(alone, alone.Netns[0], alone.Netns[0].LinkByName("eth0")); !errors.Is(err, tables.ErrNoPeer) {
		t.Errorf("Peer without the host = %v, want %v", err, tables.ErrNoPeer)
	}
	if !h.HasAddr(netip.MustParseAddr("10.1.0.1")) || h.HasAddr(netip.MustParseAddr("10.1.0.2")) {
		t.Error("HasAddr is wrong")
	}
	if a := h.AddrsOf(h.LinkByName("vx0").Index); len(a) == 0 || a[0].Prefix.String() != "10.1.0.0/32" {
		t.Errorf("AddrsOf = %v", a)
	}
}

func TestHooks(t *testing.T) {
	host := nstest.New(t)
	script(t, host, `
		ip link add a0 type veth peer name a1
		ip link set a0 up
	`)
	if err := host.Do(func() error { return exec.Command("tc", "qdisc", "add", "dev", "a0", "clsact").Run() }); err != nil {
		t.Skip("this kernel has no clsact")
	}
	script(t, host, "tc filter add dev a0 egress protocol ip pref 7 u32 match ip dst 10.0.0.1/32 flowid 1:1")
	got := read(t, source(host, "host")).Netns[0].LinkByName("a0").Hooks
	if len(got) != 1 || got[0].Where != "tc-egress" || got[0].Kind != "u32" || !strings.Contains(got[0].Entry, "pref 7 u32") {
		t.Errorf("hooks = %+v", got)
	}
}

func TestSnapshotJSON(t *testing.T) {
	host, pod := node(t)
	s := read(t, source(host, "host"), source(pod, "shop/web"))
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back tables.Snapshot
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*s, back, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("JSON there and back (-want +got):\n%s", diff)
	}
	for _, n := range s.Netns {
		if len(n.Incomplete) > 0 {
			t.Errorf("%s is incomplete: %v", n.Name, n.Incomplete)
		}
	}
}

func TestReadErrors(t *testing.T) {
	h, other := nstest.New(t), nstest.New(t)
	gone, err := netns.Open(other.Path())
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	_, err = tables.Read(t.Context(), []tables.Source{source(h, "host"), source(gone, "shop/\x1bweb")})
	if err == nil || !strings.Contains(err.Error(), `"shop/\x1bweb"`) {
		t.Errorf("Read of a closed namespace = %v, want an error that names it", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tables.Read(ctx, []tables.Source{source(h, "host")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Read with a canceled context = %v", err)
	}
}

// TestExceptions makes the kernel learn a path MTU. It shows one once a packet was routed by it, hence
// the second ping.
func TestExceptions(t *testing.T) {
	a, r, b := nstest.New(t), nstest.New(t), nstest.New(t)
	nstest.Veth(t, a, "e", r, "ra")
	nstest.Veth(t, b, "e", r, "rb")
	script(t, a, "ip addr add 10.0.1.2/24 dev e\nip route add default via 10.0.1.1")
	script(t, b, "ip addr add 10.0.2.2/24 dev e\nip route add default via 10.0.2.1")
	script(t, r, "ip addr add 10.0.1.1/24 dev ra\nip addr add 10.0.2.1/24 dev rb\nip link set rb mtu 1300\nsysctl -qw net.ipv4.ip_forward=1")
	_ = a.Do(func() error { return exec.Command("ping", "-c2", "-i0.2", "-W1", "-Mdo", "-s1400", "10.0.2.2").Run() })
	ns := read(t, source(a, "host")).Netns[0]
	if len(ns.Exceptions) != 1 || ns.Exceptions[0].MTU != 1300 || ns.Exceptions[0].Dst.String() != "10.0.2.2/32" || ns.Exceptions[0].Expires == 0 {
		t.Errorf("exceptions = %+v, want 10.0.2.2 with MTU 1300", ns.Exceptions)
	}
}

func BenchmarkRead(b *testing.B) {
	b.Run("five-namespaces", func(b *testing.B) {
		var sources []tables.Source
		for range 5 {
			h := nstest.New(b)
			script(b, h, hostScript)
			sources = append(sources, source(h, "host"))
		}
		for b.Loop() {
			read(b, sources...)
		}
	})
	b.Run("100000-routes", func(b *testing.B) {
		h := nstest.New(b)
		nstest.Veth(b, h, "e0", h, "e1")
		nstest.Addr(b, h, "e0", "192.0.2.1/24")
		file := filepath.Join(b.TempDir(), "routes")
		var batch strings.Builder
		for i := range 100_000 {
			fmt.Fprintf(&batch, "route add 10.%d.%d.0/24 via 192.0.2.%d table %d\n", i>>8&255, i&255, i%250+2, 100+i>>16)
		}
		if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
			b.Fatal(err)
		}
		run(b, h, "ip -batch "+file)
		b.ReportAllocs()
		var peak uint64
		for b.Loop() {
			s := read(b, source(h, "host"))
			if len(s.Netns[0].Routes) < 100_000 {
				b.Fatalf("%d routes", len(s.Netns[0].Routes))
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}
		b.ReportMetric(float64(peak)/1e6, "heap-MB")
	})
}
