package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// legs sends a ping from coffee-1 to coffee-2 and reports which legs work.
func legs(t *testing.T, o Options) (request, reply bool) {
	t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr("10.244.2.40"), 0)
	before := requestsAt(t, o, "coffee-2")
	err := exchange(o, "coffee-1", "icmp", to, 2*brief)
	return requestsAt(t, o, "coffee-2") > before, err == nil
}

// TestFaults puts each fault of the default lab on either node. Each lab gets its share of them.
func TestFaults(t *testing.T) {
	faults, err := FaultsOf(Spec{})
	if err != nil {
		t.Fatal(err)
	}
	const labs = 6
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range labs {
		wg.Go(func() {
			t.Run(fmt.Sprint("lab ", i), func(t *testing.T) {
				o := up(t)
				before := tablesOf(t, o)
				for k := i; k < len(faults); k += labs {
					f := faults[k]
					if f.Leg == onLarge || f.From != "coffee-1" || f.To != "coffee-2" || f.ID == "fdb-aged" {
						continue // these are on other paths: TestFaultsOfDatapaths
					}
					t.Run(f.ID, func(t *testing.T) { testFault(t, o, f) })
				}
				if diff := cmp.Diff(lines(before), lines(tablesOf(t, o))); diff != "" {
					t.Errorf("mended lab differs (-before +after):\n%s", diff)
				}
			})
		})
	}
}

func testFault(t *testing.T, o Options, f Fault) {
	if request, reply := legs(t, o); !request || !reply {
		t.Fatalf("before: request %v, reply %v", request, reply)
	}
	for _, n := range []string{"node1", "node2"} {
		for range 2 { // the second time nothing happens
			if err := Break(t.Context(), o, f.ID, n); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := Status(t.Context(), o); err != nil || !s.Up || len(s.Broken) != 1 || s.Broken[0] != (Broken{f.ID, n}) {
			t.Errorf("Status = %+v, %v", s, err)
		}
		request, reply := legs(t, o)
		switch {
		case f.Leg == onNone:
			if !request || !reply {
				t.Errorf("%s: nothing should be lost: request %v, reply %v", n, request, reply)
			}
		case f.Leg == onBoth || (f.Leg == onRequest) == (f.Node == n):
			if request {
				t.Errorf("%s: the request arrived", n)
			}
		default:
			if !request || reply {
				t.Errorf("%s: request %v, reply %v, want the reply alone to be lost", n, request, reply)
			}
		}
		if err := Mend(t.Context(), o, f.ID); err != nil {
			t.Fatal(err)
		}
		if request, reply := legs(t, o); !request || !reply {
			t.Errorf("%s: mended: request %v, reply %v", n, request, reply)
		}
	}
}

// tablesOf lists all that a lab's namespaces were told, without what the kernel learns by itself.
func tablesOf(t *testing.T, o Options) string {
	t.Helper()
	const script = `exec 2>/dev/null; ip -d link | sed 's/ \(forward_delay_timer\|gc_timer\|hello_timer\|hold_timer\|tcn_timer\) *[0-9.]*//g; s/state [A-Z]* //; s/NO-CARRIER,//'
ip addr | grep inet; ip route show table all | grep -v -e ' table local' -e '^fe80' | sed 's/ linkdown//'; ip rule; ip neigh show nud permanent | sort
bridge fdb | grep 'dst .* self' | sort; nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'; grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward
for d in $(ls /sys/class/net); do tc filter show dev $d ingress | sed 's/ id [0-9]* / /'; done; iptables-legacy-save | grep -e ^-A -e ' DROP '; true`
	var all strings.Builder
	for _, name := range Names(o) {
		all.WriteString("# " + name + "\n" + run(t, o, name, "sh", "-c", script) + "\n")
	}
	return all.String()
}

func TestFaultsAddUp(t *testing.T) {
	o := up(t)
	for _, id := range []string{"fdb-missing", "ip-forward-off", "vxlan-dev-gone"} {
		if err := Break(t.Context(), o, id, ""); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
	}
	for _, id := range []string{"vxlan-dev-gone", "ip-forward-off"} {
		if request, _ := legs(t, o); request {
			t.Errorf("%s mended too early", id)
		}
		if err := Mend(t.Context(), o, id); err != nil {
			t.Fatal(err)
		}
	}
	if got := run(t, o, "node1", "bridge", "fdb", "show", "dev", "flannel.1"); strings.Contains(got, "ce:b8:fc:a6:06:d2") {
		t.Errorf("fdb-missing was mended with another fault:\n%s", got)
	}
	if err := Mend(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if request, reply := legs(t, o); !request || !reply {
		t.Errorf("mended: request %v, reply %v", request, reply)
	}
}

// TestMendByHand shows that Mend does not need to know what was done.
func TestMendByHand(t *testing.T) {
	o := up(t)
	before := tablesOf(t, o)
	for _, c := range []string{
		"node1 ip link del flannel.1", "node2 ip link del cni0", "coffee-1 ip link del eth0",
		"node2 ip addr flush dev eno16780032", "node2 ip rule add pref 9 from 10.0.0.0/8 blackhole", "node1 ip link add br9 type bridge",
		"node2 nft add table inet x", "node2 sysctl -w net.ipv4.conf.flannel/1.forwarding=0",
		"switch ip link set underlay down", "tea-1 ip route flush table main", "node2 bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 10.1.11.91",
		"node2 iptables-legacy -P FORWARD DROP", "node1 iptables-legacy -t nat -A POSTROUTING -j MASQUERADE", "node1 tc qdisc add dev cni0 clsact",
		"node1 ethtool -K ens192 tx off",
		"node1 ip neigh add 10.244.1.33 lladdr 02:00:00:00:00:01 dev docker0", "node1 ip route add 10.244.2.40 via 10.1.11.1 dev ens192 mtu 1000",
	} {
		argv := strings.Fields(c)
		run(t, o, argv[0], argv[1:]...)
	}
	if err := Mend(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := tablesOf(t, o); got != before {
		t.Errorf("mended lab differs:\n%s\nwas\n%s", got, before)
	}
	if request, reply := legs(t, o); !request || !reply {
		t.Errorf("mended: request %v, reply %v", request, reply)
	}
}

func TestErrors(t *testing.T) {
	o := testOptions(t)
	if err := Break(t.Context(), o, "fdb-missing", ""); !errors.Is(err, ErrNotUp) {
		t.Errorf("Break without a lab = %v", err)
	}
	if err := Mend(t.Context(), o); !errors.Is(err, ErrNotUp) {
		t.Errorf("Mend without a lab = %v", err)
	}
	if _, _, err := try(t, o, "node1", "true"); !errors.Is(err, ErrNotUp) {
		t.Errorf("Exec without a lab = %v", err)
	}
	if _, _, err := try(t, o, "node9", "true"); !errors.Is(err, ErrNoName) {
		t.Errorf("Exec in node9 = %v", err)
	}
	if err := Break(t.Context(), o, "no-such", ""); !errors.Is(err, ErrNoFault) {
		t.Errorf("Break no-such = %v", err)
	}
	checkNothingLeft(t, o)
}
