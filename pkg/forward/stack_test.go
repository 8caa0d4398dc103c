package forward

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

// request plays a ping from coffee-1 to coffee-2 after a change.
func request(t *testing.T, change func(n1, n2 *tables.Netns)) []Leg {
	t.Helper()
	s := tablestest.Cluster()
	change(s.Host("node1"), s.Host("node2"))
	return New(s, Options{}).Trace(tablestest.Coffee1, ping(tablestest.Coffee1IP, tablestest.Coffee2IP))
}

func device(n *tables.Netns, name string) *tables.Link {
	for i := range n.Links {
		if n.Links[i].Name == name {
			return &n.Links[i]
		}
	}
	return nil
}

// vlans makes cni0 filter VLANs, with one VLAN on itself and one on its ports.
func vlans(n *tables.Netns, self, ports tables.VLAN) {
	br := device(n, "cni0")
	br.Bridge.VLANFiltering, br.Bridge.VLANs = true, []tables.VLAN{self}
	for i := range n.Links {
		if p := n.Links[i].Port; p != nil {
			p.VLANs = []tables.VLAN{ports}
		}
	}
}

func TestVLANFiltering(t *testing.T) {
	untagged := tables.VLAN{ID: 1, PVID: true, Untagged: true}
	for _, c := range []struct {
		name   string
		change func(n1, n2 *tables.Netns)
		want   End
		where  string
	}{
		{"the default: all in VLAN 1", func(n1, n2 *tables.Netns) { vlans(n1, untagged, untagged); vlans(n2, untagged, untagged) }, Delivered, ""},
		{"another VLAN on both", func(n1, _ *tables.Netns) {
			other := tables.VLAN{ID: 7, PVID: true, Untagged: true}
			vlans(n1, other, other)
		}, Delivered, ""},
		{"the bridge is in another VLAN than its ports", func(n1, _ *tables.Netns) {
			vlans(n1, tables.VLAN{ID: 2, PVID: true, Untagged: true}, untagged)
		}, Dropped, "cni0"},
		{"a port without a PVID", func(n1, _ *tables.Netns) { vlans(n1, untagged, tables.VLAN{ID: 1, Untagged: true}) }, Dropped, "veth33"},
		{"the far port in another VLAN", func(_, n2 *tables.Netns) {
			vlans(n2, untagged, tables.VLAN{ID: 3, PVID: true, Untagged: true})
			n2.FDB = append(n2.FDB, tables.FDB{
				Index: device(n2, "veth41").Index, Master: device(n2, "cni0").Index, VLAN: 1, State: tables.NUDReachable,
				MAC: ether.MAC{0x4a, 0x9e, 0x70, 0x55, 0x74, 0xae},
			})
		}, Dropped, "veth41"},
		{"the pod does not take tags", func(_, n2 *tables.Netns) { vlans(n2, untagged, tables.VLAN{ID: 1, PVID: true}) }, Dropped, "eth0"},
	} {
		legs := request(t, c.change)
		l := legs[0]
		if l.End != c.want || l.Drop != nil && (l.Drop.Reason != ReasonVLAN || l.Drop.Interface != c.where) {
			t.Errorf("%s: %s %+v, want %s at %q", c.name, l.End, l.Drop, c.want, c.where)
		}
	}
}

func TestNexthopGroupInFDB(t *testing.T) {
	legs := request(t, func(n1, _ *tables.Netns) {
		for i := range n1.FDB {
			if f := &n1.FDB[i]; f.Dst.IsValid() {
				f.Dst, f.NHID = netip.Addr{}, 9
			}
		}
		n1.Nexthops = []tables.Nexthop{
			{ID: 9, Group: []uint32{1, 2}},
			{ID: 1, Hop: tables.NextHop{Gateway: netip.MustParseAddr("10.1.11.92")}},
			{ID: 2, Hop: tables.NextHop{Gateway: netip.MustParseAddr("10.1.11.99")}},
		}
	})
	if len(legs) != 2 || legs[0].End != Delivered || legs[1].End == Delivered {
		t.Fatalf("%d legs: %+v", len(legs), legs)
	}
	if !strings.Contains(legs[0].Chance[0], "nexthop group") {
		t.Errorf("the alternative is not said: %q", legs[0].Chance)
	}
}

func TestUnknownRuleSelector(t *testing.T) {
	rule := func(unknown, src string) func(n1, n2 *tables.Netns) {
		return func(n1, _ *tables.Netns) {
			r := tables.Rule{Family: 2, Priority: 5, Action: tables.RuleTable, Table: 99, Unknown: unknown, SuppressPrefixLen: -1, SuppressIfGroup: -1}
			r.Src = netip.MustParsePrefix(src)
			n1.Rules = []tables.Rule{r}
			for _, d := range defaultRules {
				d := *d
				d.Family = 2
				n1.Rules = append(n1.Rules, d)
			}
		}
	}
	if l := request(t, rule("dscp 0x2e", "10.244.1.0/24"))[0]; l.End != Unknown || !strings.Contains(l.Why, "dscp") {
		t.Errorf("a rule that may match: %s %q", l.End, l.Why)
	}
	if l := request(t, rule("dscp 0x2e", "10.99.0.0/16"))[0]; l.End != Delivered {
		t.Errorf("a rule that can't match by what is known of it: %s %q", l.End, l.Why)
	}
}

func TestLearnedPathMTU(t *testing.T) {
	exception := func(trust string) func(n1, n2 *tables.Netns) {
		return func(n1, _ *tables.Netns) {
			n1.Sysctls["ipv4.ip_forward_use_pmtu"] = trust
			n1.Exceptions = []tables.Route{{
				Table: tables.TableMain, Type: tables.RouteUnicast, Dst: netip.PrefixFrom(tablestest.Coffee2IP, 32), MTU: 600,
				NextHops: []tables.NextHop{{Index: device(n1, "flannel.1").Index, Gateway: netip.MustParseAddr("10.244.2.0")}},
			}}
		}
	}
	f := ping(tablestest.Coffee1IP, tablestest.Coffee2IP)
	f.Length, f.DF = 1000, true
	for trust, want := range map[string]End{"0": Delivered, "1": Dropped} {
		s := tablestest.Cluster()
		exception(trust)(s.Host("node1"), nil)
		l := New(s, Options{}).Trace(tablestest.Coffee1, f)[0]
		if l.End != want || l.Drop != nil && l.Drop.Reason != ReasonTooBig {
			t.Errorf("ip_forward_use_pmtu=%s: %s %+v, want %s", trust, l.End, l.Drop, want)
		}
	}
}
