package lab

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// upSpec brings up a lab of a Spec.
func upSpec(t testing.TB, s Spec) (Options, *cluster) {
	t.Helper()
	o := testOptions(t)
	o.Spec = s
	start := time.Now()
	if err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Logf("up in %v", time.Since(start))
	s, err := s.complete()
	if err != nil {
		t.Fatal(err)
	}
	return o, newCluster(s)
}

// TestDatapaths lets everyone talk to everyone in each lab, by ICMP, TCP and UDP.
func TestDatapaths(t *testing.T) {
	for name, s := range specs(t) {
		if s.Nodes > 10 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := upSpec(t, s)
			var wg sync.WaitGroup
			limit := make(chan struct{}, 16)
			for _, p := range pairs(c) {
				wg.Go(func() {
					limit <- struct{}{}
					defer func() { <-limit }()
					for _, proto := range []string{"icmp", "tcp", "udp"} {
						if err := exchange(o, p.from, proto, netip.AddrPortFrom(p.to, echoPort), 2*time.Second); err != nil {
							t.Errorf("%s from %s to %s: %v", proto, p.from, p.to, err)
						}
					}
				})
			}
			wg.Wait()
			start := time.Now()
			if err := Down(t.Context(), o); err != nil {
				t.Error(err)
			}
			t.Logf("down in %v", time.Since(start))
			checkNothingLeft(t, o)
		})
	}
}

type pair struct {
	from string
	to   netip.Addr
}

// pairs are those that have something to say to each other: pods with pods, and nodes with pods both
// ways. Of a large lab every seventh.
func pairs(c *cluster) (list []pair) {
	for _, p := range c.pods {
		for _, ip := range p.ips {
			for _, q := range c.pods {
				list = append(list, pair{q.name, ip})
			}
			for _, n := range c.nodes {
				list = append(list, pair{n.name, ip})
			}
		}
	}
	for _, n := range c.nodes {
		for _, ip := range n.ips {
			for _, p := range c.pods {
				list = append(list, pair{p.name, ip})
			}
		}
	}
	if len(list) < 200 {
		return list
	}
	var some []pair
	for i := 0; i < len(list); i += 7 {
		some = append(some, list[i])
	}
	return some
}

// TestOther: a lab that stands is kept by an Up that asks for nothing, or for the same, and by one that
// asks for another. Faults that it cannot have are refused.
func TestOther(t *testing.T) {
	o, _ := upSpec(t, Spec{Datapath: FlannelHostGW})
	for _, tt := range []struct {
		datapath string
		want     error
	}{{"", nil}, {FlannelHostGW, nil}, {FlannelUDP, ErrOther}, {"weave", ErrNoDatapath}} {
		o.Spec = Spec{Datapath: tt.datapath}
		if err := Up(t.Context(), o); !errors.Is(err, tt.want) {
			t.Errorf("Up %q = %v, want %v", tt.datapath, err, tt.want)
		}
	}
	if s, err := Status(t.Context(), o); err != nil || !s.Up || s.Spec.Datapath != FlannelHostGW {
		t.Errorf("Status = %+v, %v", s, err)
	}
	for _, tt := range []struct {
		fault, node string
		want        error
	}{{"fdb-missing", "", ErrUnfit}, {"route-missing", "node9", ErrNoName}, {"duplicate-pod-ip", "node2", ErrUnfit}} {
		if err := Break(t.Context(), o, tt.fault, tt.node); !errors.Is(err, tt.want) {
			t.Errorf("Break %s on %q = %v, want %v", tt.fault, tt.node, err, tt.want)
		}
	}
}

