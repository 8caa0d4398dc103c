package lab

import (
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestTopologyIsConsistent checks what the plans rely on.
func TestTopologyIsConsistent(t *testing.T) {
	ps := topology()
	macs := map[string]string{}
	for _, p := range ps {
		for _, l := range p.links {
			if _, err := net.ParseMAC(l.mac); err != nil {
				t.Errorf("%s %s: %v", p.name, l.name, err)
			}
			if l.name != "docker0" && macs[l.mac] != "" {
				t.Errorf("%s %s has the MAC of %s", p.name, l.name, macs[l.mac])
			}
			macs[l.mac] = p.name + " " + l.name
			if l.kind != kindVeth {
				continue
			}
			other := ps.get(l.peerNetns)
			if other == nil || other.link(l.peer) == nil || other.link(l.peer).peer != l.name || other.link(l.peer).peerNetns != p.name {
				t.Errorf("%s %s: its peer does not name it", p.name, l.name)
			}
		}
		for _, r := range p.routes {
			if p.link(r.dev) == nil {
				t.Errorf("%s: route over %q, which is not there", p.name, r.dev)
			}
		}
	}
	for _, p := range pods {
		if n := nodeOf(p); !n.podCIDR.Contains(p.ip) {
			t.Errorf("pod %s: %v is not of %v", p.name, p.ip, n.podCIDR)
		}
		if len(p.hostVeth) != len("veth")+8 || !strings.HasPrefix(p.hostVeth, "veth") {
			t.Errorf("pod %s: host veth %q", p.name, p.hostVeth)
		}
	}
	if len(nodes) != 2 {
		t.Errorf("%d nodes: faults have one peer", len(nodes))
	}
}

// TestEachFaultChangesTheLab: no fault is empty, none changes the plans of others, ids are unique.
func TestEachFaultChangesTheLab(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range damages {
		if seen[d.ID] || d.Summary == "" || len(d.Datapaths) == 0 || !slices.Contains([]string{"request", "reply", "both"}, d.Leg) {
			t.Errorf("fault %+v", d.Fault)
		}
		seen[d.ID] = true
		for _, n := range nodes {
			ps, err := broken([]Broken{{ID: d.ID, Node: n.name}})
			if err != nil {
				t.Fatal(err)
			}
			if reflect.DeepEqual(ps, topology()) {
				t.Errorf("%s on %s changes nothing", d.ID, n.name)
			}
		}
	}
	for _, first := range damages { // any two go together
		for _, second := range damages {
			if _, err := broken([]Broken{{first.ID, sender}, {second.ID, sender}}); err != nil {
				t.Error(err)
			}
		}
	}
	if !reflect.DeepEqual(topology(), topology()) {
		t.Error("a fault changed the topology itself")
	}
}

func TestInventory(t *testing.T) {
	text, err := inventory(Options{Prefix: "x-"}.withDefaults())
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
			Status struct{ PodIP netip.Addr }
		}
	}
	if err := yaml.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range list.Items {
		got = append(got, i.Kind+" "+i.Metadata.Name+" "+i.Metadata.Annotations[annotationNetns])
	}
	want := []string{
		"Node node1 /run/netns/x-node1", "Node node2 /run/netns/x-node2",
		"Pod coffee-1 /run/netns/x-coffee-1", "Pod tea-1 /run/netns/x-tea-1", "Pod coffee-2 /run/netns/x-coffee-2",
		"Service coffee ", "EndpointSlice coffee-lab ", "Service tea ", "EndpointSlice tea-lab ",
	}
	if list.Kind != "List" || !slices.Equal(got, want) {
		t.Errorf("%s of\n%q, want\n%q", list.Kind, got, want)
	}
	if a := list.Items[0].Metadata.Annotations["flannel.alpha.coreos.com/backend-data"]; a != `{"VNI":1,"VtepMAC":"1e:0f:7e:bb:26:2b"}` {
		t.Errorf("backend-data = %s", a)
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
