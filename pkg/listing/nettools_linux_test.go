package listing

import (
	"context"
	"slices"
	"testing"

	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/tables"
)

// TestNetToolsAgainstKernel: route, arp, ifconfig, brctl and ethtool show less than iproute2; what they show
// is what the kernel has.
func TestNetToolsAgainstKernel(t *testing.T) {
	need(t, "bash", "ip", "route", "arp", "ifconfig", "brctl", "ethtool", "tc")
	h, pod := nstest.New(t), nstest.New(t)
	nstest.Veth(t, h, "vethpod", pod, "eth0")
	nstest.Addr(t, pod, "eth0", "10.0.5.2/24")
	run(t, h, oracleSetup+"ip link set vethpod master br0; ip route del 10.7.0.0/24 tos 0x10 # its gateway is IPv6: route hides it\n")
	run(t, pod, "ip route add default via 10.0.5.1")
	snap, err := tables.Read(context.Background(), []tables.Source{
		{Netns: h, Node: "n", Name: tables.HostName}, {Netns: pod, Node: "n", Name: "default/p"},
	})
	if err != nil {
		t.Fatal(err)
	}
	host := paste(t, h, []string{"route -n", "arp -n", "ifconfig -a", "brctl show", "brctl showmacs br0", "ethtool -S vethpod", "ip link show vethpod"})
	inside := paste(t, pod, []string{"ifconfig -a", "route -n", "ethtool -S eth0"})
	l := Parse([]Input{
		{File: "host", Node: "n", Netns: tables.HostName, Text: []byte(host)}, {File: "pod", Node: "n", Netns: "default/p", Text: []byte(inside)},
	})
	for _, u := range l.NotUnderstood {
		t.Errorf("not understood: %s %s: %s", u.Origin, u.Text, u.Why)
	}
	want, got := snap.Netns[0], l.Snapshot.Netns[0]
	compareIoctlLinks(t, want, got)
	compareIoctlRoutes(t, want, got)
	for _, n := range want.Neighs {
		if n.IP.Is6() || n.Proxy || n.State&(tables.NUDIncomplete|tables.NUDFailed) != 0 || n.State == tables.NUDNoARP {
			continue
		}
		dev := want.Link(n.Index).Name
		if !slices.ContainsFunc(got.Neighs, func(g tables.Neigh) bool {
			return g.IP == n.IP && g.MAC == n.MAC && got.Link(g.Index).Name == dev && (g.State == tables.NUDPermanent) == (n.State == tables.NUDPermanent)
		}) {
			t.Errorf("neighbour %+v is not in the listing", n)
		}
	}
	// the pod's interface: its index comes from the node's "@ifN", the pair from both sides
	eth0 := l.Snapshot.Netns[1].LinkByName("eth0")
	if w := snap.Netns[1].LinkByName("eth0"); eth0 == nil || eth0.Index != w.Index || eth0.Parent != w.Parent || eth0.EthtoolPeer != w.Parent {
		t.Errorf("eth0 %+v, want %+v", eth0, w)
	}
	if _, p, err := tables.Peer(l.Snapshot, l.Snapshot.Netns[1], eth0); err != nil || p.Name != "vethpod" {
		t.Errorf("the other end is %v, %v", p, err)
	}
}

func compareIoctlLinks(t *testing.T, want, got *tables.Netns) {
	t.Helper()
	for _, w := range want.Links {
		g := got.LinkByName(w.Name)
		if g == nil {
			t.Errorf("link %s is not in the listing", w.Name)
			continue
		}
		if g.MAC != w.MAC || g.MTU != w.MTU || g.Up != w.Up || g.LowerUp != w.LowerUp || g.Loopback != w.Loopback || g.Broadcast != w.Broadcast {
			t.Errorf("link %+v, want %+v", *g, w)
		}
		if w.Master != 0 && (got.Link(g.Master) == nil || got.Link(g.Master).Name != want.Link(w.Master).Name || g.Port == nil) {
			t.Errorf("%s: master %d, port %+v", w.Name, g.Master, g.Port)
		}
		if (w.Kind == "bridge") != (g.Kind == "bridge") {
			t.Errorf("%s is %q, want %q", w.Name, g.Kind, w.Kind)
		}
	}
}

// compareIoctlRoutes: of table main for IPv4, with the first of several next hops.
func compareIoctlRoutes(t *testing.T, want, got *tables.Netns) {
	t.Helper()
	for _, w := range want.Routes {
		if w.Table != tables.TableMain || w.Dst.Addr().Is6() || len(w.NextHops) == 0 || w.NextHops[0].Gateway.Is6() {
			continue
		}
		dev := want.Link(w.NextHops[0].Index).Name
		if !slices.ContainsFunc(got.Routes, func(g tables.Route) bool {
			return g.Table == tables.TableMain && g.Dst == w.Dst && g.Metric == w.Metric && len(g.NextHops) == 1 &&
				g.NextHops[0].Gateway == w.NextHops[0].Gateway && got.Link(g.NextHops[0].Index).Name == dev
		}) {
			t.Errorf("route %s is not in the listing", want.FormatRoute(w))
		}
	}
}
