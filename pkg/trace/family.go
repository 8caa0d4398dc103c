package trace

import (
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/verify"
)

// otherFamily judges, by the tables alone, the same two pods in the IP version that the trace is not about: half of a
// dual-stack path may be broken while the other half is well.
func otherFamily(c *Case) (diagnose.Finding, bool) {
	if c.Source.Kind != inventory.KindPod || c.Destination.Kind != inventory.KindPod {
		return diagnose.Finding{}, false
	}
	v6 := !c.Flow.Dst.Is6()
	src, dst := ofFamily(c.Source.IPs, v6), ofFamily(c.Destination.IPs, v6)
	if !src.IsValid() || !dst.IsValid() {
		return diagnose.Finding{}, false
	}
	sub := *c
	sub.Observed, sub.Sized, sub.Opinion, sub.Witness, sub.Sent = nil, nil, nil, diagnose.Witness{}, diagnose.Sent{}
	sub.Flow = forward.Flow{Proto: protoOf(probe.Spec{}, dst), Src: src, Dst: dst, SrcPort: otherID}
	setICMP(&sub.Flow)
	_, in := compare(&sub)
	fs, v := diagnose.Diagnose(diagnose.Input{Path: verify.Verify(in), Intent: in.Intent, Incomplete: incomplete(&sub)})
	if v.Status != diagnose.Broken && v.Status != diagnose.Degraded {
		return diagnose.Finding{}, false
	}
	i := slices.IndexFunc(fs, func(f diagnose.Finding) bool { return f.Severity == diagnose.Error })
	if i < 0 {
		return diagnose.Finding{}, false
	}
	f, name := fs[i], "IPv4"
	if v6 {
		name = "IPv6"
	}
	f.Summary = "in " + name + ", by the tables: " + f.Summary
	return f, true
}

// otherID is the echo identifier of a ping that is only played.
const otherID = 1

func ofFamily(ips []netip.Addr, v6 bool) netip.Addr {
	i := slices.IndexFunc(ips, func(a netip.Addr) bool { return a.Is6() == v6 })
	if i < 0 {
		return netip.Addr{}
	}
	return ips[i]
}

// withOther adds what the other IP version suffers from. A path that is well in one version only is degraded.
func withOther(c *Case, fs []diagnose.Finding, v diagnose.Verdict) ([]diagnose.Finding, diagnose.Verdict) {
	f, bad := otherFamily(c)
	if !bad || slices.ContainsFunc(fs, func(o diagnose.Finding) bool { return o.Cause == f.Cause && o.Node == f.Node }) {
		return fs, v
	}
	if v.Status != diagnose.Healthy {
		f.Severity = diagnose.Warning
		return append(fs, f), v
	}
	return append(fs, f), diagnose.Verdict{
		Status: diagnose.Degraded, Cause: f.Cause, Leg: f.Leg, Node: f.Node, Interface: f.Interface, Summary: f.Summary, Remedy: f.Remedy,
	}
}
