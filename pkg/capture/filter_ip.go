package capture

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// ip writes the blocks v4 and v6, which are entered with X at an IP header and end in accept or
// reject.
func (w *filterWriter) ip(v4, v6 label, l level) {
	transport, fragment := w.newLabel(), w.newLabel()
	if !l.only6 {
		w.place(v4)
		w.countHits4()
		w.headerLen4()
		w.load(9, 1) // protocol
		w.emit(bpf.StoreScratch{Src: bpf.RegA, N: cellProto})
		w.load(6, 2)
		w.jumpIf(bpf.JumpBitsSet, fragOffset4, fragment)
		w.jump(transport)
	}
	if !l.only4 {
		odd := w.newLabel()
		w.place(v6)
		w.countHits6()
		w.extensions(transport, fragment, odd)
		w.place(odd) // an extension header that is not followed
		w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellHits})
		w.jumpEq(2, w.accept)
		w.jump(w.reject)
	}
	w.place(fragment)
	w.laterFragment(l)
	w.place(transport)
	w.transport(l)
}

// headerLen4 stores where the header behind the IPv4 header at X begins.
func (w *filterWriter) headerLen4() {
	w.load(0, 1)
	w.emit(
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf}, // IHL, in words of four bytes
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2},
		bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.StoreScratch{Src: bpf.RegA, N: cellL4},
	)
}

// countHits4 stores how many of the two addresses of the IPv4 header at X are the flow's.
func (w *filterWriter) countHits4() {
	w.startHits()
	for _, off := range []uint32{12, 16} { // source, destination
		hit, miss := w.newLabel(), w.newLabel()
		w.load(off, 4)
		for _, a := range w.v4 {
			w.jumpEq(a[0], hit)
		}
		w.endHits(hit, miss)
	}
}

// countHits6 does the same for the IPv6 header at X.
func (w *filterWriter) countHits6() {
	w.startHits()
	for _, off := range []uint32{8, 24} {
		hit, miss := w.newLabel(), w.newLabel()
		for _, words := range w.v6 {
			next := w.newLabel()
			for i := len(words) - 1; i >= 0; i-- { // addresses differ at the end first
				w.load(off+4*uint32(i), 4)
				w.jumpIf(bpf.JumpNotEqual, words[i], next)
			}
			w.jump(hit)
			w.place(next)
		}
		w.endHits(hit, miss)
	}
}

func (w *filterWriter) startHits() {
	w.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: 0}, bpf.StoreScratch{Src: bpf.RegA, N: cellHits})
}

func (w *filterWriter) endHits(hit, miss label) {
	w.jump(miss)
	w.place(hit)
	w.emit(
		bpf.LoadScratch{Dst: bpf.RegA, N: cellHits},
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 1},
		bpf.StoreScratch{Src: bpf.RegA, N: cellHits},
	)
	w.place(miss)
}

// extensions steps over a hop-by-hop and a fragment header of the IPv6 header at X, in this order
// (RFC 8200 section 4.1), and leaves protocol and offset of the transport header in their cells.
func (w *filterWriter) extensions(transport, fragment, odd label) {
	hop, frag, noHop, done := w.newLabel(), w.newLabel(), w.newLabel(), w.newLabel()
	w.emit(
		bpf.TXA{}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: ipv6Header},
		bpf.StoreScratch{Src: bpf.RegA, N: cellL4},
	)
	w.load(6, 1) // next header
	w.goTo(cellL4)
	w.jumpEq(protoHopByHop, hop)
	w.jump(noHop)

	w.place(hop)
	w.load(0, 1)
	w.emit(bpf.StoreScratch{Src: bpf.RegA, N: cellProto})
	w.load(1, 1) // length in units of eight bytes, the first not counted
	w.emit(
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 3},
		bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.StoreScratch{Src: bpf.RegA, N: cellL4},
		bpf.LoadScratch{Dst: bpf.RegA, N: cellProto},
	)
	w.goTo(cellL4)

	w.place(noHop)
	w.jumpEq(protoFragment, frag)
	w.jump(done)

	w.place(frag)
	w.load(0, 1)
	w.emit(bpf.StoreScratch{Src: bpf.RegA, N: cellProto})
	w.load(2, 2)
	w.jumpIf(bpf.JumpBitsSet, fragOffset6, fragment)
	w.emit(
		bpf.TXA{}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 8}, bpf.StoreScratch{Src: bpf.RegA, N: cellL4},
		bpf.LoadScratch{Dst: bpf.RegA, N: cellProto},
	)

	w.place(done)
	w.emit(bpf.StoreScratch{Src: bpf.RegA, N: cellProto})
	for _, p := range []uint32{protoHopByHop, protoRouting, protoFragment, protoAH, protoDestOpts} {
		w.jumpEq(p, odd)
	}
	w.jump(transport)
}

// laterFragment judges a packet that has no transport header.
func (w *filterWriter) laterFragment(l level) {
	address := w.newLabel()
	w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellProto})
	if len(l.encap) > 0 {
		w.jumpEq(protoUDP, w.accept)
	}
	if w.flow.Proto == 0 {
		w.jump(address)
	}
	for _, p := range w.protocols() {
		w.jumpEq(p, address)
	}
	w.jump(w.reject)
	w.place(address)
	w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellHits})
	w.jumpEq(0, w.reject)
	w.jump(w.accept)
}

