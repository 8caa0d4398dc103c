package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// nameCheck gives a failed comparison the catalogue's name, and says it in one sentence. A cause that
// lies at another place than the entry (a device whose MAC changed under everybody) moves the finding.
func (c *leg) nameCheck(ck *verify.Check, f *Finding) (cause, summary string) {
	where := ck.Node + " " + ck.Interface
	switch ck.Name {
	case verify.CheckFDB:
		if ck.Step != nil && ck.Step.FDB == nil {
			return "fdb-missing", fmt.Sprintf("%s: no FDB entry for %s, expected dst %s", where, ck.Step.MAC, ck.Expected)
		}
		if ck.Step.Target.String() == firstWord(ck.Expected) {
			return "fdb-wrong-dst", fmt.Sprintf("%s: the FDB row for %s sends to %s by another port, VNI or device than the VTEP's own: %s", where, ck.Step.MAC, ck.Step.Target, ck.Observed)
		}
		if n, dev := c.movedVTEP(ck.Step); n != "" {
			f.Node, f.Interface = n, dev
			return "wrong-iface", fmt.Sprintf("%s %s sends from %s, and its node announced %s; the FDB of %s follows it", n, dev, ck.Step.Target, ck.Announced, ck.Node)
		}
		return "fdb-wrong-dst", fmt.Sprintf("%s: the FDB sends %s to %s, expected %s", where, ck.Step.MAC, ck.Step.Target, ck.Expected)
	case verify.CheckNeigh:
		return c.nameNeigh(ck, f)
	case verify.CheckUnderlay:
		return "underlay-neigh-wrong", fmt.Sprintf("%s: the neighbour entry for %s has %s, expected %s", where, ck.Step.Target, ck.Step.MAC, ck.Expected)
	case verify.CheckRoute:
		return c.nameRoute(ck, f)
	case verify.CheckPodRoute:
		return c.namePodRoute(ck, f)
	case verify.CheckVtepMAC:
		return "vtep-mac-changed", fmt.Sprintf("%s has MAC %s, and its node announced %s", where, ck.Observed, ck.Expected)
	case verify.CheckVNI:
		return "vni-mismatch", fmt.Sprintf("%s has VNI %s, and its node announced %s", where, ck.Observed, ck.Expected)
	case verify.CheckVtepLocal:
		return "wrong-iface", fmt.Sprintf("%s sends from %s, and its node announced %s", where, ck.Observed, ck.Expected)
	case verify.CheckGateway:
		f.Node, f.Interface = c.intent.Src.Node, c.linkName(ck.Step)
		return "pod-route-wrong", fmt.Sprintf("%s on %s: the pod's route for %s is %q, expected via %s",
			c.nsName(ck.Step.Netns), f.Node, ck.Step.Target, ck.Observed, ck.Expected)
	case verify.CheckEndpoint:
		return c.deadEndpoint(ck.Step), fmt.Sprintf("%s: the service's address is translated to %s, which is none of its endpoints (%s): %s", ck.Step.Node, ck.Observed, ck.Expected, ck.Step.Entry)
	case verify.CheckMAC:
		return "wrong-ethDst", fmt.Sprintf("%s: a rule puts the MAC %s, which nobody has, in the place of the next hop's: %s", where, ck.Observed, ck.Step.Entry)
	case verify.CheckPort:
		return "wrong-port", fmt.Sprintf("port %s is asked for, and the packet arrives at port %s%s", ck.Expected, ck.Observed, c.natWords(ck.Step, f))
	case verify.CheckDelivered:
		return "wrong-destination", fmt.Sprintf("the packet ends in %s, expected %s%s", ck.Observed, ck.Expected, c.natWords(ck.Step, f))
	case verify.CheckSource:
		if ck.Step != nil && ck.Step.Rule != nil {
			return "masq-pod-to-pod", fmt.Sprintf("%s: traffic between pods is masqueraded: source %s is translated by %s", ck.Step.Node, ck.Expected, ck.Step.Entry)
		}
		return "masq-pod-to-pod", fmt.Sprintf("the far end sees source %s, expected %s: traffic between pods is masqueraded", ck.Observed, ck.Expected)
	case verify.CheckAnswer:
		return c.nameAnswer(ck, f)
	default:
		return c.nameHeader(ck)
	}
}

