package kdrop

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

func udpFlow(src, dst string) Flow {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return Flow{Src: s.Addr(), Dst: d.Addr(), Proto: unix.IPPROTO_UDP, SrcPort: s.Port(), DstPort: d.Port()}
}

// TestDrops breaks the router in one way after the other. Beside the flow that is watched another one meets the
// same fate, which must not be reported.
func TestDrops(t *testing.T) {
	tests := []struct {
		name     string
		breaks   string // commands on the router
		src, dst string
		where    func(*network) *netns.Handle
		want     string
	}{
		{"no route", "", "10.1.0.2:4000", "198.51.100.9:53", router, "IP_INNOROUTES@ip_error ra"},
		{"forwarding off", "echo 0 >/proc/sys/net/ipv4/ip_forward", "10.1.0.2:4000", "10.2.0.2:53", router,
			"IP_INADDRERRORS@ip_error ra"},
		{"reverse path filter", "echo 1 >/proc/sys/net/ipv4/conf/ra/rp_filter; ip route add 10.1.0.2 dev rb",
			"10.1.0.2:4000", "10.2.0.2:53", router, "IP_RPFILTER@ip_rcv_finish_core ra"},
		{"nftables", `nft add table ip x
			nft 'add chain ip x f { type filter hook forward priority 0; }'
			nft add rule ip x f ip daddr 10.2.0.2 drop`,
			"10.1.0.2:4000", "10.2.0.2:53", router, "NETFILTER_DROP@nft_do_chain ra"},
		{"nftables, IPv6", `nft add table ip6 x
			nft 'add chain ip6 x f { type filter hook forward priority 0; policy drop; }'`,
			"[fd00:1::2]:4000", "[fd00:2::2]:53", router, "NETFILTER_DROP@nft_do_chain ra"},
		{"legacy iptables", "iptables-legacy -P FORWARD DROP", "10.1.0.2:4000", "10.2.0.2:53", router,
			"NETFILTER_DROP@nf_hook_slow ra"},
		{"wrong MAC", "ip neigh replace 10.2.0.2 lladdr 02:00:00:00:00:99 dev rb nud permanent",
			"10.1.0.2:4000", "10.2.0.2:53", far, "OTHERHOST@ip_rcv_core b0"},
		{"tc", `tc qdisc add dev ra clsact; tc filter add dev ra ingress bpf da bytecode '1,6 0 0 2,'`,
			"10.1.0.2:4000", "10.2.0.2:53", router, "TC_INGRESS@__netif_receive_skb_core ra"},
		{"no socket", "", "10.1.0.2:4000", "10.2.0.2:53", far, "NO_SOCKET@__udp4_lib_rcv b0"},
		{"no socket, IPv6", "", "[fd00:1::2]:4000", "[fd00:2::2]:53", far, "NO_SOCKET@__udp6_lib_rcv b0"},
		{"hop limit", `nft add table ip x
			nft 'add chain ip x p { type filter hook prerouting priority -150; }'
			nft add rule ip x p ip ttl set 1`, "10.1.0.2:4000", "10.2.0.2:53", router,
			"IP_INHDR@ip_forward ra"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			if tt.breaks != "" {
				sh(t, n.r, tt.breaks)
			}
			w := watch(t, Config{Flows: []Flow{udpFlow(tt.src, tt.dst)}})
			before := time.Now()
			other := netip.MustParseAddrPort(tt.src)
			udp(t, n.a, netip.AddrPortFrom(other.Addr(), 4001).String(), tt.dst, 7)
			udp(t, n.a, tt.src, tt.dst, 7)
			drops := collect(t, w, 1)
			if got := brief(drops); !slices.Equal(got, []string{tt.want}) {
				t.Fatalf("drops = %q, want %q alone", got, tt.want)
			}
			checkDrop(t, &drops[0], before, tt.where(n), tt.src, tt.dst)
		})
	}
}

func router(n *network) *netns.Handle { return n.r }
func far(n *network) *netns.Handle    { return n.b }

