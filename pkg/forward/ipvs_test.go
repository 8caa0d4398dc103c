package forward

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

var (
	vip      = netip.MustParseAddr("10.96.0.10")
	toVIP    = Flow{Proto: ProtoTCP, TCPFlags: 2, Src: tablestest.Coffee1IP, Dst: vip, SrcPort: 40000, DstPort: 80, TTL: 64}
	realPort = netip.AddrPortFrom(tablestest.Coffee2IP, 8080)
)

// balanced is the cluster with a virtual server on node1, whose kube-proxy masquerades what comes to it from elsewhere.
func balanced(real ...tables.RealServer) (*tables.Snapshot, *tables.Netns) {
	s := tablestest.Cluster()
	n := s.Netns[0]
	n.Routes = append(n.Routes, tablestest.Route(tables.TableLocal, tables.RouteLocal, "10.96.0.10/32", 1, ""))
	n.IPVS = []tables.VirtualServer{{Proto: "TCP", Addr: netip.AddrPortFrom(vip, 80), Scheduler: "rr", Real: real}}
	n.Sysctls["ipv4.vs.conntrack"] = "1"
	n.Netfilter = &netfilter.Ruleset{Tables: []netfilter.Table{{
		Backend: netfilter.BackendLegacy, Family: netfilter.FamilyIPv4, Name: "nat", Chains: []netfilter.Chain{{
			Name: "POSTROUTING", Base: true, Type: "nat", Hook: netfilter.HookPostrouting, Priority: 100,
			Rules: []netfilter.Rule{{Number: 1, Exprs: []netfilter.Expr{
				{Op: netfilter.OpTuple, Tuple: &netfilter.Match{Dst: netip.PrefixFrom(vip, 32)}}, {Op: netfilter.OpNAT, NAT: &netfilter.NAT{Kind: "masquerade"}},
			}}},
		}},
	}}}
	return s, n
}

// TestVirtualServer: the packet goes on to the real server as if the node had sent it, and the answer comes back from
// the virtual one. All else that comes to the address is the node's.
func TestVirtualServer(t *testing.T) {
	s, _ := balanced(tables.RealServer{Addr: realPort, Forward: "Masq", Weight: 1})
	m := New(s, Options{})
	legs := m.Trace(tablestest.Coffee1, toVIP)
	l := legs[0]
	if len(legs) != 1 || l.End != Delivered || l.Final != tablestest.Coffee2 || l.FinalFlow.DstPort != 8080 {
		t.Fatalf("%d legs, %v %v %+v %v", len(legs), l.End, l.Why, l.FinalFlow, l.Drop)
	}
	if h := l.Hops[len(l.Hops)-1]; h.Frame.TTL != 62 {
		t.Errorf("TTL %d at the far end, want 62: one less for each node", h.Frame.TTL)
	}
	back := m.Reply(l)[0]
	if back.End != Delivered || back.FinalFlow.Src != vip || back.FinalFlow.SrcPort != 80 {
		t.Errorf("reply: %v %v %+v", back.End, back.Why, back.FinalFlow)
	}
	if d := m.Data(tablestest.Coffee1, toVIP, back, 100); len(d) != 1 || d[0].Final != tablestest.Coffee2 {
		t.Errorf("data: %+v", d)
	}
	other := toVIP
	other.DstPort = 81
	if l := m.Trace(tablestest.Coffee1, other)[0]; l.End != Delivered || l.Final != tablestest.Node1 {
		t.Errorf("port 81: %v", l.End)
	}
}

// TestVirtualServerChoice: each real server with a weight is a way; a packet of a connection stays with its own.
func TestVirtualServerChoice(t *testing.T) {
	tea := netip.AddrPortFrom(tablestest.Tea1IP, 8080)
	s, n := balanced(tables.RealServer{Addr: realPort, Forward: "Masq", Weight: 1}, tables.RealServer{Addr: tea, Forward: "Masq", Weight: 2},
		tables.RealServer{Addr: netip.MustParseAddrPort("10.244.2.99:8080"), Forward: "Masq"})
	m := New(s, Options{})
	legs := m.Trace(tablestest.Coffee1, toVIP)
	if len(legs) != 2 || legs[0].Final != tablestest.Coffee2 || legs[1].Final != tablestest.Tea1 || !strings.Contains(legs[1].Chance[0], tea.String()) {
		t.Fatalf("%+v", legs)
	}
	if d := m.Data(tablestest.Coffee1, toVIP, m.Reply(legs[0])[0], 100); len(d) != 1 || d[0].Final != tablestest.Coffee2 {
		t.Errorf("data goes elsewhere than the handshake: %+v", d)
	}
	for i := range n.IPVS[0].Real {
		n.IPVS[0].Real[i].Weight = 0
	}
	if l := New(s, Options{}).Trace(tablestest.Coffee1, toVIP)[0]; l.Drop == nil || l.Drop.Reason != ReasonNoServer {
		t.Errorf("no weight anywhere: %v %+v", l.End, l.Drop)
	}
}

// TestVirtualServerNotFollowed: what is not known is said, and no fault.
func TestVirtualServerNotFollowed(t *testing.T) {
	for want, change := range map[string]func(*tables.Netns){
		"net.ipv4.vs.conntrack":              func(n *tables.Netns) { delete(n.Sysctls, "ipv4.vs.conntrack") },
		"it forwards by Tunnel":              func(n *tables.Netns) { n.IPVS[0].Real[0].Forward = "Tunnel" },
		"conntrack does not know the connec": func(n *tables.Netns) { n.Netfilter.Tables = nil },
	} {
		s, n := balanced(tables.RealServer{Addr: realPort, Forward: "Masq", Weight: 1})
		change(n)
		if l := New(s, Options{}).Trace(tablestest.Coffee1, toVIP)[0]; l.End != Unknown || !strings.Contains(l.Why, want) {
			t.Errorf("%s: %v %q", want, l.End, l.Why)
		}
	}
}
