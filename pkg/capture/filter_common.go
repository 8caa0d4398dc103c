package capture

import (
	"golang.org/x/net/bpf"

	"github.com/podtrace/podtrace/pkg/ether"
)

// common writes a short cut for what nearly all frames are: IPv4 without options, tags and fragmentation, with or
// without an encapsulation around the same. Offsets are constants there, which the kernel's compiler turns into
// plain loads, where it calls a function for each of those relative to X (net/core/filter.c, convert_bpf_ld_abs):
// a tap costs every packet of the machine its filter, and this is most of it. A frame that is anything else goes
// on behind the block, or to l.inner, with X at the frame that begins at offset at.
func (w *filterWriter) common(at int, l level) {
	other := w.newLabel()
	defer func() { w.base = -1 }()

	w.base = at
	w.load(ether.HeaderLen-2, 2)
	w.jumpIf(bpf.JumpNotEqual, uint32(ether.TypeIPv4), other)
	w.base = at + ether.HeaderLen
	w.load(0, 1)
	w.jumpIf(bpf.JumpNotEqual, 0x45, other) // version 4, five words
	w.load(6, 2)
	w.jumpIf(bpf.JumpBitsSet, fragOffset4, other)
	w.load(9, 1)
	w.jumpEq(protoICMP, other)
	w.jumpEq(protoICMPv6, other)
	udp := w.newLabel()
	if len(l.encap) > 0 {
		w.jumpEq(protoUDP, udp)
	}
	w.commonFlow(at)
	if len(l.encap) > 0 {
		w.place(udp)
		w.commonEncap(at+ether.HeaderLen+ipv4Header, l, other)
	}
	w.place(other)
}

// commonFlow judges the packet whose protocol is in A.
func (w *filterWriter) commonFlow(at int) {
	switch {
	case w.isICMP():
		w.jump(w.reject)
		return
	case w.flow.Proto != 0:
		w.jumpIf(bpf.JumpNotEqual, uint32(w.flow.Proto), w.reject)
	}
	w.emit(bpf.StoreScratch{Src: bpf.RegA, N: cellProto})
	w.base = at + ether.HeaderLen
	w.countHits4()
	w.base += ipv4Header
	w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellProto})
	w.ported()
}

// commonEncap looks at the UDP header at offset at: behind the port of an encapsulation the inner frame is taken
// by a short cut of its own.
func (w *filterWriter) commonEncap(at int, l level, other label) {
	w.base = at
	plain, behind := w.newLabel(), w.newLabel()
	w.load(2, 2)
	for _, e := range l.encap {
		if e.IP {
			w.jumpEq(uint32(e.UDPPort), other)
		} else {
			w.jumpEq(uint32(e.UDPPort), behind)
		}
	}
	w.jump(plain)

	w.place(behind)
	inner := at + udpHeader + vxlanHeader
	w.common(inner, level{})
	w.emit(bpf.LoadConstant{Dst: bpf.RegX, Val: uint32(inner)})
	w.jump(l.inner)

	w.place(plain)
	w.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: protoUDP})
	w.commonFlow(at - ipv4Header - ether.HeaderLen)
}
