package tables

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ByID returns the namespace with that identity, nil when the snapshot has none.
func (s *Snapshot) ByID(id NetnsID) *Netns {
	for _, n := range s.Netns {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// Host returns the node's own namespace, nil when the snapshot has none.
func (s *Snapshot) Host(node string) *Netns {
	for _, n := range s.Netns {
		if n.Node == node && n.Name == HostName {
			return n
		}
	}
	return nil
}

// VXLANPorts are the UDP ports, in host byte order, of every vxlan device and of the FDB rows that override them.
func (s *Snapshot) VXLANPorts() (ports []uint16) {
	add := func(p uint16) {
		if p != 0 && !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	for _, n := range s.Netns {
		for i := range n.Links {
			if x := n.Links[i].VXLAN; x != nil {
				add(x.Port)
			}
		}
		for i := range n.FDB {
			add(n.FDB[i].Port)
		}
	}
	return ports
}

// Link returns the interface with that index, nil when there is none.
func (n *Netns) Link(index Ifindex) *Link {
	for i := range n.Links {
		if n.Links[i].Index == index {
			return &n.Links[i]
		}
	}
	return nil
}

// LinkByName returns the interface with that name, nil when there is none.
func (n *Netns) LinkByName(name string) *Link {
	for i := range n.Links {
		if n.Links[i].Name == name {
			return &n.Links[i]
		}
	}
	return nil
}

// AddrsOf returns the addresses of one interface in the kernel's order.
func (n *Netns) AddrsOf(index Ifindex) []Addr {
	var out []Addr
	for _, a := range n.Addrs {
		if a.Index == index {
			out = append(out, a)
		}
	}
	return out
}

// HasAddr reports whether ip is an address of any interface.
func (n *Netns) HasAddr(ip netip.Addr) bool {
	for i := range n.Addrs {
		if n.Addrs[i].Prefix.Addr() == ip {
			return true
		}
	}
	return false
}

// Sysctl returns a value of Sysctls and whether it was read.
func (n *Netns) Sysctl(name string) (string, bool) {
	v, ok := n.Sysctls[name]
	return v, ok
}

// SysctlInt returns a value of Sysctls as a number; false when it was not read or is none.
func (n *Netns) SysctlInt(name string) (int, bool) {
	v, ok := n.Sysctls[name]
	if !ok {
		return 0, false
	}
	i, err := strconv.Atoi(strings.TrimSpace(v))
	return i, err == nil
}

// devName gives an interface's name for a listing, "if7" when the snapshot does not have it.
func (n *Netns) devName(index Ifindex) string {
	if l := n.Link(index); l != nil {
		return l.Name
	}
	return "if" + strconv.Itoa(int(index))
}
