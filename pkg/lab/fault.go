package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// columns are the kinds of path that a fault is about, as the fault catalogue has them.
type columns uint

const (
	colVXLAN    columns = 1 << iota // vx, of IPv4
	colVXLAN6                       // the same in the lab of IPv6 alone
	colHostGW                       // hg
	colDirect                       // dr
	colBridge                       // br
	colV6                           // v6: IPv6 beside IPv4 or alone
	colUDP                          // flannel's UDP backend, which the catalogue has no column for
	colSvc                          // svc
	colNodePort                     // np
	colCalico                       // cal
	colCilium                       // cil, on ENIs
	colKind                         // kindnet's routed pods, which the catalogue has no column for
)

// columnsOf says what a cluster has.
func (c *cluster) columnsOf() columns {
	var cols columns
	switch c.spec.Datapath {
	case FlannelHostGW:
		cols = colHostGW | colBridge
	case FlannelDirectRouting:
		cols = colHostGW | colDirect | colVXLAN | colBridge
	case FlannelUDP:
		cols = colUDP | colBridge
	case FlannelDual:
		cols = colVXLAN | colBridge | colV6
	case FlannelV6:
		cols = colVXLAN6 | colBridge | colV6
	case CalicoVXLAN:
		cols = colCalico
	case CiliumENI:
		cols = colCilium
	case Kind:
		cols = colKind
	default:
		cols = colVXLAN | colBridge
	}
	if c.spec.Services != "" {
		cols |= colSvc | colNodePort
	}
	return cols
}

// damage is a fault and what it changes. It leaves plans that the kernel can be made to hold.
type damage struct {
	id, summary string
	side        side
	in          columns
	leg, leg6   string // leg6: that in the lab of IPv6 alone, if another
	from, to    string // "": the pods of the path
	fits        func(c *cluster) bool
	two         bool // needs two pods on the node
	do          func(w *world)
}

// side is where a fault is put unless a node is named: at the sender or at the receiver of the path.
type side int

const (
	sender side = iota
	receiver
)

// Legs of Fault.Leg.
const (
	onRequest = "request"
	onReply   = "reply"
	onBoth    = "both"
	onNone    = "none"
	onLarge   = "large"
)

// Placeholders of damage.from and damage.to.
const (
	placePod  = "POD" // the pod of the path on the node that the fault is put on
	placeNode = "ON"  // the address of that node; a port may follow

	placeService = "svc/" // what follows is a service and its port; its cluster IP
)

// world is the lab that a fault changes: the plans of all of it, the node that it is put on, and
// the one at the other end of the path.
type world struct {
	*cluster
	plans
	on, peer node
	is6      bool // the family that the fault is about
}

// all are the faults of the catalogue that a lab can have.
func all() []damage {
	return slices.Concat(overlayDamages(), nodeDamages(), podDamages(), serviceDamages(), pluginDamages())
}

// fit reports whether the lab of the cluster can have the fault.
func (d damage) fit(c *cluster) bool {
	return d.in&c.columnsOf() != 0 && (d.fits == nil || d.fits(c))
}

// far is the node at the receiving end of the path that a fault is about: with direct routing that is
// node3 for what is about VXLAN alone.
func (d damage) far(c *cluster) node {
	if c.spec.Datapath == FlannelDirectRouting && d.in&(colHostGW|colDirect|colBridge) == 0 {
		return c.nodes[2]
	}
	return c.nodes[1]
}

// place gives the node that the fault is put on and the one at the other end; an empty name stands for
// the fault's own choice.
func (d damage) place(c *cluster, name string) (on, peer node, err error) {
	near, far := c.nodes[0], d.far(c)
	switch {
	case name == "" && d.side == sender, name == near.name:
		return near, far, nil
	case name == "", name == far.name:
		return far, near, nil
	}
	on, ok := c.node(name)
	if !ok {
		return on, peer, fmt.Errorf("node %q: %w", name, ErrNoName)
	}
	if c.spec.Datapath == FlannelDirectRouting && far.name == c.nodes[2].name {
		return on, far, nil // node2 sees VXLAN only towards node3
	}
	return on, near, nil
}

// podOn is the pod of the path that runs on a node.
func (c *cluster) podOn(n node) pod {
	i := slices.IndexFunc(c.pods, func(p pod) bool { return p.node == n.name })
	return c.pods[i] // complete sees to it that nodes have one, as far as faults go
}

