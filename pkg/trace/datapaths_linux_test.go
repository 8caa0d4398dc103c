package trace_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// datapathLab is a lab of each datapath in turn.
func datapathLab(s lab.Spec) lab.Options {
	o := labAt(ownPrefix("podtrace-d"))
	o.Spec = s
	return o
}

// TestDatapaths takes every datapath of the lab once, and every protocol on it: all packets have to be found at
// every hop, and the way by its name.
func TestDatapaths(t *testing.T) {
	for _, d := range []struct {
		name  string
		pods  string   // of pods on two nodes
		node  string   // from a pod to another node
		local string   // of two pods of one node
		hops  int      // from pod to pod on another node
		more  []string // pairs with a way of their own: source, destination, datapath
	}{
		{lab.FlannelVXLAN, "flannel-vxlan", "routed", "bridge", 10, nil},
		{lab.FlannelHostGW, "flannel-host-gw", "routed", "bridge", 8, nil},
		{lab.FlannelDirectRouting, "flannel-directrouting", "routed", "bridge", 8, []string{"coffee-1 coffee-3 flannel-vxlan"}},
		{lab.FlannelUDP, "flannel-udp", "routed", "bridge", 10, nil},
		{lab.FlannelDual, "flannel-vxlan", "routed", "bridge", 10, []string{"coffee-1 v6:coffee-2 flannel-vxlan"}},
		{lab.FlannelV6, "flannel-vxlan", "routed", "bridge", 10, nil},
		{lab.FlannelNAT, "flannel-vxlan", "routed", "bridge", 10, nil},
		{lab.CalicoVXLAN, "calico-vxlan", "routed", "routed", 8, nil},
		{lab.CiliumENI, "cilium-eni", "cilium-eni", "routed", 6, nil},
		{lab.K3s, "flannel-vxlan", "routed", "bridge", 10, []string{"coffee-2 svc/tea:80 flannel-vxlan", "10.1.11.35 node/node2:30082 flannel-vxlan"}},
		{lab.Kind, "routed", "routed", "routed", 6, []string{"coffee-2 svc/tea:80 routed", "172.18.0.35 node/node1:32604 routed", "172.18.0.35 node/node2:30082 routed"}},
	} {
		t.Run(d.name, func(t *testing.T) {
			inv := upAt(t, datapathLab(lab.Spec{Datapath: d.name}))
			// the first: no bridge knows the pod yet, nor any node its neighbour
			r := whole(t, inv, "coffee-2", "tea-1", "icmp", d.pods)
			if n := len(r.Legs[0].Hops); n != d.hops || len(r.Legs[1].Hops) != d.hops {
				t.Errorf("%d and %d hops, want %d", n, len(r.Legs[1].Hops), d.hops)
			}
			for _, how := range []string{"icmp", "tcp:8080", "udp:7"} {
				whole(t, inv, "coffee-1", "coffee-2", how, d.pods)
				whole(t, inv, "node/node1", "coffee-2", how, d.pods)
				whole(t, inv, "coffee-1", "node/node2", how, d.node)
			}
			whole(t, inv, "coffee-1", "tea-1", "udp:7", d.local)
			whole(t, inv, "coffee-1", "node/node1", "tcp:8080", "routed")
			for _, m := range d.more {
				f := strings.Fields(m)
				how := "tcp:8080"
				if strings.Contains(f[1], "/") {
					how = "tcp" // a service's own port
				}
				whole(t, inv, f[0], address(inv, f[1]), how, f[2])
			}
		})
	}
}

// address takes "v6:POD" for the pod's IPv6 address.
func address(inv *inventory.Inventory, s string) string {
	name, ok := strings.CutPrefix(s, "v6:")
	if !ok {
		return s
	}
	for _, ip := range inv.Pod("default", name).IPs {
		if ip.Is6() {
			return ip.String()
		}
	}
	return s
}

