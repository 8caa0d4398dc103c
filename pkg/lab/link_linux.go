package lab

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// linkSet are the devices of a namespace by name.
type linkSet map[string]netlink.Link

func (s *space) links() (linkSet, error) {
	list, err := s.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links of netns %q: %w", s.name, err)
	}
	set := linkSet{}
	for _, l := range list {
		set[l.Attrs().Name] = l
	}
	return set, nil
}

// removable are the kinds of devices that a namespace holds only because someone made them. Others
// (lo, the fallback tunnels of some kernels) come with it.
var removable = []string{"veth", "bridge", "vxlan", "vlan", "macvlan", "ipvlan", "dummy", "tuntap"}

// removeLinks removes devices that the plan does not have, and those that can only be made right by
// making them again.
func (s *space) removeLinks(p *plan) error {
	have, err := s.links()
	if err != nil {
		return err
	}
	for name, l := range have {
		if !slices.Contains(removable, l.Type()) {
			continue
		}
		if want := p.link(name); want != nil && sameDevice(*want, l, have) {
			continue
		}
		// The other end of a veth goes with the first, so it may be gone already.
		if err := s.nl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("delete %q in netns %q: %w", name, s.name, err)
		}
	}
	return nil
}

// defaultAgeing is FDB_AGE_DEFAULT of drivers/net/vxlan, in seconds.
const defaultAgeing = 300

// sameDevice compares what cannot be changed on a device that exists.
func sameDevice(want link, have netlink.Link, all linkSet) bool {
	if have.Type() != string(want.kind) {
		return false
	}
	v, ok := have.(*netlink.Vxlan)
	if !ok {
		return true
	}
	lower, ok := all[want.vxlan.dev]
	return ok && v.VtepDevIndex == lower.Attrs().Index &&
		v.VxlanId == want.vxlan.vni && v.Port == want.vxlan.port && v.Learning == want.vxlan.learning && v.GBP == want.vxlan.gbp &&
		v.Age == orDefault(want.vxlan.ageing, defaultAgeing) && v.SrcAddr.Equal(want.vxlan.local.AsSlice())
}

// addVeths makes the pairs whose first end is in p, unless both ends stand and are each other's.
func (s *space) addVeths(all spaces, ps plans, p *plan) error {
	for _, a := range p.links {
		if a.kind != kindVeth || p.name > a.peerNetns {
			continue
		}
		other := ps.get(a.peerNetns)
		if other == nil || other.link(a.peer) == nil {
			continue
		}
		b, far := *other.link(a.peer), all[a.peerNetns]
		if s.paired(a, far, b) {
			continue
		}
		for _, end := range []struct {
			s    *space
			name string
		}{{s, a.name}, {far, b.name}} {
			if l, err := end.s.nl.LinkByName(end.name); err == nil {
				_ = end.s.nl.LinkDel(l)
			}
		}
		if err := s.addVeth(a, far, b); err != nil {
			return fmt.Errorf("add veth %q in %q and %q in %q: %w", a.name, s.name, b.name, far.name, err)
		}
	}
	return nil
}

// paired reports whether both ends exist and name each other. Equal numbers by chance would need
// both ends re-made by hand; their namespaces are compared by id as well.
func (s *space) paired(a link, far *space, b link) bool {
	la, errA := s.nl.LinkByName(a.name)
	lb, errB := far.nl.LinkByName(b.name)
	if errA != nil || errB != nil {
		return false
	}
	if la.Attrs().ParentIndex != lb.Attrs().Index || lb.Attrs().ParentIndex != la.Attrs().Index {
		return false
	}
	if far == s {
		return la.Attrs().NetNsID < 0 // not said: the same namespace
	}
	id, err := s.nl.GetNetNsIdByFd(far.netns.Fd())
	return err == nil && la.Attrs().NetNsID == id
}

// addVeth makes a pair, each end in its namespace from the start with its name, index, MTU and MAC:
// nothing is ever made elsewhere and moved. netlink.Veth cannot give the peer an index, so the
// request is put together here (veth_newlink in drivers/net/veth.c reads the peer's ifinfomsg).
func (s *space) addVeth(a link, far *space, b link) error {
	err := s.requestVeth(a, far, b)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) { // an index is taken: by a fallback tunnel
		a.index, b.index = 0, 0
		err = s.requestVeth(a, far, b)
	}
	return err
}

func (s *space) requestVeth(a link, far *space, b link) error {
	if (a.index == 0) != (b.index == 0) {
		// The kernel heeds the peer's index only together with one for the device itself.
		a.index, b.index = pickIndex(a), pickIndex(b)
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(a.index)
	req.AddData(msg)
	attrs, err := linkAttrs(a)
	if err != nil {
		return err
	}
	for _, attr := range attrs {
		req.AddData(attr)
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC).Index = int32(b.index)
	if attrs, err = linkAttrs(b); err != nil {
		return err
	}
	for _, attr := range attrs {
		peer.AddChild(attr)
	}
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(far.netns.Fd())))
	req.AddData(info)
	return s.netns.Do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// pickIndex gives a link without a wanted index one that nothing else in the lab uses.
func pickIndex(l link) int {
	if l.index != 0 {
		return l.index
	}
	mac, err := net.ParseMAC(l.mac)
	if err != nil {
		return 0
	}
	return 100 + int(mac[5])
}

