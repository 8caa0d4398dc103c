package trace_test

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/report"
)

// said is where a verdict must point: the role of the interface ("" for a fault of no interface or of several), the leg
// that it hits ("" for either), and the node: "" where the fault is, near and far for the ends of the path.
type said struct{ role, leg, node string }

// The ends of a path.
const (
	near = "near"
	far  = "far"
)

// fault is a row of the matrix: what the verdict must be with the fault on the sender's node and on the
// receiver's.
type fault struct {
	id        string
	near, far said
	status    string // "": broken
	wireOnly  bool   // tables alone can't show it
	byTables  string // what check calls it, "": as path
}

// nowhere stands for a node on which the lab does not have a fault.
var nowhere = said{role: "nowhere"}

// slow are the faults that take seconds to show: heal_linux_test.go has them.
var slow = []string{"fdb-aged"}

const request, reply = report.Request, report.Reply

// matrix holds every fault of the labs. Where an entry is used for sending only, the fault on the far node hits
// the reply. A route is looked up for what came in by the pods' side of a node, and for what came in from the other
// nodes (roles below): that is where a packet is when it goes wrong, whatever the entry is about.
var matrix = []fault{
	{id: "fdb-missing", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "fdb-wrong-dst", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "neigh-missing", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "neigh-wrong-mac", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "v6-overlay-missing", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "vtep-mac-changed", near: said{"vtep", reply, ""}, far: said{"vtep", request, ""}},
	{id: "route-missing", near: said{"inside", request, ""}, far: said{"inside", reply, ""}},
	{id: "direct-route-lost", near: said{"inside", request, ""}, far: said{"inside", reply, ""}},
	{id: "nexthop-stale", near: said{"uplink", request, ""}, far: said{"uplink", reply, ""}},
	{id: "blackhole-route", near: said{"inside", request, ""}, far: said{"inside", reply, ""}},
	{id: "vxlan-port-input-drop", near: said{"uplink", reply, ""}, far: said{"uplink", request, ""}},
	{id: "vxlan-port-underlay-drop", near: said{"uplink", request, near}, far: said{"uplink", reply, ""}, wireOnly: true},
	{id: "src-dst-check", near: said{"uplink", request, near}, far: said{"uplink", reply, ""}, wireOnly: true},
	{id: "forward-policy-drop", near: said{"inside", request, ""}, far: said{"outside", request, ""}},
	{id: "forward-reject-order", near: said{"outside", reply, ""}, far: said{"outside", request, ""}},
	{id: "v6-fw-drop", near: said{"inside", request, ""}, far: said{"outside", request, ""}},
	{id: "masq-pod-to-pod", near: said{"inside", request, ""}, far: said{"outside", request, ""}, status: report.Degraded},
	{id: "ip-forward-off", near: said{"inside", request, ""}, far: said{"outside", request, ""}},
	{id: "v6-forward-off", near: said{"inside", request, ""}, far: said{"outside", request, ""}},
	{id: "rp-filter-strict", near: said{"outside", reply, ""}, far: said{"outside", request, ""}},
	{id: "policy-rule-hijack", near: said{"inside", request, ""}, far: said{"outside", request, ""}},
	{id: "underlay-route-missing", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "vxlan-down", near: said{"vtep", request, ""}, far: said{"vtep", request, ""}},
	{id: "vxlan-dev-gone", near: said{"vtep", request, ""}, far: said{"vtep", request, ""}},
	{id: "vni-mismatch", near: said{"vtep", request, ""}, far: said{"vtep", request, ""}},
	// with two nodes nothing says which of the two ports was meant: the receiver's is told
	{id: "vxlan-port-mismatch", near: said{"vtep", request, far}, far: said{"vtep", request, ""}},
	{id: "cni0-down", near: said{"bridge", request, ""}, far: said{"bridge", request, ""}},
	{id: "cni0-wrong-address", near: said{"bridge", "", ""}, far: said{"bridge", request, ""}},
	{id: "veth-no-master", near: said{"veth", "", ""}, far: said{"veth", request, ""}},
	{id: "bridge-port-blocked", near: said{"veth", request, ""}, far: said{"veth", request, ""}},
	{id: "pod-link-down", near: said{"pod", request, ""}, far: said{"pod", request, ""}},
	{id: "pod-default-route-missing", near: said{"pod", request, ""}, far: said{"pod", reply, ""}},
	{id: "wrong-iface", near: said{"vtep", "", ""}, far: said{"vtep", request, ""}, byTables: report.Degraded},
	{id: "vxlan-csum-offload", near: said{"uplink", request, far}, far: said{"uplink", reply, near}, wireOnly: true},
	{id: "mtu-path-blackhole", near: said{"uplink", "", near}, far: said{"uplink", "", near}, status: report.Degraded, wireOnly: true},
	{id: "pmtu-icmp-blocked", near: said{"vtep", request, ""}, far: nowhere, status: report.Degraded, wireOnly: true},
	// the first hook that sees the packet drops it: for the bridge's port, as br_netfilter is on, and for the tunnel's packet
	{id: "ct-table-full", near: said{"veth", request, ""}, far: said{"uplink", request, ""}, wireOnly: true},
	{id: "routing-loop", near: nowhere, far: said{"", request, ""}},
	{id: "iptables-backend-split", near: said{"inside", request, ""}, far: said{"outside", request, ""}},
	{id: "netpol-drop", near: said{"outside", reply, ""}, far: said{"outside", request, ""}},
	{id: "tc-bpf-drop", near: said{"veth", request, ""}, far: said{"veth", reply, ""}, wireOnly: true},
	{id: "pod-neigh-stale", near: said{"bridge", reply, ""}, far: said{"bridge", request, ""}},
	{id: "pod-host-route-missing", near: said{"outside", reply, ""}, far: said{"outside", request, ""}},
	{id: "proxy-arp-off", near: said{"veth", request, ""}, far: said{"veth", reply, ""}},
}

