package capture

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"

	"github.com/podtrace/podtrace/pkg/ether"
)

// Opcodes of classic BPF that an expression has to be moved by (linux/bpf_common.h, linux/filter.h).
const (
	opClass = 0x07
	opMode  = 0xe0

	classLD, classLDX         = 0x00, 0x01
	modeABS, modeIND, modeLEN = 0x20, 0x40, 0x80
	modeMSH                   = 0xa0
	extensions                = 1 << 31 // offsets from here on are no offsets: the packet type, the VLAN tag

	opJump     = 0x05 // ja #K
	opJumpEq   = 0x15 // jeq #K, jt, jf
	opLoadHalf = 0x28 // ldh [K]
	opLoadByte = 0x30 // ldb [K]
)

// CheckExpression reports whether a pcap-filter expression can be used, before anything is touched.
func CheckExpression(expr string) error {
	prog, err := compile(expr, false)
	if err != nil {
		return err
	}
	_, err = moved(prog, ether.HeaderLen)
	return err
}

// WithExpression gives the filter of a point, cut down to what a pcap-filter(7) expression matches as well. Behind
// an encapsulation the expression is put to the inner frame, so that it means the same at every point; where the
// outer header is not a plain one (options, tags in the frame) it is not asked. ARP, ICMP and neighbour discovery
// pass without: they tell why the rest does not.
func WithExpression(filter []bpf.RawInstruction, expr string, encap []Encap, opts FilterOptions) ([]bpf.RawInstruction, error) {
	prog, err := compile(expr, opts.NoLink)
	if err != nil {
		return nil, err
	}
	out := accepted(filter)
	if !opts.NoLink {
		for _, e := range encap {
			if e.IP {
				continue // an inner packet without its Ethernet header
			}
			for _, outer := range []struct {
				match []bpf.RawInstruction
				len   uint32
			}{{udp4(e.UDPPort), ipv4Header}, {udp6(e.UDPPort), ipv6Header}} {
				inner, err := moved(prog, ether.HeaderLen+outer.len+udpHeader+vxlanHeader)
				if err != nil {
					return nil, err
				}
				out = append(out, guarded(outer.match, inner)...)
			}
		}
		for _, aside := range [][]bpf.RawInstruction{
			{{Op: opLoadHalf, K: ether.HeaderLen - 2}, {Op: opJumpEq, K: uint32(ether.TypeARP)}},
			{{Op: opLoadHalf, K: ether.HeaderLen - 2}, {Op: opJumpEq, K: uint32(ether.TypeIPv4)}, {Op: opLoadByte, K: ether.HeaderLen + 9}, {Op: opJumpEq, K: protoICMP}},
			{{Op: opLoadHalf, K: ether.HeaderLen - 2}, {Op: opJumpEq, K: uint32(ether.TypeIPv6)}, {Op: opLoadByte, K: ether.HeaderLen + 6}, {Op: opJumpEq, K: protoICMPv6}},
		} {
			out = append(out, guarded(aside, []bpf.RawInstruction{{Op: opRet, K: keepAll}})...)
		}
	}
	out = append(out, prog...)
	if len(out) > maxInstructions {
		return nil, fmt.Errorf("filter expression %q: %d instructions, more than the kernel's %d", expr, len(out), maxInstructions)
	}
	return out, nil
}

// accepted turns a filter into one that goes on behind its end where it would accept.
func accepted(filter []bpf.RawInstruction) []bpf.RawInstruction {
	out := make([]bpf.RawInstruction, len(filter))
	for i, in := range filter {
		if in.Op == opRet && in.K != 0 {
			in = bpf.RawInstruction{Op: opJump, K: uint32(len(filter) - i - 1)}
		}
		out[i] = in
	}
	return out
}

// guarded runs a program if every comparison of match holds, else it goes on behind it.
func guarded(match, prog []bpf.RawInstruction) []bpf.RawInstruction {
	var out []bpf.RawInstruction
	// A conditional jump reaches 255 instructions; one that may be longer jumps over a jump.
	total := 0
	for _, in := range match {
		total++
		if in.Op == opJumpEq {
			total++
		}
	}
	for _, in := range match {
		if in.Op != opJumpEq {
			out = append(out, in)
			continue
		}
		in.Jt, in.Jf = 1, 0
		out = append(out, in)
		out = append(out, bpf.RawInstruction{Op: opJump, K: uint32(total + len(prog) - len(out) - 1)})
	}
	return append(out, prog...)
}

// udp4 matches a frame of IPv4 without options to a UDP port.
func udp4(port uint16) []bpf.RawInstruction {
	return []bpf.RawInstruction{
		{Op: opLoadHalf, K: ether.HeaderLen - 2}, {Op: opJumpEq, K: uint32(ether.TypeIPv4)},
		{Op: opLoadByte, K: ether.HeaderLen}, {Op: opJumpEq, K: 0x45},
		{Op: opLoadByte, K: ether.HeaderLen + 9}, {Op: opJumpEq, K: protoUDP},
		{Op: opLoadHalf, K: ether.HeaderLen + ipv4Header + 2}, {Op: opJumpEq, K: uint32(port)},
	}
}

// udp6 matches a frame of IPv6 without extension headers to a UDP port.
func udp6(port uint16) []bpf.RawInstruction {
	return []bpf.RawInstruction{
		{Op: opLoadHalf, K: ether.HeaderLen - 2}, {Op: opJumpEq, K: uint32(ether.TypeIPv6)},
		{Op: opLoadByte, K: ether.HeaderLen + 6}, {Op: opJumpEq, K: protoUDP},
		{Op: opLoadHalf, K: ether.HeaderLen + ipv6Header + 2}, {Op: opJumpEq, K: uint32(port)},
	}
}

// moved gives a program that looks at what begins at an offset of the frame.
func moved(prog []bpf.RawInstruction, by uint32) ([]bpf.RawInstruction, error) {
	out := make([]bpf.RawInstruction, len(prog))
	for i, in := range prog {
		class, mode := in.Op&opClass, in.Op&opMode
		switch {
		case class == classLD && mode == modeLEN || class == classLDX && mode == modeLEN:
			return nil, errors.New("the filter expression asks for the length of the frame, which differs from point to point")
		case class == classLD && (mode == modeABS || mode == modeIND) && in.K < extensions, class == classLDX && mode == modeMSH:
			in.K += by
		case class == classLD && mode == modeABS:
			return nil, errors.New("the filter expression asks for what no inner frame has (a direction, a VLAN tag that was taken out)")
		}
		out[i] = in
	}
	return out, nil
}
