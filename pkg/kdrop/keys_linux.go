package kdrop

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// As in bpf/kdrop.c.
const (
	kindFlow     = 0
	kindFragment = 1
	kindNeigh    = 2

	wildSport = 1
	wildDport = 2
	wildPorts = 4
	wildProto = 8
)

// A value of the map is an index, with the top bit for the direction.
const (
	reverseBit = 1 << 31
	maxFlows   = 4096
)

// table is what the kernel looks packets up in.
type table struct {
	keys map[kfreeKey]uint32
	wild uint32 // which lookups with less than a whole key can find anything
}

// newTable writes every flow in both directions. Where two flows have a key in common, the first has it.
func newTable(cfg Config) (*table, error) {
	if len(cfg.Flows) > maxFlows || len(cfg.Neighbours) > maxFlows {
		return nil, fmt.Errorf("watch kernel drops: more than %d flows", maxFlows)
	}
	t := &table{keys: make(map[kfreeKey]uint32)}
	for i, f := range cfg.Flows {
		src, dst := f.Src.Unmap(), f.Dst.Unmap()
		if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() {
			return nil, fmt.Errorf("watch kernel drops: flow from %q to %q: want two addresses of one family", f.Src, f.Dst)
		}
		sport, dport := f.ports()
		t.add(src, dst, f.Proto, sport, dport, uint32(i))
		t.add(dst, src, f.Proto, dport, sport, uint32(i)|reverseBit)
	}
	for i, a := range cfg.Neighbours {
		if !a.IsValid() {
			return nil, fmt.Errorf("watch kernel drops: neighbour %q: want an address", a)
		}
		t.put(kfreeKey{Dst: a.As16(), Kind: kindNeigh}, uint32(i))
	}
	return t, nil
}

// ports gives what stands in the place of ports.
func (f *Flow) ports() (src, dst uint16) {
	switch f.Proto {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return f.ICMPID, f.ICMPID
	case 0:
		return 0, 0
	}
	return f.SrcPort, f.DstPort
}

func (t *table) add(src, dst netip.Addr, proto uint8, sport, dport uint16, value uint32) {
	k := kfreeKey{Src: src.As16(), Dst: dst.As16(), Proto: proto, Sport: bigEndian(sport), Dport: bigEndian(dport)}
	t.put(k, value)
	t.wild |= wildOf(proto, sport, dport)
	k.Kind, k.Sport, k.Dport = kindFragment, 0, 0
	t.put(k, value)
}

func (t *table) put(k kfreeKey, value uint32) {
	if _, taken := t.keys[k]; !taken {
		t.keys[k] = value
	}
}

func wildOf(proto uint8, sport, dport uint16) uint32 {
	switch {
	case proto == 0:
		return wildProto
	case sport == 0 && dport == 0:
		return wildPorts
	case sport == 0:
		return wildSport
	case dport == 0:
		return wildDport
	}
	return 0
}

// bigEndian gives the number whose bytes in memory are v in network byte order.
func bigEndian(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
