package forward

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

func ping(src, dst netip.Addr) Flow {
	return Flow{Proto: ProtoICMP, ICMPType: 8, SrcPort: 7, Src: src, Dst: dst}
}

func places(l Leg) string {
	var out []string
	for _, h := range l.Hops {
		out = append(out, fmt.Sprintf("%s/%s:%s", h.Node, h.Interface, h.Dir))
	}
	return strings.Join(out, " ")
}

func TestTenHopsAcrossNodes(t *testing.T) {
	m := New(tablestest.Cluster(), Options{})
	req := m.Trace(tablestest.Coffee1, ping(tablestest.Coffee1IP, tablestest.Coffee2IP))
	if len(req) != 1 || req[0].End != Delivered || req[0].Final != tablestest.Coffee2 {
		t.Fatalf("request: %d legs, %+v", len(req), req[0].Drop)
	}
	want := "node1/eth0:out node1/veth33:in node1/cni0:in node1/flannel.1:out node1/ens192:out " +
		"node2/eno16780032:in node2/flannel.1:in node2/cni0:out node2/veth41:out node2/eth0:in"
	if got := places(req[0]); got != want {
		t.Errorf("request\n got %s\nwant %s", got, want)
	}
	// the header values that the walk-through states at its four points
	for _, c := range []struct {
		hop            int
		src, dst       string
		outSrc, outDst string
		outIPs         string
		ttl            uint8
	}{
		{0, "4a:9e:70:55:74:ac", "8e:62:4b:7f:4b:ab", "", "", "", 64},
		{2, "4a:9e:70:55:74:ac", "8e:62:4b:7f:4b:ab", "", "", "", 64},
		{3, "1e:0f:7e:bb:26:2b", "ce:b8:fc:a6:06:d2", "", "", "", 63},
		{4, "1e:0f:7e:bb:26:2b", "ce:b8:fc:a6:06:d2", "00:50:56:ab:81:34", "00:50:56:ab:00:3b", "10.1.11.91>10.1.11.92:8472", 63},
		{9, "4a:ab:da:9d:27:34", "4a:9e:70:55:74:ae", "", "", "", 62},
	} {
		f := req[0].Hops[c.hop].Frame
		if f.EthSrc.String() != c.src || f.EthDst.String() != c.dst || f.TTL != c.ttl {
			t.Errorf("hop %d: %s > %s ttl %d, want %s > %s ttl %d", c.hop, f.EthSrc, f.EthDst, f.TTL, c.src, c.dst, c.ttl)
		}
		if (f.Outer != nil) != (c.outSrc != "") {
			t.Errorf("hop %d: outer %+v", c.hop, f.Outer)
			continue
		}
		if o := f.Outer; o != nil {
			ips := fmt.Sprintf("%s>%s:%d", o.Src, o.Dst, o.DstPort)
			if o.EthSrc.String() != c.outSrc || o.EthDst.String() != c.outDst || ips != c.outIPs || o.VNI != 1 {
				t.Errorf("hop %d: outer %s > %s %s vni %d", c.hop, o.EthSrc, o.EthDst, ips, o.VNI)
			}
		}
	}
	rep := m.Reply(req[0])
	wantBack := strings.Fields(want)
	slices.Reverse(wantBack)
	for i, s := range wantBack {
		if strings.HasSuffix(s, ":in") {
			wantBack[i] = strings.TrimSuffix(s, "in") + "out"
		} else {
			wantBack[i] = strings.TrimSuffix(s, "out") + "in"
		}
	}
	if got := places(rep[0]); rep[0].End != Delivered || got != strings.Join(wantBack, " ") {
		t.Errorf("reply\n got %s\nwant %s", got, strings.Join(wantBack, " "))
	}
}

