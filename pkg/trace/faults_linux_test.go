package trace_test

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// said is where a verdict must point: the role of the interface ("" for a fault of no interface), the leg that
// it hits, and the node if it is not the one with the fault.
type said struct{ role, leg, node string }

// fault is a row of the matrix: what the verdict must be with the fault on the sender's node and on the
// receiver's.
type fault struct {
	id        string
	near, far said
	cause     string // "": the id
	status    string // "": broken
	wireOnly  bool   // tables alone can't show it
	byTables  string // what check calls it, "": as path
}

// roles are the interfaces of the default lab by what they are for, on each node.
var roles = map[string]map[string]string{
	"node1": {"vtep": "flannel.1", "uplink": "ens192", "bridge": "cni0", "pod": "eth0"},
	"node2": {"vtep": "flannel.1", "uplink": "eno16780032", "bridge": "cni0", "pod": "eth0"},
}

// nowhere stands for a node on which the lab does not have a fault.
var nowhere = said{role: "nowhere"}

// elsewhere are faults that the path between two pods of the default lab does not show.
var elsewhere = []string{"fdb-aged", "pod-to-node-input-drop"}

const request, reply = report.Request, report.Reply

// matrix holds every fault of the lab. Where an entry is used for sending only, the fault on the far node hits
// the reply.
var matrix = []fault{
	{id: "fdb-missing", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "fdb-wrong-dst", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "neigh-missing", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "neigh-wrong-mac", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "vtep-mac-changed", near: said{"vtep", reply, ""}, far: said{"vtep", request, ""}},
	{id: "route-missing", near: said{"bridge", request, ""}, far: said{"bridge", reply, ""}},
	{id: "blackhole-route", near: said{"bridge", request, ""}, far: said{"bridge", reply, ""}},
	{id: "vxlan-port-input-drop", near: said{"uplink", reply, ""}, far: said{"uplink", request, ""}},
	{id: "vxlan-port-underlay-drop", near: said{"uplink", request, "node1"}, far: said{"uplink", reply, ""}, wireOnly: true},
	{id: "forward-policy-drop", near: said{"bridge", request, ""}, far: said{"vtep", request, ""}},
	{id: "forward-reject-order", near: said{"vtep", reply, ""}, far: said{"vtep", request, ""}},
	{id: "masq-pod-to-pod", near: said{"bridge", request, ""}, far: said{"vtep", request, ""}, status: report.Degraded},
	{id: "ip-forward-off", near: said{"bridge", request, ""}, far: said{"vtep", request, ""}},
	{id: "rp-filter-strict", near: said{"vtep", reply, ""}, far: said{"vtep", request, ""}},
	{id: "policy-rule-hijack", near: said{"bridge", request, ""}, far: said{"vtep", request, ""}},
	{id: "underlay-route-missing", near: said{"vtep", request, ""}, far: said{"vtep", reply, ""}},
	{id: "vxlan-down", near: said{"vtep", request, ""}, far: said{"vtep", request, ""}},
	{id: "vxlan-dev-gone", near: said{"vtep", request, ""}, far: said{"vtep", request, ""}},
	{id: "vni-mismatch", near: said{"vtep", request, ""}, far: said{"vtep", request, ""}},
	// with two nodes nothing says which of the two ports was meant: the receiver's is told
	{id: "vxlan-port-mismatch", near: said{"vtep", request, "node2"}, far: said{"vtep", request, ""}},
	{id: "cni0-down", near: said{"bridge", request, ""}, far: said{"bridge", request, ""}},
	{id: "cni0-wrong-address", near: said{"bridge", "", ""}, far: said{"bridge", request, ""}},
	{id: "veth-no-master", near: said{"veth", "", ""}, far: said{"veth", request, ""}},
	{id: "bridge-port-blocked", near: said{"veth", request, ""}, far: said{"veth", request, ""}},
	{id: "pod-link-down", near: said{"pod", request, ""}, far: said{"pod", request, ""}},
	{id: "pod-default-route-missing", near: said{"pod", request, ""}, far: said{"pod", reply, ""}},
	{id: "wrong-iface", near: said{"vtep", "", ""}, far: said{"vtep", request, ""}, byTables: report.Degraded},
	{id: "vxlan-csum-offload", near: said{"uplink", request, "node2"}, far: said{"uplink", reply, "node1"}, wireOnly: true},
	{id: "mtu-path-blackhole", near: said{"uplink", "", ""}, far: said{"uplink", "", "node1"}, status: report.Degraded, wireOnly: true},
	{id: "pmtu-icmp-blocked", near: said{"vtep", request, ""}, far: nowhere, status: report.Degraded, wireOnly: true},
	// the first hook that sees the packet drops it: for the bridge's port, as br_netfilter is on, and for the tunnel's packet
	{id: "ct-table-full", near: said{"veth", request, ""}, far: said{"uplink", request, ""}, wireOnly: true},
	{id: "routing-loop", near: nowhere, far: said{"", request, ""}},
	{id: "iptables-backend-split", near: said{"bridge", request, ""}, far: said{"vtep", request, ""}},
	{id: "netpol-drop", near: said{"", reply, ""}, far: said{"vtep", request, ""}},
	{id: "duplicate-pod-ip", near: said{"bridge", "", ""}, far: nowhere, byTables: report.Degraded},
	{id: "tc-bpf-drop", near: said{"veth", request, ""}, far: said{"veth", reply, ""}, wireOnly: true},
	{id: "pod-neigh-stale", near: said{"bridge", reply, ""}, far: said{"bridge", request, ""}},
}