// try is a fault on a node that shows on a path of its own. Empty ends are those that the lab names.
type try struct {
	on, from, to string
	want         said
}

// ownPaths are the faults that the path between two pods does not show, on every node where there is one that does.
var ownPaths = map[string][]try{
	"pod-to-node-input-drop":  {{"node1", "", "", said{"inside", request, ""}}, {"node2", "", "", said{"inside", request, ""}}},
	"duplicate-pod-ip":        {{"node1", "", "", said{"bridge", request, ""}}, {"node1", "coffee-1", "coffee-2", said{"bridge", "", ""}}},
	"bridge-nf-off":           {{"node1", "", "", said{"bridge", reply, ""}}},
	"hairpin-off":             {{"node1", "", "", said{"veth", request, ""}}},
	"ct-stale-udp":            {{"node1", "", "", said{"veth", request, ""}}, {"node2", "", "", said{"veth", request, ""}}},
	"dnat-dead-endpoint":      {{"node1", "", "", said{"veth", request, ""}}, {"node2", "", "", said{"veth", request, ""}}},
	"etp-local-no-endpoint":   {{"node1", "", "", said{"uplink", request, ""}}, {"node2", "", "", said{"uplink", request, ""}}},
	"nodeport-no-masq":        {{"node2", "", "", said{"outside", reply, ""}}}, // it leaves by the tunnel, with the address that it came with
	"nat-port-race":           {{"node1", "", "", said{"outside", "", ""}}},
	"eni-rule-missing":        {{"node1", "", "", said{"uplink", request, ""}}, {"node2", "tea-2", "coffee-1", said{"uplink", request, ""}}},
	"eni-to-pod-rule-missing": {{"node1", "", "", said{"", request, ""}}, {"node2", "tea-2", "coffee-2", said{"", request, ""}}},
}

// rowOf finds the row of a fault.
func rowOf(id string) (fault, bool) {
	for _, f := range matrix {
		if f.id == id {
			return f, true
		}
	}
	return fault{}, false
}

// uplinks are the nodes' uplinks by datapath, where they are not those of the walk that was published first.
var uplinks = map[string]map[string]string{
	"":             {"node1": "ens192", "node2": "eno16780032"},
	lab.FlannelNAT: {"node1": "eth0", "node2": "eth0"},
	lab.CiliumENI:  {"node1": "eth0", "node2": "eth0"},
	lab.Kind:       {"node1": "eth0", "node2": "eth0"},
}

// vteps are the devices that encapsulate.
var vteps = map[string]string{
	"": "flannel.1", lab.FlannelV6: "flannel-v6.1", lab.FlannelUDP: "flannel0", lab.CalicoVXLAN: "vxlan.calico",
}

// places knows the interfaces of a lab by what they are for.
type places struct {
	datapath string
	inv      *inventory.Inventory
	from, to string // the path's pods
	id       string
}

// end is the node at an end of the path.
func (p places) end(which string) string {
	pod := p.from
	if which == far {
		pod = p.to
	}
	return p.inv.Pod("default", pod).Node
}

// which end of the path a node is.
func (p places) which(node string) string {
	if node == p.end(far) {
		return far
	}
	return near
}

// direct: packets between the path's ends are not encapsulated.
func (p places) direct() bool {
	switch p.datapath {
	case lab.FlannelHostGW, lab.CiliumENI, lab.Kind:
		return true
	case lab.FlannelDirectRouting:
		return p.end(far) == "node2" // node3 is behind a router
	default:
		return false
	}
}

// device gives the interface of a role on a node, from the lab's names and the kernel's, never from a report. "inside" is where pods' packets enter the node's IP stack: the bridge, or,
// of a routed pod, its host end. "outside" is where the other nodes' do: the tunnel's device, or the uplink.
func (p places) device(t *testing.T, node, role string) string {
	t.Helper()
	routed := p.datapath == lab.CalicoVXLAN || p.datapath == lab.CiliumENI || p.datapath == lab.Kind
	switch {
	case role == "pod":
		return "eth0"
	case role == "docker0":
		return role // every node has one
	case role == "veth", role == "inside" && routed:
		pod := p.from
		if node == p.end(far) {
			pod = p.to
		}
		return hostEnd(t, p.inv, pod)
	case role == "bridge", role == "inside":
		return "cni0"
	case role == "uplink", role == "outside" && p.direct():
		return orDefault(uplinks[p.datapath], uplinks[""])[node]
	case p.datapath == lab.FlannelDual && strings.HasPrefix(p.id, "v6-"):
		return vteps[lab.FlannelV6]
	}
	if dev := vteps[p.datapath]; dev != "" {
		return dev
	}
	return vteps[""]
}

func orDefault(m, d map[string]string) map[string]string {
	if m == nil {
		return d
	}
	return m
}

// hostEnd is the name of the node's end of a pod's veth, as the kernel has it.
func hostEnd(t *testing.T, inv *inventory.Inventory, pod string) (name string) {
	t.Helper()
	p := inv.Pod("default", pod)
	index := 0
	within(t, p.Netns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			index = l.Attrs().ParentIndex
		}
		return err
	})
	within(t, inv.Node(p.Node).Netns, func() error {
		l, err := netlink.LinkByIndex(index)
		if err == nil {
			name = l.Attrs().Name
		}
		return err
	})
	return name
}

func within(t *testing.T, path string, do func() error) {
	t.Helper()
	h, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Do(do); err != nil {
		t.Fatal(err)
	}
}