// whole traces a path, on which nothing may be missing or odd. way is the datapath's name, "" for any.
func whole(t *testing.T, inv *inventory.Inventory, a, b, how, way string) *report.Report {
	t.Helper()
	spec, err := probe.ParseSpec(how)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trace.Path(t.Context(), trace.Options{
		Inventory: inv, Source: a, Destination: b, Namespace: "default", Probe: spec, Contrast: trace.ContrastNever, NoBPF: true,
		Count: 2, Interval: 2 * time.Millisecond, Timeout: time.Second,
	})
	if err != nil {
		t.Fatalf("%s to %s by %s: %v", a, b, how, err)
	}
	if r.Verdict.Status != report.Healthy || way != "" && r.Datapath != way || len(r.Legs[0].Hops) == 0 || len(r.Legs[1].Hops) == 0 {
		t.Errorf("%s to %s by %s: %s by %q, want it by %q:\n%s", a, b, how, r.Verdict.Status, r.Datapath, way, text(r))
	}
	for _, l := range r.Legs {
		for _, h := range l.Hops {
			if h.State != report.StateOK && h.State != report.StateOpaque {
				t.Errorf("%s to %s by %s: %s hop %d %s %s: %s: %s", a, b, how, l.Name, h.Index, h.Node, h.Interface, h.State, h.Note)
			}
		}
	}
	if r.Kernel != nil && len(r.Kernel.Differs) > 0 {
		t.Errorf("%s to %s by %s: the kernel says otherwise: %+v", a, b, how, r.Kernel.Differs)
	}
	for _, f := range r.Findings {
		if f.Severity != report.SeverityNote {
			t.Errorf("%s to %s by %s: %s %s", a, b, how, f.Cause, f.Summary)
		}
	}
	return r
}

// TestServices takes the ways to a service, from inside and outside of the cluster.
func TestServices(t *testing.T) {
	for _, rules := range []string{lab.ServicesIPTables, lab.ServicesIPTablesLegacy, lab.ServicesNFTables} {
		t.Run(rules, func(t *testing.T) {
			inv := upAt(t, datapathLab(lab.Spec{Services: rules}))
			for range 3 { // a choice by chance
				whole(t, inv, "coffee-1", "svc/coffee:80", "icmp", "")
			}
			whole(t, inv, "coffee-2", "svc/tea", "tcp", "flannel-vxlan")
			whole(t, inv, "tea-1", "svc/tea:80", "icmp", "bridge") // its own service
			whole(t, inv, "coffee-2", "svc/echo:7", "udp", "")
			whole(t, inv, "node/node2", "svc/tea:80", "icmp", "flannel-vxlan")
			whole(t, inv, "coffee-1", "node/node2:30082", "icmp", "flannel-vxlan")   // two nodes translate the source
			whole(t, inv, "10.1.11.35", "node/node1:32604", "icmp", "routed")        // externalTrafficPolicy: Local
			whole(t, inv, "10.1.11.35", "10.1.11.92:30082", "icmp", "flannel-vxlan") // Cluster
			for _, how := range []string{"icmp", "tcp:8080", "udp:7"} {
				whole(t, inv, "coffee-1", "10.1.11.35", how, "routed")
			}
			for _, to := range []string{"coffee-2", "node/node2", "10.1.11.35"} {
				closed(t, inv, to, "tcp:9")
				closed(t, inv, to, "udp:9")
			}
			inv.Hosts = nil // nothing is known of it: the path ends where it leaves the cluster
			r := whole(t, inv, "coffee-1", "10.1.11.35", "icmp", "routed")
			if last := r.Legs[0].Hops[len(r.Legs[0].Hops)-1]; last.Interface != "ens192" || last.Direction != "out" {
				t.Errorf("the request ends at %s %s", last.Interface, last.Direction)
			}
			r, err := trace.Path(t.Context(), options(inv, "coffee-1", "svc/milk:80", "icmp"))
			if err != nil || r.Verdict.Status != report.Broken || r.Verdict.Cause != "service-no-endpoints" {
				t.Errorf("a service without endpoints: %v, %+v", err, r.Verdict)
			}
			if _, err := trace.Path(t.Context(), options(inv, "coffee-1", "svc/echo:7", "tcp:80")); err == nil {
				t.Error("two ports that contradict each other are taken")
			}
			if inv.NodeByIP(netip.MustParseAddr("10.1.11.35")) != nil {
				t.Error("the client is a node")
			}
		})
	}
}

