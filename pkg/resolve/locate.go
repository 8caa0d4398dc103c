package resolve

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Location is where an endpoint lives, as far as the tables say. What does not apply is zero: a node
// and a pod on the host network have no veth, a routed pod no bridge, an address outside nothing.
type Location struct {
	Node      string         `json:"node,omitempty"`
	PodNetns  tables.NetnsID `json:"podNetns"`  // the endpoint's own; of a node its HostNetns
	HostNetns tables.NetnsID `json:"hostNetns"` // the node's

	Interface string         `json:"interface,omitempty"` // the one with the endpoint's address, in PodNetns
	Ifindex   tables.Ifindex `json:"ifindex,omitempty"`
	Kind      string         `json:"kind,omitempty"` // of that interface: "veth", "macvlan", "ipvlan", …
	MAC       ether.MAC      `json:"mac"`

	Veth      string         `json:"veth,omitempty"` // the other end of Interface, in HostNetns
	VethIndex tables.Ifindex `json:"vethIndex,omitempty"`
	// Confirmed: both ends of the pair point at each other.
	Confirmed bool `json:"confirmed,omitempty"`

	Bridge      string         `json:"bridge,omitempty"` // that Veth is a port of
	BridgeIndex tables.Ifindex `json:"bridgeIndex,omitempty"`
	Port        uint16         `json:"port,omitempty"`      // its number
	PortState   string         `json:"portState,omitempty"` // "forwarding", "blocking", …

	Lower      string         `json:"lower,omitempty"` // in HostNetns: what a macvlan or ipvlan is on top of
	LowerIndex tables.Ifindex `json:"lowerIndex,omitempty"`

	Steps []Step `json:"steps"`
	// Problems says where the sources disagree or end, one line each; none on a healthy pod.
	Problems []string `json:"problems,omitempty"`
}

// Step is one thing that was found on the way, and how a person finds the same.
type Step struct {
	What    string `json:"what"`
	Found   string `json:"found"`
	Command string `json:"command,omitempty"`
}

// Errors of Locate. Everything else that is not as it should be is a Problem of the Location.
var (
	ErrNotRead     = errors.New("its network namespace is not in the snapshot")
	ErrNoAddress   = errors.New("has no IP address yet")
	ErrNoInterface = errors.New("no interface has its address")
)

// Locate follows the tables from an endpoint's address to where its packets enter the node. inv says
// which node an address outside the snapshot belongs to.
func Locate(snap *tables.Snapshot, inv *inventory.Inventory, ep inventory.Endpoint) (Location, error) {
	w := &walk{snap: snap, ep: ep}
	var err error
	switch {
	case ep.Kind == inventory.KindService:
		w.step("service", ep.String()+" is an address that rules translate, and lives on no interface", "")
	case ep.Kind == inventory.KindAddress:
		w.address(inv)
	case ep.Kind == inventory.KindNode:
		err = w.node("node")
	case ep.HostNetwork:
		err = w.node("pod on the host network")
	default:
		err = w.pod()
	}
	if err != nil {
		return Location{}, &LocateError{Endpoint: ep.String(), Err: err}
	}
	return w.loc, nil
}

// LocateError says which endpoint could not be found in the snapshot.
type LocateError struct {
	Endpoint string
	Err      error
}

// Error gives endpoint and cause.
func (e *LocateError) Error() string { return fmt.Sprintf("locate %q: %v", e.Endpoint, e.Err) }

// Unwrap gives the cause.
func (e *LocateError) Unwrap() error { return e.Err }

// Hint says what to look at.
func (e *LocateError) Hint() string {
	switch {
	case errors.Is(e.Err, ErrNoInterface):
		return "compare its address with ip addr in its network namespace: the annotation may name another pod's"
	case errors.Is(e.Err, ErrNoAddress):
		return "wait until status.podIP is set: the network plugin has not finished"
	default:
		return "the objects and the snapshot may be of different times"
	}
}

// walk is a location in the making.
type walk struct {
	snap *tables.Snapshot
	ep   inventory.Endpoint
	loc  Location
}

func (w *walk) step(what, found, command string) {
	w.loc.Steps = append(w.loc.Steps, Step{What: what, Found: found, Command: command})
}

// problem is a step too: a listing of the steps shows where it was met.
func (w *walk) problem(format string, args ...any) {
	p := fmt.Sprintf(format, args...)
	w.loc.Problems = append(w.loc.Problems, p)
	w.step("problem", p, "")
}

// command is how a person runs one in a namespace.
func command(ns *tables.Netns, format string, args ...any) string {
	c := fmt.Sprintf(format, args...)
	if ns.Exec == "" {
		return c
	}
	return ns.Exec + " " + c
}

