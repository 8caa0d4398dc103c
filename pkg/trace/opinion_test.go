package trace

import (
	"net/netip"
	"testing"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
)

// TestForeign: only of a packet that the namespace could send itself is its kernel asked.
func TestForeign(t *testing.T) {
	ns := tablestest.Cluster().ByID(tablestest.Coffee1)
	for src, want := range map[netip.Addr]bool{tablestest.Coffee1IP: false, tablestest.Tea1IP: true, {}: false} {
		for _, iif := range []tables.Ifindex{0, 3} {
			st := &forward.Step{Kind: forward.StepRoute, Question: &tables.RouteQuestion{Src: src, IIF: iif}}
			if got := foreign(ns, st); got != (want && iif == 0) {
				t.Errorf("from %s, in by %d: %v", src, iif, got)
			}
		}
	}
}

// TestRouteSays lays a kernel's answer beside the route that its tables gave.
func TestRouteSays(t *testing.T) {
	route := func(typ tables.RouteType, dst string, dev tables.Ifindex) tables.Route {
		return tables.Route{Type: typ, Dst: netip.MustParsePrefix(dst), NextHops: []tables.NextHop{{Index: dev}}}
	}
	for _, c := range []struct {
		name   string
		tables tables.Route
		kernel tables.Route
		same   bool
	}{
		{"IPv6 local, which the kernel answers with lo", route(tables.RouteLocal, "fd00::1/128", 2), route(tables.RouteLocal, "fd00::1/128", 1), true},
		{"IPv6 anycast", route(tables.RouteAnycast, "fd00::/128", 2), route(tables.RouteAnycast, "fd00::/128", 1), true},
		{"IPv6 by another device", route(tables.RouteUnicast, "fd00::/64", 2), route(tables.RouteUnicast, "fd00::/64", 1), false},
		{"IPv6 of another type", route(tables.RouteLocal, "fd00::1/128", 1), route(tables.RouteUnicast, "fd00::/64", 1), false},
		{"IPv4 local", route(tables.RouteLocal, "10.0.0.1/32", 2), route(tables.RouteLocal, "10.0.0.1/32", 2), true},
		{"IPv4 local on another device", route(tables.RouteLocal, "10.0.0.1/32", 2), route(tables.RouteLocal, "10.0.0.1/32", 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := &forward.Step{Kind: forward.StepRoute, Question: &tables.RouteQuestion{Dst: c.tables.Dst.Addr()}, Route: &c.tables}
			if theirs, same := routeSays(&node.Answer{Route: c.kernel}, &tables.Netns{}, st); same != c.same {
				t.Errorf("%v: %s", same, theirs)
			}
		})
	}
}