// closed traces to a port on which nothing listens, which is no fault of the path: the far end says so itself.
func closed(t *testing.T, inv *inventory.Inventory, to, how string) {
	t.Helper()
	r, err := trace.Path(t.Context(), options(inv, "coffee-1", to, how))
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict.Status != report.Healthy || aboveNote(r) || !slices.ContainsFunc(r.Findings, func(f report.Finding) bool { return f.Cause == "port-closed" }) {
		t.Errorf("coffee-1 to %s by %s:\n%s", to, how, text(r))
	}
}

// TestServicesOfLabs takes the ways to services where the network below is another than VXLAN of IPv4: cluster IPs of
// either family, node ports by every node, from inside and outside.
func TestServicesOfLabs(t *testing.T) {
	for _, l := range []struct {
		spec  lab.Spec
		pairs string // source and destination, two by two
	}{
		{lab.Spec{Datapath: lab.FlannelDual, Services: lab.ServicesNFTables}, `
			coffee-1 svc/coffee:80   coffee-2 [fd00:10:96::b]:80   tea-1 [fd00:10:96::b]:80   node/node2 [fd00:10:96::b]:80
			10.1.11.35 node/node1:32604   fd00:10:1:11::35 [fd00:10:1:11::91]:32604   fd00:10:1:11::35 [fd00:10:1:11::92]:30082`},
		{lab.Spec{Datapath: lab.FlannelV6, Services: lab.ServicesIPTables}, `
			coffee-1 svc/coffee:80   tea-1 svc/tea:80   coffee-2 svc/cheddar:80   coffee-1 node/node2:30082
			fd00:10:1:11::35 node/node1:32604   fd00:10:1:11::35 node/node2:30082`},
		{lab.Spec{Datapath: lab.FlannelNAT, Services: lab.ServicesIPTables}, `
			coffee-2 svc/tea:80   203.0.113.35 121.4.190.84:30082   203.0.113.35 106.55.227.160:30082   203.0.113.35 121.4.190.84:32604
			203.0.113.35 node/node1:30082   coffee-1 106.55.227.160:30082`},
		{lab.Spec{Datapath: lab.FlannelDirectRouting, Services: lab.ServicesNFTables}, `
			coffee-3 svc/tea:80   coffee-2 svc/tea:80   10.1.11.35 10.1.12.93:30082   10.1.11.35 10.1.12.93:32604   coffee-3 node/node1:30082`},
		{lab.Spec{VNI: 42, Port: 4789, GBP: true, Learning: true, MTU: 8951, Services: lab.ServicesNFTables}, `coffee-2 svc/tea:80   10.1.11.35 node/node2:30082`},
		{lab.Spec{Datapath: lab.FlannelUDP, Services: lab.ServicesIPTables}, `coffee-2 svc/tea:80   10.1.11.35 node/node2:30082`},
		{lab.Spec{Datapath: lab.FlannelHostGW, Services: lab.ServicesIPTablesLegacy}, `coffee-2 svc/tea:80   10.1.11.35 node/node2:30082   coffee-1 node/node2:30082`},
		{lab.Spec{Datapath: lab.Kind, Services: lab.ServicesNFTables, Nodes: 3, Pods: 6}, `
			tea-1 svc/tea:80   coffee-2 svc/tea:80   172.18.0.35 node/node3:30082   172.18.0.35 node/node3:32604`},
		{lab.Spec{Datapath: lab.K3s, Services: lab.ServicesNFTables, Learning: true, GBP: true}, `tea-1 svc/tea:80   coffee-2 svc/tea:80   10.1.11.35 node/node2:30082`},
	} {
		t.Run(l.spec.Datapath+" "+l.spec.Services, func(t *testing.T) {
			inv := upAt(t, datapathLab(l.spec))
			f := strings.Fields(l.pairs)
			for i := 0; i < len(f); i += 2 {
				whole(t, inv, f[i], f[i+1], "tcp", "")
			}
			whole(t, inv, "coffee-1", "svc/echo:7", "udp", "")
			for _, how := range []string{"icmp", "tcp:8080", "udp:7"} { // to the outside
				whole(t, inv, "coffee-1", inv.Hosts[0].IPs[0].String(), how, "routed")
			}
		})
	}
}

