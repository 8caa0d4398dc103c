package diagnose

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// TestWhyInconclusive: an unanswered packet to an address that is nobody's is no silence of a far end.
func TestWhyInconclusive(t *testing.T) {
	for _, c := range []struct {
		name, dst, node string
		far             tables.NetnsID
		want            string
	}{
		{"a pod", "10.244.1.2", "node2", tables.NetnsID{Dev: 1, Ino: 2}, "nothing was sent back"},
		{"a pod of a node that was not read", "10.244.1.2", "node2", tables.NetnsID{}, "nothing was sent back"},
		{"nobody's", "10.244.1.99", "", tables.NetnsID{}, "no pod has 10.244.1.99, an address of node2's pod network"},
		{"outside", "192.0.2.1", "", tables.NetnsID{}, "left for 192.0.2.1"},
	} {
		in := Input{
			Wire: &verify.Wire{}, Sent: Sent{Sent: 3},
			Path: verify.Result{Request: verify.Leg{Name: "request", Journeys: 3, Arrived: 3}, Reply: verify.Leg{Name: "reply"}},
			Intent: &verify.Intent{
				Dst:   verify.End{IP: netip.MustParseAddr(c.dst), Node: c.node, Netns: c.far},
				Nodes: []inventory.Node{{Name: "node2", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}},
			},
		}
		if got := whyInconclusive(in); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q does not say %q", c.name, got, c.want)
		}
	}
}
