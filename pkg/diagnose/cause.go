package diagnose

import (
	"fmt"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netfilter"
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
	case verify.CheckDelivered:
		return "wrong-destination", fmt.Sprintf("the packet ends in %s, expected %s", ck.Observed, ck.Expected)
	case verify.CheckSource:
		return "masq-pod-to-pod", fmt.Sprintf("the far end sees source %s, expected %s: traffic between pods is masqueraded", ck.Observed, ck.Expected)
	default:
		return c.nameHeader(ck)
	}
}

// nameHeader: a header on the wire differs from what the tables lead to.
func (c *leg) nameHeader(ck *verify.Check) (cause, summary string) {
	return "wrong-" + strings.ReplaceAll(ck.Name, ".", "-"),
		fmt.Sprintf("%s %s: %s on the wire is %s, the tables lead to %s", ck.Node, ck.Interface, ck.Name, orWords(ck.Observed, "none"), ck.Expected)
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
		return "pod-neigh-stale", fmt.Sprintf("%s: the neighbour entry for %s has %s, expected %s", where, s.Target, s.MAC, ck.Expected)
	}
	if s.MAC.IsZero() {
		return "neigh-missing", fmt.Sprintf("%s: no usable neighbour entry for %s, expected lladdr %s", where, s.Target, ck.Expected)
	}
	if ck.Announced != "" && ck.Announced == s.MAC.String() {
		f.Node, f.Interface = c.farVTEP(s)
		return "vtep-mac-changed", fmt.Sprintf("%s %s: the device's MAC is %s, and everybody was told %s",
			f.Node, f.Interface, firstWord(ck.Expected), s.MAC)
	}
	return "neigh-wrong-mac", fmt.Sprintf("%s: the neighbour entry for %s has lladdr %s, expected %s", where, s.Target, s.MAC, ck.Expected)
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
	case s.Route != nil && isReject(s.Route.Type):
		return "blackhole-route", summary
	case c.overlayGone(s.Node) != "":
		cause = c.overlayGone(s.Node)
		f.Interface = orWords(c.overlayName(), f.Interface)
		return cause, fmt.Sprintf("%s: %s, and with it the route for %s", s.Node, cause, s.Target)
	case s.Route == nil:
		return c.routeMissing(), fmt.Sprintf("%s: no route for %s, expected %s", s.Node, s.Target, ck.Expected)
	case c.byForeignRule(s):
		return "policy-rule-hijack", fmt.Sprintf("%s: a policy rule takes %s before table main: %s (%s)", s.Node, s.Target, ck.Observed, s.Note)
	case s.Route.Dst.Bits() == 0:
		return c.routeMissing(), fmt.Sprintf("%s: no route for %s but the default one, %q; expected %s", s.Node, s.Target, ck.Observed, ck.Expected)
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