// nameAnswer: the answer of a service's endpoint arrives from the endpoint's own address. Either a bridge hands it on
// past the rules, or it takes another way than the request, whose sender's address was kept.
func (c *leg) nameAnswer(ck *verify.Check, f *Finding) (cause, summary string) {
	words := fmt.Sprintf("the answer comes from %s, and %s was asked: ", ck.Observed, ck.Expected)
	if br := c.unfiltered(); br != "" {
		f.Node, f.Interface = c.intent.Dst.Node, br
		return "bridge-nf-off", words + fmt.Sprintf("bridged frames of %s bypass netfilter (bridge-nf-call-iptables = 0)", f.Node)
	}
	for i := range c.in.Path.Request.Hops {
		h := &c.in.Path.Request.Hops[i]
		if h.Expected && h.Dir == forward.Out && h.Frame.Dst != c.intent.Answers && h.Frame.Src == c.intent.Dst.IP {
			f.Node, f.Interface = h.Node, h.Interface
			break
		}
	}
	if f.Node == ck.Node {
		return "answer-not-translated", words + "no node on its way translates it back"
	}
	return "nodeport-no-masq", words + fmt.Sprintf("it does not come back by %s, which translated the request and kept the sender's address", f.Node)
}

// unfiltered is the bridge that both pods are on, if br_netfilter does not show its frames to the IP layer's rules.
func (c *leg) unfiltered() string {
	ns := c.intent.Snapshot.ByID(c.intent.Dst.Host)
	if ns == nil || c.intent.Src.Host != c.intent.Dst.Host || c.intent.Src.Bridge == 0 || c.intent.Src.Bridge != c.intent.Dst.Bridge {
		return ""
	}
	if v, _ := ns.SysctlInt("bridge.bridge-nf-call-iptables"); v != 0 {
		return ""
	}
	if l := ns.Link(c.intent.Dst.Bridge); l != nil {
		return l.Name
	}
	return ""
}

// natWords names the translation behind an end that was not meant, and moves the finding there.
func (c *leg) natWords(s *forward.Step, f *Finding) string {
	if s == nil || s.Rule == nil {
		return ""
	}
	f.Node, f.Interface = s.Node, orWords(c.linkName(s), f.Interface)
	return fmt.Sprintf(": %s translates it by %s", s.Node, s.Entry)
}

// movedVTEP finds the far node's VTEP whose local address an FDB row names, though the node announced another.
func (c *leg) movedVTEP(s *forward.Step) (node, dev string) {
	ns := c.intent.Snapshot.Host(c.intent.Dst.Node)
	if ns == nil || !s.Target.IsValid() {
		return "", ""
	}
	for _, l := range ns.Links {
		if l.VXLAN != nil && l.VXLAN.Local == s.Target {
			return ns.Node, l.Name
		}
	}
	return "", ""
}

func (c *leg) nsName(id tables.NetnsID) string {
	if ns := c.intent.Snapshot.ByID(id); ns != nil {
		return ns.Name
	}
	return "?"
}

func (c *leg) linkName(s *forward.Step) string {
	if l := c.link(s); l != nil {
		return l.Name
	}
	return ""
}

// nameHeader: a header on the wire differs from what the tables lead to.
func (c *leg) nameHeader(ck *verify.Check) (cause, summary string) {
	by := "the tables lead to"
	if ck.Source == verify.FromWire {
		by = "by what other frames show it should be"
	}
	return "wrong-" + strings.ReplaceAll(ck.Name, ".", "-"),
		fmt.Sprintf("%s %s: %s on the wire is %s, %s %s", ck.Node, ck.Interface, ck.Name, orWords(ck.Observed, "none"), by, ck.Expected)
}