// checkDrop holds time, place and bytes of a drop to what was sent.
func checkDrop(t *testing.T, d *Drop, before time.Time, ns *netns.Handle, src, dst string) {
	t.Helper()
	if d.Time.Before(before.Add(-time.Millisecond)) || d.Time.After(time.Now()) {
		t.Errorf("time %v is not between %v and now", d.Time, before)
	}
	if d.NetnsInode != ns.ID().Ino {
		t.Errorf("netns %d, want %d", d.NetnsInode, ns.ID().Ino)
	}
	if want := nstest.Ifindex(t, ns, d.Device); d.Ifindex != want {
		t.Errorf("ifindex %d, want %d of %q", d.Ifindex, want, d.Device)
	}
	var f decode.Frame
	new(decode.Decoder).Decode(d.Frame, 0, &f)
	h := f.Flow()
	if got := netip.AddrPortFrom(h.Src, h.SrcPort).String(); got != src {
		t.Errorf("frame is from %s, want %s", got, src)
	}
	if got := netip.AddrPortFrom(h.Dst, h.DstPort).String(); got != dst {
		t.Errorf("frame is to %s, want %s", got, dst)
	}
	if d.DstMAC().IsZero() || d.Length < 8+7 || d.Offset != 14 || d.ReasonCode == 0 || d.Unspecified {
		t.Errorf("drop = %+v", d)
	}
}

// vxlan joins client and server by an overlay over the router, like flannel: no learning, static neighbours.
func vxlan(t *testing.T, n *network, serverVNI string) {
	t.Helper()
	sh(t, n.a, `ip link add vx type vxlan id 1 dstport 8472 local 10.1.0.2 nolearning
		ip link set vx mtu 1450 address 02:00:00:00:01:01 up; ip addr add 10.9.0.1/24 dev vx
		ip neigh add 10.9.0.2 lladdr 02:00:00:00:01:02 dev vx nud permanent`)
	sh(t, n.b, `ip link add vx type vxlan id `+serverVNI+` dstport 8472 local 10.2.0.2 nolearning
		ip link set vx mtu 1450 address 02:00:00:00:01:02 up; ip addr add 10.9.0.2/24 dev vx`)
}

func TestVXLAN(t *testing.T) {
	const fdb = "bridge fdb add 02:00:00:00:01:02 dev vx dst 10.2.0.2"
	tests := []struct {
		name, vni, client, router, want string
	}{
		{"no FDB row", "1", "", "", "NO_TX_TARGET@vxlan_xmit vx"},
		{"unknown VNI", "7", fdb, "", "VXLAN_VNI_NOT_FOUND@vxlan_rcv b0 inner"},
		{"outer packet filtered", "1", fdb, `nft add table ip x
			nft 'add chain ip x f { type filter hook forward priority 0; }'
			nft add rule ip x f udp dport 8472 drop`, "NETFILTER_DROP@nft_do_chain ra inner"},
		{"no route to the VTEP", "1", "bridge fdb add 02:00:00:00:01:02 dev vx dst 198.51.100.9; ip route del default", "",
			"IP_OUTNOROUTES@vxlan_xmit_one vx"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			vxlan(t, n, tt.vni)
			sh(t, n.a, ":"+"\n"+tt.client)
			sh(t, n.r, ":"+"\n"+tt.router)
			w := watch(t, Config{Flows: []Flow{udpFlow("10.9.0.1:4000", "10.9.0.2:53")}})
			udp(t, n.a, "10.9.0.1:4001", "10.9.0.2:53", 7)
			udp(t, n.a, "10.9.0.1:4000", "10.9.0.2:53", 7)
			drops := collect(t, w, 1)
			if got := brief(drops); !slices.Equal(got, []string{tt.want}) {
				t.Fatalf("drops = %q, want %q alone", got, tt.want)
			}
			d := &drops[0]
			var f decode.Frame
			(&decode.Decoder{}).DecodeIP(d.Frame[d.Offset:], 0, &f)
			if got := f.Flow().Dst.String(); got != "10.9.0.2" {
				t.Errorf("packet at the offset is to %s", got)
			}
		})
	}
}

