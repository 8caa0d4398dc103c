package inventory

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podtrace/podtrace/pkg/ether"
)

// TestMarshalParses writes objects with every field in use and reads them again.
func TestMarshalParses(t *testing.T) {
	ip := netip.MustParseAddr
	want := &Inventory{
		Nodes: []Node{
			{
				Name: "node1", InternalIPs: []netip.Addr{ip("10.1.11.91"), ip("fd00::91")},
				PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
				Flannel: Lease{
					BackendType: "vxlan", PublicIP: ip("10.1.11.91"), PublicIPv6: ip("fd00::91"),
					VtepMAC: ether.MustParseMAC("1e:0f:7e:bb:26:2b"), VtepV6MAC: ether.MustParseMAC("1e:0f:7e:bb:26:2c"), VNI: 1,
				},
				Place: Place{Netns: "/run/netns/node1"}, Via: "ssh node1", Ready: true,
			},
			{Name: "node2", Place: Place{PID: 42}},
			{Name: "node3", Flannel: Lease{BackendType: "host-gw", PublicIP: ip("10.1.11.93")}, Ready: true},
			{Name: "node4", Flannel: Lease{BackendType: "vxlan", PublicIP: ip("10.1.11.94")}, Plugin: "calico", Ready: true},
			{Name: "node5", Plugin: "cilium", Ready: true},
		},
		Hosts: []Host{{Name: "laptop", IPs: []netip.Addr{ip("10.1.11.35")}, Place: Place{Netns: "/run/netns/laptop"}}},
		Pods: []Pod{
			{
				Namespace: "shop", Name: "cart", Node: "node1", IPs: []netip.Addr{ip("10.244.1.7"), ip("fd00:1::7")}, Phase: "Running",
				Ready: true, Labels: map[string]string{"app": "cart", "pod-template-hash": "5d4f"}, Owner: "cart-api", UID: "u-1", OS: "linux",
				Place: Place{PID: 7}, Ports: []ContainerPort{{Name: "web", Port: 8080, Proto: "TCP"}, {Port: 53, HostPort: 5353, Proto: "UDP"}},
			},
			{Namespace: "default", Name: "proxy", Node: "node1", HostNetwork: true, Phase: "Running", Owner: "p"},
			{Namespace: "default", Name: "done", Phase: "Succeeded", Ready: true},
			{Namespace: "default", Name: "bare", Ready: true},
		},
		Services: []Service{
			{
				Namespace: "shop", Name: "cart", Type: "LoadBalancer", ClusterIPs: []netip.Addr{ip("10.96.0.10")},
				ExternalIPs: []netip.Addr{ip("192.0.2.1")}, LoadBalancerIPs: []netip.Addr{ip("192.0.2.2")}, Selector: map[string]string{"app": "cart"},
				Ports:          []ServicePort{{Name: "web", Proto: "TCP", Port: 80, NodePort: 30080, Target: "web"}, {Proto: "UDP", Port: 53, Target: "5353"}, {Proto: "TCP", Port: 9, Target: "0"}},
				InternalPolicy: "Cluster", ExternalPolicy: "Local", SessionAffinity: "ClientIP",
			},
			{Namespace: "shop", Name: "db", Type: "ClusterIP", Headless: true},
		},
		EndpointSlices: []EndpointSlice{
			{
				Namespace: "shop", Name: "cart-1", Service: "cart", Ports: []SlicePort{{Name: "web", Proto: "TCP", Port: 8080}, {Proto: "UDP", Port: 53}},
				Endpoints: []SliceEndpoint{
					{IPs: []netip.Addr{ip("10.244.1.7")}, Ready: true, Serving: true, Node: "node1", Pod: "cart"},
					{IPs: []netip.Addr{ip("10.244.2.7")}, Serving: true, Terminating: true},
				},
			},
			{Namespace: "shop", Name: "cart-2", Service: "cart", Endpoints: []SliceEndpoint{{IPs: []netip.Addr{ip("fd00:1::7")}, Ready: true}}},
		},
	}
	b, err := Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, b)
	}
	cmpAll := cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}
	if d := cmp.Diff(want, got, cmpAll); d != "" {
		t.Errorf("(-want +got):\n%s\n%s", d, b)
	}
}

// TestMarshalEmpty: no objects are objects that were meant.
func TestMarshalEmpty(t *testing.T) {
	b, err := Marshal(&Inventory{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
}