// protocols are the values of the IP protocol field that the flow's protocol has.
func (w *filterWriter) protocols() []uint32 {
	switch w.flow.Proto {
	case 0:
		return nil
	case protoICMP, protoICMPv6:
		return []uint32{protoICMP, protoICMPv6}
	}
	return []uint32{uint32(w.flow.Proto)}
}

func (w *filterWriter) isICMP() bool {
	return w.flow.Proto == protoICMP || w.flow.Proto == protoICMPv6
}

// transport judges by protocol. The cells are filled in.
func (w *filterWriter) transport(l level) {
	icmp4, icmp6, udp, flow := w.newLabel(), w.newLabel(), w.newLabel(), w.newLabel()
	w.goTo(cellL4)
	w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellProto})
	w.jumpEq(protoICMP, icmp4)
	w.jumpEq(protoICMPv6, icmp6)
	if len(l.encap) > 0 {
		w.jumpEq(protoUDP, udp)
	}
	w.jump(flow)

	w.place(icmp4)
	w.icmp(l, icmpv4Types)
	w.place(icmp6)
	w.icmp(l, icmpv6Types)

	w.place(udp)
	if len(l.encap) > 0 {
		w.encapsulated(l)
	}
	w.place(flow)
	w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellProto})
	w.ported()
}

// encapsulated goes to the inner frame if the UDP header at X is that of an encapsulation, else on.
func (w *filterWriter) encapsulated(l level) {
	behind, behindIP, not := w.newLabel(), w.newLabel(), w.newLabel()
	w.load(2, 2) // destination port
	for _, e := range l.encap {
		if e.IP {
			w.jumpEq(uint32(e.UDPPort), behindIP)
		} else {
			w.jumpEq(uint32(e.UDPPort), behind)
		}
	}
	w.jump(not)
	w.place(behind)
	w.advance(udpHeader + vxlanHeader)
	w.jump(l.inner)
	w.place(behindIP)
	w.advance(udpHeader)
	w.jump(l.innerIP)
	w.place(not)
}

// ported judges a packet with ports at X, whose protocol is in A.
func (w *filterWriter) ported() {
	switch {
	case w.flow.Proto == 0:
		w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellHits})
		w.jumpEq(2, w.accept)
		w.jump(w.reject)
		return
	case w.isICMP(): // judged already
		w.jump(w.reject)
		return
	}
	w.jumpIf(bpf.JumpNotEqual, uint32(w.flow.Proto), w.reject)
	if w.flow.Proto == protoUDP {
		w.marker(udpHeader)
	}
	w.ports()
}

// ports accepts by the ports at X: any of them if both addresses fit, both if one does.
func (w *filterWriter) ports() {
	a, b := uint32(w.flow.APort), uint32(w.flow.BPort)
	both, one := w.newLabel(), w.newLabel()
	w.emit(bpf.LoadScratch{Dst: bpf.RegA, N: cellHits})
	w.jumpEq(2, both)
	w.jumpEq(1, one)
	w.jump(w.reject)

	w.place(both)
	if !w.hasPorts() || a == 0 && b == 0 {
		w.jump(w.accept)
	}
	for _, off := range []uint32{0, 2} {
		w.load(off, 2)
		for _, port := range append([]uint16{w.flow.APort, w.flow.BPort}, w.flow.Ports...) {
			if port != 0 {
				w.jumpEq(uint32(port), w.accept)
			}
		}
	}
	w.jump(w.reject)

	w.place(one)
	if w.hasPorts() && a != 0 && b != 0 {
		w.load(0, 4)
		w.jumpEq(a<<16|b, w.accept)
		w.jumpEq(b<<16|a, w.accept)
	}
	w.jump(w.reject)
}

// hasPorts reports whether the flow's protocol begins with two ports.
func (w *filterWriter) hasPorts() bool {
	return w.flow.Proto == protoTCP || w.flow.Proto == protoUDP || w.flow.Proto == protoSCTP
}

// marker accepts if the flow's marker stands at X + off; else it goes on. A frame too short for one
// must not be rejected by the load, so its length is looked at first.
func (w *filterWriter) marker(off uint32) {
	if w.flow.Marker == [8]byte{} {
		return
	}
	none := w.newLabel()
	need := off + uint32(len(w.flow.Marker))
	w.emit(bpf.LoadExtension{Num: bpf.ExtLen})
	if w.base >= 0 {
		need += uint32(w.base)
	} else {
		w.emit(bpf.ALUOpX{Op: bpf.ALUOpSub}) // bytes from X on
	}
	enough := w.newLabel()
	w.jumpIf(bpf.JumpGreaterOrEqual, need, enough)
	w.jump(none)
	w.place(enough)
	w.load(off, 4)
	w.jumpIf(bpf.JumpNotEqual, binary.BigEndian.Uint32(w.flow.Marker[:4]), none)
	w.load(off+4, 4)
	w.jumpEq(binary.BigEndian.Uint32(w.flow.Marker[4:]), w.accept)
	w.place(none)
}