func TestFiveHopsOnOneNode(t *testing.T) {
	m := New(tablestest.Cluster(), Options{})
	req := m.Trace(tablestest.Coffee1, ping(tablestest.Coffee1IP, tablestest.Tea1IP))
	want := "node1/eth0:out node1/veth33:in node1/cni0:in node1/veth34:out node1/eth0:in"
	if got := places(req[0]); got != want || req[0].End != Delivered {
		t.Fatalf("request %s %s, want %s", req[0].End, got, want)
	}
	if !req[0].Hops[2].Bridged || req[0].Hops[4].Frame.TTL != 64 {
		t.Errorf("the frame should be bridged, with its TTL as it was: %+v", req[0].Hops[2])
	}
	if rep := m.Reply(req[0]); rep[0].End != Delivered || len(rep[0].Hops) != 5 {
		t.Errorf("reply %s %s", rep[0].End, places(rep[0]))
	}
}

// TestDrops changes one entry at a time: each has to end the walk at its place with its reason.
func TestDrops(t *testing.T) {
	node := func(s *tables.Snapshot, i int) *tables.Netns { return s.Netns[i] }
	far := netip.MustParsePrefix("10.244.2.0/24")
	for _, c := range []struct {
		name   string
		change func(s *tables.Snapshot)
		reason Reason
		at     string // node and interface
		hops   int
	}{
		{"route missing", func(s *tables.Snapshot) {
			n := node(s, 0)
			n.Routes = slices.DeleteFunc(n.Routes, func(r tables.Route) bool { return r.Dst == far || r.Dst.Bits() == 0 })
		}, ReasonNoRoute, "node1 cni0", 3},
		{"blackhole", func(s *tables.Snapshot) {
			r := tablestest.Route(tables.TableMain, tables.RouteBlackhole, "10.244.2.40/32", 0, "")
			r.NextHops = nil
			node(s, 0).Routes = append(node(s, 0).Routes, r)
		}, ReasonBlackhole, "node1 cni0", 3},
		{"forwarding off", func(s *tables.Snapshot) { node(s, 0).Sysctls["ipv4.conf.cni0.forwarding"] = "0" }, ReasonForwarding, "node1 cni0", 3},
		{"neigh missing", func(s *tables.Snapshot) { node(s, 0).Neighs = nil }, ReasonNeigh, "node1 flannel.1", 3},
		{"fdb missing", func(s *tables.Snapshot) { node(s, 0).FDB = nil }, ReasonNoFDB, "node1 flannel.1", 4},
		{"vtep sends from an address that is not the node's", func(s *tables.Snapshot) {
			node(s, 0).Links[2].VXLAN.Local = netip.MustParseAddr("121.4.190.84")
		}, ReasonForeignSource, "node1 flannel.1", 4},
		{"vtep mac changed", func(s *tables.Snapshot) {
			node(s, 1).Links[2].MAC = ether.MustParseMAC("0a:0a:00:00:00:77")
		}, ReasonOtherHost, "node2 flannel.1", 7},
		{"vni mismatch", func(s *tables.Snapshot) { node(s, 1).Links[2].VXLAN.VNI = 4096 }, ReasonNoVNI, "node2 flannel.1", 6},
		{"port mismatch", func(s *tables.Snapshot) { node(s, 1).Links[2].VXLAN.Port = 4789 }, ReasonNoSocket, "node2 eno16780032", 6},
		{"vxlan down", func(s *tables.Snapshot) { node(s, 1).Links[2].Up = false }, ReasonNoSocket, "node2 eno16780032", 6},
		{"port blocked, gateway not known", func(s *tables.Snapshot) { node(s, 0).Links[4].Port.State = "blocking" }, ReasonNeigh, "node1 eth0", 0},
		{"port blocked, gateway known", func(s *tables.Snapshot) {
			node(s, 0).Links[4].Port.State = "blocking"
			node(s, 2).Neighs = []tables.Neigh{{Index: 3, IP: netip.MustParseAddr("10.244.1.1"), MAC: node(s, 0).Links[3].MAC, State: tables.NUDReachable}}
		}, ReasonPortState, "node1 veth33", 2},
		{"rp filter", func(s *tables.Snapshot) {
			n := node(s, 1)
			n.Sysctls["ipv4.conf.all.rp_filter"] = "1"
			n.Routes = append(n.Routes, tablestest.Route(tables.TableMain, tables.RouteUnicast, "10.244.1.32/32", 2, "10.1.11.91"))
		}, ReasonRPFilter, "node2 flannel.1", 7},
		{"mtu", func(s *tables.Snapshot) { node(s, 0).Links[2].MTU = 60 }, ReasonTooBig, "node1 flannel.1", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tablestest.Cluster()
			c.change(s)
			f := ping(tablestest.Coffee1IP, tablestest.Coffee2IP)
			f.DF = true
			l := New(s, Options{}).Trace(tablestest.Coffee1, f)[0]
			if l.End != Dropped {
				t.Fatalf("ends %s (%s): %s", l.End, l.Why, places(l))
			}
			if at := l.Drop.Node + " " + l.Drop.Interface; l.Drop.Reason != c.reason || at != c.at || len(l.Hops) != c.hops {
				t.Errorf("dropped for %s at %s after %d hops, want %s at %s after %d", l.Drop.Reason, at, len(l.Hops), c.reason, c.at, c.hops)
			}
		})
	}
}

