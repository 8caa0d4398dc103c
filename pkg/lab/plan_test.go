package lab

import (
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// specs are a lab of each datapath, and those that have more to them.
func specs(t testing.TB) map[string]Spec {
	t.Helper()
	all := map[string]Spec{
		"iptables": {Services: ServicesIPTables}, "iptables-legacy": {Services: ServicesIPTablesLegacy}, "nftables": {Services: ServicesNFTables},
		"large":          {Nodes: 10, Pods: 50, With: []string{"k3s", "kind", "libvirt"}},
		"vxlan 42":       {VNI: 42, Port: 4789, GBP: true, Learning: true, MTU: 8951},
		"k3s beside gbp": {GBP: true, MTU: 1300, With: []string{"k3s"}},
		"large v6":       {Datapath: FlannelV6, Nodes: 100, Pods: 300},
		"dual nftables":  {Datapath: FlannelDual, Services: ServicesNFTables}, "v6 iptables": {Datapath: FlannelV6, Services: ServicesIPTables},
		"v6 nftables":  {Datapath: FlannelV6, Services: ServicesNFTables},
		"nat services": {Datapath: FlannelNAT, Services: ServicesIPTables}, "udp services": {Datapath: FlannelUDP, Services: ServicesNFTables},
		"directrouting services": {Datapath: FlannelDirectRouting, Services: ServicesIPTablesLegacy},
	}
	for _, d := range Datapaths() {
		all[d.Name] = Spec{Datapath: d.Name}
	}
	for name, s := range all {
		s, err := s.complete()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = s
	}
	return all
}

// TestPlansAreConsistent checks what reconcile relies on.
func TestPlansAreConsistent(t *testing.T) {
	for name, s := range specs(t) {
		t.Run(name, func(t *testing.T) {
			c := newCluster(s)
			checkPlans(t, c.plans())
			for _, p := range c.pods {
				if n := c.nodeOf(p); n.name == "" || c.bridged() && !n.podCIDR().Contains(p.ip()) {
					t.Errorf("pod %s: %v is not of %s %v", p.name, p.ip(), n.name, n.podCIDRs)
				}
			}
			for _, n := range c.nodes {
				if len(c.podsOn(n)) == 0 && s.Nodes < 100 {
					t.Errorf("%s has no pod", n.name)
				}
			}
			if len(c.nodes) != s.Nodes || len(c.pods) != s.Pods {
				t.Errorf("%d nodes, %d pods, want %d, %d", len(c.nodes), len(c.pods), s.Nodes, s.Pods)
			}
			if !reflect.DeepEqual(c.plans(), newCluster(s).plans()) {
				t.Error("two labs of one Spec differ")
			}
		})
	}
}

func checkPlans(t *testing.T, ps plans) {
	t.Helper()
	names, macs, ips := map[string]bool{}, map[string]string{calicoMAC: ""}, map[netip.Addr]string{}
	for _, p := range ps {
		if names[p.name] {
			t.Errorf("two plans of %q", p.name)
		}
		names[p.name] = true
		devs := map[string]bool{"lo": true}
		for _, l := range p.links {
			if devs[l.name] || len(l.name) > 15 {
				t.Errorf("%s %s: name is taken or too long", p.name, l.name)
			}
			devs[l.name] = true
			if _, err := net.ParseMAC(l.mac); err != nil && l.kind != kindTUN {
				t.Errorf("%s %s: %v", p.name, l.name, err)
			}
			if at, taken := macs[l.mac]; taken && l.mac != calicoMAC && l.mac != "" {
				t.Errorf("%s %s has the MAC of %s", p.name, l.name, at)
			}
			macs[l.mac] = p.name + " " + l.name
			if l.kind == kindVeth {
				checkPeer(t, ps, p, l)
			}
			if p.name == routerName || l.kind == kindBridge || l.name == "flannel.4096" || l.kind == kindVeth && l.name != "eth0" && len(l.addrs) == 1 && l.addrs[0].prefix.IsSingleIP() {
				continue // gateways, kindnet's ends of pods and the odd devices are everywhere the same
			}
			for _, a := range l.addrs {
				if at, taken := ips[a.prefix.Addr()]; taken {
					t.Errorf("%s %s has the address of %s", p.name, l.name, at)
				}
				ips[a.prefix.Addr()] = p.name + " " + l.name
			}
		}
		for _, r := range p.routes {
			if r.dev != "" && !devs[r.dev] {
				t.Errorf("%s: route over %q, which is not there", p.name, r.dev)
			}
		}
	}
}

func checkPeer(t *testing.T, ps plans, p *plan, l link) {
	t.Helper()
	other := ps.get(l.peerNetns)
	if other == nil || other.link(l.peer) == nil || other.link(l.peer).peer != l.name || other.link(l.peer).peerNetns != p.name {
		t.Errorf("%s %s: its peer does not name it", p.name, l.name)
	}
}

// TestEachFaultChangesTheLab: no fault is empty on any node of any lab that can have it, ids are unique,
// and any two go together.
func TestEachFaultChangesTheLab(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range all() {
		if seen[d.id] || d.summary == "" || len(d.datapaths()) == 0 || !slices.Contains([]string{onRequest, onReply, onBoth, onNone, onLarge}, d.leg) {
			t.Errorf("fault %q: %q, %q, %q", d.id, d.summary, d.datapaths(), d.leg)
		}
		seen[d.id] = true
	}
	for name, s := range specs(t) {
		if s.Nodes > 3 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			faults, err := FaultsOf(s)
			if err != nil || len(faults) < 3 {
				t.Fatalf("%d faults, %v", len(faults), err)
			}
			c := newCluster(s)
			for _, f := range faults {
				for _, n := range []string{f.Node, c.nodes[0].name, c.nodes[1].name} {
					ps, err := c.broken([]Broken{{f.ID, n}})
					if errors.Is(err, ErrUnfit) && n != f.Node {
						continue // it needs two pods there
					}
					if err != nil {
						t.Fatal(err)
					}
					if reflect.DeepEqual(ps, c.plans()) {
						t.Errorf("%s on %s changes nothing", f.ID, n)
					}
				}
				for _, second := range faults {
					if _, err := c.broken([]Broken{{f.ID, f.Node}, {second.ID, second.Node}}); err != nil {
						t.Error(err)
					}
				}
			}
			if !reflect.DeepEqual(newCluster(s).plans(), c.plans()) {
				t.Error("a fault changed the cluster itself")
			}
		})
	}
}

