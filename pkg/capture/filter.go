package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"

	"github.com/podtrace/podtrace/pkg/ether"
)

// Flow is what a filter passes, in both directions. A and B need not be the two ends alone: every
// address that either end may be rewritten to (a Service's address, a node's for masquerade) belongs
// to them, so that a packet is still seen after a rewrite, the right one or a wrong one.
type Flow struct {
	// Proto is the IP protocol number: 1 or 58 (ICMP of the family in question), 6, 17, 132; 0 for
	// any protocol, and then ports do not matter.
	Proto uint8
	A, B  []netip.Addr
	// APort and BPort are the ports in host byte order; 0 is any. With ICMP APort is the
	// identifier of the echo, and BPort is not used.
	APort, BPort uint16
	// Ports are those that either end may be translated to: between A and B they pass too.
	Ports []uint16
	// Marker, unless zero, is the start of the payload of an ICMP echo or a UDP datagram: a frame
	// that has it passes whatever its addresses are.
	Marker [8]byte
}

// Encap is an encapsulation that the point carries: Ethernet behind a UDP header and eight bytes, as
// VXLAN has it (RFC 7348 section 5), or a bare IP packet right behind the UDP header.
type Encap struct {
	UDPPort uint16 // destination port, host byte order, as the device has it
	IP      bool   // a bare IP packet
}

// FilterOptions says how frames of the point look.
type FilterOptions struct {
	NoLink bool // frames start at the IP header (ARPHRD_NONE: TUN, WireGuard, IP tunnels)
}

// Filter makes the classic BPF program of a point. It passes
//
//   - packets of the protocol with both addresses among A and B, and at least one of the given ports;
//   - packets of the protocol with one address among A and B and both ports (the echo id with ICMP):
//     the flow after an address was rewritten to one that nobody named;
//   - later fragments of the protocol with an address among A and B;
//   - ICMP errors that quote any of these;
//   - all ARP and IPv6 neighbour discovery, for it decides whether the rest can be sent;
//   - with encap, the same inside of it, all later fragments of UDP (they have no ports to tell them
//     by), and ICMP errors that quote the encapsulation.
//
// IPv4 options, IPv6 hop-by-hop and fragment headers and up to two VLAN tags in the frame (beside the
// one that the kernel takes out) are stepped over; other IPv6 extension headers pass if both
// addresses fit. Lengths are not checked: a load beyond the frame rejects it (bpf(4)).
func Filter(flow Flow, encap []Encap, opts FilterOptions) ([]bpf.RawInstruction, error) {
	if len(flow.A)+len(flow.B) == 0 {
		return nil, errors.New("make filter: flow has no addresses")
	}
	w := newFilterWriter(flow)
	// The machine refuses loads of cells that some path has not stored.
	w.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: 0})
	for _, cell := range []int{cellL4, cellHits, cellProto} {
		w.emit(bpf.StoreScratch{Src: bpf.RegA, N: cell})
	}
	w.emit(bpf.LoadConstant{Dst: bpf.RegX, Val: 0})

	inner, innerIP, v4, v6 := w.newLabel(), w.newLabel(), w.newLabel(), w.newLabel()
	if opts.NoLink {
		w.version(v4, v6)
	} else {
		w.common(0, level{encap: encap, inner: inner})
		w.link(v4, v6)
	}
	w.ip(v4, v6, level{encap: encap, inner: inner, innerIP: innerIP, errors: true})
	if len(encap) > 0 {
		in4, in6 := w.newLabel(), w.newLabel()
		w.place(inner)
		w.link(in4, in6)
		w.place(innerIP)
		w.version(in4, in6)
		w.ip(in4, in6, level{errors: true})
	}
	w.place(w.accept)
	w.emit(bpf.RetConstant{Val: keepAll})
	w.place(w.reject)
	w.emit(bpf.RetConstant{Val: 0})

	prog, err := w.assemble()
	if err != nil {
		return nil, err
	}
	if len(prog) > maxInstructions {
		return nil, fmt.Errorf("make filter: %d instructions, more than the kernel's %d: too many addresses",
			len(prog), maxInstructions)
	}
	return prog, nil
}

// maxInstructions is BPF_MAXINSNS of linux/bpf_common.h.
const maxInstructions = 4096

