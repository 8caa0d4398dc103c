package trace

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

// docCase is the question of the published walk: from coffee-1 to coffee-2, by tables alone.
func docCase(s *tables.Snapshot) *Case {
	lease := func(ip, mac string) inventory.Lease {
		return inventory.Lease{BackendType: "vxlan", PublicIP: netip.MustParseAddr(ip), VtepMAC: ether.MustParseMAC(mac), VNI: 1}
	}
	inv := &inventory.Inventory{Nodes: []inventory.Node{
		{Name: "node1", InternalIPs: []netip.Addr{netip.MustParseAddr("10.1.11.91")}, Flannel: lease("10.1.11.91", "1e:0f:7e:bb:26:2b"),
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
		{Name: "node2", InternalIPs: []netip.Addr{netip.MustParseAddr("10.1.11.92")}, Flannel: lease("10.1.11.92", "ce:b8:fc:a6:06:d2"),
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}},
	}}
	ep := func(name, node string, ip netip.Addr) inventory.Endpoint {
		return inventory.Endpoint{Kind: inventory.KindPod, Namespace: "default", Name: name, IPs: []netip.Addr{ip}, Node: node}
	}
	return &Case{
		Inventory: inv, Snapshot: s,
		Source:      ep("coffee-1", "node1", tablestest.Coffee1IP),
		Destination: ep("coffee-2", "node2", tablestest.Coffee2IP),
		From:        resolve.Location{Node: "node1", PodNetns: tablestest.Coffee1, HostNetns: tablestest.Node1, Interface: "eth0", Ifindex: 3, Veth: "veth33", VethIndex: 33, Bridge: "cni0", BridgeIndex: 5},
		To:          resolve.Location{Node: "node2", PodNetns: tablestest.Coffee2, HostNetns: tablestest.Node2, Interface: "eth0", Ifindex: 3, Veth: "veth41", VethIndex: 41, Bridge: "cni0", BridgeIndex: 5},
		Flow:        forward.Flow{Proto: forward.ProtoICMP, ICMPType: 8, SrcPort: 7, Src: tablestest.Coffee1IP, Dst: tablestest.Coffee2IP},
	}
}

// TestRouteByWhatTheFarNodeHas: where no network plugin says how nodes reach each other's pods, the far node's own route
// shows how. Rules on it that drop what belongs to no connection have no part in it.
func TestRouteByWhatTheFarNodeHas(t *testing.T) {
	for name, c := range map[string]struct {
		via   string // of node1's route to the pods of node2; "": it has none but the default route
		cause string
	}{
		"healthy":       {"10.1.11.92", ""},
		"gone":          {"", "route-missing"},
		"to a stranger": {"10.1.11.99", "nexthop-stale"},
	} {
		s := tablestest.Cluster()
		for i, via := range []string{c.via, "10.1.11.91"} {
			r := &s.Netns[i].Routes[6]
			if via == "" {
				s.Netns[i].Routes = slices.Delete(s.Netns[i].Routes, 6, 7)
				continue
			}
			r.NextHops = []tables.NextHop{{Index: 2, Gateway: netip.MustParseAddr(via), Weight: 1}}
		}
		k := docCase(s)
		for i := range k.Inventory.Nodes {
			k.Inventory.Nodes[i].Flannel = inventory.Lease{}
		}
		if r := Judge(k); r.Verdict.Cause != c.cause || c.cause != "" && r.Verdict.Node != "node1" {
			t.Errorf("%s: %+v", name, r.Verdict)
		}
	}
}

func TestJudgeHealthyTables(t *testing.T) {
	r := Judge(docCase(tablestest.Cluster()))
	if r.Verdict.Status != report.Healthy || len(r.Findings) != 0 || len(r.Legs[0].Hops) != 10 || len(r.Legs[1].Hops) != 10 {
		t.Errorf("%+v, %d findings", r.Verdict, len(r.Findings))
	}
	if r.Datapath != "flannel-vxlan" {
		t.Errorf("datapath %q", r.Datapath)
	}
}