// wrong says what a verdict gets wrong, "" when nothing.
func (f fault) wrong(v report.Verdict, status, on string, want said) string {
	var bad []string
	expect := func(what, got, want string) {
		if got != want {
			bad = append(bad, fmt.Sprintf("%s %q, want %q", what, got, want))
		}
	}
	node := cmp.Or(want.node, on)
	expect("status", v.Status, status)
	expect("cause", v.Cause, cmp.Or(f.cause, f.id))
	expect("node", v.Node, node)
	switch want.role {
	case "": // of no interface, or of several
	case "veth":
		if !strings.HasPrefix(v.Interface, "veth") {
			bad = append(bad, fmt.Sprintf("interface %q, want the pod's veth", v.Interface))
		}
	default:
		expect("interface", v.Interface, roles[node][want.role])
	}
	if want.leg != "" {
		expect("leg", v.Leg, want.leg)
	}
	return strings.Join(bad, ", ")
}

// TestFaultMatrix puts in every fault of the default lab, on either node, and asks both commands: check, which
// sees tables alone, and path. "make faults" prints the table.
func TestFaultMatrix(t *testing.T) {
	ofFaults(t)
	inv := up(t)
	for _, f := range lab.Faults() {
		if !hasRow(f.ID) && !slices.ContainsFunc(elsewhere, func(id string) bool { return id == f.ID }) && slices.Contains(f.Datapaths, lab.FlannelVXLAN) {
			t.Errorf("the lab's fault %s has no row in the matrix", f.ID)
		}
	}
	var out strings.Builder
	tw := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tON\tVERDICT\tNODE\tINTERFACE\tLEG\tTIME\tBY TABLES")
	for _, f := range matrix {
		for i, on := range []string{"node1", "node2"} {
			want := f.near
			if i == 1 {
				want = f.far
			}
			if want == nowhere {
				continue
			}
			t.Run(f.id+"/"+on, func(t *testing.T) { f.try(t, inv, on, want, tw) })
		}
	}
	_ = tw.Flush()
	t.Logf("\n%s", &out)
}

// ofFaults leaves the long matrices to "make faults", which "make test" runs as well.
func ofFaults(t *testing.T) {
	t.Helper()
	if os.Getenv("FAULTS") != "all" {
		t.Skip("make faults runs it, and make test runs that")
	}
}

func hasRow(id string) bool {
	for _, f := range matrix {
		if f.id == id {
			return true
		}
	}
	return false
}

func (f fault) try(t *testing.T, inv *inventory.Inventory, on string, want said, tw *tabwriter.Writer) {
	o := labOptions()
	if err := lab.Break(t.Context(), o, f.id, on); err != nil {
		t.Fatal(err)
	}
	mended := false
	mend := func() {
		if !mended {
			if err := lab.Mend(t.Context(), o, f.id); err != nil {
				t.Fatal(err)
			}
		}
		mended = true
	}
	defer mend()
	byTables, err := trace.Check(t.Context(), options(inv, "coffee-1", "coffee-2", "icmp"))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := path(t, inv, "coffee-1", "coffee-2", "icmp")
	took := time.Since(began)
	mend()
	v, bv := r.Verdict, byTables.Verdict
	fmt.Fprintf(tw, "%s\t%s\t%s %s\t%s\t%s\t%s\t%s\t%s\n", f.id, on, v.Status, v.Cause, v.Node, v.Interface, v.Leg,
		took.Round(time.Millisecond), strings.TrimSpace(bv.Status+" "+bv.Cause))
	if bad := f.wrong(v, cmp.Or(f.status, report.Broken), on, want); bad != "" {
		t.Errorf("path: %s\n%s", bad, text(r))
	}
	if f.wireOnly {
		if bv.Status != report.Healthy {
			t.Errorf("tables can't show it, and say %s %s", bv.Status, bv.Cause)
		}
	} else if bad := f.wrong(bv, cmp.Or(f.byTables, f.status, report.Broken), on, want); bad != "" {
		t.Errorf("check: %s\n%s", bad, text(byTables))
	}
	if after := path(t, inv, "coffee-1", "coffee-2", "icmp"); after.Verdict.Status != report.Healthy {
		t.Errorf("after mend:\n%s", text(after))
	}
}