// routeMissing names the absence after the backend that should have put the route there.
func (c *leg) routeMissing() string {
	for _, n := range c.intent.Nodes {
		if n.Name == c.intent.Dst.Node && n.Flannel.BackendType == "host-gw" {
			return "direct-route-lost"
		}
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
	if ns == nil || !announces {
		return ""
	}
	found := false
	for _, l := range ns.Links {
		if l.VXLAN == nil {
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

// overlayName is the name of the overlay's device on any node of the path that has it.
func (c *leg) overlayName() string {
	for _, ns := range c.intent.Snapshot.Netns {
		for _, l := range ns.Links {
			if l.VXLAN != nil {
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
	case s.Route != nil && isReject(s.Route.Type):
		return "blackhole-route", summary
	case br != nil && !c.bridgeServes(s):
		f.Interface = br.Name
		return "cni0-wrong-address", fmt.Sprintf("%s: the pods' bridge %s has no address in the subnet of %s", s.Node, br.Name, s.Target)
	case c.byForeignRule(s):
		return "policy-rule-hijack", summary
	case gatewayLeavesNode(s):
		return "routing-loop", summary
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

// nameDrop gives a drop that the tables show the catalogue's name.
func (c *leg) nameDrop(d *forward.Drop, f *Finding) (cause, summary string) {
	s := &d.Step
	where := strings.TrimSpace(d.Node + " " + d.Interface)
	if c.inPod(d) && d.Reason != forward.ReasonNetfilter {
		where = strings.TrimSpace(c.podName(d) + " " + d.Interface)
	}
	say := func(format string, args ...any) string { return where + ": " + fmt.Sprintf(format, args...) }
	switch d.Reason {
	case forward.ReasonNoRoute:
		return c.nameNoRoute(d, f)
	case forward.ReasonBlackhole, forward.ReasonUnreachable, forward.ReasonProhibit:
		f.Interface = orWords(d.Interface, f.Interface)
		return "blackhole-route", say("%s: %s", d.Reason, orWords(s.Entry, s.Note))
	case forward.ReasonForwarding:
		cause = "ip-forward-off"
		if s.Target.Is6() || strings.Contains(s.Entry, "ipv6") {
			cause = "v6-forward-off"
		}
		return cause, say("forwarding is off (%s), so packets that come in by %s go no further", s.Entry, d.Interface)
	case forward.ReasonRPFilter:
		return "rp-filter-strict", say("%s", s.Note)
	case forward.ReasonNoFDB:
		return "fdb-missing", say("no FDB entry for %s", s.MAC)
	case forward.ReasonNeigh:
		return c.nameNoNeigh(d)
	case forward.ReasonOtherHost:
		return c.nameOtherHost(d)
	case forward.ReasonNetfilter:
		return c.nameNetfilter(d)
	case forward.ReasonNoSocket:
		return c.nameNoSocket(d, f)
	case forward.ReasonNoVNI:
		return "vni-mismatch", say("%s", s.Note)
	case forward.ReasonLoop, forward.ReasonTTL:
		return "routing-loop", say("the packet goes in circles until its TTL runs out")
	case forward.ReasonTooBig:
		return "mtu-too-small", say("%s", s.Note)
	case forward.ReasonLinkDown, forward.ReasonNoCarrier:
		return c.nameLinkDown(d), say("%s", s.Note)
	case forward.ReasonPortState:
		return "bridge-port-blocked", say("%s", s.Note)
	case forward.ReasonNoPort:
		if strings.Contains(s.Note, "hairpin") {
			return "hairpin-off", say("%s", s.Note)
		}
		return "bridge-no-port", say("%s", s.Note)
	case forward.ReasonLocalSource, forward.ReasonMartian, forward.ReasonLocalMAC, forward.ReasonNoPeer,
		forward.ReasonNoProtocol, forward.ReasonVXLANFlags, forward.ReasonNotLocal:
	}
	return "dropped-" + string(d.Reason), say("%s", orWords(s.Note, string(d.Reason)))
}

func (c *leg) inPod(d *forward.Drop) bool {
	return c.intent != nil && (d.Netns == c.intent.Src.Netns && c.intent.Src.Pod || d.Netns == c.intent.Dst.Netns && c.intent.Dst.Pod)
}

// podInterface is the device of the pod in which a packet dies.
func (c *leg) podInterface(d *forward.Drop) string {
	end := c.intent.Src
	if d.Netns == c.intent.Dst.Netns {
		end = c.intent.Dst
	}
	if ns := c.intent.Snapshot.ByID(d.Netns); ns != nil {
		if l := ns.Link(end.Interface); l != nil {
			return l.Name
		}
	}
	return ""
}

func (c *leg) podName(d *forward.Drop) string {
	if ns := c.intent.Snapshot.ByID(d.Netns); ns != nil {
		return ns.Name
	}
	return d.Node
}

func (c *leg) nameNoRoute(d *forward.Drop, f *Finding) (cause, summary string) {
	s := &d.Step
	switch {
	case c.inPod(d):
		f.Interface = c.podInterface(d)
		return "pod-default-route-missing", fmt.Sprintf("%s on %s: no route to %s", c.podName(d), d.Node, s.Target)
	case c.intent != nil && s.Target == c.intent.Dst.IP && d.Node == c.intent.Dst.Node:
		return "pod-host-route-missing", fmt.Sprintf("%s: no route to its own pod %s", d.Node, s.Target)
	case c.intent != nil && s.Target == c.intent.Dst.IP:
		return c.routeMissing(), fmt.Sprintf("%s: no route for %s", d.Node, s.Target)
	default:
		f.Interface = orWords(d.Interface, c.lastInterface())
		return "underlay-route-missing", fmt.Sprintf("%s: no route to %s, the far node's address", d.Node, s.Target)
	}
}

// lastInterface is the last interface that the tables lead to.
func (c *leg) lastInterface() string {
	if n := c.expected(); n > 0 {
		return c.Hops[n-1].Interface
	}
	return ""
}

func (c *leg) nameNoNeigh(d *forward.Drop) (cause, summary string) {
	s := &d.Step
	summary = fmt.Sprintf("%s %s: %s", d.Node, d.Interface, s.Note)
	dev := c.link(s)
	switch {
	case dev != nil && dev.Kind == "vxlan":
		return "neigh-missing", summary
	case c.intent != nil && c.intent.Model.IsUnderlay(s.Netns, s.Ifindex):
		return "underlay-neigh-failed", summary
	default:
		return "neigh-unanswered", summary
	}
}

func (c *leg) nameOtherHost(d *forward.Drop) (cause, summary string) {
	dev := c.link(&d.Step)
	summary = fmt.Sprintf("%s %s: %s", d.Node, d.Interface, d.Step.Note)
	if dev != nil && dev.Kind == "vxlan" {
		return "vtep-mac-changed", summary
	}
	return "pod-neigh-stale", summary
}

func (c *leg) nameNoSocket(d *forward.Drop, f *Finding) (cause, summary string) {
	dev := c.link(&d.Step)
	summary = fmt.Sprintf("%s: %s", d.Node, d.Step.Note)
	switch {
	case dev == nil || dev.VXLAN == nil:
		f.Interface = orWords(c.overlayName(), f.Interface)
		return "vxlan-dev-gone", summary + ": there is no vxlan device"
	case !dev.Up:
		f.Interface = dev.Name
		return "vxlan-down", fmt.Sprintf("%s: %s is down", d.Node, dev.Name)
	default:
		f.Interface = dev.Name
		return "vxlan-port-mismatch", fmt.Sprintf("%s; %s has %d", summary, dev.Name, dev.VXLAN.Port)
	}
}

func (c *leg) nameLinkDown(d *forward.Drop) string {
	dev := c.link(&d.Step)
	switch {
	case dev == nil:
		return "link-down"
	case dev.Kind == "vxlan":
		return "vxlan-down"
	case dev.Kind == "bridge":
		return "cni0-down"
	case dev.Kind == "veth":
		return "pod-link-down"
	default:
		return "link-down"
	}
}

// nameNetfilter gives a drop by a rule or a policy its name: by the hook, and by what was dropped.
func (c *leg) nameNetfilter(d *forward.Drop) (cause, summary string) {
	s := &d.Step
	summary = fmt.Sprintf("%s: netfilter drops it: %s", d.Node, s.Entry)
	if s.Rule == nil {
		return "netfilter-drop", summary
	}
	r := s.Rule
	switch {
	case r.Hook == netfilter.HookInput && c.encapsulated():
		return "vxlan-port-input-drop", fmt.Sprintf("%s: the firewall's input chain drops the VXLAN packet: %s", d.Node, s.Entry)
	case r.Hook == netfilter.HookInput:
		return "pod-to-node-input-drop", summary
	case r.Family == netfilter.FamilyIPv6:
		return "v6-fw-drop", summary
	case r.Hook == netfilter.HookForward && r.What == netfilter.WhatReject:
		return "forward-reject-order", summary
	case r.Hook == netfilter.HookForward && r.What == netfilter.WhatPolicy:
		if c.otherBackendAccepts(d, r) {
			return "iptables-backend-split", summary + "; rules of the other backend accept it, and both have to"
		}
		return "forward-policy-drop", summary
	case r.Hook == netfilter.HookForward:
		return "netpol-drop", summary
	default:
		return "netfilter-drop", summary
	}
}

// encapsulated reports whether the packet was inside VXLAN at the last hop that the tables lead to.
func (c *leg) encapsulated() bool {
	n := c.expected()
	return n > 0 && c.Hops[n-1].Frame.Outer != nil
}

// otherBackendAccepts reports whether a base chain of the other backend at the same hook has rules that
// accept: the mark of rules that went to two places.
func (c *leg) otherBackendAccepts(d *forward.Drop, r *netfilter.Ref) bool {
	ns := c.intent.Snapshot.ByID(d.Netns)
	if ns == nil || ns.Netfilter == nil {
		return false
	}
	for i := range ns.Netfilter.Tables {
		t := &ns.Netfilter.Tables[i]
		if t.Backend == r.Backend || t.Name != r.Table {
			continue
		}
		for k := range t.Chains {
			if ch := &t.Chains[k]; ch.Base && ch.Hook == r.Hook && len(ch.Rules) > 0 {
				return true
			}
		}
	}
	return false
}