// TestJudgeOneValueChanged changes one value of the cluster at a time: each has to be found, at its place.
func TestJudgeOneValueChanged(t *testing.T) {
	n1 := func(c *Case) *tables.Netns { return c.Snapshot.Netns[0] }
	n2 := func(c *Case) *tables.Netns { return c.Snapshot.Netns[1] }
	far := netip.MustParsePrefix("10.244.2.0/24")
	near := netip.MustParsePrefix("10.244.1.0/24")
	without := func(ns *tables.Netns, p netip.Prefix) {
		ns.Routes = slices.DeleteFunc(ns.Routes, func(r tables.Route) bool { return r.Dst == p })
	}
	for _, c := range []struct {
		name                   string
		change                 func(c *Case)
		cause, node, dev, legs string
	}{
		{"fdb dst", func(c *Case) { n1(c).FDB[0].Dst = netip.MustParseAddr("10.1.11.99") }, "fdb-wrong-dst", "node1", "flannel.1", "request"},
		{"fdb dst of the other node", func(c *Case) { n2(c).FDB[0].Dst = netip.MustParseAddr("10.1.11.99") }, "fdb-wrong-dst", "node2", "flannel.1", "reply"},
		{"fdb row", func(c *Case) { n1(c).FDB = nil }, "fdb-missing", "node1", "flannel.1", "request"},
		{"neigh lladdr", func(c *Case) { n1(c).Neighs[0].MAC = ether.MustParseMAC("0a:0a:00:00:00:99") }, "neigh-wrong-mac", "node1", "flannel.1", "request"},
		{"neigh row", func(c *Case) { n1(c).Neighs = nil }, "neigh-missing", "node1", "flannel.1", "request"},
		{"vtep MAC", func(c *Case) { n2(c).Links[2].MAC = ether.MustParseMAC("0a:0a:00:00:00:77") }, "vtep-mac-changed", "node2", "flannel.1", "request"},
		{"route, default left", func(c *Case) { without(n1(c), far) }, "route-missing", "node1", "cni0", "request"},
		{"route back", func(c *Case) { without(n2(c), near) }, "route-missing", "node2", "cni0", "reply"},
		{"route type", func(c *Case) {
			r := tablestest.Route(tables.TableMain, tables.RouteBlackhole, "10.244.2.0/25", 0, "")
			r.NextHops = nil
			n1(c).Routes = append(n1(c).Routes, r)
		}, "blackhole-route", "node1", "cni0", "request"},
		{"forwarding", func(c *Case) { n1(c).Sysctls["ipv4.conf.cni0.forwarding"] = "0" }, "ip-forward-off", "node1", "cni0", "request"},
		{"vni", func(c *Case) { n2(c).Links[2].VXLAN.VNI = 4096 }, "vni-mismatch", "node2", "flannel.1", "request"},
		{"vxlan port", func(c *Case) { n2(c).Links[2].VXLAN.Port = 4789 }, "vxlan-port-mismatch", "node2", "flannel.1", "request"},
		{"vxlan down on the receiver", func(c *Case) { n2(c).Links[2].Up = false }, "vxlan-down", "node2", "flannel.1", "request"},
		{"pod's route", func(c *Case) {
			c.Snapshot.Netns[2].Routes = c.Snapshot.Netns[2].Routes[:1]
		}, "pod-default-route-missing", "node1", "", "request"},
		{"pod's interface", func(c *Case) { c.Snapshot.Netns[4].Links[1].Up = false }, "pod-link-down", "node2", "eth0", "request"},
		{"bridge port", func(c *Case) { n2(c).Links[4].Port.State = "blocking" }, "bridge-port-blocked", "node2", "veth41", "request"},
		{"bridge", func(c *Case) { n2(c).Links[4].Master, n2(c).Links[4].Port, c.To.BridgeIndex = 0, nil, 0 }, "veth-no-master", "node2", "veth41", "request"},
		{"pod's neighbour", func(c *Case) {
			n2(c).Neighs = append(n2(c).Neighs, tables.Neigh{Index: 5, IP: tablestest.Coffee2IP, MAC: ether.MustParseMAC("02:de:ad:00:00:01"), State: tables.NUDPermanent})
		}, "pod-neigh-stale", "node2", "cni0", "request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := docCase(tablestest.Cluster())
			c.change(k)
			v := Judge(k).Verdict
			if v.Status == report.Healthy || v.Cause != c.cause || v.Node != c.node || c.dev != "" && v.Interface != c.dev || v.Leg != c.legs {
				t.Errorf("%s %s at %s %s (%s), want %s at %s %s (%s): %s", v.Status, v.Cause, v.Node, v.Interface, v.Leg, c.cause, c.node, c.dev, c.legs, v.Summary)
			}
		})
	}
}

