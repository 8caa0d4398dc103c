package trace

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

var echoService = inventory.Service{
	Namespace: "default", Name: "echo", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.12")},
	Ports: []inventory.ServicePort{{Name: "tcp", Proto: "TCP", Port: 7}, {Name: "udp", Proto: "UDP", Port: 7, NodePort: 30007}},
}

func serviceInventory() *inventory.Inventory {
	ip := netip.MustParseAddr
	return &inventory.Inventory{
		Nodes: []inventory.Node{{Name: "node1", InternalIPs: []netip.Addr{ip("10.1.11.91")}}},
		Services: []inventory.Service{echoService, {
			Namespace: "default", Name: "direct", Headless: true, Ports: []inventory.ServicePort{{Name: "web", Proto: "TCP", Port: 80}},
		}},
		Pods: []inventory.Pod{{
			Namespace: "default", Name: "tea-1", Node: "node1", IPs: []netip.Addr{tablestest.Tea1IP},
			Ports: []inventory.ContainerPort{{Port: 8080}, {Name: "tea", Port: 8080, HostPort: 9090, Proto: "TCP"}},
		}},
		EndpointSlices: []inventory.EndpointSlice{{
			Namespace: "default", Name: "echo-x", Service: "echo", Ports: []inventory.SlicePort{{Name: "tcp", Proto: "TCP", Port: 7007}},
			Endpoints: []inventory.SliceEndpoint{
				{IPs: []netip.Addr{tablestest.Tea1IP}, Ready: true, Node: "node1"},
				{IPs: []netip.Addr{tablestest.Coffee2IP}, Ready: false, Node: "node2"},
				{IPs: []netip.Addr{ip("192.0.2.9")}, Ready: true},
			},
		}, {
			Namespace: "default", Name: "direct-x", Service: "direct", Ports: []inventory.SlicePort{{Name: "web", Proto: "TCP", Port: 8080}},
			Endpoints: []inventory.SliceEndpoint{{IPs: []netip.Addr{tablestest.Tea1IP}, Ready: true, Node: "node1"}},
		}},
	}
}

func TestAim(t *testing.T) {
	for _, c := range []struct {
		to, how   string
		want      string // probe
		serviced  string // port of the service
		wantError bool
	}{
		{to: "svc/echo:7", how: "icmp", want: "tcp:7", serviced: "tcp"},
		{to: "svc/echo:udp", how: "icmp", want: "udp:7", serviced: "udp"},
		{to: "svc/echo:7", how: "udp", want: "udp:7", serviced: "udp"},
		{to: "svc/echo", how: "tcp", want: "tcp:7", serviced: "tcp"},
		{to: "svc/echo", how: "tcp:7", want: "tcp:7", serviced: "tcp"},
		{to: "svc/echo:7", how: "tcp:8", wantError: true},
		{to: "svc/echo", how: "tcp:8", wantError: true},
		{to: "svc/echo:7", how: "none", want: "none", serviced: "tcp"},
		{to: "node/node1:30007", how: "icmp", want: "udp:30007", serviced: "udp"},
		{to: "node/node1:30007", how: "tcp", want: "tcp:30007"}, // the node's own, not the service's
		{to: "node/node1", how: "icmp", want: "icmp"},
		{to: "svc/direct", how: "icmp", want: "tcp:8080", serviced: "web"}, // nobody translates the service's port
		{to: "svc/direct:80", how: "none", want: "none", serviced: "web"},
		{to: "node/node1:9090", how: "icmp", want: "tcp:9090", serviced: "tea"}, // a pod's hostPort
		{to: "10.1.11.91:9090", how: "icmp", want: "tcp:9090", serviced: "tea"},
		{to: "node/node1:9090", how: "udp", want: "udp:9090"},
		{to: "192.0.2.1:53", how: "udp", want: "udp:53"},
	} {
		t.Run(c.to+" "+c.how, func(t *testing.T) {
			inv := serviceInventory()
			e, err := inv.Lookup(c.to, "")
			if err != nil {
				t.Fatal(err)
			}
			spec, err := probe.ParseSpec(c.how)
			if err != nil {
				t.Fatal(err)
			}
			spec, e, err = aim(inv, spec, e)
			if (err != nil) != c.wantError {
				t.Fatal(err)
			}
			if c.wantError {
				return
			}
			port := ""
			if e.ServicePort != nil {
				port = e.ServicePort.Name
			}
			if spec.String() != c.want || port != c.serviced {
				t.Errorf("%s to port %q, want %s to %q", spec, port, c.want, c.serviced)
			}
		})
	}
}