// iflinkCommand shows IFLA_LINK. /sys belongs to the namespace that it was mounted in: "ip netns
// exec" mounts it anew, nsenter does not and would show the other namespace's.
func iflinkCommand(ns *tables.Netns, dev string) string {
	if ns.Exec == "" || strings.HasPrefix(ns.Exec, "ip netns exec ") {
		return command(ns, "cat /sys/class/net/%s/iflink", shellWord(dev))
	}
	return command(ns, "ip -o link show dev %s", shellWord(dev))
}

// address is an endpoint that is no object: nothing of it is here, but which node it is behind may
// be known.
func (w *walk) address(inv *inventory.Inventory) {
	ip := w.ep.IP()
	for _, ns := range w.snap.Netns {
		if ns.Name == tables.HostName && ns.HasAddr(ip) {
			w.loc.Node, w.loc.PodNetns, w.loc.HostNetns = ns.Node, ns.ID, ns.ID
			w.iface(ns)
			return
		}
	}
	if inv != nil {
		if n := inv.NodeByPodIP(ip); n != nil {
			w.loc.Node = n.Name
			w.step("pod range", fmt.Sprintf("%s is in a pod range of node %q, and no pod's", ip, n.Name), "")
			return
		}
	}
	w.step("address", fmt.Sprintf("%s is outside the cluster's objects", ip), "")
}

func (w *walk) node(what string) error {
	ns := w.snap.Host(w.ep.Node)
	if ns == nil {
		return fmt.Errorf("node %q: %w", w.ep.Node, ErrNotRead)
	}
	w.loc.Node, w.loc.PodNetns, w.loc.HostNetns = ns.Node, ns.ID, ns.ID
	w.step(what, fmt.Sprintf("network namespace %s of node %q itself: no veth", ns.ID, ns.Node), command(ns, "readlink /proc/self/ns/net"))
	w.iface(ns)
	return nil
}

func (w *walk) pod() error {
	if !w.ep.IP().IsValid() {
		return ErrNoAddress
	}
	pod, host := w.podNetns(), w.snap.Host(w.ep.Node)
	if pod == nil {
		return ErrNotRead
	}
	w.loc.Node, w.loc.PodNetns = w.ep.Node, pod.ID
	w.step("network namespace", pod.ID.String(), command(pod, "readlink /proc/self/ns/net"))
	l := w.iface(pod)
	if l == nil {
		if l = onlyWayOut(pod); l == nil {
			return fmt.Errorf("%w (%s)", ErrNoInterface, w.ep.IP())
		}
		w.take(l)
		w.step("interface", "the only one that leads out: "+pod.FormatLink(*l), command(pod, "ip -o link show"))
	}
	if host != nil {
		w.loc.HostNetns = host.ID
	}
	switch l.Kind {
	case "macvlan", "macvtap", "ipvlan", "ipvtap":
		w.lower(pod, l)
	case "veth", "netkit":
		w.pair(pod, host, l)
	default:
		w.problem("%q of the pod is of kind %q, which leads to no interface of the node that podtrace knows", l.Name, l.Kind)
	}
	return nil
}

func (w *walk) podNetns() *tables.Netns {
	for _, ns := range w.snap.Netns {
		if ns.Node == w.ep.Node && ns.Name == w.ep.Namespace+"/"+w.ep.Name {
			return ns
		}
	}
	return nil
}

// onlyWayOut is the one interface beside loopback, nil when there are more.
func onlyWayOut(ns *tables.Netns) *tables.Link {
	var out *tables.Link
	for i := range ns.Links {
		l := &ns.Links[i]
		if l.Loopback || l.Parent == 0 {
			continue
		}
		if out != nil {
			return nil
		}
		out = l
	}
	return out
}

// iface finds the interface that has the endpoint's address; nil, with a problem, when none has.
func (w *walk) iface(ns *tables.Netns) *tables.Link {
	for _, ip := range w.ep.IPs {
		for _, a := range ns.Addrs {
			if a.Prefix.Addr() != ip {
				continue
			}
			if l := ns.Link(a.Index); l != nil {
				w.take(l)
				w.step("interface with "+ip.String(), ns.FormatAddr(a), command(ns, "ip -o addr show to %s", ip))
				w.step("its link", ns.FormatLink(*l), command(ns, "ip -d link show dev %s", shellWord(l.Name)))
				return l
			}
		}
	}
	w.problem("no interface of %s/%s has %s", ns.Node, ns.Name, addrList(w.ep.IPs))
	return nil
}

func addrList(ips []netip.Addr) string {
	var out []string
	for _, a := range ips {
		out = append(out, a.String())
	}
	return strings.Join(out, " or ")
}

func (w *walk) take(l *tables.Link) {
	w.loc.Interface, w.loc.Ifindex, w.loc.Kind, w.loc.MAC = l.Name, l.Index, l.Kind, l.MAC
}

