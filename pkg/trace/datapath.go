package trace

import (
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// datapath names what carries the packets, by the devices and routes that they take. The name of a network
// plugin stands before it where the far node announces one.
func datapath(c *Case, p plan, to verify.End, path verify.Result) string {
	far := c.Inventory.Node(to.Node)
	if far == nil {
		far = c.Inventory.Node(c.From.Node)
	}
	if far == nil {
		far = &inventory.Node{}
	}
	prefix := ""
	if far.Network() != "" {
		prefix = far.Network() + "-"
	}
	switch {
	case anyHop(path, func(h *verify.Hop) bool { return h.Kind == "vxlan" || h.Frame.Outer != nil && h.Frame.Outer.VNI != 0 }):
		return prefix + "vxlan"
	case anyHop(path, func(h *verify.Hop) bool { return h.Kind == "tun" }):
		return prefix + "udp"
	case c.From.Node == to.Node && anyHop(path, func(h *verify.Hop) bool { return h.Bridged }):
		return "bridge"
	case c.From.Node == to.Node:
		return "routed"
	case far.Network() == "cilium" && (p.model.Native(c.Flow.Src) || p.model.Native(to.IP)):
		return prefix + "eni"
	case far.Network() == "flannel" && (podRouted(c, path.Request.Forward, to.IP) || podRouted(c, path.Reply.Forward, c.Flow.Src)):
		if far.Flannel.BackendType == "vxlan" { // which only sends to neighbours as it is
			return prefix + "directrouting"
		}
		return prefix + "host-gw"
	case path.Request.Forward.End != forward.Delivered && to.Pod && far.Flannel.BackendType != "":
		return prefix + far.Flannel.BackendType // the path ends before any device could tell
	default:
		return "routed"
	}
}

func anyHop(path verify.Result, is func(*verify.Hop) bool) bool {
	for _, l := range []*verify.Leg{&path.Request, &path.Reply} {
		for i := range l.Hops {
			if is(&l.Hops[i]) {
				return true
			}
		}
	}
	return false
}

// podRouted reports whether a node's own route to a pod of another node leads by that node.
func podRouted(c *Case, l forward.Leg, pod netip.Addr) bool {
	routed := func(s forward.Step) bool {
		ns := c.Snapshot.ByID(s.Netns)
		if s.Kind != forward.StepRoute || s.Target != pod || !s.Via.IsValid() || ns == nil || ns.Name != tables.HostName || ns.HasAddr(pod) {
			return false
		}
		n := c.Inventory.NodeByIP(s.Via)
		return n != nil && n.Name != ns.Node && c.Inventory.NodeByIP(pod) == nil
	}
	return slices.ContainsFunc(l.Tail, routed) ||
		slices.ContainsFunc(l.Hops, func(h forward.Hop) bool { return slices.ContainsFunc(h.Steps, routed) })
}