// TestTargets: the ready endpoints alone, each where it lives, with the port that the slice says.
func TestTargets(t *testing.T) {
	inv := serviceInventory()
	e, err := inv.Lookup("svc/echo:tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	s := &session{o: Options{Inventory: inv}, edge: node.NewEdge(node.Direct())}
	s.c.Snapshot, s.c.Destination = tablestest.Cluster(), e
	err = s.targets()
	got := s.c.Targets
	if err != nil || len(got) != 2 || got[0].At.PodNetns != tablestest.Tea1 || got[0].Port != 7007 || !got[1].At.PodNetns.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestTargetsOfTheFamily: a dual-stack service's address leads to endpoints of its own family, and those that terminate
// are taken family by family.
func TestTargetsOfTheFamily(t *testing.T) {
	inv := serviceInventory()
	v6, ready, ending := netip.MustParseAddr("fd00:10:96::c"), netip.MustParseAddr("fd44:0:0:1::21"), netip.MustParseAddr("fd44:0:0:2::28")
	inv.Services[0].ClusterIPs = append(slices.Clone(inv.Services[0].ClusterIPs), v6)
	slice := inv.EndpointSlices[0]
	slice.Name, slice.Endpoints = "echo-x6", []inventory.SliceEndpoint{
		{IPs: []netip.Addr{ready}, Ready: true}, {IPs: []netip.Addr{ending}, Serving: true, Terminating: true},
	}
	inv.EndpointSlices = append(inv.EndpointSlices, slice)
	for to, want := range map[string][]netip.Addr{
		"10.96.0.12:7":      {tablestest.Tea1IP, netip.MustParseAddr("192.0.2.9")},
		"[fd00:10:96::c]:7": {ready},
	} {
		e, err := inv.Lookup(to, "")
		if err != nil {
			t.Fatal(err)
		}
		s := &session{o: Options{Inventory: inv}, edge: node.NewEdge(node.Direct())}
		s.c.Snapshot = tablestest.Cluster()
		if _, s.c.Destination, err = aim(inv, probe.Spec{Proto: probe.TCP}, e); err != nil {
			t.Fatal(err)
		}
		if err := s.targets(); err != nil {
			t.Fatal(err)
		}
		var got []netip.Addr
		for _, target := range s.c.Targets {
			got = append(got, target.IP)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", to, got, want)
		}
	}
	inv.EndpointSlices[1].Endpoints[0].Ready = false
	if n := len(inv.Backends(&inv.Services[0], &inv.Services[0].Ports[0])); n != 3 {
		t.Errorf("%d backends, want two ready ones of IPv4 and one of IPv6 that terminates", n)
	}
}

// TestTerminatingEndpoints: they are taken where none is ready, and only then.
func TestTerminatingEndpoints(t *testing.T) {
	inv := serviceInventory()
	eps := inv.EndpointSlices[0].Endpoints
	eps[1].Serving, eps[1].Terminating = true, true
	behind := func() int { return len(inv.Backends(&inv.Services[0], &inv.Services[0].Ports[0])) }
	if n := behind(); n != 2 {
		t.Errorf("%d backends beside ready ones, want the 2 ready ones", n)
	}
	eps[0].Ready, eps[2].Ready = false, false
	if n := behind(); n != 1 {
		t.Errorf("%d backends where none is ready, want the one that terminates", n)
	}
	eps[1].Serving = false
	if n := behind(); n != 0 {
		t.Errorf("%d backends, want none", n)
	}
}

// TestTargetOfHostPort: the pod, at its own port.
func TestTargetOfHostPort(t *testing.T) {
	inv := serviceInventory()
	e, err := inv.Lookup("node/node1:9090", "")
	if err != nil {
		t.Fatal(err)
	}
	s := &session{o: Options{Inventory: inv}, edge: node.NewEdge(node.Direct())}
	s.c.Snapshot, s.c.Destination = tablestest.Cluster(), e
	err = s.targets()
	got := s.c.Targets
	if err != nil || len(got) != 1 || got[0].At.PodNetns != tablestest.Tea1 || got[0].Port != 8080 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestServiceWithoutEndpoints: the rule that refuses is kube-proxy's, and is right.
func TestServiceWithoutEndpoints(t *testing.T) {
	k := docCase(tablestest.Cluster())
	k.Destination = inventory.Endpoint{Kind: inventory.KindService, Name: "echo", Service: &echoService, ServicePort: &echoService.Ports[0]}
	k.To = resolve.Location{}
	k.Flow.Proto, k.Flow.ICMPType, k.Flow.SrcPort, k.Flow.Dst, k.Flow.DstPort, k.Flow.TCPFlags = forward.ProtoTCP, 0, 40000, echoService.ClusterIPs[0], 7, tcpSyn
	k.Snapshot.ByID(tablestest.Node1).Netfilter = &netfilter.Ruleset{Tables: []netfilter.Table{{
		Backend: netfilter.BackendLegacy, Family: netfilter.FamilyIPv4, Name: "filter", Chains: []netfilter.Chain{{
			Name: "FORWARD", Base: true, Type: "filter", Hook: netfilter.HookForward,
			Rules: []netfilter.Rule{{Number: 1, Exprs: []netfilter.Expr{
				{Op: netfilter.OpTuple, Tuple: &netfilter.Match{Dst: netip.PrefixFrom(k.Flow.Dst, 32)}}, {Op: netfilter.OpReject},
			}}},
		}},
	}}}
	r := Judge(k)
	if r.Verdict.Cause != "service-no-endpoints" || strings.Contains(r.Verdict.Remedy, "delete") {
		t.Errorf("%+v", r.Verdict)
	}
}

// TestVirtualServerBackends: a real server that is no endpoint, or none with a weight, is IPVS's fault; with no endpoint
// there is none.
func TestVirtualServerBackends(t *testing.T) {
	dead := netip.MustParseAddrPort("10.244.2.99:7007")
	live := netip.AddrPortFrom(tablestest.Coffee2IP, 7007)
	for name, v := range map[string]struct {
		real      []tables.RealServer
		endpoints bool
		cause     string
		says      string
	}{
		"right":        {[]tables.RealServer{{Addr: live, Forward: "Masq", Weight: 1}}, true, "", ""},
		"dead":         {[]tables.RealServer{{Addr: dead, Forward: "Masq", Weight: 1}}, true, "ipvs-backend", dead.Addr().String()},
		"one dead":     {[]tables.RealServer{{Addr: live, Forward: "Masq", Weight: 1}, {Addr: dead, Forward: "Masq", Weight: 1}}, true, "ipvs-backend", dead.Addr().String()},
		"dead, no use": {[]tables.RealServer{{Addr: live, Forward: "Masq", Weight: 1}, {Addr: dead, Forward: "Masq"}}, true, "", ""},
		"no weight":    {[]tables.RealServer{{Addr: live, Forward: "Masq"}}, true, "ipvs-backend", "nobody"},
		"empty":        {nil, true, "ipvs-backend", "nobody"},
		"no endpoint":  {nil, false, "service-no-endpoints", "no ready endpoint"},
	} {
		k := docCase(tablestest.Cluster())
		vip := echoService.ClusterIPs[0]
		n := k.Snapshot.ByID(tablestest.Node1)
		n.Routes = append(n.Routes, tablestest.Route(tables.TableLocal, tables.RouteLocal, vip.String()+"/32", 1, ""))
		n.IPVS = []tables.VirtualServer{{Proto: "TCP", Addr: netip.AddrPortFrom(vip, 7), Scheduler: "rr", Real: v.real}}
		n.Sysctls["ipv4.vs.conntrack"] = "1"
		n.Netfilter = &netfilter.Ruleset{Tables: []netfilter.Table{{
			Backend: netfilter.BackendLegacy, Family: netfilter.FamilyIPv4, Name: "nat", Chains: []netfilter.Chain{{
				Name: "POSTROUTING", Base: true, Type: "nat", Hook: netfilter.HookPostrouting, Priority: 100,
				Rules: []netfilter.Rule{{Number: 1, Exprs: []netfilter.Expr{
					{Op: netfilter.OpTuple, Tuple: &netfilter.Match{Dst: netip.PrefixFrom(vip, 32)}}, {Op: netfilter.OpNAT, NAT: &netfilter.NAT{Kind: "masquerade"}},
				}}},
			}},
		}}}
		if v.endpoints {
			k.Targets = []Target{{Backend: inventory.Backend{IP: live.Addr(), Port: 7007}, At: k.To}}
		}
		k.Destination = inventory.Endpoint{Kind: inventory.KindService, Name: "echo", IPs: echoService.ClusterIPs, Service: &echoService, ServicePort: &echoService.Ports[0]}
		k.To = resolve.Location{}
		k.Flow = forward.Flow{Proto: forward.ProtoTCP, TCPFlags: tcpSyn, SrcPort: 40000, Src: tablestest.Coffee1IP, Dst: vip, DstPort: 7}
		r := Judge(k)
		if r.Verdict.Cause != v.cause || !strings.Contains(r.Verdict.Summary, v.says) || (r.Verdict.Status == report.Healthy) != (v.cause == "") {
			t.Errorf("%s: %+v", name, r.Verdict)
		}
		if v.says == dead.Addr().String() && !strings.Contains(r.Verdict.Remedy, "ipvsadm -d -t 10.96.0.12:7 -r "+dead.String()) {
			t.Errorf("%s: remedy %q", name, r.Verdict.Remedy)
		}
	}
}

// TestServiceIsJudgedByTheEndpointTaken: two endpoints are right; a third place is not.
func TestServiceIsJudgedByTheEndpointTaken(t *testing.T) {
	k := docCase(tablestest.Cluster())
	tea := k.To
	tea.Node, tea.PodNetns, tea.HostNetns, tea.VethIndex = "node1", tablestest.Tea1, tablestest.Node1, 34
	k.Destination = inventory.Endpoint{Kind: inventory.KindService, Name: "echo", Service: &echoService, ServicePort: &echoService.Ports[0]}
	k.Targets = []Target{
		{Backend: inventory.Backend{IP: tablestest.Tea1IP, Port: 7007}, At: tea},
		{Backend: inventory.Backend{IP: tablestest.Coffee2IP, Port: 7007}, At: k.To},
	}
	k.To = resolve.Location{}
	k.Flow.Proto, k.Flow.ICMPType, k.Flow.SrcPort, k.Flow.DstPort, k.Flow.TCPFlags = forward.ProtoTCP, 0, 40000, 7007, tcpSyn
	// as if the rules had sent it there: to an endpoint of the service on the other node
	if r := Judge(k); r.Verdict.Status != report.Healthy || r.Datapath != "flannel-vxlan" || len(r.Legs[1].Hops) != 10 {
		t.Errorf("by %s: %+v", r.Datapath, r.Verdict)
	}
	k.Targets = k.Targets[:1]
	if r := Judge(k); r.Verdict.Status == report.Healthy {
		t.Errorf("a pod that is no endpoint is taken for one: %+v", r.Verdict)
	}
}

// TestOutsideAddress: the path ends where the packet leaves, and that is all that was meant.
func TestOutsideAddress(t *testing.T) {
	k := docCase(tablestest.Cluster())
	out := netip.MustParseAddr("192.0.2.7")
	k.Destination, k.To = inventory.Endpoint{Kind: inventory.KindAddress, IPs: []netip.Addr{out}}, resolve.Location{}
	k.Flow.Dst = out
	if r := Judge(k); r.Verdict.Status != report.Healthy || r.Datapath != "routed" || len(r.Legs[0].Hops) != 4 || len(r.Legs[1].Hops) != 4 {
		t.Errorf("by %s, %d hops: %+v", r.Datapath, len(r.Legs[0].Hops), r.Verdict)
	}
}

// TestDatapathIsWhatIsFound: what the nodes announce is not what carries the packets.
func TestDatapathIsWhatIsFound(t *testing.T) {
	direct := func(s *tables.Snapshot) {
		for i, via := range []string{"10.1.11.92", "10.1.11.91"} {
			r := &s.Netns[i].Routes[6]
			r.NextHops = []tables.NextHop{{Index: 2, Gateway: netip.MustParseAddr(via), Weight: 1}}
		}
	}
	for _, c := range []struct {
		announced, want string
		change          func(*tables.Snapshot)
	}{
		{"vxlan", "flannel-vxlan", func(*tables.Snapshot) {}},
		{"vxlan", "flannel-directrouting", direct},
		{"host-gw", "flannel-host-gw", direct},
		{"host-gw", "flannel-vxlan", func(*tables.Snapshot) {}},
		{"", "routed", direct},
		{"", "vxlan", func(*tables.Snapshot) {}},
	} {
		k := docCase(tablestest.Cluster())
		for i := range k.Inventory.Nodes {
			k.Inventory.Nodes[i].Flannel.BackendType = c.announced
		}
		c.change(k.Snapshot)
		if r := Judge(k); r.Datapath != c.want {
			t.Errorf("announced as %q: %q, want %q", c.announced, r.Datapath, c.want)
		}
	}
}