// TestWrongFDBLeaves: a row that names an address of nobody's is followed to where the snapshot ends.
func TestWrongFDBLeaves(t *testing.T) {
	s := tablestest.Cluster()
	s.Netns[0].FDB[0].Dst = netip.MustParseAddr("10.1.11.99")
	l := New(s, Options{}).Trace(tablestest.Coffee1, ping(tablestest.Coffee1IP, tablestest.Coffee2IP))[0]
	if l.End != Left || len(l.Hops) != 5 || l.Hops[4].Frame.Outer.Dst.String() != "10.1.11.99" {
		t.Errorf("ends %s %s: %s", l.End, l.Why, places(l))
	}
}

// TestLoopEnds: two nodes whose routes point at each other.
func TestLoopEnds(t *testing.T) {
	s := tablestest.Cluster()
	n2 := s.Netns[1]
	n2.Routes = append(n2.Routes, tablestest.Route(tables.TableMain, tables.RouteUnicast, "10.244.2.40/32", 4, "10.244.1.0"))
	l := New(s, Options{}).Trace(tablestest.Coffee1, ping(tablestest.Coffee1IP, tablestest.Coffee2IP))[0]
	if l.End != Dropped || l.Drop.Reason != ReasonTTL && l.Drop.Reason != ReasonLoop {
		t.Errorf("ends %s %+v", l.End, l.Drop)
	}
}

// BenchmarkWalk plays both legs on a node with 100,000 routes and 50,000 FDB entries; the figure to
// reach is 1 ms a path.
func BenchmarkWalk(b *testing.B) {
	s := tablestest.Cluster()
	n := s.Netns[0]
	for i := range 100_000 {
		n.Routes = append(n.Routes, tablestest.Route(tables.TableMain, tables.RouteUnicast, fmt.Sprintf("172.%d.%d.%d/32", 16+i>>16, i>>8&255, i&255), 2, "10.1.11.1"))
	}
	for i := range 50_000 {
		n.FDB = append(n.FDB, tables.FDB{Index: 4, MAC: ether.MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}, Dst: netip.MustParseAddr("10.1.11.92"), State: tables.NUDPermanent})
	}
	m := New(s, Options{})
	f := ping(tablestest.Coffee1IP, tablestest.Coffee2IP)
	b.ReportAllocs()
	for b.Loop() {
		l := m.Trace(tablestest.Coffee1, f)
		if r := m.Reply(l[0]); r[0].End != Delivered {
			b.Fatal(r[0].End)
		}
	}
}