// TestJudgeOddities: what is odd and harmless stays healthy.
func TestJudgeOddities(t *testing.T) {
	for name, change := range map[string]func(c *Case){
		"stale fdb rows": func(c *Case) {
			n := c.Snapshot.Netns[0]
			n.FDB = append(n.FDB, tables.FDB{Index: 4, MAC: ether.MustParseMAC("06:ee:53:fd:1a:a9"), Dst: netip.MustParseAddr("10.1.11.92"), State: tables.NUDPermanent})
		},
		"stale neighbour": func(c *Case) {
			n := c.Snapshot.Netns[1]
			n.Neighs = append(n.Neighs, tables.Neigh{Index: 5, IP: tablestest.Coffee2IP, MAC: c.Snapshot.Netns[4].Links[1].MAC, State: tables.NUDStale})
		},
		"loose reverse path filter": func(c *Case) { c.Snapshot.Netns[1].Sysctls["ipv4.conf.all.rp_filter"] = "2" },
		"a second vxlan device": func(c *Case) {
			n := c.Snapshot.Netns[1]
			l := n.Links[2]
			v := *l.VXLAN
			v.VNI, v.Port = 7, 4789
			l.Index, l.Name, l.VXLAN = 90, "other", &v
			n.Links = append(n.Links, l)
		},
		"a fabric that answers ARP itself": func(c *Case) {
			n := c.Snapshot.Netns[0]
			n.Neighs = append(n.Neighs, tables.Neigh{Index: 2, IP: netip.MustParseAddr("10.1.11.92"), MAC: ether.MustParseMAC("12:34:56:78:9a:bc"), State: tables.NUDReachable})
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := docCase(tablestest.Cluster())
			change(k)
			if r := Judge(k); r.Verdict.Status != report.Healthy {
				t.Errorf("%+v %+v", r.Verdict, r.Findings)
			}
		})
	}
}

// TestOtherFamilysTunnel: of two tunnels the one of the other family is not the one that is missing.
func TestOtherFamilysTunnel(t *testing.T) {
	k := docCase(tablestest.Cluster())
	n := k.Snapshot.Netns[1]
	gone := n.Links[2]
	n.Links = slices.DeleteFunc(n.Links, func(l tables.Link) bool { return l.VXLAN != nil })
	vx := *gone.VXLAN
	vx.Local = netip.MustParseAddr("fd00:10:1:11::92")
	gone.Name, gone.Index, gone.VXLAN = "flannel-v6.1", 90, &vx
	n.Links = append(n.Links, gone)
	if v := Judge(k).Verdict; v.Cause != "vxlan-dev-gone" || v.Node != "node2" {
		t.Errorf("%+v", v)
	}
}

// TestJudgeTwoAtOnce: of two faults the one that the packet meets first is the verdict, and the other is listed.
func TestJudgeTwoAtOnce(t *testing.T) {
	for _, c := range []struct {
		name               string
		change             func(near, far *tables.Netns)
		first, second, leg string
	}{
		{"the request's way on", func(near, far *tables.Netns) {
			near.FDB = nil
			far.Sysctls["ipv4.conf.flannel.1.forwarding"] = "0"
		}, "fdb-missing", "ip-forward-off", "request"},
		{"behind a missing neighbour, a blocked port", func(near, far *tables.Netns) {
			near.Neighs = nil
			far.Links[4].Port.State = "blocking"
		}, "neigh-missing", "bridge-port-blocked", "request"},
		{"the reply's way on", func(near, far *tables.Netns) {
			far.FDB = nil
			near.Sysctls["ipv4.conf.flannel.1.forwarding"] = "0" // by which only replies come in
		}, "fdb-missing", "ip-forward-off", "reply"},
		{"one in each direction", func(near, far *tables.Netns) {
			near.FDB, far.FDB = nil, nil
		}, "fdb-missing", "fdb-missing", "request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := docCase(tablestest.Cluster())
			c.change(k.Snapshot.Netns[0], k.Snapshot.Netns[1])
			r := Judge(k)
			if r.Verdict.Status != report.Broken || r.Verdict.Cause != c.first || r.Verdict.Leg != c.leg {
				t.Errorf("verdict %+v, want %s", r.Verdict, c.first)
			}
			if len(r.Findings) < 2 || !slices.ContainsFunc(r.Findings[1:], func(f report.Finding) bool { return f.Cause == c.second }) {
				t.Errorf("%s is not among the findings: %+v", c.second, r.Findings)
			}
		})
	}
}
