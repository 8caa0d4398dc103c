package inventory_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/inventory"
)

var addrs = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func parse(t testing.TB, s string) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Parse(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func cluster(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParse(t *testing.T) {
	inv := parse(t, cluster(t))
	wantNode := inventory.Node{
		Name: "node1", InternalIPs: []netip.Addr{ip("10.1.11.91"), ip("fd01::91")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd02:1::/64")},
		Flannel: inventory.Lease{
			BackendType: "vxlan", PublicIP: ip("10.1.11.91"), PublicIPv6: ip("fd01::91"), VNI: 1,
			VtepMAC: ether.MustParseMAC("1e:0f:7e:bb:26:2b"), VtepV6MAC: ether.MustParseMAC("1e:0f:7e:bb:26:2c"),
		},
		Place: inventory.Place{Netns: "/run/netns/podtrace-node1"}, Ready: true,
	}
	if diff := cmp.Diff(wantNode, inv.Nodes[0], addrs...); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	wantPod := inventory.Pod{
		Namespace: "default", Name: "coffee-1", Node: "node1", IPs: []netip.Addr{ip("10.244.1.32"), ip("fd02:1::32")},
		Phase: "Running", Ready: true, Labels: map[string]string{"app": "coffee", "pod-template-hash": "7d9c6f"}, Owner: "coffee",
		Place: inventory.Place{PID: 4711}, OS: "linux", UID: "0e6c",
		Ports: []inventory.ContainerPort{{Name: "http", Port: 8080, Proto: "TCP"}, {Name: "dns", Port: 53, Proto: "UDP"}},
	}
	if diff := cmp.Diff(wantPod, inv.Pods[0], addrs...); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
	wantService := inventory.Service{
		Namespace: "default", Name: "coffee", Type: "NodePort", ClusterIPs: []netip.Addr{ip("10.96.0.10")},
		Ports:    []inventory.ServicePort{{Name: "http", Proto: "TCP", Port: 80, NodePort: 30080, Target: "8080"}},
		Selector: map[string]string{"app": "coffee"}, ExternalPolicy: "Local", SessionAffinity: "ClientIP", InternalPolicy: "Cluster",
	}
	if diff := cmp.Diff(wantService, inv.Services[0], addrs...); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
	wantSlice := inventory.EndpointSlice{
		Namespace: "default", Name: "coffee-x", Service: "coffee", Ports: []inventory.SlicePort{{Name: "http", Proto: "TCP", Port: 8080}},
		Endpoints: []inventory.SliceEndpoint{
			{IPs: []netip.Addr{ip("10.244.1.32")}, Ready: true, Serving: true, Node: "node1", Pod: "coffee-1"},
			{IPs: []netip.Addr{ip("10.244.2.40")}, Serving: true, Terminating: true, Node: "node2", Pod: "coffee-2"},
		},
	}
	if diff := cmp.Diff(wantSlice, inv.EndpointSlices[0], addrs...); diff != "" {
		t.Errorf("slice (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`1 of kind "ConfigMap" not read`}, inv.Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

// TestParseForms reads the same objects in every form that people have them in.
func TestParseForms(t *testing.T) {
	want := parse(t, cluster(t))
	asJSON, err := yaml.YAMLToJSON([]byte(cluster(t)))
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(asJSON, &list); err != nil {
		t.Fatal(err)
	}
	var documents, stream, lines strings.Builder
	for _, item := range list.Items {
		y, err := yaml.JSONToYAML(item)
		if err != nil {
			t.Fatal(err)
		}
		documents.WriteString("---\n# a comment\n" + string(y))
		stream.Write(item)
		lines.WriteString("--- " + "\r\n" + string(item) + "\r\n")
	}
	for name, in := range map[string]string{
		"JSON list": string(asJSON), "YAML documents": documents.String(), "JSON stream": stream.String(),
		"JSON in YAML documents": lines.String(), "empty documents": "---\n---\n" + cluster(t) + "\n---\n",
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, parse(t, in), addrs...); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseTypedList(t *testing.T) {
	inv := parse(t, `{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`)
	if len(inv.Nodes) != 2 || inv.Nodes[1].Name != "b" {
		t.Errorf("nodes = %+v", inv.Nodes)
	}
}

func TestParseErrors(t *testing.T) {
	node := func(rest string) string { return "apiVersion: v1\nkind: Node\nmetadata: {name: n1" + rest }
	pod := func(rest string) string { return "kind: Pod\nmetadata: {name: p, namespace: shop}\n" + rest }
	tests := []struct{ name, in, want string }{
		{"empty", "", "no Kubernetes objects in it"},
		{"comment", "# nothing\n", "no Kubernetes objects in it"},
		{"not YAML", "a: [", "document 1: "},
		{"a string", "hello", "document 1: no Kubernetes object: "},
		{"no kind", "metadata: {name: x}", "document 1: kind: is missing"},
		{"no name", "kind: List\nitems: [{kind: Pod}]", "document 1, item 1 (Pod): metadata.name: is missing"},
		{"twice", node("}\n---\n") + node("}"), `Node "n1": is there twice`},
		{"pod address", pod("status: {podIP: 10.0.0.256}"), `Pod "shop/p": status.podIP: "10.0.0.256" is no IP address`},
		{"pod addresses", pod("status: {podIPs: [{ip: 10.0.0.1}, {ip: fe80::1%eth0}]}"), `Pod "shop/p": status.podIPs[1].ip: "fe80::1%eth0" is no IP address`},
		{"wrong type", pod("spec: {hostNetwork: sure}"), `Pod "shop/p": spec.hostNetwork: is a string`},
		{"range", node("}\nspec: {podCIDR: 10.0.0.0/33}"), `Node "n1": spec.podCIDR: "10.0.0.0/33" is no address range`},
		{"process id", node(", annotations: {podtrace.dev/pid: '-3'}}"), `Node "n1": metadata.annotations[podtrace.dev/pid]: "-3" is no process id`},
		{"two places", node(", annotations: {podtrace.dev/pid: '3', podtrace.dev/netns: /x}}"), "one of them says where the namespace is"},
		{"lease", node(", annotations: {flannel.alpha.coreos.com/backend-data: '{'}}"), `backend-data]: "{" is not what flannel writes`},
		{"VNI", node(`, annotations: {flannel.alpha.coreos.com/backend-data: '{"VNI":16777216}'}}`), "VNI 16777216 is not of 24 bits"},
		{"MAC", node(`, annotations: {flannel.alpha.coreos.com/backend-data: '{"VtepMAC":"1e:0f"}'}}`), `"1e:0f"`},
		{"port", "kind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 70000}]}", `Service "default/s": spec.ports[0].port: 70000 is no port`},
		{"escape", "kind: Pod\nmetadata: {name: \"\\e[31m\"}\nstatus: {podIP: x}", `\x1b[31m`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inv, err := inventory.Parse(strings.NewReader(tt.in))
			if inv != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse = %v, %v, want %q", inv, err, tt.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error is not one plain line: %q", err)
			}
		})
	}
}

// TestUDPLease: flanneld's backend "udp" writes an empty type, and no other backend does.
func TestUDPLease(t *testing.T) {
	for want, annotations := range map[string]string{
		"udp":  "{flannel.alpha.coreos.com/backend-type: '', flannel.alpha.coreos.com/backend-data: 'null', flannel.alpha.coreos.com/public-ip: 10.1.11.91}",
		"":     "{flannel.alpha.coreos.com/backend-type: ''}", // nothing is announced
		"ipip": "{flannel.alpha.coreos.com/backend-type: ipip, flannel.alpha.coreos.com/public-ip: 10.1.11.91}",
	} {
		inv, err := inventory.Parse(strings.NewReader("apiVersion: v1\nkind: Node\nmetadata: {name: node1, annotations: " + annotations + "}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := inv.Nodes[0].Flannel.BackendType; got != want {
			t.Errorf("%s: %q, want %q", annotations, got, want)
		}
	}
}

func TestReadFile(t *testing.T) {
	if _, err := inventory.ReadFile("testdata/none.yaml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of no file = %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("kind: Pod\nmetadata: {name: p}\nstatus: {podIP: x}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var o *inventory.ObjectError
	if _, err := inventory.ReadFile(bad); !errors.As(err, &o) || o.File != bad || o.Field != "status.podIP" {
		t.Errorf("ReadFile = %v", err)
	}
	if _, err := inventory.ReadFile("testdata/cluster.yaml"); err != nil {
		t.Error(err)
	}
}

func TestLookup(t *testing.T) {
	inv := parse(t, cluster(t))
	tests := []struct {
		arg, namespace string
		kind           inventory.EndpointKind
		name, ip, node string
	}{
		{"coffee-1", "", "Pod", "default/coffee-1", "10.244.1.32", "node1"},
		{"cart", "", "Pod", "shop/cart", "10.244.2.41", "node2"}, // the only namespace that has it
		{"web", "shop", "Pod", "shop/web", "10.244.2.42", "node2"},
		{"pod/web", "blog", "Pod", "blog/web", "10.244.2.43", "node2"},
		{"shop/web", "blog", "Pod", "shop/web", "10.244.2.42", "node2"},
		{"deploy/coffee", "", "Pod", "default/coffee-1", "10.244.1.32", "node1"},
		{"svc/coffee", "", "Service", "svc/coffee", "10.96.0.10", ""},
		{"svc/coffee:80", "", "Service", "svc/coffee:80", "10.96.0.10", ""},
		{"svc/coffee:http", "", "Service", "svc/coffee:80", "10.96.0.10", ""},
		{"svc/tea", "", "Service", "svc/tea", "10.244.1.33", ""}, // headless
		{"node/node2", "", "Node", "node/node2", "10.1.11.92", "node2"},
		{"node/node2:30080", "", "Node", "node/node2:30080", "10.1.11.92", "node2"},
		{"10.1.11.92:30080", "", "Node", "node/node2:30080", "10.1.11.92", "node2"},
		{"10.96.0.10:80", "", "Service", "svc/coffee:80", "10.96.0.10", ""},
		{"192.0.2.1:53", "", "Address", "192.0.2.1:53", "192.0.2.1", ""},
		{"10.244.2.42", "", "Pod", "shop/web", "10.244.2.42", "node2"},
		{"fd02:1::32", "", "Pod", "default/coffee-1", "fd02:1::32", "node1"},
		{"::ffff:10.244.2.42", "", "Pod", "shop/web", "10.244.2.42", "node2"},
		{"10.1.11.92", "", "Node", "node/node2", "10.1.11.92", "node2"}, // not the pod on the host network
		{"10.96.0.10", "", "Service", "svc/coffee", "10.96.0.10", ""},
		{"10.244.2.99", "", "Address", "10.244.2.99", "10.244.2.99", ""}, // of a pod that has ended
		{"192.0.2.1", "", "Address", "192.0.2.1", "192.0.2.1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.arg, func(t *testing.T) {
			e, err := inv.Lookup(tt.arg, tt.namespace)
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind != tt.kind || e.String() != tt.name || e.IP() != ip(tt.ip) || e.Node != tt.node {
				t.Errorf("Lookup = %s %s %s %s", e.Kind, e, e.IP(), e.Node)
			}
			if (e.Kind == inventory.KindPod) != (e.Pod != nil) || (e.Node != "") != (e.NodeObj != nil) {
				t.Errorf("objects of %s: pod %v, node %v", e, e.Pod, e.NodeObj)
			}
		})
	}
	if e, _ := inv.Lookup("svc/coffee:http", ""); e.ServicePort == nil || e.ServicePort.Port != 80 {
		t.Errorf("service port = %+v", e.ServicePort)
	}
	if e, _ := inv.Lookup("agent", "kube-system"); !e.HostNetwork {
		t.Error("agent is not on the host network")
	}
}

func TestLookupErrors(t *testing.T) {
	inv := parse(t, cluster(t))
	type hinter interface {
		error
		Hint() string
	}
	tests := []struct{ arg, want, hint string }{
		{"cofee-1", `no pod "cofee-1"`, "default/coffee-1"},
		{"shop/wep", `no pod "wep" in namespace "shop"`, "shop/web"},
		{"xyzzy", `no pod "xyzzy"`, "an endpoint is POD"},
		{"web", `"web" is ambiguous: 2 objects`, "shop/web, blog/web"},
		{"deploy/cofee", `no ready pod of deployment "cofee" in namespace "default"`, "deploy/coffee"},
		{"deploy/tea", `no ready pod of deployment "tea"`, ""}, // there is one, and it is not ready
		{"svc/cofee", `no service "cofee"`, "svc/coffee"},
		{"svc/coffee:443", `no port of service "coffee" "443"`, "svc/coffee:80"},
		{"svc/coffee:", `no port of service "coffee" ""`, "svc/coffee:80"},
		{"node/node3", `no node "node3"`, "node/node1"},
		{"a\x1b[31mb", `no pod "a\x1b[31mb"`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.arg, func(t *testing.T) {
			_, err := inv.Lookup(tt.arg, "")
			var h hinter
			if !errors.As(err, &h) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(h.Hint(), tt.hint) {
				t.Errorf("Lookup = %v, want %q, hint %q", err, tt.want, tt.hint)
			}
		})
	}
	for _, arg := range []string{"", "/", "pod/", "/web", "a/b/c", "pod/shop/web"} {
		if _, err := inv.Lookup(arg, ""); !errors.Is(err, inventory.ErrSyntax) {
			t.Errorf("Lookup(%q) = %v, want %v", arg, err, inventory.ErrSyntax)
		}
	}
}

func TestNodeByPodIP(t *testing.T) {
	inv := parse(t, cluster(t))
	if n := inv.NodeByPodIP(ip("10.244.2.7")); n == nil || n.Name != "node2" {
		t.Errorf("node = %v, want node2", n)
	}
	if n := inv.NodeByPodIP(ip("10.245.2.7")); n != nil {
		t.Errorf("node = %v, want none", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(cluster(f))
	f.Add(`{"kind":"List","items":[{"kind":"Pod","metadata":{"name":"p"}}]}`)
	f.Add("kind: List\nitems: [{kind: List, items: [{kind: Node}]}]")
	f.Add("---\n---\n{}\n")
	f.Fuzz(func(t *testing.T, s string) {
		inv, err := inventory.Parse(strings.NewReader(s))
		if (inv == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v", inv, err)
		}
		if err != nil {
			return
		}
		for i := range inv.Pods {
			p := &inv.Pods[i]
			e, err := inv.Lookup("pod/"+p.Name, p.Namespace)
			if err == nil && e.Pod != p {
				t.Fatalf("Lookup of %q found %q", p.Key(), e)
			}
			if err != nil && !strings.Contains(p.Name, "/") {
				t.Fatalf("Lookup of %q: %v", p.Key(), err)
			}
		}
	})
}

const otherNetworks = `---
{kind: Node, metadata: {name: c1, annotations: {projectcalico.org/IPv4Address: 10.1.11.91/24, projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.0, projectcalico.org/VXLANTunnelMACAddr: "66:0e:f4:55:2c:18"}}}
---
{kind: Node, metadata: {name: c2, annotations: {projectcalico.org/IPv4Address: 10.1.11.92}}}
---
{kind: Node, metadata: {name: e1, annotations: {network.cilium.io/ipv4-cilium-host: 10.5.2.191}}}
---
{kind: Host, apiVersion: podtrace.dev/v1, metadata: {name: client, annotations: {podtrace.dev/netns: /run/netns/client}}, status: {addresses: [{type: InternalIP, address: 10.1.11.35}]}}
---
{kind: Host, apiVersion: example.org/v1, metadata: {name: other}}
`

// TestOtherNetworks: plugins beside flannel, and machines outside of the cluster.
func TestOtherNetworks(t *testing.T) {
	inv := parse(t, otherNetworks)
	c1, c2, e1 := inv.Node("c1"), inv.Node("c2"), inv.Node("e1")
	if f := c1.Flannel; c1.Network() != "calico" || f.BackendType != "vxlan" || f.PublicIP != ip("10.1.11.91") || f.VtepMAC.String() != "66:0e:f4:55:2c:18" {
		t.Errorf("%s: %+v", c1.Network(), f)
	}
	if c2.Network() != "calico" || c2.Flannel != (inventory.Lease{}) || e1.Network() != "cilium" {
		t.Errorf("%s %+v, %s", c2.Network(), c2.Flannel, e1.Network())
	}
	e, err := inv.Lookup("10.1.11.35:80", "")
	if err != nil || e.Kind != inventory.KindAddress || e.Host == nil || e.Name != "client" || e.Host.Netns != "/run/netns/client" || e.Port != 80 {
		t.Errorf("%+v, %v", e, err)
	}
	if len(inv.Hosts) != 1 || len(inv.Notes) != 1 {
		t.Errorf("%d hosts, notes %q", len(inv.Hosts), inv.Notes)
	}
	for _, bad := range []string{
		`{kind: Node, metadata: {name: c1, annotations: {projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.0, projectcalico.org/IPv4Address: x/24}}}`,
		`{kind: Node, metadata: {name: c1, annotations: {projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.0, projectcalico.org/VXLANTunnelMACAddr: x}}}`,
		`{kind: Host, apiVersion: podtrace.dev/v1, metadata: {name: h}, status: {addresses: [{type: InternalIP, address: x}]}}`,
	} {
		if _, err := inventory.Parse(strings.NewReader(bad)); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}
