package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

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
	case forward.ReasonForeignSource:
		return "wrong-iface", say("it sends from %s, which is no address of %s: the kernel finds no route for such a source", s.Target, d.Node)
	case forward.ReasonBlackhole, forward.ReasonUnreachable, forward.ReasonProhibit:
		f.Interface = orWords(d.Interface, f.Interface)
		if s.Kind == forward.StepRule {
			return "policy-rule-hijack", say("a policy rule answers %s: %s", d.Reason, s.Entry)
		}
		return "blackhole-route", say("%s: %s", d.Reason, orWords(s.Entry, s.Note))
	case forward.ReasonForwarding:
		if c.inPod(d) {
			return c.strayed(d)
		}
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
		return c.nameNoNeigh(d, f)
	case forward.ReasonOtherHost:
		return c.nameOtherHost(d)
	case forward.ReasonNetfilter:
		return c.nameNetfilter(d)
	case forward.ReasonIPsec:
		f.Interface = orWords(d.Interface, c.lastInterface())
		return "ipsec-policy", fmt.Sprintf("%s: %s: %s", strings.TrimSpace(d.Node+" "+f.Interface), s.Note, s.Entry)
	case forward.ReasonNoServer:
		if c.noEndpoints() {
			return "service-no-endpoints", fmt.Sprintf("the service has no ready endpoint: %s: %s", d.Node, d.Step.Entry)
		}
		return "ipvs-backend", fmt.Sprintf("%s: IPVS has nobody to send it to, though the service has endpoints: %s: %s", d.Node, d.Step.Entry, d.Step.Note)
	case forward.ReasonNoSocket:
		return c.nameNoSocket(d, f)
	case forward.ReasonNoVNI:
		return "vni-mismatch", say("%s", s.Note)
	case forward.ReasonLoop:
		return "routing-loop", say("the packet goes in circles: %s", c.circle())
	case forward.ReasonTTL:
		if way := c.circle(); way != "" {
			return "routing-loop", say("the packet goes in circles until its TTL runs out: %s", way)
		}
		return "ttl-expired", say("the packet comes here with a TTL that does not let it go on") + c.ttlSetBy(f)
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
		forward.ReasonNoProtocol, forward.ReasonVXLANFlags, forward.ReasonVXLANEntry, forward.ReasonVLAN, forward.ReasonNotLocal:
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
	case c.skipsMain(s):
		return "policy-rule-hijack", fmt.Sprintf("%s: a policy rule keeps %s from table main: %s", d.Node, s.Target, s.Note)
	case c.inPod(d):
		f.Interface = c.podInterface(d)
		return "pod-default-route-missing", fmt.Sprintf("%s on %s: no route to %s", c.podName(d), d.Node, s.Target)
	case c.intent != nil && s.Target == c.intent.Dst.IP && d.Node == c.intent.Dst.Node:
		return "pod-host-route-missing", fmt.Sprintf("%s: no route to its own pod %s", d.Node, s.Target)
	case c.intent != nil && s.Target == c.intent.Dst.IP:
		return c.routeMissing(d.Node), fmt.Sprintf("%s: no route for %s", d.Node, s.Target)
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

// ownerDown finds the node's device with an address, if it can't carry anything.
func (c *leg) ownerDown(ip netip.Addr) (*tables.Netns, *tables.Link) {
	for _, ns := range c.intent.Snapshot.Netns {
		for _, a := range ns.Addrs {
			if ns.Name != tables.HostName || a.Prefix.Addr() != ip {
				continue
			}
			if l := ns.Link(a.Index); l != nil && !(l.Up && l.LowerUp) {
				return ns, l
			}
		}
	}
	return nil, nil
}

func downWord(l *tables.Link) string {
	if !l.Up {
		return "down"
	}
	return "without carrier"
}

func (c *leg) nameNoNeigh(d *forward.Drop, f *Finding) (cause, summary string) {
	s := &d.Step
	summary = fmt.Sprintf("%s %s: %s", d.Node, d.Interface, s.Note)
	dev := c.link(s)
	switch {
	case d.Silent:
		return c.nameSilence(d), summary
	case dev != nil && dev.Kind == "vxlan" && c.v4Twin(s):
		return "v6-overlay-missing", summary
	case dev != nil && dev.Kind == "vxlan":
		return "neigh-missing", summary
	case c.intent != nil && c.intent.Model.IsUnderlay(s.Netns, s.Ifindex):
		if ns, l := c.ownerDown(s.Target); l != nil {
			f.Node, f.Interface, f.Evidence = ns.Node, l.Name, append(f.Evidence, "link entry: "+ns.FormatLink(*l))
			return "link-down", fmt.Sprintf("%s %s, which has %s, is %s: nobody answers for the address", ns.Node, l.Name, s.Target, downWord(l))
		}
		return "underlay-neigh-failed", summary
	}
	if r := c.lastRoute(d.Netns); r != nil && r.Route != nil && c.elsewhere(d) {
		f.Evidence = append(f.Evidence, stepEvidence(r)...)
		return "nexthop-stale", fmt.Sprintf("%s: the route for %s leads to %s, where nobody has it: %s", d.Node, s.Target, d.Interface, r.Entry)
	}
	return "neigh-unanswered", summary
}