// describe is what Faults says of the fault in the lab of the cluster, put on a node.
func (d damage) describe(c *cluster, on node) Fault {
	f := Fault{ID: d.id, Summary: d.summary, Node: on.name, Leg: d.leg, From: d.from, To: d.to, Datapaths: d.datapaths()}
	if d.leg6 != "" && !c.v4 {
		f.Leg = d.leg6
	}
	switch f.From {
	case "":
		f.From = c.podOn(c.nodes[0]).name
	case placePod:
		f.From = c.podOn(on).name
	}
	if port, ok := strings.CutPrefix(f.To, placeNode); ok {
		ip := on.ip()
		if d.from == clientName {
			ip = on.announced(!c.v4)
		}
		f.To = at(ip, strings.TrimPrefix(port, ":"))
	}
	if service, ok := strings.CutPrefix(f.To, placeService); ok {
		name, port, _ := strings.Cut(service, ":")
		f.To = at(c.serviceIP(name), port)
	}
	if f.To == "" {
		f.To = c.podOn(d.far(c)).name
	}
	return f
}

// at is an address with a port, if there is one.
func at(ip netip.Addr, port string) string {
	if port == "" {
		return ip.String()
	}
	return net.JoinHostPort(ip.String(), port)
}

// datapaths are the names of the labs that can have the fault.
func (d damage) datapaths() []string {
	var names []string
	for _, p := range Datapaths() {
		if s, err := (Spec{Datapath: p.Name}).complete(); err == nil && d.fit(newCluster(s)) {
			names = append(names, p.Name)
		}
	}
	if d.in&(colSvc|colNodePort) != 0 && d.in&^(colSvc|colNodePort) == 0 {
		return append(names, "services")
	}
	return names
}

// Faults lists what Break can do, in the order of the path, as for a lab of flannel-vxlan with services
// where that can have it.
func Faults() []Fault {
	var list []Fault
	for _, d := range all() {
		list = append(list, d.atHome(d.home()))
	}
	return list
}

// atHome describes the fault where it is put by default.
func (d damage) atHome(c *cluster) Fault {
	on, _, _ := d.place(c, "")
	return d.describe(c, on)
}

// FaultOn is what FaultsOf says of one of them, put on another node than by default: the path that shows it there. Leg
// is that of the default node all the same.
func FaultOn(s Spec, id, node string) (Fault, error) {
	s, err := s.complete()
	if err != nil {
		return Fault{}, err
	}
	c := newCluster(s)
	d, on, _, err := c.findDamage(id, node)
	if err != nil {
		return Fault{}, err
	}
	return d.describe(c, on), nil
}

// home is a cluster that can have the fault.
func (d damage) home() *cluster {
	specs := []Spec{{Services: ServicesIPTables}}
	for _, p := range Datapaths() {
		specs = append(specs, Spec{Datapath: p.Name})
	}
	for _, s := range specs {
		if s, err := s.complete(); err == nil {
			if c := newCluster(s); d.fit(c) {
				return c
			}
		}
	}
	s, _ := Spec{}.complete()
	return newCluster(s)
}

// FaultsOf lists those that a lab of the Spec can have.
func FaultsOf(s Spec) ([]Fault, error) {
	s, err := s.complete()
	if err != nil {
		return nil, err
	}
	c := newCluster(s)
	var list []Fault
	for _, d := range all() {
		if d.fit(c) {
			list = append(list, d.atHome(c))
		}
	}
	return list, nil
}

// broken gives the plans of the lab with the faults in it.
func (c *cluster) broken(faults []Broken) (plans, error) {
	ps := c.plans()
	for _, f := range faults {
		d, on, peer, err := c.findDamage(f.ID, f.Node)
		if err != nil {
			return nil, err
		}
		w := &world{cluster: c, plans: ps, on: on, peer: peer, is6: !c.v4 || d.in == colV6}
		d.do(w)
	}
	return ps, nil
}

// findDamage looks a fault and its node up; an empty name stands for the fault's default node.
func (c *cluster) findDamage(id, name string) (d damage, on, peer node, err error) {
	list := all()
	i := slices.IndexFunc(list, func(d damage) bool { return d.id == id })
	if i < 0 {
		return d, on, peer, fmt.Errorf("fault %q: %w", id, ErrNoFault)
	}
	d = list[i]
	if !d.fit(c) {
		return d, on, peer, fmt.Errorf("fault %q in %s: %w", id, c.spec.Datapath, ErrUnfit)
	}
	on, peer, err = d.place(c, name)
	if err == nil && d.two && len(c.podsOn(on)) < 2 {
		err = fmt.Errorf("fault %q on %s, which has one pod: %w", id, on.name, ErrUnfit)
	}
	return d, on, peer, err
}

