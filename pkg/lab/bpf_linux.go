package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a sched_cls program returns in direct action, linux/pkt_cls.h.
const (
	tcOK   = 0
	tcShot = 2
)

// Offsets in the context, struct __sk_buff of linux/bpf.h, and in an Ethernet frame with an IPv4
// header (RFC 791); in bytes.
const (
	skbProtocol                  = 16
	frameDst                     = 0
	frameTTL, frameSum, frameIP4 = 14 + 8, 14 + 10, 14 + 16
)

// setPrograms makes the tc programs of a device those of the plan. A device that should have none
// loses its clsact qdisc.
func (s *space) setPrograms(want link, l netlink.Link, have linkSet) error {
	if want.kind != kindVeth && want.kind != kindVXLAN {
		return nil
	}
	qdiscs, err := s.nl.QdiscList(l)
	if err != nil {
		return fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			if err := s.nl.QdiscDel(q); err != nil {
				return fmt.Errorf("delete clsact: %w", err)
			}
		}
	}
	if want.ingress == nil && want.egress == nil {
		return nil
	}
	index := l.Attrs().Index
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := s.nl.QdiscAdd(clsact); err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	if err := s.attach(index, netlink.HANDLE_MIN_INGRESS, want.ingress, have); err != nil {
		return err
	}
	return s.attach(index, netlink.HANDLE_MIN_EGRESS, want.egress, have)
}

func (s *space) attach(index int, parent uint32, p *program, have linkSet) error {
	if p == nil {
		return nil
	}
	insns, err := p.instructions(have)
	if err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "lab", Type: ebpf.SchedCLS, Instructions: insns, License: "Apache-2.0"})
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("load tc program, which needs root of the machine: %w", unix.EPERM) // err guesses at a limit
	}
	if err != nil {
		return fmt.Errorf("load tc program: %w", err)
	}
	defer prog.Close() //nolint:errcheck // the filter keeps the program
	return s.nl.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:          prog.FD(), Name: p.name, DirectAction: true,
	})
}

// instructions is the program: IPv4 to one of the addresses that it is about is dropped or delivered,
// all else passes.
func (p *program) instructions(have linkSet) (asm.Instructions, error) {
	insns := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, skbProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, int32(networkOrder16(unix.ETH_P_IP)), "pass"),
	}
	insns = append(insns, loadBytes(frameIP4, -4, 4)...) // of R6's packet to the stack
	insns = append(insns, asm.JNE.Imm(asm.R0, 0, "pass"), asm.LoadMem(asm.R7, asm.R10, -4, asm.Word))
	if p.drop.IsValid() {
		insns = append(insns, asm.JNE.Imm32(asm.R7, addressWord(p.drop), "after-drop"),
			asm.Mov.Imm(asm.R0, tcShot), asm.Return(), asm.Mov.Imm(asm.R0, tcOK).WithSymbol("after-drop"))
	}
	for i, peer := range p.peers {
		l := have[peer.dev]
		if l == nil {
			continue // a fault took it away
		}
		next := fmt.Sprintf("after-%d", i)
		deliver, err := peer.deliver(l.Attrs().Index)
		if err != nil {
			return nil, err
		}
		insns = append(insns, asm.JNE.Imm32(asm.R7, addressWord(peer.ip), next))
		insns = append(insns, deliver...)
		insns = append(insns, asm.Mov.Imm(asm.R0, tcOK).WithSymbol(next))
	}
	return append(insns, asm.Mov.Imm(asm.R0, tcOK).WithSymbol("pass"), asm.Return()), nil
}

// deliver hands the frame to the pod behind a host end, as a router would: with the pod's MAC and a
// TTL less by one. A frame at the end of its TTL is left to the kernel, which says so by ICMP.
func (p peer) deliver(index int) (asm.Instructions, error) {
	macs, err := frameMACs(p.mac, p.hostMAC)
	if err != nil {
		return nil, err
	}
	insns := loadBytes(frameTTL, -8, 2) // TTL and protocol, the 16-bit word that the checksum covers
	insns = append(insns,
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R8, asm.R10, -8, asm.Byte),
		asm.JLE.Imm(asm.R8, 1, "pass"),
		asm.LoadMem(asm.R3, asm.R10, -8, asm.Half), // before
		asm.Sub.Imm(asm.R8, 1),
		asm.StoreMem(asm.R10, -8, asm.R8, asm.Byte),
		asm.LoadMem(asm.R4, asm.R10, -8, asm.Half), // after
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, frameSum), asm.Mov.Imm(asm.R5, 2),
		asm.FnL3CsumReplace.Call(),
	)
	insns = append(insns, storeBytes(frameTTL, -8, 1)...)
	for i, word := range macs {
		insns = append(insns, asm.StoreImm(asm.R10, int16(-24+4*i), int64(word), asm.Word))
	}
	insns = append(insns, storeBytes(frameDst, -24, 12)...)
	return append(insns,
		asm.Mov.Imm(asm.R1, int32(index)), //nolint:gosec // an ifindex
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirectPeer.Call(),
		asm.Return(),
	), nil
}

// frameMACs gives destination and source as three words in memory order.
func frameMACs(dst, src string) (words [3]int32, err error) {
	var b []byte
	for _, s := range []string{dst, src} {
		mac, err := net.ParseMAC(s)
		if err != nil {
			return words, err
		}
		b = append(b, mac...)
	}
	for i := range words {
		words[i] = int32(binary.NativeEndian.Uint32(b[4*i:])) //nolint:gosec // the same bits
	}
	return words, nil
}

// loadBytes copies n bytes at offset of R6's packet to the stack; R0 is 0 if they are there.
func loadBytes(offset, stack, n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, offset),
		asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, stack), asm.Mov.Imm(asm.R4, n),
		asm.FnSkbLoadBytes.Call(),
	}
}

// storeBytes is the other way about.
func storeBytes(offset, stack, n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, offset),
		asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, stack), asm.Mov.Imm(asm.R4, n), asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
	}
}

// networkOrder16 is a number as the CPU reads it where it lies in network order.
func networkOrder16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func addressWord(a netip.Addr) int32 {
	b := a.As4()
	return int32(binary.NativeEndian.Uint32(b[:])) //nolint:gosec // the same bits
}