// elsewhere: a node asks for a pod of another node on a device that does not lead to other nodes.
func (c *leg) elsewhere(d *forward.Drop) bool {
	if c.intent == nil || !c.intent.Dst.Pod || d.Step.Target != c.intent.Dst.IP || d.Node == c.intent.Dst.Node {
		return false
	}
	ns := c.intent.Snapshot.ByID(d.Netns)
	return ns != nil && ns.Name == tables.HostName
}

// nameSilence names what keeps a station from answering for an address that it has.
func (c *leg) nameSilence(d *forward.Drop) string {
	s := &d.Step
	switch {
	case s.Kind == forward.StepSysctl && strings.Contains(s.Entry, "rp_filter"):
		return "rp-filter-strict"
	case s.Kind == forward.StepBridge && !strings.Contains(s.Note, "isolated") && !strings.Contains(s.Note, "bcast_flood"):
		return "bridge-port-blocked"
	case s.Kind == forward.StepLink:
		return "arp-off"
	case s.Kind == forward.StepNeigh && c.intent != nil && c.intent.Model.IsUnderlay(s.Netns, s.Ifindex):
		return "underlay-neigh-wrong"
	case s.Kind == forward.StepNeigh:
		return "pod-neigh-stale"
	case c.intent != nil && c.intent.Model.IsUnderlay(s.Netns, s.Ifindex):
		return "underlay-neigh-failed"
	default:
		return "neigh-unanswered"
	}
}

func (c *leg) nameOtherHost(d *forward.Drop) (cause, summary string) {
	dev := c.link(&d.Step)
	summary = fmt.Sprintf("%s %s: %s", d.Node, d.Interface, d.Step.Note)
	if dev != nil && dev.Kind == "vxlan" {
		return "vtep-mac-changed", summary
	}
	if row := c.wrongPort(d.Step.MAC); row != "" {
		return "bridge-fdb-wrong", fmt.Sprintf("%s; the bridge's FDB sends it there: %s", summary, row)
	}
	return "pod-neigh-stale", summary
}

// wrongPort is the bridge's FDB row for the far end's own MAC, if it names another port than the far end's: then
// the neighbour entry is right, and the bridge is not.
func (c *leg) wrongPort(mac ether.MAC) string {
	host, pod := c.intent.Snapshot.ByID(c.intent.Dst.Host), c.intent.Snapshot.ByID(c.intent.Dst.Netns)
	if host == nil || pod == nil {
		return ""
	}
	if l := pod.Link(c.intent.Dst.Interface); l == nil || l.MAC != mac {
		return ""
	}
	for _, f := range host.FDB {
		if f.Master == c.intent.Dst.Bridge && f.Master != 0 && f.MAC == mac && f.Index != c.intent.Dst.Veth {
			return host.FormatFDB(f)
		}
	}
	return ""
}

// strayed: the packet came to a pod that is not its end; a pod that does not forward is no fault.
func (c *leg) strayed(d *forward.Drop) (cause, summary string) {
	summary = fmt.Sprintf("%s on %s: the packet for %s comes to a pod that it is not for", c.podName(d), d.Node, c.intent.Dst.IP)
	pod := c.intent.Snapshot.ByID(d.Netns)
	for _, ns := range c.intent.Snapshot.Netns {
		for _, l := range ns.Links {
			for _, o := range pod.Links {
				if ns.ID != pod.ID && ns.Name != tables.HostName && !l.MAC.IsZero() && l.MAC == o.MAC {
					return "duplicate-mac", fmt.Sprintf("%s: %s has the same MAC, %s", summary, ns.Name, l.MAC)
				}
			}
		}
	}
	return "wrong-destination", summary
}

func (c *leg) nameNoSocket(d *forward.Drop, f *Finding) (cause, summary string) {
	dev := c.link(&d.Step)
	summary = fmt.Sprintf("%s: %s", d.Node, d.Step.Note)
	if s := verify.NATStep(c.Forward, "dstPort"); s != nil && s.Netns == d.Netns && c.encapsulated() {
		f.Evidence = append(f.Evidence, stepEvidence(s)...)
		return "wrong-port", fmt.Sprintf("%s: a rule translates the VXLAN packet's port: %s", s.Node, s.Entry)
	}
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
	case dev.Kind == "veth" && !c.intent.Model.IsUnderlay(d.Netns, dev.Index):
		return "pod-link-down"
	default:
		return "link-down"
	}
}

