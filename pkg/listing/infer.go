package listing

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/decode/vxlan"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// assume notes what is taken for granted without a listing that says so.
func (b *builder) assume(table, format string, args ...any) {
	b.assumed = append(b.assumed, tables.NotListed(table+" details", "", fmt.Sprintf(format, args...)))
}

// pairUp finds the two ends of veth pairs: each names the other's index, and only one pair of namespaces of
// a node can agree on both.
func pairUp(c *collector, bs []*builder) {
	for _, b := range bs {
		b.ownIndex(bs)
	}
	for _, b := range bs {
		for _, s := range b.links {
			b.leads(s)
		}
	}
	for _, b := range bs {
		for _, s := range b.links {
			if s.ParentNetns < 0 || s.Parent == 0 {
				continue
			}
			if o := b.otherEnd(bs, s); o != nil {
				b.join(c, s, o)
			}
		}
	}
}

// ownIndex: ethtool -S and iflink show the index of the other end, and the other end's "@ifN" shows this one.
func (b *builder) ownIndex(bs []*builder) {
	for _, s := range b.links {
		if s.Index != 0 || s.iflink == 0 {
			continue
		}
		for _, o := range bs {
			if o == b || o.ns.Node != b.ns.Node {
				continue
			}
			for _, p := range o.links {
				if p.Index == s.iflink && p.away != "" && p.Parent != 0 && !b.hasIndex(p.Parent) {
					s.Index = p.Parent
				}
			}
		}
	}
}

func (b *builder) hasIndex(i tables.Ifindex) bool {
	return slices.ContainsFunc(b.links, func(s *linkState) bool { return s.Index == i })
}

// leads settles what an interface is on top of.
func (b *builder) leads(s *linkState) {
	if s.Index == 0 {
		s.Index = tables.Ifindex(firstUnlisted + s.pos)
	}
	if s.iflink != 0 && s.Parent == 0 && s.parent == 0 && (s.iflink != s.Index || s.EthtoolPeer != 0) {
		s.Parent = s.iflink
		if s.away == "" {
			s.away = "?"
		}
	}
	switch {
	case s.away != "":
		s.ParentNetns = b.netnsid(s.away, s)
	case s.parent != 0:
		s.Parent = b.ix(s.parent)
	}
}

// otherEnd finds the interface that an "@ifN" leads to; nil when none or several agree.
func (b *builder) otherEnd(bs []*builder, s *linkState) *linkEnd {
	var found *linkEnd
	for _, o := range bs {
		if o == b || o.ns.Node != b.ns.Node {
			continue
		}
		for _, p := range o.links {
			if p.Index == s.Parent && p.Parent == s.Index && p.ParentNetns >= 0 {
				if found != nil {
					return nil
				}
				found = &linkEnd{o, p}
			}
		}
	}
	return found
}

type linkEnd struct {
	b *builder
	s *linkState
}

func (b *builder) join(c *collector, s *linkState, o *linkEnd) {
	set := func(peers map[int]netns.ID, nsid int, id netns.ID) {
		if old, ok := peers[nsid]; ok && old != id {
			c.note("%s: netnsid %d is two namespaces by what the listings show", b.where(), nsid)
		}
		peers[nsid] = id
	}
	set(b.ns.Peers, s.ParentNetns, o.b.ns.ID)
	set(o.b.ns.Peers, o.s.ParentNetns, b.ns.ID)
	for _, e := range []*linkState{s, o.s} {
		if e.Kind == "" {
			e.Kind = "veth" // nothing else names the other side's index on both sides
		}
	}
}

// knownNames are interfaces whose name says what made them.
var knownNames = []struct {
	re   pattern
	kind string
}{
	{lazy(`^(docker0|cni0|cbr0|virbr\d+|br-[0-9a-f]{12}|lxcbr0|lxdbr0|kube-bridge|nerdctl0|podman\d+)$`), "bridge"},
	{lazy(`^(flannel(-v6)?\.\d+|vxlan\.calico|vxlan-v6\.calico)$`), "vxlan"},
	{lazy(`^(tunl0)$`), "ipip"},
	{lazy(`^(kube-ipvs0|nodelocaldns|dummy\d+)$`), "dummy"},
	{lazy(`^(veth\w+|cali\w+|lxc\w+|cilium_(host|net))$`), "veth"},
}

