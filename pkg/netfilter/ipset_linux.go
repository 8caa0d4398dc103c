package netfilter

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Commands and attributes of linux/netfilter/ipset/ip_set.h.
const (
	ipsetProtocol  = 7
	ipsetList      = 7
	ipsetGetByName = 14

	ipsetAttrProtocol = 1
	ipsetAttrSetName  = 2
	ipsetAttrTypeName = 3
	ipsetAttrFamily   = 5
	ipsetAttrData     = 7
	ipsetAttrADT      = 8
	ipsetAttrIndex    = 11

	ipsetAttrIP      = 1
	ipsetAttrIPTo    = 2
	ipsetAttrCIDR    = 3
	ipsetAttrPort    = 4
	ipsetAttrProto   = 7
	ipsetAttrFlags   = 8
	ipsetAttrMark    = 10
	ipsetAttrEther   = 17
	ipsetAttrName    = 18
	ipsetAttrNetmask = 20 // of a set's creation
	ipsetAttrIP2     = 20 // of an element
	ipsetAttrCIDR2   = 21
	ipsetAttrIface   = 23
)

// usesIPSets reports whether a rule refers to a set. Only then is the kernel asked: the question alone
// would load the module.
func (r *Ruleset) usesIPSets() bool {
	for i := range r.Tables {
		for _, c := range r.Tables[i].Chains {
			for _, rule := range c.Rules {
				for _, e := range rule.Exprs {
					if e.Op == OpSet {
						return true
					}
				}
			}
		}
	}
	return false
}

// readIPSets dumps the sets and their indices, and puts their names into the rules' text.
func (r *Ruleset) readIPSets(h *netns.Handle) error {
	if !r.usesIPSets() {
		return nil
	}
	var c *netlink.Conn
	err := h.Do(func() (err error) {
		c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // only read
	msgs, err := ipsetAsk(c, ipsetList, netlink.Request|netlink.Dump, "")
	if err != nil {
		return err
	}
	var sets []IPSet
	for _, m := range msgs {
		if sets, err = addIPSet(sets, m); err != nil {
			return err
		}
	}
	for i := range sets {
		msgs, err := ipsetAsk(c, ipsetGetByName, netlink.Request, sets[i].Name)
		if err != nil {
			return fmt.Errorf("index of set %q: %w", sets[i].Name, err)
		}
		for _, m := range msgs {
			if a, err := readAttrs(m); err == nil && len(a[ipsetAttrIndex]) == 2 {
				sets[i].Index = binary.BigEndian.Uint16(a[ipsetAttrIndex])
			}
		}
	}
	r.IPSets = sets
	r.nameIPSets()
	return nil
}

func ipsetAsk(c *netlink.Conn, cmd int, flags netlink.HeaderFlags, name string) ([][]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.Uint8(ipsetAttrProtocol, ipsetProtocol)
	if name != "" {
		ae.String(ipsetAttrSetName, name)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_IPSET<<8 | cmd), Flags: flags},
		Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	var out [][]byte
	for _, m := range msgs {
		if len(m.Data) >= 4 && m.Header.Type != netlink.Error {
			out = append(out, m.Data[4:])
		}
	}
	return out, err
}

// nameIPSets replaces the indices in the rules' text.
func (r *Ruleset) nameIPSets() {
	names := make(map[uint32]string)
	for _, s := range r.IPSets {
		names[uint32(s.Index)] = s.Name
	}
	for i := range r.Tables {
		for k := range r.Tables[i].Chains {
			rules := r.Tables[i].Chains[k].Rules
			for n := range rules {
				for x := range rules[n].Exprs {
					if e := &rules[n].Exprs[x]; e.Op == OpSet && names[e.Mod] != "" {
						e.Text = e.setText(names[e.Mod])
					}
				}
			}
		}
	}
}

// addIPSet reads one message of a dump; a large set comes in several.
func addIPSet(sets []IPSet, b []byte) ([]IPSet, error) {
	a, err := readAttrs(b)
	if err != nil {
		return nil, err
	}
	name := a.str(ipsetAttrSetName)
	if n := len(sets); n == 0 || sets[n-1].Name != name {
		s := IPSet{Name: name, Type: a.str(ipsetAttrTypeName)}
		if f := a[ipsetAttrFamily]; len(f) == 1 {
			s.Family = Family(f[0])
		}
		sets = append(sets, s)
	}
	s := &sets[len(sets)-1]
	if data, err := readAttrs(a[ipsetAttrData]); err == nil && data[ipsetAttrNetmask] != nil {
		s.Type += " netmask" // compares under a mask, which is not modelled
	}
	if a[ipsetAttrADT] == nil {
		return sets, nil
	}
	list, err := decoder(a[ipsetAttrADT])
	if err != nil {
		return nil, err
	}
	for list.Next() {
		m, err := ipsetEntry(list.Bytes())
		if err != nil {
			return nil, err
		}
		s.Members = append(s.Members, m)
	}
	return sets, list.Err()
}

func ipsetEntry(b []byte) (IPSetEntry, error) {
	const nomatch, physdev = 4, 2
	a, err := readAttrs(b)
	if err != nil {
		return IPSetEntry{}, err
	}
	m := IPSetEntry{Addr: a.ipsetPrefix(ipsetAttrIP, ipsetAttrCIDR), Addr2: a.ipsetPrefix(ipsetAttrIP2, ipsetAttrCIDR2),
		Device: a.str(ipsetAttrIface), Set: a.str(ipsetAttrName)}
	if p := a[ipsetAttrPort]; len(p) == 2 {
		m.Port = binary.BigEndian.Uint16(p)
	}
	if p := a[ipsetAttrProto]; len(p) == 1 {
		m.Proto = p[0]
	}
	flags := a.u32(ipsetAttrFlags)
	m.NoMatch = flags&nomatch != 0
	m.Other = a[ipsetAttrIPTo] != nil || a[ipsetAttrMark] != nil || a[ipsetAttrEther] != nil || flags&physdev != 0
	return m, nil
}

// ipsetPrefix reads a nested address and the length of its prefix, without which it is one address.
func (a attrs) ipsetPrefix(ip, cidr uint16) netip.Prefix {
	n, err := readAttrs(a[ip])
	if err != nil {
		return netip.Prefix{}
	}
	for _, v := range n {
		if addr, ok := netip.AddrFromSlice(v); ok {
			bits := addr.BitLen()
			if c := a[cidr]; len(c) == 1 {
				bits = int(c[0])
			}
			return netip.PrefixFrom(addr, bits)
		}
	}
	return netip.Prefix{}
}
