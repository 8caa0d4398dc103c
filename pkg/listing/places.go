package listing

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
)

// settlePlaces finds out which namespace each output shows, from what all of them say together.
func settlePlaces(c *collector) {
	for _, f := range c.blocks {
		f.Node = c.nodeName(f.Node)
		c.settle(f)
	}
}

// settle resolves one output's place.
func (c *collector) settle(f *facts) {
	if id, ok := strings.CutPrefix(f.Netns, byPID); ok {
		if container, ok := c.kube.pids[id]; ok {
			f.Netns = byContainer + container
		}
	}
	if id, ok := strings.CutPrefix(f.Netns, byContainer); ok {
		if pod := c.container(id); pod != "" {
			f.Netns = pod
		}
	}
	pod := c.podNamed(f.Netns)
	if pod == nil && (!f.said || !strings.Contains(f.Netns, "/")) {
		if pod = c.podOf(f); pod != nil {
			c.note("%s: shows the address of pod %s: taken as the pod's namespace", f.Origin, pod.Key())
		}
	}
	if pod != nil {
		f.Netns, f.Node = pod.Key(), cmp.Or(pod.Node, f.Node)
	}
}

// nodeName is the name that the cluster's objects have for a host: prompts show the short one.
func (c *collector) nodeName(host string) string {
	if host == "" || c.kube.inv.Node(host) != nil {
		return host
	}
	var names []string
	add := func(name string) {
		if strings.HasPrefix(name, host+".") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, n := range c.kube.inv.Nodes {
		add(n.Name)
	}
	for _, p := range c.kube.inv.Pods {
		add(p.Node)
	}
	if len(names) == 1 {
		return names[0]
	}
	return host
}

// container finds the pod of a container by its id, which people shorten.
func (c *collector) container(id string) string {
	found := ""
	for full, pod := range c.kube.containers {
		if len(id) < 4 || !strings.HasPrefix(full, id) {
			continue
		}
		if found != "" && found != pod {
			return ""
		}
		found = pod
	}
	return found
}

func (c *collector) podNamed(netns string) *inventory.Pod {
	ns, name, ok := strings.Cut(netns, "/")
	if !ok {
		return nil
	}
	return c.kube.inv.Pod(ns, name)
}

// podOf finds the pod whose address an output shows on an interface. A node never has one.
func (c *collector) podOf(f *facts) *inventory.Pod {
	for _, a := range f.addrs {
		ip := a.v.Prefix.Addr()
		if p := c.kube.inv.PodByIP(ip); p != nil && !c.nodeHas(ip) {
			return p
		}
	}
	return nil
}

func (c *collector) nodeHas(ip netip.Addr) bool {
	for _, n := range c.kube.inv.Nodes {
		if slices.Contains(n.InternalIPs, ip) {
			return true
		}
	}
	for _, s := range c.kube.nodeIPs {
		if parseIP(s) == ip {
			return true
		}
	}
	return false
}

// mergeObjects joins what several outputs said of the same object.
func mergeObjects(k *kubeFacts) {
	inv := &k.inv
	inv.Nodes = mergeBy(inv.Nodes, func(n inventory.Node) string { return n.Name }, mergeNode)
	inv.Pods = mergeBy(inv.Pods, func(p inventory.Pod) string { return p.Key() }, mergePod)
	inv.Services = mergeBy(inv.Services, func(s inventory.Service) string { return s.Namespace + "/" + s.Name }, lastOf)
	inv.EndpointSlices = mergeBy(inv.EndpointSlices, func(s inventory.EndpointSlice) string { return s.Namespace + "/" + s.Name }, lastOf)
	for i := range inv.Pods { // a pod of the host's network has its node's address
		p := &inv.Pods[i]
		for _, n := range inv.Nodes {
			if n.Name == p.Node && len(p.IPs) > 0 && slices.Contains(n.InternalIPs, p.IPs[0]) {
				p.HostNetwork = true
			}
		}
	}
}

func lastOf[T any](_, b T) T { return b }

func mergeBy[T any](list []T, key func(T) string, merge func(a, b T) T) []T {
	at := make(map[string]int, len(list))
	var out []T
	for _, v := range list {
		if i, ok := at[key(v)]; ok {
			out[i] = merge(out[i], v)
			continue
		}
		at[key(v)] = len(out)
		out = append(out, v)
	}
	return out
}

func mergeNode(a, b inventory.Node) inventory.Node {
	if len(a.InternalIPs) == 0 {
		a.InternalIPs = b.InternalIPs
	}
	if len(a.PodCIDRs) == 0 {
		a.PodCIDRs = b.PodCIDRs
	}
	if a.Flannel == (inventory.Lease{}) {
		a.Flannel = b.Flannel
	}
	return a
}

func mergePod(a, b inventory.Pod) inventory.Pod {
	a.Node = cmp.Or(a.Node, b.Node)
	if len(a.IPs) == 0 {
		a.IPs = b.IPs
	}
	a.Phase, a.Ready, a.HostNetwork = b.Phase, b.Ready, a.HostNetwork || b.HostNetwork
	if len(a.Labels) == 0 {
		a.Labels = b.Labels
	}
	return a
}

// announce gives nodes what kubectl describe and fragments of their annotations said of them.
func announce(c *collector, snap *tables.Snapshot) {
	k := &c.kube
	names := make([]string, 0, len(k.nodeIPs))
	for name := range k.nodeIPs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		n := k.node(name)
		if ip := parseIP(k.nodeIPs[name]); ip.IsValid() && len(n.InternalIPs) == 0 {
			n.InternalIPs = []netip.Addr{ip}
		}
	}
	for _, l := range k.leases {
		name := k.owner(l.lease.PublicIP, snap)
		if name == "" {
			c.note("%s: flannel announces %s, and no output says which node that is", l.at, l.lease.PublicIP)
			continue
		}
		k.node(name).Flannel = l.lease
	}
}

// node finds or makes a node.
func (k *kubeFacts) node(name string) *inventory.Node {
	if n := k.inv.Node(name); n != nil {
		return n
	}
	k.inv.Nodes = append(k.inv.Nodes, inventory.Node{Name: name, Ready: true})
	return &k.inv.Nodes[len(k.inv.Nodes)-1]
}

// owner names the node that has an underlay address.
func (k *kubeFacts) owner(ip netip.Addr, snap *tables.Snapshot) string {
	if !ip.IsValid() {
		return ""
	}
	if n := k.inv.NodeByIP(ip); n != nil {
		return n.Name
	}
	for _, ns := range snap.Netns {
		if ns.Name == tables.HostName && ns.HasAddr(ip) {
			return ns.Node
		}
	}
	return ""
}