// Cells of the machine's scratch memory.
const (
	cellL4    = iota // offset of the transport header
	cellHits         // how many of the packet's two addresses are among A and B
	cellProto        // transport protocol
)

// IP protocol numbers and fields (RFC 791, RFC 8200, RFC 792, RFC 4443).
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoICMPv6   = 58
	protoDestOpts = 60
	protoSCTP     = 132

	fragOffset4 = 0x1fff // of the 16 bits at IPv4 + 6
	fragOffset6 = 0xfff8 // of the 16 bits at the fragment header + 2

	vlanLen     = 4 // TPID and TCI, IEEE 802.1Q section 9
	udpHeader   = 8
	vxlanHeader = 8
	ipv4Header  = 20 // without options
	ipv6Header  = 40
	icmpHeader  = 8
)

// filterWriter writes the blocks of one filter. Register X is the offset of the header that a block
// looks at when it is entered.
type filterWriter struct {
	program
	flow           Flow
	v4             [][1]uint32 // addresses as the machine loads them: words in host byte order
	v6             [][4]uint32
	accept, reject label
	base           int // the offset that loads count from, where it is known; -1: X
}

func newFilterWriter(flow Flow) *filterWriter {
	w := &filterWriter{flow: flow, base: -1}
	w.accept, w.reject = w.newLabel(), w.newLabel()
	seen := map[netip.Addr]bool{}
	for _, list := range [][]netip.Addr{flow.A, flow.B} {
		for _, a := range list {
			a = a.Unmap().WithZone("")
			if !a.IsValid() || seen[a] {
				continue
			}
			seen[a] = true
			if a.Is4() {
				b := a.As4()
				w.v4 = append(w.v4, [1]uint32{binary.BigEndian.Uint32(b[:])})
				continue
			}
			b := a.As16()
			var words [4]uint32
			for i := range words {
				words[i] = binary.BigEndian.Uint32(b[4*i:])
			}
			w.v6 = append(w.v6, words)
		}
	}
	return w
}

// load loads size bytes at X (or the known base) + off into A.
func (w *filterWriter) load(off uint32, size int) {
	if w.base >= 0 {
		w.emit(bpf.LoadAbsolute{Off: uint32(w.base) + off, Size: size})
		return
	}
	w.emit(bpf.LoadIndirect{Off: off, Size: size})
}

// advance adds n to X; A is lost.
func (w *filterWriter) advance(n uint32) {
	w.emit(bpf.TXA{}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: n}, bpf.TAX{})
}

// goTo sets X to what a cell holds; A is kept.
func (w *filterWriter) goTo(cell int) { w.emit(bpf.LoadScratch{Dst: bpf.RegX, N: cell}) }

// link steps over the Ethernet header at X and up to two VLAN tags, and goes to v4 or v6 with X at
// the IP header. ARP is accepted here.
func (w *filterWriter) link(v4, v6 label) {
	const maxTags = 2
	for tags := range uint32(maxTags + 1) {
		at4, at6, next := w.newLabel(), w.newLabel(), w.newLabel()
		w.load(ether.HeaderLen-2+vlanLen*tags, 2)
		w.jumpEq(uint32(ether.TypeARP), w.accept)
		w.jumpEq(uint32(ether.TypeIPv4), at4)
		w.jumpEq(uint32(ether.TypeIPv6), at6)
		w.jumpEq(uint32(ether.TypeVLAN), next)
		w.jumpEq(uint32(ether.TypeQinQ), next)
		w.jump(w.reject)
		w.place(at4)
		w.advance(ether.HeaderLen + vlanLen*tags)
		w.jump(v4)
		w.place(at6)
		w.advance(ether.HeaderLen + vlanLen*tags)
		w.jump(v6)
		w.place(next)
	}
	w.jump(w.reject)
}

// version goes to v4 or v6 by the first four bits at X.
func (w *filterWriter) version(v4, v6 label) {
	w.load(0, 1)
	w.emit(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	w.jumpEq(4, v4)
	w.jumpEq(6, v6)
	w.jump(w.reject)
}

// level is what a block for one IP header has to look for beside the flow itself.
type level struct {
	encap []Encap // UDP ports behind which to look at the inner frame
	// where to go with X at the inner frame, or at the inner packet of an Encap.IP; used if encap is not empty
	inner, innerIP label

	errors bool // look into ICMP errors; false for a header that is quoted itself

	only4, only6 bool // write the block of one IP version alone
}
