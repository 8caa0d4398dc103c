package probe

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Message types (RFC 792, RFC 4443) and the length of an echo's header in bytes.
const (
	echoReply4   = 0
	echoRequest4 = 8
	echoRequest6 = 128
	echoReply6   = 129
	echoHeader   = 8
)

// openICMP opens a raw socket. The datagram kind of socket (icmp(7)) would do without the
// capability, but net.ipv4.ping_group_range may forbid it, and its identifier is the kernel's.
func (p *Prober) openICMP(id uint16) error {
	proto := unix.IPPROTO_ICMP
	if p.flow.Dst.Is6() {
		proto = unix.IPPROTO_ICMPV6
	}
	if err := p.socket(unix.SOCK_RAW, proto); err != nil {
		return err
	}
	p.flow.Proto = uint8(proto)
	p.flow.SrcPort = id
	if err := p.onlyReplies(id); err != nil {
		return fmt.Errorf("filter echo replies: %w", err)
	}
	if p.flow.Src.IsValid() {
		return p.bind()
	}
	return nil
}

// onlyReplies has the kernel pass echo replies with the identifier alone: a raw socket would get
// every ICMP message of the namespace. Errors come by the error queue.
func (p *Prober) onlyReplies(id uint16) error {
	reply := uint32(echoReply6) // packets of IPv6 raw sockets start at the ICMP header
	prog := []bpf.Instruction{bpf.LoadConstant{Dst: bpf.RegX, Val: 0}}
	if p.flow.Dst.Is4() { // those of IPv4 at the IP header
		reply = echoReply4
		prog = []bpf.Instruction{bpf.LoadMemShift{Off: 0}}
	}
	raw, err := bpf.Assemble(append(prog,
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: reply, SkipTrue: 3},
		bpf.LoadIndirect{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(id), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	))
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	return unix.SetsockoptSockFprog(p.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog)
}

// echo puts the ICMP header before a payload. The kernel fills in the checksum of ICMPv6 alone.
func (p *Prober) echo(seq int, payload []byte) []byte {
	b := make([]byte, echoHeader, echoHeader+len(payload))
	b[0] = echoRequest6
	if p.flow.Dst.Is4() {
		b[0] = echoRequest4
	}
	binary.BigEndian.PutUint16(b[4:], p.flow.SrcPort)
	binary.BigEndian.PutUint16(b[6:], uint16(seq))
	b = append(b, payload...)
	if p.flow.Dst.Is4() {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// parseEcho gives the number of the probe that a packet answers; 0 if it is not one of ours.
func (p *Prober) parseEcho(b []byte) int {
	if p.flow.Dst.Is4() {
		if len(b) < 1 || len(b) < int(b[0]&0xf)*4 {
			return 0
		}
		b = b[int(b[0]&0xf)*4:]
	}
	if len(b) < echoHeader || binary.BigEndian.Uint16(b[4:]) != p.flow.SrcPort {
		return 0
	}
	if payloadSeq(b[echoHeader:], p.flow.Marker) == 0 {
		return 0 // the identifier is somebody else's too
	}
	return int(binary.BigEndian.Uint16(b[6:]))
}

// quotedEcho gives the number of the probe that an error quotes, from its ICMP header on.
func (p *Prober) quotedEcho(b []byte) int {
	if len(b) < echoHeader || binary.BigEndian.Uint16(b[4:]) != p.flow.SrcPort {
		return 0
	}
	if b[0] != echoRequest4 && b[0] != echoRequest6 {
		return 0
	}
	return int(binary.BigEndian.Uint16(b[6:]))
}