// nameNetfilter gives a drop by a rule or a policy its name: by the hook, and by what was dropped.
func (c *leg) nameNetfilter(d *forward.Drop) (cause, summary string) {
	s := &d.Step
	who := d.Node
	if c.inPod(d) {
		who = c.podName(d) + " on " + d.Node
	}
	summary = fmt.Sprintf("%s: netfilter drops it: %s", who, s.Entry)
	if s.Rule == nil {
		return "netfilter-drop", summary
	}
	r := s.Rule
	if s.Note != "" {
		summary = fmt.Sprintf("%s: netfilter %s: %s", d.Node, s.Note, s.Entry)
	}
	switch {
	case r.Hook == netfilter.HookInput && c.encapsulated() && c.Hops[c.expected()-1].Frame.Outer.Bare:
		return "netfilter-drop", fmt.Sprintf("%s: the firewall's input chain drops the tunnel's UDP packet: %s", d.Node, s.Entry)
	case c.noEndpoints() && (r.What == netfilter.WhatReject || r.What == netfilter.WhatDrop):
		return "service-no-endpoints", fmt.Sprintf("the service has no ready endpoint: %s: %s", d.Node, s.Entry)
	case r.Hook == netfilter.HookInput && c.encapsulated():
		return "vxlan-port-input-drop", fmt.Sprintf("%s: the firewall's input chain drops the VXLAN packet: %s", d.Node, s.Entry)
	case r.Family == netfilter.FamilyARP || r.Family == netfilter.FamilyBridge || r.Family == netfilter.FamilyNetdev:
		return "netfilter-drop", summary
	case c.inPod(d):
		return "netfilter-drop", summary
	case strings.Contains(r.Text, "has no local endpoints"), strings.Contains(r.Text, "no-endpoint-nodeports"): // kube-proxy's words
		return "etp-local-no-endpoint", summary
	case r.Family == netfilter.FamilyIPv6 && !(r.Hook == netfilter.HookInput && d.Step.Note == ""): // a note: neighbour discovery
		if c.isPolicy(r) && r.What != netfilter.WhatPolicy {
			return "netpol-drop", summary
		}
		return "v6-fw-drop", summary
	case r.Hook == netfilter.HookInput:
		return "pod-to-node-input-drop", summary
	case r.Hook == netfilter.HookForward && r.What == netfilter.WhatReject && acceptedBefore(s):
		return "forward-reject-order", summary + "; an accept before, " + s.Accepted[0].String() + ", ends its own chain only"
	case r.Hook == netfilter.HookForward && r.What == netfilter.WhatPolicy:
		if c.otherBackendAccepts(d, r) {
			return "iptables-backend-split", summary + "; rules of the other backend accept it, and both have to"
		}
		return "forward-policy-drop", summary
	case r.Hook == netfilter.HookForward && c.isPolicy(r):
		return "netpol-drop", summary
	default:
		return "netfilter-drop", summary
	}
}

// noEndpoints: a service was asked for that stands for nothing.
func (c *leg) noEndpoints() bool {
	return c.intent != nil && c.intent.Asked.IsValid() && len(c.intent.Dsts) == 0
}

func acceptedBefore(s *forward.Step) bool { return len(s.Accepted) > 0 }

// isPolicy tells a network policy from other rules: by the chain's name, which its controller gave it, or
// because it is about this very pod.
func (c *leg) isPolicy(r *netfilter.Ref) bool {
	for _, prefix := range []string{"KUBE-POD-FW", "KUBE-NWPLCY", "KUBE-ROUTER", "cali-", "CILIUM", "WEAVE-NPC", "ANTREA"} {
		if strings.HasPrefix(r.Chain, prefix) {
			return true
		}
	}
	if c.intent == nil {
		return false
	}
	for _, e := range []verify.End{c.intent.Src, c.intent.Dst} {
		if e.Pod && strings.Contains(r.Text, e.IP.String()) {
			return true
		}
	}
	return false
}

// circle gives the nodes of a way that passes the same interface twice in one direction, "" when it does not.
func (c *leg) circle() string {
	type place struct {
		ns  tables.NetnsID
		dev tables.Ifindex
		dir forward.Direction
	}
	first := make(map[place]int)
	for i, h := range c.Hops {
		p := place{h.Netns, h.Ifindex, h.Dir}
		k, again := first[p]
		if !again {
			first[p] = i
			continue
		}
		var way []string
		for _, h := range c.Hops[k : i+1] {
			if n := len(way); n == 0 || way[n-1] != h.Node {
				way = append(way, h.Node)
			}
		}
		return strings.Join(way, " → ")
	}
	return ""
}

// ttlSetBy names the rule that wrote the TTL, and makes it the finding's entry.
func (c *leg) ttlSetBy(f *Finding) string {
	for i := range c.Hops {
		for k := range c.Hops[i].Steps {
			if s := &c.Hops[i].Steps[k]; s.Rule != nil && slices.Contains(s.Fields, "ttl") {
				f.Evidence = append(f.Evidence, stepEvidence(s)...)
				return fmt.Sprintf("; a rule of %s set it: %s", s.Node, s.Entry)
			}
		}
	}
	for k := range c.Forward.Tail {
		if s := &c.Forward.Tail[k]; s.Rule != nil && slices.Contains(s.Fields, "ttl") {
			f.Evidence = append(f.Evidence, stepEvidence(s)...)
			return fmt.Sprintf("; a rule of %s set it: %s", s.Node, s.Entry)
		}
	}
	return ""
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
