package forward

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

func without(s *tables.Snapshot, ids ...netns.ID) *tables.Snapshot {
	s.Netns = slices.DeleteFunc(s.Netns, func(n *tables.Netns) bool { return slices.Contains(ids, n.ID) })
	return s
}

// TestFloodGoesToItsStation: a bridge that has not learned an address floods the frame. The path is the port of
// the station that has it, whatever ports lead out of the snapshot; where the station is not in the snapshot,
// one such port may have it, and of several nobody can say which.
func TestFloodGoesToItsStation(t *testing.T) {
	toTea := ping(tablestest.Coffee2IP, tablestest.Tea1IP)
	l := New(without(tablestest.Cluster(), tablestest.Coffee1), Options{}).Trace(tablestest.Coffee2, toTea)[0]
	if l.End != Delivered || l.Final != tablestest.Tea1 {
		t.Errorf("to a known station: %s %s: %s", l.End, l.Why, places(l))
	}
	known := func(s *tables.Snapshot) *tables.Snapshot { // node1 has tea-1's address, its bridge no row for it
		s.Netns[0].Neighs = append(s.Netns[0].Neighs, tables.Neigh{
			Index: 5, IP: tablestest.Tea1IP, MAC: ether.MustParseMAC("4a:9e:70:55:74:ad"), State: tables.NUDReachable,
		})
		return s
	}
	l = New(without(known(tablestest.Cluster()), tablestest.Tea1), Options{}).Trace(tablestest.Coffee2, toTea)[0]
	if n := len(l.Hops); l.End != Unknown || l.Hops[n-1].Interface != "veth34" {
		t.Errorf("one port leads out: %s %s: %s", l.End, l.Why, places(l))
	}
	l = New(without(known(tablestest.Cluster()), tablestest.Tea1, tablestest.Coffee1), Options{}).Trace(tablestest.Coffee2, toTea)[0]
	if n := len(l.Hops); l.End != Unknown || l.Hops[n-1].Interface != "cni0" {
		t.Errorf("two ports lead out: %s %s: %s", l.End, l.Why, places(l))
	}
}

// TestAddressesTranslatedBetweenNodes: each node is known to the other by an address that no interface has.
func TestAddressesTranslatedBetweenNodes(t *testing.T) {
	s := tablestest.Cluster()
	pub1, pub2 := netip.MustParseAddr("121.4.190.84"), netip.MustParseAddr("121.4.190.85")
	s.Netns[0].FDB[0].Dst, s.Netns[1].FDB[0].Dst = pub2, pub1
	m := New(s, Options{Underlay: map[netip.Addr]netns.ID{pub1: tablestest.Node1, pub2: tablestest.Node2}})
	req := m.Trace(tablestest.Coffee1, ping(tablestest.Coffee1IP, tablestest.Coffee2IP))[0]
	if req.End != Delivered || len(req.Hops) != 10 {
		t.Fatalf("%s %s: %s", req.End, req.Why, places(req))
	}
	in := req.Hops[5].Frame.Outer
	if in.Any&(FieldSrc|FieldDst) != FieldSrc|FieldDst || in.Src != pub1 || in.Dst.String() != "10.1.11.92" {
		t.Errorf("what comes in is %s to %s, any %b", in.Src, in.Dst, in.Any)
	}
	if rep := m.Reply(req)[0]; rep.End != Delivered || len(rep.Hops) != 10 {
		t.Errorf("reply %s %s: %s", rep.End, rep.Why, places(rep))
	}
	// a packet of the node's own, which the router answers for backwards
	own := m.Trace(tablestest.Node1, ping(netip.MustParseAddr("10.1.11.91"), pub2))[0]
	if rep := m.Reply(own); own.End != Delivered || len(rep) == 0 || rep[0].End != Delivered || rep[0].FinalFlow.Src != pub2 {
		t.Errorf("from node to node: %s, %+v", own.End, rep)
	}
}