func linkAttrs(l link) ([]*nl.RtAttr, error) {
	mac, err := net.ParseMAC(l.mac)
	if err != nil {
		return nil, err
	}
	attrs := []*nl.RtAttr{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(l.name)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(l.mtu))),
		nl.NewRtAttr(unix.IFLA_ADDRESS, mac),
	}
	if l.noQueue {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_TXQLEN, nl.Uint32Attr(0)))
	}
	return attrs, nil
}

// addLinks makes the devices other than veths that are missing.
func (s *space) addLinks(p *plan) error {
	have, err := s.links()
	if err != nil {
		return err
	}
	for _, want := range p.links {
		if have[want.name] != nil || want.kind == kindVeth {
			continue
		}
		err := s.addLink(want, have)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) { // the index is taken
			want.index = 0
			err = s.addLink(want, have)
		}
		if err != nil {
			return fmt.Errorf("add %s %q in netns %q: %w", want.kind, want.name, s.name, err)
		}
	}
	return nil
}

func (s *space) addLink(l link, have linkSet) error {
	if l.kind == kindTUN {
		// Made in the namespace that the thread is in, which is how the kernel chooses it.
		return s.netns.Do(func() error { return makeTUN(l.name) })
	}
	mac, err := net.ParseMAC(l.mac)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.MTU, attrs.HardwareAddr = l.name, l.index, l.mtu, mac
	if l.noQueue {
		attrs.TxQLen = 0
	}
	if l.kind == kindBridge {
		return s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	}
	lower := have[l.vxlan.dev]
	if lower == nil {
		return nil // a fault took the lower device, and the kernel takes the VXLAN with it
	}
	// As flanneld's pkg/backend/vxlan/device.go.
	return s.nl.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: l.vxlan.vni, VtepDevIndex: lower.Attrs().Index,
		SrcAddr: l.vxlan.local.AsSlice(), Port: l.vxlan.port, Learning: l.vxlan.learning, GBP: l.vxlan.gbp, Age: l.vxlan.ageing,
	})
}

// setLinks sets MAC, MTU, master, state, port flags, programs and offloads of every device.
func (s *space) setLinks(p *plan, have linkSet) error {
	if err := s.setOffloads(p, have); err != nil {
		return err
	}
	if lo := have["lo"]; lo != nil {
		if err := s.nl.LinkSetUp(lo); err != nil {
			return err
		}
	}
	for _, want := range p.links {
		l := have[want.name]
		if l == nil {
			continue
		}
		if err := errors.Join(s.setLink(want, l, have), s.setPrograms(want, l, have)); err != nil {
			return fmt.Errorf("set %q: %w", want.name, err)
		}
	}
	return nil
}

func (s *space) setLink(want link, l netlink.Link, have linkSet) error {
	if err := s.setMAC(want, l); err != nil {
		return err
	}
	if err := s.setMaster(want, l, have); err != nil {
		return err
	}
	// After the master: a bridge that was given no MTU takes its ports'.
	if l.Attrs().MTU != want.mtu || want.kind == kindBridge {
		if err := s.nl.LinkSetMTU(l, want.mtu); err != nil {
			return err
		}
	}
	if want.noQueue && l.Attrs().TxQLen != 0 { // the kernel gives a device one that it is asked to queue for: a tc program's
		if err := s.nl.LinkSetTxQLen(l, 0); err != nil {
			return err
		}
	}
	if want.down {
		return s.nl.LinkSetDown(l)
	}
	if err := s.nl.LinkSetUp(l); err != nil {
		return err
	}
	if want.master == "" {
		return nil
	}
	return s.setPort(want, l)
}

func (s *space) setMAC(want link, l netlink.Link) error {
	if want.mac == "" || l.Attrs().HardwareAddr.String() == want.mac {
		return nil
	}
	mac, err := net.ParseMAC(want.mac)
	if err != nil {
		return err
	}
	return s.nl.LinkSetHardwareAddr(l, mac)
}

func (s *space) setMaster(want link, l netlink.Link, have linkSet) error {
	current := l.Attrs().MasterIndex
	if want.master == "" {
		if current == 0 {
			return nil
		}
		return s.nl.LinkSetNoMaster(l)
	}
	bridge := have[want.master]
	if bridge == nil {
		return nil
	}
	if current == bridge.Attrs().Index {
		return nil
	}
	return s.nl.LinkSetMasterByIndex(l, bridge.Attrs().Index)
}

// Bridge port states, linux/if_bridge.h.
const (
	portDisabled   = 0
	portForwarding = 3
)

// setPort sets the flags of a bridge port, those that the lab does not use to the kernel's defaults.
func (s *space) setPort(want link, l netlink.Link) error {
	err := errors.Join(
		s.nl.LinkSetHairpin(l, want.hairpin),
		s.nl.LinkSetLearning(l, true),
		s.nl.LinkSetFlood(l, true),
		s.nl.LinkSetIsolated(l, false),
	)
	if err != nil {
		return err
	}
	state := byte(portForwarding)
	if want.blocked {
		state = portDisabled
	}
	err = s.setPortState(l, state)
	if errors.Is(err, unix.ENETDOWN) {
		return nil // the bridge is down, or the carrier is not known yet: see settle
	}
	return err
}

// setPortState is "bridge link set dev X state N", which netlink has no method for.
// The kernel refuses to let a port forward while the bridge or the port's carrier is down: ENETDOWN.
func (s *space) setPortState(l netlink.Link, state byte) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{state})
	req.AddData(info)
	return s.netns.Do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}