func TestSpecErrors(t *testing.T) {
	for want, s := range map[string]Spec{
		"no such datapath": {Datapath: "weave"},
		"24 bits":          {VNI: 1 << 24},
		"device after it, and the name would be too long": {VNI: 10000000},
		"at most 9999":                   {Datapath: FlannelDual, VNI: 10000},
		"no UDP port":                    {Port: 70000},
		"MTU 100":                        {MTU: 100},
		"not for flannel-udp":            {Datapath: FlannelUDP, VNI: 3},
		"no part of the lab of cilium":   {Datapath: CiliumENI, Services: ServicesIPTables},
		`services by "ipvs"`:             {Services: "ipvs"},
		`surroundings "x"`:               {With: []string{"x"}},
		"those of datapath k3s":          {Datapath: K3s, With: []string{"k3s"}},
		"1 nodes: flannel-vxlan has 2":   {Nodes: 1},
		"3 nodes: flannel-nat has 2":     {Datapath: FlannelNAT, Nodes: 3},
		"101 nodes":                      {Nodes: 101},
		"2 pods: on 2 nodes there can":   {Pods: 2},
		"301 pods: on 2 nodes there can": {Pods: 301},
	} {
		if _, err := s.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
	if !(Spec{}).isZero() || (Spec{GBP: true}).isZero() {
		t.Error("isZero")
	}
}

// inventoryOf reads cluster.yaml back.
func inventoryOf(t *testing.T, s Spec) (kind string, names []string, annotations map[string]map[string]string) {
	t.Helper()
	text, err := newCluster(s).inventory(Options{Prefix: "x-"}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Kind  string
		Items []struct {
			Kind     string
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	annotations = map[string]map[string]string{}
	for _, i := range list.Items {
		names = append(names, i.Kind+" "+i.Metadata.Name+" "+i.Metadata.Annotations[annotationNetns])
		annotations[i.Kind+" "+i.Metadata.Name] = i.Metadata.Annotations
	}
	return list.Kind, names, annotations
}

func TestInventory(t *testing.T) {
	kind, got, _ := inventoryOf(t, specs(t)[FlannelVXLAN])
	want := []string{
		"Node node1 /run/netns/x-node1", "Node node2 /run/netns/x-node2",
		"Pod coffee-1 /run/netns/x-coffee-1", "Pod tea-1 /run/netns/x-tea-1", "Pod coffee-2 /run/netns/x-coffee-2",
		"Service coffee ", "EndpointSlice coffee-lab ", "Service tea ", "EndpointSlice tea-lab ",
	}
	if kind != "List" || !slices.Equal(got, want) {
		t.Errorf("%s of\n%q, want\n%q", kind, got, want)
	}
}

// TestAnnotations: what each network plugin announces of node1.
func TestAnnotations(t *testing.T) {
	const fl = flannelPrefix
	for name, want := range map[string]map[string]string{
		FlannelVXLAN:  {fl + "backend-type": "vxlan", fl + "backend-data": `{"VNI":1,"VtepMAC":"1e:0f:7e:bb:26:2b"}`, fl + "public-ip": "10.1.11.91"},
		"vxlan 42":    {fl + "backend-data": `{"VNI":42,"VtepMAC":"1e:0f:7e:bb:26:2b"}`},
		FlannelHostGW: {fl + "backend-type": "host-gw", fl + "backend-data": "null", fl + "public-ip": "10.1.11.91"},
		FlannelUDP:    {fl + "backend-type": "", fl + "backend-data": "null"},
		FlannelDual: {
			fl + "backend-data": `{"VNI":1,"VtepMAC":"1e:0f:7e:bb:26:2b"}`, fl + "public-ip": "10.1.11.91",
			fl + "backend-v6-data": `{"VNI":1,"VtepMAC":"02:e6:0a:f4:00:01"}`, fl + "public-ipv6": "fd00:10:1:11::91",
		},
		FlannelV6:   {fl + "backend-v6-data": `{"VNI":1,"VtepMAC":"02:e6:0a:f4:00:01"}`, fl + "public-ipv6": "fd00:10:1:11::91", fl + "public-ip": "", fl + "backend-data": ""},
		FlannelNAT:  {fl + "public-ip": "121.4.190.84", fl + "public-ip-overwrite": "121.4.190.84"},
		CalicoVXLAN: {calicoPrefix + "IPv4VXLANTunnelAddr": "10.244.1.0", calicoPrefix + "IPv4Address": "10.1.11.91/24", fl + "backend-type": ""},
		Kind:        {fl + "backend-type": "", fl + "public-ip": ""},
		K3s:         {fl + "backend-data": `{"VNI":1,"VtepMAC":"1e:0f:7e:bb:26:2b"}`, fl + "public-ip": "10.1.11.91"},
		CiliumENI:   {ciliumPrefix + "ipv4-cilium-host": "10.5.2.191", fl + "backend-type": ""},
	} {
		_, _, annotations := inventoryOf(t, specs(t)[name])
		for key, value := range want {
			if got := annotations["Node node1"][key]; got != value {
				t.Errorf("%s: %s = %q, want %q", name, key, got, value)
			}
		}
	}
}

// TestChainNames: kube-proxy's own tests have these (pkg/proxy/iptables, pkg/proxy/nftables).
func TestChainNames(t *testing.T) {
	p := servicePort{name: "p80", proto: "tcp", port: 80, target: 80}
	for got, want := range map[string]string{
		portChain("KUBE-SVC-", "ns1/svc1:p80", "tcp", ""):                                     "KUBE-SVC-XPGD46QRK7WJZT7O",
		sepChain("ns4/svc4:p80", p, netip.MustParseAddr("10.180.0.5")):                        "KUBE-SEP-C6EBXVWJJZMIWKLZ",
		hashedName("service-", "ns1/svc1/tcp/p80"):                                            "service-ULMVA6XW-ns1/svc1/tcp/p80",
		endpointChain("ns1/svc1/tcp/p80", p, endpoint{netip.MustParseAddr("10.180.0.1"), ""}): "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestOptionsDefaults(t *testing.T) {
	t.Setenv(EnvPrefix, "")
	t.Setenv(EnvStateDir, "")
	if got := (Options{}).InventoryPath(); got != "/run/podtrace/lab/cluster.yaml" {
		t.Errorf("InventoryPath = %q", got)
	}
	t.Setenv(EnvPrefix, "second-")
	t.Setenv(EnvStateDir, "/run/second")
	o := Options{}.withDefaults()
	if o.netnsPath("node1") != "/run/netns/second-node1" || o.InventoryPath() != "/run/second/cluster.yaml" {
		t.Errorf("from the environment: %+v", o)
	}
}
