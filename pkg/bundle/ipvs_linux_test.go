package bundle

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// TestRecordIPVS records the bundles of kube-proxy's mode ipvs, with -record. The lab's kernel has no IPVS: what is
// recorded is its mode iptables, without netfilter on bridged frames, which shows on the wire what IPVS shows. The
// destination is translated behind the bridge, once, on the client's node, and the TTL goes down by one. Of the tables
// only who translates is another: virtual servers and kube-ipvs0 in the place of the rules.
func TestRecordIPVS(t *testing.T) {
	if !*record {
		t.Skip("only with -record")
	}
	inv := upSpec(t, lab.Spec{Services: lab.ServicesIPTables})
	if err := lab.Break(t.Context(), labOptions(), "bridge-nf-off", "node2"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"services-ipvs.healthy", "services-ipvs.broken.ipvs-backend"} {
		if strings.Contains(want, "broken") {
			if err := lab.Break(t.Context(), labOptions(), "dnat-dead-endpoint", "node2"); err != nil {
				t.Fatal(err)
			}
		}
		c, err := trace.Gather(t.Context(), trace.Options{
			Inventory: inv, Source: "coffee-2", Destination: "svc/tea:80", Namespace: "default", Probe: probe.Spec{Proto: probe.TCP},
			Count: 2, Interval: 20 * time.Millisecond, Timeout: 500 * time.Millisecond, Version: "test",
		})
		if err != nil {
			t.Fatal(err)
		}
		byIPVS(t, c.Snapshot.ByID(c.From.HostNetns))
		r := trace.Judge(c)
		if name := strings.TrimSuffix("services-ipvs."+r.Verdict.Status+"."+r.Verdict.Cause, "."); name != want {
			t.Errorf("%s, want %s: %s", name, want, r.Verdict.Summary)
		}
		again(t, filepath.Join(bundleDir, want+".tar.gz"), c, r)
	}
}

// byIPVS puts virtual servers in the place of kube-proxy's rules: each destination that a chain of a service asks for,
// with the addresses that its endpoints' chains translate to.
func byIPVS(t *testing.T, ns *tables.Netns) {
	t.Helper()
	var nat *netfilter.Table
	for i := range ns.Netfilter.Tables {
		if tb := &ns.Netfilter.Tables[i]; tb.Name == "nat" && tb.Family == netfilter.FamilyIPv4 {
			nat = tb
		}
	}
	const device = 900
	ns.Links = append(ns.Links, tables.Link{Index: device, Name: "kube-ipvs0", Kind: "dummy", MTU: 1500})
	ns.Sysctls["ipv4.vs.conntrack"], ns.Sysctls["bridge.bridge-nf-call-iptables"] = "1", "1"
	for _, vs := range virtualServers(nat) {
		vip := netip.PrefixFrom(vs.Addr.Addr(), 32)
		ns.IPVS = append(ns.IPVS, vs)
		ns.Addrs = append(ns.Addrs, tables.Addr{Index: device, Prefix: vip})
		ns.Routes = append(ns.Routes, tables.Route{
			Table: tables.TableLocal, Type: tables.RouteLocal, Dst: vip, Protocol: 2, Scope: 254, PrefSrc: vip.Addr(),
			NextHops: []tables.NextHop{{Index: device}},
		})
	}
	for i := range nat.Chains {
		c := &nat.Chains[i]
		if c.Base {
			c.Rules = slices.DeleteFunc(c.Rules, func(r netfilter.Rule) bool { return strings.Contains(r.Text(), "KUBE-SERVICES") })
		}
	}
	if len(ns.IPVS) < 2 {
		t.Fatalf("%d virtual servers", len(ns.IPVS))
	}
}

// virtualServers reads the rules of kube-proxy's mode iptables: KUBE-SERVICES asks for an address and a port and jumps
// to the service's chain, that to those of endpoints, whose last rule translates.
func virtualServers(nat *netfilter.Table) (out []tables.VirtualServer) {
	chain := func(name string) *netfilter.Chain {
		i := slices.IndexFunc(nat.Chains, func(c netfilter.Chain) bool { return c.Name == name })
		return &nat.Chains[i]
	}
	for _, r := range chain("KUBE-SERVICES").Rules {
		svc := word(r.Text(), "jump ")
		if !strings.HasPrefix(svc, "KUBE-SVC-") {
			continue
		}
		ip, _, _ := strings.Cut(word(r.Text(), "ip daddr "), "/")
		vs := tables.VirtualServer{
			Proto: "TCP", Scheduler: "rr",
			Addr: netip.MustParseAddrPort(ip + ":" + word(r.Text(), "dport ")),
		}
		if strings.Contains(r.Text(), "udp dport") {
			vs.Proto = "UDP"
		}
		for _, e := range chain(svc).Rules {
			sep := word(e.Text(), "jump ")
			if !strings.HasPrefix(sep, "KUBE-SEP-") {
				continue
			}
			rules := chain(sep).Rules
			r := tables.RealServer{Addr: netip.MustParseAddrPort(word(rules[len(rules)-1].Text(), "--to-destination ")), Forward: "Masq", Weight: 1}
			if !slices.Contains(vs.Real, r) {
				vs.Real = append(vs.Real, r)
			}
		}
		out = append(out, vs)
	}
	return out
}

// word is what follows a word in a rule, up to the next space.
func word(rule, after string) string {
	_, rest, _ := strings.Cut(rule, after)
	w, _, _ := strings.Cut(rest, " ")
	return w
}