// infer concludes what a short listing leaves out, and says so.
func (b *builder) infer(k *kubeFacts) {
	for i := 0; i < len(b.links); i++ { // grows by what only a master is named as
		s := b.links[i]
		s.Master = b.ix(s.master)
	}
	b.resolve()
	w := b.witnesses()
	for _, s := range b.links {
		b.inferKind(s, w)
	}
	for i := 0; i < len(b.links); i++ {
		s := b.links[i]
		b.inferPort(s)
		b.inferVXLAN(s, k)
		if s.VXLAN != nil && s.lower != 0 {
			s.VXLAN.Lower = b.ix(s.lower)
		}
	}
	b.bridgeMACs()
	b.inferUp()
	b.localRoutes()
}

// witness is what other outputs make of interfaces, by index.
type witness struct {
	vxlan  map[tables.Ifindex]Origin // rows of their FDB have destinations
	master map[tables.Ifindex]string // others name them as their master
}

func (b *builder) witnesses() witness {
	w := witness{make(map[tables.Ifindex]Origin), make(map[tables.Ifindex]string)}
	for i, f := range b.ns.FDB {
		if _, ok := w.vxlan[f.Index]; !ok && f.Dst.IsValid() && f.Master == 0 {
			w.vxlan[f.Index] = b.at.fdb[i]
		}
	}
	for _, s := range b.links {
		if s.Master != 0 {
			w.master[s.Master] = s.Name
		}
	}
	return w
}

func (b *builder) inferKind(s *linkState, w witness) {
	if s.Name == "lo" {
		s.Loopback = true
		if s.HardwareTy == 0 {
			s.HardwareTy = hardwareTypes["loopback"]
		}
		return
	}
	if s.Kind != "" || s.detail {
		return
	}
	switch why := kindBy(s, w); {
	case s.Kind != "":
		b.assume(tabLinks, "%s is taken as %s: %s, and ip -d link is not listed", s.Name, s.Kind, why)
	case s.away != "":
		s.Kind = "veth"
		b.assume(tabLinks, "%s is taken as veth: its other end is in another namespace, and ip -d link is not listed", s.Name)
	}
}

// kindBy sets the kind by what other outputs make of the interface, and says what that was.
func kindBy(s *linkState, w witness) string {
	const master = 0x400 // IFF_MASTER: a bond, a VRF
	at, rows := w.vxlan[s.Index]
	port, named := w.master[s.Index]
	switch {
	case s.isBr:
		s.Kind = "bridge"
		return "brctl shows it"
	case rows:
		s.Kind = "vxlan"
		return fmt.Sprintf("its rows in the FDB have destinations (%s)", at)
	case named && s.Flags&master == 0 && s.Name != "ovs-system":
		s.Kind = "bridge"
		return port + " names it as its master"
	}
	for _, n := range knownNames {
		if n.re().MatchString(s.Name) {
			s.Kind = n.kind
			return "its name"
		}
	}
	return ""
}

// inferPort: the port of a bridge forwards unless a listing says otherwise.
func (b *builder) inferPort(s *linkState) {
	if s.Master == 0 {
		s.Port = nil
		return
	}
	br := b.linkAt(s.Master)
	if br == nil || br.Kind != "bridge" {
		s.Port = nil
		return
	}
	if br.Bridge == nil {
		br.Bridge = &tables.Bridge{Ageing: 300}
	}
	portOf(&s.Link)
	if !s.slave {
		b.assume(tabLinks, "bridge port %s is taken as forwarding: its state is not listed (bridge link)", s.Name)
	}
}

// calicoVNI is the VNI that Calico takes by default.
const calicoVNI = 4096

// inferVXLAN gives a vxlan device what flannel or Calico give it, as far as name and announcement say.
func (b *builder) inferVXLAN(s *linkState, k *kubeFacts) {
	if s.Kind != "vxlan" || s.VXLAN != nil {
		return
	}
	x := &tables.VXLAN{Port: vxlan.PortLinux, LocalBypass: true, DF: "unset"}
	var lease inventory.Lease
	if n := k.inv.Node(b.ns.Node); n != nil {
		lease = n.Flannel
	}
	why := ""
	vni, named := deviceNumber(s.Name, "flannel.")
	switch {
	case named && vni < 1<<24:
		x.VNI, why = tables.VNI(vni), "flannel's name for its device"
	case lease.VNI != 0:
		x.VNI, why = tables.VNI(lease.VNI), "what its node announces"
	case s.Name == "vxlan.calico":
		x.VNI, x.Port, why = calicoVNI, vxlan.PortIANA, "Calico's default"
	default:
		return // stays unknown
	}
	b.vxlanLocal(x, lease.PublicIP)
	s.VXLAN = x
	b.assume(tabLinks, "%s is taken to have VNI %d (%s), UDP port %d (the default) and local address %s: ip -d link is not listed",
		s.Name, x.VNI, why, x.Port, orNone(x.Local))
}