// nameNeigh tells a wrong entry on the sender from a device whose MAC changed: in the second case the
// entry still holds what the far node announced.
func (c *leg) nameNeigh(ck *verify.Check, f *Finding) (cause, summary string) {
	s, where := ck.Step, ck.Node+" "+ck.Interface
	dev := c.link(s)
	if dev == nil || dev.Kind != "vxlan" {
		if s.Neigh == nil {
			return "neigh-missing", fmt.Sprintf("%s: no neighbour entry for %s, expected %s", where, s.Target, ck.Expected)
		}
		if other := c.claims(s); other != "" {
			return "duplicate-pod-ip", fmt.Sprintf("%s: %s has %s as well, and the neighbour entry leads there (%s), expected %s", where, other, s.Target, s.MAC, ck.Expected)
		}
		return "pod-neigh-stale", fmt.Sprintf("%s: the neighbour entry for %s has %s, expected %s", where, s.Target, s.MAC, ck.Expected)
	}
	if s.MAC.IsZero() && c.v4Twin(s) {
		return "v6-overlay-missing", fmt.Sprintf("%s: no usable neighbour entry for %s, expected lladdr %s; the one for IPv4 is there", where, s.Target, ck.Expected)
	}
	if s.MAC.IsZero() {
		return "neigh-missing", fmt.Sprintf("%s: no usable neighbour entry for %s, expected lladdr %s", where, s.Target, ck.Expected)
	}
	if ck.Announced != "" && ck.Announced == s.MAC.String() {
		f.Node, f.Interface = c.farVTEP(s)
		return "vtep-mac-changed", fmt.Sprintf("%s %s: the device's MAC is %s, and everybody was told %s",
			f.Node, f.Interface, firstWord(ck.Expected), s.MAC)
	}
	if ck.Announced == "" && c.toldTwice(s) {
		f.Node, f.Interface = c.farVTEP(s)
		return "vtep-mac-changed", fmt.Sprintf("%s %s: the device's MAC is %s, and both tables of %s have %s for it",
			f.Node, f.Interface, firstWord(ck.Expected), s.Node, s.MAC)
	}
	return "neigh-wrong-mac", fmt.Sprintf("%s: the neighbour entry for %s has lladdr %s, expected %s", where, s.Target, s.MAC, ck.Expected)
}

// toldTwice reports whether the FDB has the neighbour entry's MAC too, at the far node's address: then it was the
// device's once.
func (c *leg) toldTwice(s *forward.Step) bool {
	ns, far := c.intent.Snapshot.ByID(s.Netns), c.intent.Snapshot.Host(c.intent.Dst.Node)
	return ns != nil && far != nil && slices.ContainsFunc(ns.FDB, func(f tables.FDB) bool {
		return f.Index == s.Ifindex && f.MAC == s.MAC && f.Dst.IsValid() && far.HasAddr(f.Dst)
	})
}

// v4Twin reports whether a node has a usable neighbour entry for the far node's VTEP in IPv4, while the one of IPv6
// is missing.
func (c *leg) v4Twin(s *forward.Step) bool {
	ns, far := c.intent.Snapshot.ByID(s.Netns), c.intent.Snapshot.Host(c.intent.Dst.Node)
	return s.Target.Is6() && ns != nil && far != nil && slices.ContainsFunc(ns.Neighs, func(n tables.Neigh) bool {
		l := ns.Link(n.Index)
		return n.IP.Is4() && n.State.Valid() && l != nil && l.Kind == "vxlan" && far.HasAddr(n.IP)
	})
}

// claims names another namespace than the far end's that has the address, on a device with the entry's MAC; or
// the port of the node's bridge behind which that MAC lives, if it is not the far end's.
func (c *leg) claims(s *forward.Step) string {
	for _, ns := range c.intent.Snapshot.Netns {
		if ns.ID == c.intent.Dst.Netns || !ns.HasAddr(s.Target) {
			continue
		}
		for _, l := range ns.Links {
			if l.MAC == s.MAC {
				return ns.Name
			}
		}
	}
	host := c.intent.Snapshot.ByID(s.Netns)
	if host == nil {
		return ""
	}
	for _, f := range host.FDB {
		if f.Master != s.Ifindex || f.MAC != s.MAC || f.Local || f.Index == c.intent.Dst.Veth {
			continue
		}
		if l := host.Link(f.Index); l != nil {
			return "the pod behind " + l.Name
		}
	}
	return ""
}

// farVTEP is the device that holds the address which a neighbour entry is for.
func (c *leg) farVTEP(s *forward.Step) (node, dev string) {
	for _, ns := range c.intent.Snapshot.Netns {
		for _, a := range ns.Addrs {
			if ns.Name != tables.HostName || a.Prefix.Addr() != s.Target {
				continue
			}
			if l := ns.Link(a.Index); l != nil {
				return ns.Node, l.Name
			}
		}
	}
	return c.intent.Dst.Node, ""
}