// lower finds what a macvlan or ipvlan is on top of: it shares that interface's wire, without a pair.
func (w *walk) lower(pod *tables.Netns, l *tables.Link) {
	ns, p := w.at(pod, l)
	if p == nil {
		w.problem("%q is a %s on interface %d of a namespace that was not read", l.Name, l.Kind, l.Parent)
		return
	}
	w.loc.Lower, w.loc.LowerIndex = p.Name, p.Index
	w.step(l.Kind+" ("+l.Macvlan+") on", ns.FormatLink(*p), command(ns, "ip -d link show dev %s", shellWord(p.Name)))
}

// at follows IFLA_LINK without a check of the other side.
func (w *walk) at(ns *tables.Netns, l *tables.Link) (*tables.Netns, *tables.Link) {
	other := ns
	if l.ParentNetns >= 0 {
		other = w.snap.ByID(ns.Peers[l.ParentNetns])
	}
	if other == nil {
		return nil, nil
	}
	return other, other.Link(l.Parent)
}

// pair finds the other end of a veth and confirms it from both sides.
func (w *walk) pair(pod, host *tables.Netns, l *tables.Link) {
	w.step("iflink of "+l.Name, iflinkFound(pod, l), iflinkCommand(pod, l.Name))
	w.ethtool(pod, l)
	ns, p, err := tables.Peer(w.snap, pod, l)
	if p == nil {
		w.problem("other end of %q: %v", l.Name, err)
		return
	}
	if host == nil || ns != host {
		w.problem("the other end of %q is %q in %s/%s, not in the namespace of node %q", l.Name, p.Name, ns.Node, ns.Name, w.ep.Node)
		return
	}
	w.loc.Veth, w.loc.VethIndex = p.Name, p.Index
	w.step("interface "+fmt.Sprint(p.Index)+" of the node", host.FormatLink(*p), command(host, "ip -d link show dev %s", shellWord(p.Name)))
	w.step("iflink of "+p.Name, iflinkFound(host, p), iflinkCommand(host, p.Name))
	w.ethtool(host, p)
	w.loc.Confirmed = err == nil
	if err != nil {
		w.problem("%v", err)
	}
	w.witness(l, p)
	w.bridge(host, p)
}

func iflinkFound(ns *tables.Netns, l *tables.Link) string {
	if l.ParentNetns < 0 {
		return fmt.Sprintf("%d, in this namespace", l.Parent)
	}
	if id, ok := ns.Peers[l.ParentNetns]; ok {
		return fmt.Sprintf("%d, in link-netnsid %d, which is %s", l.Parent, l.ParentNetns, id)
	}
	return fmt.Sprintf("%d, in link-netnsid %d", l.Parent, l.ParentNetns)
}

// ethtool is the driver's own word for the other end.
func (w *walk) ethtool(ns *tables.Netns, l *tables.Link) {
	if l.Kind != "veth" {
		return
	}
	found := "peer_ifindex is not available"
	if l.EthtoolPeer != 0 {
		found = fmt.Sprintf("peer_ifindex: %d", l.EthtoolPeer)
	}
	w.step("statistics of "+l.Name, found, command(ns, "ethtool -S %s", shellWord(l.Name)))
}

// witness holds the driver's word against the ends that were found.
func (w *walk) witness(l, p *tables.Link) {
	for _, e := range []struct{ from, to *tables.Link }{{l, p}, {p, l}} {
		if e.from.EthtoolPeer != 0 && e.from.EthtoolPeer != e.to.Index {
			w.problem("ethtool says that the other end of %q has ifindex %d, iflink leads to %d", e.from.Name, e.from.EthtoolPeer, e.to.Index)
		}
	}
}

// bridge finds what the node's end is a port of.
func (w *walk) bridge(host *tables.Netns, p *tables.Link) {
	show := command(host, "bridge -d link show dev %s", shellWord(p.Name))
	if p.Master == 0 {
		w.step("bridge", fmt.Sprintf("%q is no port of a bridge: the node routes to it", p.Name), show)
		return
	}
	m := host.Link(p.Master)
	if m == nil {
		w.problem("%q is enslaved to interface %d, which is gone", p.Name, p.Master)
		return
	}
	if m.Kind != "bridge" {
		w.step("master", host.FormatLink(*m), command(host, "ip -d link show dev %s", shellWord(m.Name)))
		return
	}
	w.loc.Bridge, w.loc.BridgeIndex = m.Name, m.Index
	found := fmt.Sprintf("%s (ifindex %d)", m.Name, m.Index)
	if p.Port != nil {
		w.loc.Port, w.loc.PortState = p.Port.No, p.Port.State
		found += fmt.Sprintf(", port %d, state %s", p.Port.No, p.Port.State)
	}
	w.step("bridge", found, show)
}
