package trace

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

// TestSilence: where nobody answers for a next hop although its owner is there, the verdict is at the owner, or at what
// keeps the question from it, with the entry that does and the command that mends it.
func TestSilence(t *testing.T) {
	for name, v := range map[string]struct {
		change          func(s *tables.Snapshot)
		same            bool // to tea-1, which is beside coffee-1
		cause, on, at   string
		summary, remedy string
	}{
		"arp_ignore of the gateway": {
			change: func(s *tables.Snapshot) { s.Netns[0].Sysctls["ipv4.conf.cni0.arp_ignore"] = "8" },
			cause:  "neigh-unanswered", on: "node1", at: "cni0",
			summary: "net.ipv4.conf.cni0.arp_ignore = 8", remedy: "sysctl -w net.ipv4.conf.cni0.arp_ignore=0",
		},
		"arp_ignore of the far node": {
			change: func(s *tables.Snapshot) { s.Netns[1].Sysctls["ipv4.conf.all.arp_ignore"] = "8" },
			cause:  "underlay-neigh-failed", on: "node2", at: "eno16780032",
			summary: "has 10.1.11.92", remedy: "sysctl -w net.ipv4.conf.all.arp_ignore=0",
		},
		"uplink without ARP": {
			change: func(s *tables.Snapshot) { s.Netns[1].Links[1].NoARP = true },
			cause:  "arp-off", on: "node2", at: "eno16780032", summary: "NOARP", remedy: "ip link set dev eno16780032 arp on",
		},
		"reverse path of the question": {
			change: func(s *tables.Snapshot) {
				n := s.Netns[1]
				n.Sysctls["ipv4.conf.eno16780032.rp_filter"] = "1"
				n.Routes = append(n.Routes, tablestest.Route(tables.TableMain, tables.RouteUnicast, "10.1.11.91/32", 5, ""))
			},
			cause: "rp-filter-strict", on: "node2", at: "eno16780032", summary: "10.1.11.91 dev cni0", remedy: "rp_filter=2",
		},
		"the asker's address is the pod's own too": {
			change: func(s *tables.Snapshot) {
				pod := s.Netns[4]
				pod.Addrs = append(pod.Addrs, tables.Addr{Index: 3, Prefix: netip.MustParsePrefix("10.244.2.1/32")})
			},
			cause: "neigh-unanswered", on: "node2", at: "eth0", summary: "10.244.2.1, which asks", remedy: "ip addr del 10.244.2.1/32 dev eth0",
		},
		"isolated ports": {
			change: func(s *tables.Snapshot) { isolate(s.Netns[0]) }, same: true,
			cause: "neigh-unanswered", on: "node1", at: "veth34", summary: "both isolated", remedy: "isolated off",
		},
		"no broadcast out of the port": {
			change: func(s *tables.Snapshot) { vethOf(s.Netns[0], "veth34").Port.BroadcastFl = false }, same: true,
			cause: "neigh-unanswered", on: "node1", at: "veth34", summary: "bcast_flood off", remedy: "bcast_flood on",
		},
	} {
		k := docCase(tablestest.Cluster())
		if v.same {
			k.To.Node, k.To.PodNetns, k.To.HostNetns, k.To.Veth, k.To.VethIndex = "node1", tablestest.Tea1, tablestest.Node1, "veth34", 34
			k.Destination = inventory.Endpoint{Kind: inventory.KindPod, Namespace: "default", Name: "tea-1", IPs: []netip.Addr{tablestest.Tea1IP}, Node: "node1"}
			k.Flow.Dst = tablestest.Tea1IP
		}
		if r := Judge(k); r.Verdict.Status != report.Healthy {
			t.Fatalf("%s: before: %+v", name, r.Verdict)
		}
		v.change(k.Snapshot)
		r := Judge(k)
		got := r.Verdict
		if got.Status != report.Broken || got.Cause != v.cause || got.Node != v.on || got.Interface != v.at || got.Leg != report.Request {
			t.Errorf("%s: %s %s on %s %s, %s leg", name, got.Status, got.Cause, got.Node, got.Interface, got.Leg)
		}
		if !strings.Contains(got.Summary, v.summary) || !strings.Contains(got.Remedy, v.remedy) {
			t.Errorf("%s: %q, remedy %q", name, got.Summary, got.Remedy)
		}
	}
}

// TestBroadcastOfTheBridge: what a bridge itself sends goes out of every port, whatever the port floods (br_flood).
func TestBroadcastOfTheBridge(t *testing.T) {
	k := docCase(tablestest.Cluster())
	vethOf(k.Snapshot.Netns[1], "veth41").Port.BroadcastFl = false
	if r := Judge(k); r.Verdict.Status != report.Healthy {
		t.Errorf("%+v", r.Verdict)
	}
}

func isolate(n *tables.Netns) {
	for i := range n.Links {
		if p := n.Links[i].Port; p != nil {
			p.Isolated = true
		}
	}
}

func vethOf(n *tables.Netns, name string) *tables.Link {
	for i := range n.Links {
		if n.Links[i].Name == name {
			return &n.Links[i]
		}
	}
	return nil
}