// nameRoute: a node's route for the far end leads elsewhere, or nowhere.
func (c *leg) nameRoute(ck *verify.Check, f *Finding) (cause, summary string) {
	s := ck.Step
	f.Interface = orWords(c.inputAt(s), f.Interface)
	summary = fmt.Sprintf("%s: the route for %s is %q, expected %s", s.Node, s.Target, ck.Observed, ck.Expected)
	switch {
	case s.Route == nil && s.Kind == forward.StepRule, c.skipsMain(s):
		return "policy-rule-hijack", fmt.Sprintf("%s: a policy rule keeps %s from table main: %s", s.Node, s.Target, orWords(s.Note, s.Entry))
	case s.Route != nil && isReject(s.Route.Type):
		return "blackhole-route", summary
	case c.overlayGone(s.Node) != "":
		cause = c.overlayGone(s.Node)
		f.Interface = orWords(c.overlayName(), f.Interface)
		return cause, fmt.Sprintf("%s: %s, and with it the route for %s", s.Node, cause, s.Target)
	case s.Route == nil:
		return c.routeMissing(s.Node), fmt.Sprintf("%s: no route for %s, expected %s", s.Node, s.Target, ck.Expected)
	case c.byForeignRule(s):
		return "policy-rule-hijack", fmt.Sprintf("%s: a policy rule takes %s before table main: %s (%s)", s.Node, s.Target, ck.Observed, s.Note)
	case s.Route.Dst.Bits() == 0:
		return c.routeMissing(s.Node), fmt.Sprintf("%s: no route for %s but the default one, %q; expected %s", s.Node, s.Target, ck.Observed, ck.Expected)
	case s.Route.Type == tables.RouteLocal:
		return "wrong-destination", fmt.Sprintf("%s: it takes %s for an address of its own, by %q", s.Node, s.Target, ck.Observed)
	case ck.Owner == s.Node:
		return "routing-loop", summary
	default:
		f.Interface = ck.Interface
		return "nexthop-stale", summary
	}
}

func isReject(t tables.RouteType) bool {
	return t == tables.RouteBlackhole || t == tables.RouteUnreachable || t == tables.RouteProhibit
}

// byForeignRule reports whether the route comes from a table other than main that a rule put first.
func (c *leg) byForeignRule(s *forward.Step) bool {
	return s.Route != nil && s.Route.Table != tables.TableMain && s.Route.Table != tables.TableLocal
}

// skipsMain reports whether a rule with goto made the kernel pass over table main, which has a route.
func (c *leg) skipsMain(s *forward.Step) bool {
	ns := c.intent.Snapshot.ByID(s.Netns)
	return s.PolicyRule != nil && s.PolicyRule.Action == tables.RuleGoto && ns != nil && c.mainRoute(ns, s, nil) != nil
}

// mainRoute is the route of table main for the step's target that leads where it should, other than one.
func (c *leg) mainRoute(ns *tables.Netns, s *forward.Step, not *tables.Route) *tables.Route {
	for i := range ns.Routes {
		r := &ns.Routes[i]
		if r == not || r.Table != tables.TableMain || r.Dst.Bits() == 0 || !r.Dst.Contains(s.Target) || r.Type != tables.RouteUnicast {
			continue
		}
		if c.intent.LeadsTo(r) {
			return r
		}
	}
	return nil
}

// routeMissing names the absence after the backend that should have put the route there.
func (c *leg) routeMissing(node string) string {
	for _, n := range c.intent.Nodes {
		if n.Name == c.intent.Dst.Node && n.Flannel.BackendType == "host-gw" {
			return "direct-route-lost"
		}
	}
	if c.intent.GoesDirect(c.intent.Snapshot.Host(node)) {
		return "direct-route-lost"
	}
	return "route-missing"
}

// overlayGone says why a node has lost all routes of its overlay at once: the device is gone or down.
func (c *leg) overlayGone(node string) string {
	ns := c.intent.Snapshot.Host(node)
	announces := false
	for _, n := range c.intent.Nodes {
		announces = announces || n.Name == node && n.Flannel.BackendType == "vxlan"
	}
	announces = announces || verify.ReturnsBy(c.intent.Snapshot.ByID(c.intent.Dst.Host), c.intent.Src.IP) != nil
	if ns == nil || !announces {
		return ""
	}
	found := false
	for _, l := range ns.Links {
		if l.VXLAN == nil || l.VXLAN.Local.IsValid() && c.intent.Dst.IP.IsValid() && c.otherFamily(&l) {
			continue
		}
		found = true
		if l.Up {
			return ""
		}
	}
	if found {
		return "vxlan-down"
	}
	return "vxlan-dev-gone"
}