func orNone(a netip.Addr) string {
	if !a.IsValid() {
		return "none"
	}
	return a.String()
}

// vxlanLocal is the node's announced address where the node has it.
func (b *builder) vxlanLocal(x *tables.VXLAN, announced netip.Addr) {
	for _, a := range b.ns.Addrs {
		if announced.IsValid() && a.Prefix.Addr() == announced {
			x.Local, x.Lower = announced, b.ix(a.Index)
			return
		}
	}
}

// resolve turns names into indexes in all tables.
func (b *builder) resolve() {
	n := b.ns
	for i := range n.Addrs {
		n.Addrs[i].Index = b.ix(n.Addrs[i].Index)
	}
	hop := func(h *tables.NextHop) { h.Index = b.ix(h.Index) }
	for i := range n.Routes {
		n.Routes[i].NextHops = slices.Clone(n.Routes[i].NextHops)
		for k := range n.Routes[i].NextHops {
			hop(&n.Routes[i].NextHops[k])
		}
	}
	for i := range n.Nexthops {
		hop(&n.Nexthops[i].Hop)
	}
	for i := range n.Neighs {
		n.Neighs[i].Index = b.ix(n.Neighs[i].Index)
	}
	for i := range n.FDB {
		f := &n.FDB[i]
		f.Index, f.Master, f.Via = b.ix(f.Index), b.ix(f.Master), b.ix(f.Via)
	}
}

// inferUp: an interface that is known by its name alone is one that other tables use.
func (b *builder) inferUp() {
	var names []string
	for _, s := range b.links {
		if s.Flags == 0 && s.MTU == 0 && s.OperState == "" && !s.Up {
			s.Up, s.LowerUp = true, true
			names = append(names, s.Name)
		}
		if s.HardwareTy == 0 {
			s.HardwareTy = hardwareTypes["ether"]
		}
	}
	if len(names) > 0 {
		b.assume(tabLinks, "%s: only named by other outputs, taken as up", strings.Join(names, ", "))
	}
}

// localRoutes adds what the kernel derives from addresses, where no output shows table local.
func (b *builder) localRoutes() {
	for i, a := range b.ns.Addrs {
		fam := family(a.Prefix.Addr())
		l := b.linkAt(a.Index)
		if l == nil || !l.Up {
			continue
		}
		ip := a.Prefix.Addr()
		hop := []tables.NextHop{{Index: a.Index, Weight: 1}}
		if !b.covered(tabRoutes, routeKey(fam, 0), routeKey(fam, tables.TableLocal)) {
			dst := netip.PrefixFrom(ip, ip.BitLen())
			if ip.IsLoopback() && ip.Is4() {
				dst = a.Prefix.Masked()
			}
			b.derive(tables.Route{Table: tables.TableLocal, Type: tables.RouteLocal, Dst: dst, Protocol: 2, Scope: scopes["host"], NextHops: hop}, b.at.addrs[i])
		}
		const noPrefixRoute = 0x200
		if !b.covered(tabRoutes, routeKey(fam, 0), routeKey(fam, tables.TableMain)) && a.Flags&noPrefixRoute == 0 && !a.Prefix.IsSingleIP() && !ip.IsLoopback() {
			b.derive(tables.Route{Table: tables.TableMain, Type: tables.RouteUnicast, Dst: a.Prefix.Masked(), Protocol: 2, Scope: scopes["link"], NextHops: hop}, b.at.addrs[i])
		}
	}
}

func (b *builder) derive(r tables.Route, at Origin) {
	b.ns.Routes, b.at.routes = append(b.ns.Routes, r), append(b.at.routes, at)
}

// linkAt finds an interface by its index, once the indexes are settled.
func (b *builder) linkAt(i tables.Ifindex) *linkState {
	if s := b.byIndex[i]; s != nil && s.Index == i {
		return s
	}
	for _, s := range b.links {
		b.byIndex[s.Index] = s
	}
	if i == 0 {
		return nil
	}
	return b.byIndex[i]
}