// TestAskedByItsOwnAddress: whoever asks a node by the address that it has gets the answer from that one, though the
// node has a public one as well.
func TestAskedByItsOwnAddress(t *testing.T) {
	s := tablestest.Cluster()
	own1, own2 := netip.MustParseAddr("10.1.11.91"), netip.MustParseAddr("10.1.11.92")
	for i := range s.Netns[:2] { // a router between them: nobody sees the other's device
		s.Netns[i].Neighs = append(s.Netns[i].Neighs,
			tables.Neigh{Index: 2, IP: own1, MAC: ether.MustParseMAC("00:50:56:ab:ff:01"), State: tables.NUDReachable},
			tables.Neigh{Index: 2, IP: own2, MAC: ether.MustParseMAC("00:50:56:ab:ff:01"), State: tables.NUDReachable})
	}
	m := New(s, Options{Underlay: map[netip.Addr]netns.ID{netip.MustParseAddr("121.4.190.85"): tablestest.Node2, own2: tablestest.Node2, own1: tablestest.Node1}})
	req := m.Trace(tablestest.Node1, ping(own1, own2))[0]
	if req.End != Delivered {
		t.Fatalf("%s %s: %s", req.End, req.Why, places(req))
	}
	if rep := m.Reply(req)[0]; rep.End != Delivered || rep.FinalFlow.Src != own2 || rep.FinalFlow.Any != 0 {
		t.Errorf("the answer: %s %s, %+v", rep.End, rep.Why, rep.FinalFlow)
	}
}

// TestAnswerToWhatIsLost: rules that drop what belongs to no connection say nothing of the answer to a request that does
// not arrive: it has none yet.
func TestAnswerToWhatIsLost(t *testing.T) {
	s := tablestest.Cluster()
	s.Netns[0].Routes = slices.DeleteFunc(s.Netns[0].Routes, func(r tables.Route) bool { return r.Dst.String() == "10.244.2.0/24" || r.Dst.Bits() == 0 })
	const invalid = 1 // xt_conntrack's bit
	s.Netns[1].Netfilter = &netfilter.Ruleset{Tables: []netfilter.Table{{
		Backend: netfilter.BackendLegacy, Family: netfilter.FamilyIPv4, Name: "filter", Chains: []netfilter.Chain{{
			Name: "FORWARD", Base: true, Type: "filter", Hook: netfilter.HookForward, Rules: []netfilter.Rule{{Number: 1, Exprs: []netfilter.Expr{
				{Op: netfilter.OpState, Flags: invalid}, {Op: netfilter.OpVerdict, Jump: &netfilter.Jump{Code: netfilter.JumpDrop}},
			}}},
		}},
	}}}
	m := New(s, Options{})
	f := ping(tablestest.Coffee1IP, tablestest.Coffee2IP)
	if l := m.Trace(tablestest.Coffee1, f)[0]; l.End != Dropped || l.Drop.Reason != ReasonNoRoute {
		t.Fatalf("request: %s", l.End)
	}
	if l := m.Trace(tablestest.Coffee2, ReplyFlow(f))[0]; l.End != Dropped || l.Drop.Reason != ReasonNetfilter {
		t.Errorf("an answer that nobody asked for: %s", l.End)
	}
	if l := m.ReplyAssumed(tablestest.Coffee2, f)[0]; l.End != Delivered {
		t.Errorf("answer: %s %s: %s", l.End, l.Why, places(l))
	}
	f.Dst = netip.MustParseAddr("121.4.190.84")
	if l := New(s, Options{Underlay: map[netip.Addr]netns.ID{f.Dst: tablestest.Node2}}).ReplyAssumed(tablestest.Node2, f); l != nil {
		t.Errorf("an answer from an address that the node does not have: %s", places(l[0]))
	}
}

// TestPodsOfTheUnderlay: pods have addresses of the nodes' own network, and its router answers for them.
func TestPodsOfTheUnderlay(t *testing.T) {
	s := tablestest.Cluster()
	vpc1, vpc2 := netip.MustParseAddr("10.1.11.132"), netip.MustParseAddr("10.1.11.140")
	for i, ip := range map[int]netip.Addr{2: vpc1, 4: vpc2} {
		p, n := s.Netns[i], s.Netns[i/4] // coffee-1 of node1, coffee-2 of node2
		p.Addrs[0].Prefix = netip.PrefixFrom(ip, 32)
		p.Routes[0].Dst = netip.PrefixFrom(ip, 32)
		p.Routes[2] = tablestest.Route(tables.TableMain, tables.RouteUnicast, "10.244.0.0/16", 3, "")
		n.Routes = append(n.Routes, tablestest.Route(tables.TableMain, tables.RouteUnicast, ip.String()+"/32", 5, ""))
	}
	m := New(s, Options{})
	req := m.Trace(tablestest.Coffee1, ping(vpc1, vpc2))[0]
	if req.End != Delivered || req.Final != tablestest.Coffee2 || !m.Native(vpc2) || m.Native(tablestest.Tea1IP) {
		t.Fatalf("%s %s %+v: %s", req.End, req.Why, req.Drop, places(req))
	}
	if h := req.Hops[4].Frame; req.Hops[3].Frame.Any&FieldEthDst == 0 || h.Any&FieldTTL == 0 {
		t.Errorf("nothing says who answers: %+v, then %+v", req.Hops[3].Frame, h)
	}
}

