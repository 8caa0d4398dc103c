package trace_test

import (
	"cmp"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/report"
)

// otherNames are faults that look like another: of a host-gw cluster of two nodes one lost route is all of them.
var otherNames = map[string]string{
	"flannel-host-gw route-missing":         "direct-route-lost",
	"flannel-host-gw rp-filter-strict near": "nexthop-stale", // see otherPlaces
	"cilium-eni rp-filter-strict near":      "nexthop-stale",
	"flannel-nat rp-filter-strict near":     "nexthop-stale",
	// the one near node's route is all direct routes. node1 has an FDB row of node2 all the same, from the time before;
	// node2 has none of node1, which shows that it never used the tunnel
	"flannel-directrouting direct-route-lost near": "route-missing",
	"flannel-directrouting route-missing far":      "direct-route-lost",
	"flannel-directrouting rp-filter-strict near":  "nexthop-stale",
	// the rule drops neighbour discovery as well, which is what the packet meets first
	"flannel-v6 pod-to-node-input-drop": "v6-fw-drop",
	"flannel-v6 v6-overlay-missing":     "neigh-missing", // there is no other family to compare with
}

// otherPlaces are faults that a lab shows at another place than the others, by datapath, fault and end of the path.
var otherPlaces = map[string]said{
	// the policies of kindnet let answers of connections pass that they let begin
	"kind netpol-drop near": nowhere,
	"k3s netpol-drop near":  nowhere, // kube-router's likewise
	// and they accept what is for the node itself before the rule at the end of INPUT is asked
	"k3s pod-to-node-input-drop near": nowhere,
	"k3s pod-to-node-input-drop far":  nowhere,
	// without a tunnel the route by which answers are expected is the one that requests take: they go astray first
	"flannel-host-gw rp-filter-strict near":       {"docker0", request, ""},
	"flannel-directrouting rp-filter-strict near": {"docker0", request, ""},
	"cilium-eni rp-filter-strict near":            {"docker0", request, ""},
	// the detour is by the gateway, for the nodes have no network in common
	"flannel-nat rp-filter-strict near": {"uplink", request, ""},
	// what is for a pod of the node has a rule of its own, before the one that takes all else away
	"cilium-eni policy-rule-hijack far": {"inside", reply, ""},
	// the gateway's answer to the sender's solicitation goes by the wrong entry: nothing sets out
	"flannel-v6 pod-neigh-stale near": {"bridge", request, ""},
	// the host end answers for the pods' gateway by proxy ARP only while the node has a route to it
	"calico-vxlan underlay-route-missing near": {"veth", request, ""},
	"calico-vxlan underlay-route-missing far":  {"veth", reply, ""},
	// no annotation says the VNI, and with two nodes nothing else does: the receiver's is told
	"calico-vxlan vni-mismatch near": {"vtep", request, far},
}

// degraded are faults that harm half of what a lab carries: IPv6 of two families.
var degraded = []string{"flannel-dual v6-overlay-missing", "flannel-dual v6-forward-off", "flannel-dual v6-fw-drop"}

// onTheWire are faults that tables alone do not show in some labs, and those of services that hang on what happens.
var onTheWire = []string{
	"calico-vxlan wrong-iface",    // no annotation says the address
	"nat-port-race",               // takes two connections
	"cilium-eni eni-rule-missing", // which interface's address a pod has is known to the cloud alone
}

// cause is the name that a fault has in this lab, with the fault at an end of the path.
func (m *runner) cause(id, end string) string {
	return cmp.Or(otherNames[m.spec.Datapath+" "+id+" "+end], otherNames[m.spec.Datapath+" "+id], id)
}

// place is where the verdict must point in this lab.
func (m *runner) place(id, end string, want said) said {
	if other, ok := otherPlaces[m.spec.Datapath+" "+id+" "+end]; ok {
		return other
	}
	return want
}

func (m *runner) status(id string) string {
	if slices.Contains(degraded, m.spec.Datapath+" "+id) {
		return report.Degraded
	}
	return ""
}

// shown is how tables alone show a fault, where that hangs on the path: that answers go astray is degraded, for what is
// asked arrives.
func (m *runner) shown(f lab.Fault) string {
	if f.ID == "duplicate-pod-ip" && f.From == "coffee-1" {
		return report.Degraded
	}
	return ""
}

func (m *runner) wireOnly(row fault) bool {
	return row.wireOnly || slices.Contains(onTheWire, row.id) || slices.Contains(onTheWire, m.spec.Datapath+" "+row.id)
}

// TestFaultsOfDatapaths puts in every fault of the other labs and follows the path that shows it: with FAULTS=all on
// every node that has one, else where the lab has it by default. With FAULTS_OF only one of them.
func TestFaultsOfDatapaths(t *testing.T) {
	ofFaults(t)
	only := os.Getenv("FAULTS_OF")
	specs := []lab.Spec{}
	for _, d := range lab.Datapaths() {
		if d.Name != lab.FlannelVXLAN {
			specs = append(specs, lab.Spec{Datapath: d.Name})
		}
	}
	specs = append(specs, lab.Spec{Services: lab.ServicesIPTables}, lab.Spec{Services: lab.ServicesNFTables})
	for _, spec := range specs {
		name := spec.Datapath + spec.Services
		if only != "" && name != only {
			continue
		}
		t.Run(name, func(t *testing.T) { matrixOf(t, spec, os.Getenv("FAULTS") == "all") })
	}
}

// connection opens TCP from one pod to port 8080 of another and holds it.
func connection(t *testing.T, inv *inventory.Inventory, from, to string) (c net.Conn) {
	t.Helper()
	h, err := netns.Open(inv.Pod("default", from).Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	err = h.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(inv.Pod("default", to).IPs[0], 8080).String(), time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