// TestQuoted: the filter drops not the flow, but the error that answers it.
func TestQuoted(t *testing.T) {
	for _, tt := range []struct{ name, family, src, dst, want string }{
		{"IPv4", "ip", "10.1.0.2:4000", "10.2.0.2:53", "NETFILTER_DROP@nft_do_chain rb quoted"},
		{"IPv6", "ip6", "[fd00:1::2]:4000", "[fd00:2::2]:53", "NETFILTER_DROP@nft_do_chain rb quoted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			sh(t, n.r, `nft add table `+tt.family+` x
				nft 'add chain `+tt.family+` x f { type filter hook forward priority 0; }'
				nft add rule `+tt.family+` x f iifname rb drop`)
			w := watch(t, Config{Flows: []Flow{udpFlow(tt.src, tt.dst)}})
			udp(t, n.a, tt.src, tt.dst, 7)
			got := slices.DeleteFunc(brief(collect(t, w, 2)), func(s string) bool { return s[:9] == "NO_SOCKET" })
			if !slices.Equal(got, []string{tt.want}) {
				t.Errorf("drops = %q, want %q", got, tt.want)
			}
		})
	}
}

// TestQuotedInner: an error that quotes a VXLAN packet, which holds the flow.
func TestQuotedInner(t *testing.T) {
	n := newNetwork(t)
	vxlan(t, n, "1")
	sh(t, n.a, "bridge fdb add 02:00:00:00:01:02 dev vx dst 10.2.0.2")
	sh(t, n.b, "ip link set vx down") // nobody listens on the port any more
	sh(t, n.r, `nft add table ip x
		nft 'add chain ip x f { type filter hook forward priority 0; }'
		nft add rule ip x f icmp type destination-unreachable drop`)
	w := watch(t, Config{Flows: []Flow{udpFlow("10.9.0.1:4000", "10.9.0.2:53")}})
	udp(t, n.a, "10.9.0.1:4000", "10.9.0.2:53", 7)
	want := []string{"NETFILTER_DROP@nft_do_chain rb inner quoted", "NO_SOCKET@__udp4_lib_rcv b0 inner"}
	got := brief(collect(t, w, 2))
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}

// TestFragments: later fragments have no ports, and belong to the flow all the same.
func TestFragments(t *testing.T) {
	for _, tt := range []struct{ name, family, src, dst string }{
		{"IPv4", "ip", "10.1.0.2:4000", "10.2.0.2:53"},
		{"IPv6", "ip6", "[fd00:1::2]:4000", "[fd00:2::2]:53"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			sh(t, n.r, `nft add table `+tt.family+` x
				nft 'add chain `+tt.family+` x f { type filter hook forward priority 0; policy drop; }'`)
			w := watch(t, Config{Flows: []Flow{udpFlow(tt.src, tt.dst)}})
			udp(t, n.a, tt.src, tt.dst, 4000)
			const want = "NETFILTER_DROP@nft_do_chain ra"
			if got := brief(collect(t, w, 3)); !slices.Equal(got, []string{want, want, want}) {
				t.Errorf("drops = %q, want three times %q", got, want)
			}
		})
	}
}

// TestEcho: identifiers, the reply's direction, and the noise of a successful ping.
func TestEcho(t *testing.T) {
	for _, tt := range []struct {
		name     string
		src, dst netip.Addr
		proto    uint8
		family   string
		match    string
	}{
		{"IPv4", client, server, unix.IPPROTO_ICMP, "ip", "icmp type echo-reply"},
		{"IPv6", client6, server6, unix.IPPROTO_ICMPV6, "ip6", "icmpv6 type echo-reply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			flows := Config{Flows: []Flow{
				{Src: tt.src, Dst: tt.dst, Proto: tt.proto, ICMPID: 77},
				{Src: tt.src, Dst: tt.dst, Proto: tt.proto, ICMPID: 4242},
			}}
			w := watch(t, flows)
			sh(t, n.a, "ping -q -c1 -W5 -e 4242 "+tt.dst.String())
			for _, d := range collect(t, w, 0) {
				if why, ok := Noise(d, true); !ok {
					t.Errorf("successful ping: %+v is no noise %s", d, why)
				}
			}
			sh(t, n.r, `nft add table `+tt.family+` x
				nft 'add chain `+tt.family+` x f { type filter hook forward priority 0; }'
				nft add rule `+tt.family+` x f `+tt.match+` drop`)
			w = watch(t, flows)
			sh(t, n.a, "ping -q -c1 -W1 -e 4242 "+tt.dst.String()+" || true; ping -q -c1 -W1 -e 4243 "+tt.dst.String()+" || true")
			drops := collect(t, w, 1)
			if got, want := brief(drops), []string{"NETFILTER_DROP@nft_do_chain rb reverse"}; !slices.Equal(got, want) {
				t.Fatalf("drops = %q, want %q", got, want)
			}
			if drops[0].Flow != 1 {
				t.Errorf("flow %d, want 1", drops[0].Flow)
			}
		})
	}
}

// TestNeighbours: the packets that ask for an address, and only for that one.
func TestNeighbours(t *testing.T) {
	for _, tt := range []struct{ name, ask, other string }{
		{"ARP", "10.9.0.7", "10.9.0.8"},
		{"ND", "fd00:9::7", "fd00:9::8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			vxlan(t, n, "1") // without a row for all the others, what is not unicast goes nowhere
			nstest.Addr(t, n.a, "vx", "fd00:9::1/64")
			w := watch(t, Config{Neighbours: []netip.Addr{server, netip.MustParseAddr(tt.ask)}})
			for _, dst := range []string{tt.other, tt.ask} {
				src := map[bool]string{true: "10.9.0.1", false: "fd00:9::1"}[netip.MustParseAddr(dst).Is4()]
				udp(t, n.a, netip.AddrPortFrom(netip.MustParseAddr(src), 4000).String(),
					netip.AddrPortFrom(netip.MustParseAddr(dst), 53).String(), 7)
			}
			drops := collect(t, w, 1)
			for _, d := range drops {
				if got, want := brief([]Drop{d})[0], "NO_TX_TARGET@vxlan_xmit vx neighbour"; got != want || d.Flow != 1 {
					t.Errorf("drop = %q of %d, want %q of 1", got, d.Flow, want)
				}
				if why, ok := Noise(d, true); ok {
					t.Errorf("a request that goes nowhere is noise: %s", why)
				}
			}
			if len(drops) == 0 {
				t.Error("no drops")
			}
		})
	}
}

// TestWildcards: flows that leave out ports or the protocol.
func TestWildcards(t *testing.T) {
	full := udpFlow("10.1.0.2:4000", "10.2.0.2:53")
	tests := []struct {
		name string
		edit func(*Flow)
		want int // of the datagrams 4000>53, 4000>54, 4001>53, 4001>54
	}{
		{"all given", func(*Flow) {}, 1},
		{"any source port", func(f *Flow) { f.SrcPort = 0 }, 2},
		{"any destination port", func(f *Flow) { f.DstPort = 0 }, 2},
		{"any ports", func(f *Flow) { f.SrcPort, f.DstPort = 0, 0 }, 4},
		{"any protocol", func(f *Flow) { f.Proto = 0 }, 4},
		{"the other way round", func(f *Flow) { *f = udpFlow("10.2.0.2:53", "10.1.0.2:4000") }, 1},
		{"another protocol", func(f *Flow) { f.Proto = unix.IPPROTO_TCP }, 0},
		{"another address", func(f *Flow) { f.Dst = netip.MustParseAddr("10.2.0.3") }, 0},
	}
	n := newNetwork(t)
	sh(t, n.r, "iptables-legacy -P FORWARD DROP")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := full
			tt.edit(&f)
			w := watch(t, Config{Flows: []Flow{f}})
			for _, src := range []string{"10.1.0.2:4000", "10.1.0.2:4001"} {
				for _, dst := range []string{"10.2.0.2:53", "10.2.0.2:54"} {
					udp(t, n.a, src, dst, 7)
				}
			}
			if got := collect(t, w, tt.want); len(got) != tt.want {
				t.Errorf("drops = %q, want %d", brief(got), tt.want)
			}
		})
	}
}

// TestLost: more drops than there is room for.
func TestLost(t *testing.T) {
	n := newNetwork(t)
	sh(t, n.r, "iptables-legacy -P FORWARD DROP")
	w := watch(t, Config{Flows: []Flow{udpFlow("10.1.0.2:4000", "10.2.0.2:53")}, Buffer: 1})
	const sent = 40
	for range sent {
		udp(t, n.a, "10.1.0.2:4000", "10.2.0.2:53", 7)
	}
	time.Sleep(50 * time.Millisecond)
	drops, lost, err := w.Stop()
	if err != nil || len(drops) == 0 || lost == 0 || len(drops)+lost != sent {
		t.Errorf("%d drops and %d lost of %d, %v", len(drops), lost, sent, err)
	}
	if _, _, err := w.Stop(); err == nil {
		t.Error("a second Stop gives no error")
	}
}