// TestAnswerFromOutside: a packet leaves for an address of nobody's, and its answer comes in where it left.
func TestAnswerFromOutside(t *testing.T) {
	m := New(tablestest.Cluster(), Options{})
	req := m.Trace(tablestest.Coffee1, ping(tablestest.Coffee1IP, netip.MustParseAddr("192.0.2.7")))[0]
	rep := m.Reply(req)
	if req.End != Left || len(rep) != 1 || rep[0].End != Delivered || rep[0].Final != tablestest.Coffee1 {
		t.Fatalf("%s: %s; %+v", req.End, places(req), rep)
	}
	if h := rep[0].Hops[0]; h.Interface != "ens192" || h.Dir != In || h.Frame.Any&FieldEthSrc == 0 || h.Frame.Any&FieldTTL == 0 {
		t.Errorf("the answer comes in as %+v", h)
	}
}

// proxied gives each node a TUN device in the place of the vxlan device, and a process behind it.
func proxied(known bool) *tables.Snapshot {
	s := tablestest.Cluster()
	for i, ns := range s.Netns[:2] {
		ns.Links[2] = tables.Link{Index: 4, Name: "flannel0", Kind: "tun", MTU: 1472, Up: true, LowerUp: true, NoARP: true, HardwareTy: 65534, ParentNetns: -1}
		ns.Neighs, ns.FDB = nil, nil
		last := &ns.Routes[len(ns.Routes)-1]
		last.Dst, last.NextHops = netip.MustParsePrefix("10.244.0.0/16"), []tables.NextHop{{Index: 4, Weight: 1}}
		ns.Sysctls["ipv4.conf.flannel0.forwarding"] = "1"
		if known {
			local := netip.AddrPortFrom(ns.Addrs[0].Prefix.Addr(), 8285)
			ns.Proxies = []tables.Proxy{{Index: 4, PID: 100 + i, Process: "flanneld", Local: local}}
		}
	}
	return s
}

func TestProxyInUserSpace(t *testing.T) {
	opts := Options{Leases: []Lease{
		{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParseAddr("10.1.11.91")},
		{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParseAddr("10.1.11.92")},
	}}
	flow := ping(tablestest.Coffee1IP, tablestest.Coffee2IP)
	for _, known := range []bool{true, false} {
		opts.ProxyPort = 8285
		m := New(proxied(known), opts)
		req := m.Trace(tablestest.Coffee1, flow)[0]
		if req.End != Delivered || len(req.Hops) != 10 {
			t.Fatalf("%s %s %+v: %s", req.End, req.Why, req.Drop, places(req))
		}
		out := req.Hops[4]
		if o := out.Frame.Outer; o == nil || !o.Bare || o.DstPort != 8285 || o.SrcPort != 8285 || o.Dst.String() != "10.1.11.92" || !out.Frame.NoEth || out.Frame.TTL != 62 {
			t.Errorf("on the uplink: %+v, outer %+v", out.Frame.Headers, o)
		}
		if h := req.Hops[9].Frame; h.TTL != 60 {
			t.Errorf("arrives with TTL %d: two nodes and two proxies take one each", h.TTL)
		}
		i := slices.IndexFunc(out.Steps, func(s Step) bool { return s.Kind == StepProxy })
		if i < 0 || known != (out.Steps[i].Entry == "process flanneld (pid 100) has flannel0 open, and UDP socket 10.1.11.91:8285") {
			t.Errorf("the process is not named: %+v", out.Steps)
		}
		if rep := m.Reply(req)[0]; rep.End != Delivered {
			t.Errorf("reply %s %s: %s", rep.End, rep.Why, places(rep))
		}
	}
	opts.ProxyPort = 0
	if l := New(proxied(false), opts).Trace(tablestest.Coffee1, flow)[0]; l.End != Unknown {
		t.Errorf("without a process: %s", l.End)
	}
	opts.Leases = opts.Leases[:1]
	if l := New(proxied(true), opts).Trace(tablestest.Coffee1, flow)[0]; l.End != Unknown {
		t.Errorf("to a range that nobody announced: %s", l.End)
	}
}