// TestListings compares labs with what the seed documents, or programs' own documentation, show of such
// nodes.
func TestListings(t *testing.T) {
	type listing struct{ netns, command, want string }
	for name, list := range map[string][]listing{
		FlannelHostGW: {
			{"node1", "ip route show proto boot", "10.244.0.0/24 via 10.1.11.90 dev ens192 \n10.244.2.0/24 via 10.1.11.92 dev ens192 "},
			{"node1", "ls /sys/class/net", "cni0\ndocker0\nens192\nlo\nveth33136931\nveth7e2ad0c4"},
		},
		FlannelDirectRouting: {
			{"node1", "ip route show proto boot", "10.244.0.0/24 via 10.1.11.90 dev ens192 \n10.244.2.0/24 via 10.1.11.92 dev ens192 \n" +
				"10.244.3.0/24 via 10.1.11.89 dev ens192 \n10.244.4.0/24 via 10.244.4.0 dev flannel.1 onlink "},
			{"node1", "ip neigh show dev flannel.1", "10.244.4.0 lladdr 02:e0:0a:f4:00:03 PERMANENT "},
		},
		FlannelUDP: {
			{"node1", "ip route show dev flannel0", "10.244.0.0/16 "},
			{"node1", "ip -o -4 addr show flannel0 | grep -o '10.*global'", "10.244.1.0/32 scope global"},
			{"node1", "cat /sys/class/net/flannel0/mtu /sys/class/net/cni0/mtu", "1472\n1472"},
		},
		FlannelDual: {
			{"node1", "ip -6 route show dev flannel-v6.1 proto boot", "fd44:0:0:2::/64 via fd44:0:0:2:: metric 1024 onlink pref medium"},
			{"node1", "ip -6 neigh show dev flannel-v6.1 nud permanent", "fd44:0:0:2:: lladdr 02:e6:0a:f4:00:02 PERMANENT "},
			{"node1", "bridge fdb show dev flannel-v6.1", "02:e6:0a:f4:00:02 dst fd00:10:1:11::92 self permanent"},
			{"node1", "ip -o -6 addr show flannel-v6.1 scope global | grep -o 'fd.*global'", "fd44:0:0:1::/128 scope global"},
		},
		FlannelNAT: {
			{"node1", "bridge fdb show dev flannel.1 | sort", "c6:8a:3b:81:2f:d1 dst 121.37.246.218 self permanent\nda:a9:48:cb:15:3b dst 106.55.227.160 self permanent"},
			{"node1", "ip route show dev flannel.1", "10.244.1.0/24 via 10.244.1.0 onlink \n10.244.4.0/24 via 10.244.4.0 onlink "},
			{"node1", "ip -d link show flannel.1 | grep -o 'vxlan id.*nolearning'", "vxlan id 1 local 172.17.16.14 dev eth0 srcport 0 0 dstport 8472 nolearning"},
		},
		CalicoVXLAN: {
			{"node1", "ip route show proto 80", "blackhole 10.244.1.0/26 \n10.244.2.0/26 via 10.244.2.0 dev vxlan.calico onlink "},
			{"node1", "ip route get 10.244.1.32 | head -1 | cut -d' ' -f1-3", "10.244.1.32 dev cali8155d74e3c7"},
			{"coffee-1", "ip route", "default via 169.254.1.1 dev eth0 \n169.254.1.1 dev eth0 scope link "},
		},
		CiliumENI: {
			{"node1", "ip rule", "9:\tfrom all fwmark 0x200/0xf00 lookup 2004\n20:\tfrom all to 10.5.2.11 lookup main\n20:\tfrom all to 10.5.2.12 lookup main\n" +
				"100:\tfrom all lookup local\n111:\tfrom 10.5.2.12 lookup 11\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default"},
			{"node1", "ip route show table 2004", "local default dev lo scope host "},
			{"node1", "ip route show table 11", "default via 10.5.2.1 dev eth1 \n10.5.2.1 dev eth1 scope link "},
			{"node2", "ip route show 10.5.2.22", "10.5.2.22 dev lxcd86fc95bf974 scope link "},
			{"coffee-1", "ping -c1 -W2 10.5.2.22 | grep -o ttl=61", "ttl=61"},
			{"coffee-1", "ip -o link show eth0 | cut -d: -f1,2", "42: eth0@if43"},
			{"coffee-1", "ip neigh show 10.5.2.191 | cut -d' ' -f1-5", "10.5.2.191 dev eth0 lladdr 86:05:d4:99:a9:f5"},
			{"node1", "tc filter show dev lxc050ba70e11a8 ingress | grep -o 'bpf_lxc.*direct-action'", "bpf_lxc.o:[from-container] direct-action"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, _ := upSpec(t, Spec{Datapath: name})
			for _, l := range list {
				if diff := cmp.Diff(l.want, run(t, o, l.netns, "sh", "-c", l.command)); diff != "" {
					t.Errorf("%s: %s (-want +got):\n%s", l.netns, l.command, diff)
				}
			}
		})
	}
}