// otherFamily reports whether a vxlan device carries the other IP version's overlay: by its own addresses, else by
// its tunnel's.
func (c *leg) otherFamily(l *tables.Link) bool {
	v6 := c.intent.Dst.IP.Is6()
	for _, ns := range c.intent.Snapshot.Netns {
		for _, a := range ns.Addrs {
			if o := ns.Link(a.Index); o != nil && o.VXLAN != nil && o.Name == l.Name && !a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix.Addr().Is6() == v6 {
				return false
			}
		}
	}
	return l.VXLAN.Local.Is6() != v6
}

// overlayName is the name of the overlay's device on any node of the path that has it.
func (c *leg) overlayName() string {
	for _, ns := range c.intent.Snapshot.Netns {
		for _, l := range ns.Links {
			if l.VXLAN != nil && !c.otherFamily(&l) {
				return l.Name
			}
		}
	}
	return ""
}

// namePodRoute: on the pod's own node the route does not lead to the pod.
func (c *leg) namePodRoute(ck *verify.Check, f *Finding) (cause, summary string) {
	s := ck.Step
	summary = fmt.Sprintf("%s: the route for its own pod %s is %q, expected %s", s.Node, s.Target, ck.Observed, ck.Expected)
	br := c.hostLink(c.intent.Dst.Bridge)
	f.Interface = orWords(c.inputAt(s), f.Interface)
	switch {
	case br != nil && !br.Up:
		f.Interface = br.Name
		return "cni0-down", fmt.Sprintf("%s: the pods' bridge %s is down, and with it the route for %s", s.Node, br.Name, s.Target)
	case s.Route != nil && isReject(s.Route.Type) && c.intent.Dst.Bridge == 0:
		return "pod-host-route-missing", summary
	case s.Route != nil && isReject(s.Route.Type):
		return "blackhole-route", summary
	case gatewayLeavesNode(s) && !c.byForeignRule(s):
		return "routing-loop", summary
	case br != nil && !c.bridgeServes(s):
		f.Interface = br.Name
		return "cni0-wrong-address", fmt.Sprintf("%s: the pods' bridge %s has no address in the subnet of %s", s.Node, br.Name, s.Target)
	case c.byForeignRule(s) && s.PolicyRule != nil && c.aboutSender(s.PolicyRule):
		return "eni-to-pod-rule-missing", fmt.Sprintf("%s: no policy rule keeps packets for its own pod %s on the node: %s (%s)", s.Node, s.Target, s.Entry, s.Note)
	case c.byForeignRule(s):
		return "policy-rule-hijack", summary
	default:
		return "pod-host-route-missing", summary
	}
}

func gatewayLeavesNode(s *forward.Step) bool {
	return s.Route != nil && s.Route.Dst.Bits() != 0 && len(s.Route.NextHops) == 1 && s.Route.NextHops[0].Gateway.IsValid()
}

// bridgeServes reports whether the pods' bridge has an address whose subnet holds the pod.
func (c *leg) bridgeServes(s *forward.Step) bool {
	ns := c.intent.Snapshot.ByID(c.intent.Dst.Host)
	if ns == nil {
		return true
	}
	for _, a := range ns.Addrs {
		if a.Index == c.intent.Dst.Bridge && a.Prefix.Masked().Contains(s.Target) {
			return true
		}
	}
	return false
}

func (c *leg) hostLink(i tables.Ifindex) *tables.Link {
	if ns := c.intent.Snapshot.ByID(c.intent.Dst.Host); ns != nil && i != 0 {
		return ns.Link(i)
	}
	return nil
}

// inputAt is the device by which the packet came into the namespace of a step.
func (c *leg) inputAt(s *forward.Step) string {
	name := ""
	for _, h := range c.Hops {
		if h.Expected && h.Netns == s.Netns && h.Dir == forward.In {
			name = h.Interface
		}
	}
	return name
}

func (c *leg) link(s *forward.Step) *tables.Link {
	if c.intent == nil || s == nil {
		return nil
	}
	if ns := c.intent.Snapshot.ByID(s.Netns); ns != nil {
		return ns.Link(s.Ifindex)
	}
	return nil
}

func firstWord(s string) string {
	w, _, _ := strings.Cut(s, " ")
	return w
}
