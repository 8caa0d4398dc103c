package diagnose

import (
	"fmt"
	"slices"

	"github.com/podtrace/podtrace/pkg/tables"
)

// ipcache holds Cilium's map on the sender's node against where the far pod is. In tunnel mode Cilium's programs send by it
// alone, whatever the routes say; without a tunnel they do not, and an old endpoint harms nobody.
func (c *leg) ipcache() {
	if c.intent == nil || !c.intent.Dst.Pod || c.intent.Src.Node == c.intent.Dst.Node {
		return
	}
	ns, ip := c.intent.Snapshot.ByID(c.intent.Src.Host), c.intent.Dst.IP
	if ns == nil {
		return
	}
	i := slices.IndexFunc(ns.IPCache, func(e tables.IPCacheEntry) bool { return e.Addr == ip })
	tunnel := slices.IndexFunc(ns.Links, func(l tables.Link) bool {
		return l.Kind == "geneve" || l.VXLAN != nil && l.VXLAN.FlowBased // who sends says where to
	})
	if i < 0 || tunnel < 0 {
		return
	}
	e, dev := ns.IPCache[i], &ns.Links[tunnel]
	if e.Skip || !e.Tunnel.IsValid() || c.intent.NodeOf(e.Tunnel) == c.intent.Dst.Node {
		return
	}
	whose := "which is no node's"
	if n := c.intent.NodeOf(e.Tunnel); n != "" {
		whose = "which is " + n + "'s"
	}
	f := Finding{
		Cause: "cilium-ipcache-stale", Leg: c.Name, Node: ns.Node, Interface: dev.Name, Severity: Error, place: place(c.n, 2, 0),
		Summary: fmt.Sprintf("%s: Cilium's ipcache sends %s by the tunnel to %s, %s; the pod is on %s", ns.Node, ip, e.Tunnel, whose, c.intent.Dst.Node),
		Evidence: []string{
			fmt.Sprintf("ipcache entry: %s identity %d tunnelendpoint %s", e.Addr, e.Identity, e.Tunnel),
			"see: " + command(ns, "cilium bpf ipcache get "+ip.String()),
		},
		Remedy: keep["cilium-ipcache-stale"],
	}
	if c.in.Wire != nil && c.whole {
		f.Severity = Note // packets arrive all the same
	}
	c.found = append(c.found, f)
}