// here is the plan of the node that the fault is put on.
func (w *world) here() *plan { return w.get(w.on.name) }

// vtepDev is the VXLAN device of the fault's family.
func (w *world) vtepDev() string { return w.vtepName(w.is6) }

// dst are the peer's pods, as the node's routes have them: a range.
func (w *world) dst() netip.Prefix {
	if w.spec.Datapath == CalicoVXLAN {
		b, _ := w.podOn(w.peer).ip().Prefix(calicoBlock)
		return b
	}
	return rangeOf(w.peer.podCIDRs, w.is6)
}

// deadHost is an address of the underlay that nobody has.
func (w *world) deadHost() netip.Addr {
	switch {
	case w.is6:
		return netip.MustParseAddr("fd00:10:1:11::99")
	case w.spec.Datapath == CiliumENI:
		return netip.MustParseAddr("10.5.2.99")
	case w.spec.Datapath == Kind:
		return netip.MustParseAddr("172.18.0.99")
	case w.on.public.IsValid():
		return netip.MustParseAddr("121.4.190.99")
	}
	return netip.MustParseAddr("10.1.11.99")
}

// podIP is the address of the pod of the path that is on a node, of the fault's family.
func (w *world) podIP(n node) netip.Addr { return of(w.podOn(n).ips, w.is6) }

func (w *world) editLink(netns, name string, edit func(*link)) {
	if l := w.get(netns).link(name); l != nil { // an earlier fault may have removed it
		edit(l)
	}
}

func (w *world) editFDB(edit func(*fdbRow)) {
	p := w.here()
	for i := range p.fdb {
		if p.fdb[i].mac == w.peer.mac(w.is6) {
			edit(&p.fdb[i])
		}
	}
}

func (w *world) dropFDB() {
	p := w.here()
	p.fdb = slices.DeleteFunc(p.fdb, func(f fdbRow) bool { return f.mac == w.peer.mac(w.is6) })
}

func (w *world) dropNeigh() {
	p := w.here()
	p.neighs = slices.DeleteFunc(p.neighs, func(n neigh) bool { return n.ip == w.peer.vtep(w.is6) })
}

func (w *world) replaceRoute(dst netip.Prefix, r route) {
	p := w.here()
	p.dropRoutes(func(old route) bool { return old.dst == dst })
	p.routes = append(p.routes, r)
}

func removeLink(p *plan, name string) {
	p.links = slices.DeleteFunc(p.links, func(l link) bool { return l.name == name })
	p.dropRoutes(func(r route) bool { return r.dev == name })
	p.neighs = slices.DeleteFunc(p.neighs, func(n neigh) bool { return n.dev == name })
	p.fdb = slices.DeleteFunc(p.fdb, func(f fdbRow) bool { return f.dev == name })
}

// addTable puts a table of its own into a namespace, or chains into the one of the same name.
func (w *world) addTable(netns string, family int, name string, chains ...nftChain) {
	p := w.get(netns)
	if t := p.table(family, name); t != nil {
		t.chains = append(t.chains, chains...)
		return
	}
	p.tables = append(p.tables, nftTable{family: family, name: name, chains: chains})
}

// familyOf is the netfilter family of addresses.
func familyOf(is6 bool) int {
	if is6 {
		return familyIPv6
	}
	return familyIPv4
}

// underlayRule makes the network drop what a rule matches of what a node sends: the switch between two
// ports, or the router.
func (w *world) underlayRule(n node, name string, r nftRule) {
	r.iif = n.hubPort()
	family := familyINet
	if n.hub == switchName {
		family = familyBridge
	}
	w.addTable(n.hub, family, name, nftChain{name: "forward-" + n.name, typ: "filter", hook: "forward", rules: []nftRule{r}})
}

// filter gives a chain of the node's filter table; nil where it has none.
func (w *world) filter(chain string) *nftChain { return w.chain("filter", chain) }

func (w *world) chain(table, chain string) *nftChain {
	return w.here().chain(familyOf(w.is6), table, chain)
}