// TestFaultOfOneEndpoint: what drops packets for one of two endpoints is called the same, whether the probe took that one
// or the other.
func TestFaultOfOneEndpoint(t *testing.T) {
	o := datapathLab(lab.Spec{Services: lab.ServicesNFTables})
	inv := upAt(t, o)
	if err := lab.Break(t.Context(), o, "netpol-drop", "node1"); err != nil {
		t.Fatal(err)
	}
	taken := map[string]int{}
	for range 12 {
		r, err := trace.Path(t.Context(), options(inv, "coffee-2", "svc/coffee:80", "tcp"))
		if err != nil {
			t.Fatal(err)
		}
		taken[r.Verdict.Status]++
		if v := r.Verdict; v.Cause != "netpol-drop" || v.Node != "node1" {
			t.Errorf("%s %s on %s:\n%s", v.Status, v.Cause, v.Node, text(r))
		}
		if len(taken) == 2 {
			return // by either endpoint
		}
	}
	t.Errorf("one endpoint alone was taken: %v", taken)
}

// TestSizesBehindAService: full-size packets go to the endpoint that the service's address led to, and what they meet there
// is told as on the way to a pod.
func TestSizesBehindAService(t *testing.T) {
	o := datapathLab(lab.Spec{Services: lab.ServicesIPTables})
	inv := upAt(t, o)
	if r, err := trace.Path(t.Context(), options(inv, "coffee-2", "svc/tea:80", "tcp")); err != nil || r.Verdict.Status != report.Healthy || r.Size == nil || r.Size.Answered == 0 {
		t.Errorf("a healthy path: %v:\n%s", err, text(r))
	}
	for _, id := range []string{"mtu-path-blackhole", "pmtu-icmp-blocked"} {
		if err := lab.Break(t.Context(), o, id, "node2"); err != nil {
			t.Fatal(err)
		}
		r, err := trace.Path(t.Context(), options(inv, "coffee-2", "svc/tea:80", "tcp"))
		if err != nil {
			t.Fatal(err)
		}
		if v := r.Verdict; v.Status != report.Degraded || v.Cause != id {
			t.Errorf("%s: %s %s on %s:\n%s", id, v.Status, v.Cause, v.Node, text(r))
		}
		if err := lab.Mend(t.Context(), o, id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBehindAService: a request that was sent on to an endpoint and is lost there has the rest of its way, and that of its
// answer, in the report, and its cause beyond what a tap sees.
func TestBehindAService(t *testing.T) {
	o := datapathLab(lab.Spec{Services: lab.ServicesIPTables})
	inv := upAt(t, o)
	if err := lab.Break(t.Context(), o, "duplicate-pod-ip", "node1"); err != nil { // tea-1 has coffee-1's address
		t.Fatal(err)
	}
	r, err := trace.Path(t.Context(), options(inv, "coffee-2", "svc/tea:80", "tcp"))
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Verdict; v.Status != report.Broken || v.Cause != "pod-address-missing" || v.Node != "node1" {
		t.Errorf("%s %s on %s", v.Status, v.Cause, v.Node)
	}
	if len(r.Legs[0].Hops) != 10 || len(r.Legs[1].Hops) != 10 || r.Kernel != nil && len(r.Kernel.Differs) > 0 {
		t.Errorf("not the whole way, or not the kernel's:\n%s", text(r))
	}
}
