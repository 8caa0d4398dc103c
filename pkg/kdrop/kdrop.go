package kdrop

import (
	"errors"
	"net/netip"
	"time"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netns"
)

// Flow names the packets to watch for, in both directions. A flow whose addresses are rewritten on
// its way (DNAT, masquerade) is several Flows.
type Flow struct {
	Src   netip.Addr `json:"src"` // required, of one family with Dst
	Dst   netip.Addr `json:"dst"`
	Proto uint8      `json:"proto"` // IANA protocol number; 0: any, and then without ports
	// SrcPort and DstPort are in host byte order; 0: any.
	SrcPort uint16 `json:"srcPort,omitzero"`
	DstPort uint16 `json:"dstPort,omitzero"`
	// ICMPID is the identifier of an echo, in host byte order. 0: any message between the two
	// addresses, errors included.
	ICMPID uint16 `json:"icmpID,omitzero"`
}

// Config says what a Watcher reports.
type Config struct {
	Flows []Flow
	// Neighbours are addresses whose resolution matters: drops of ARP packets, neighbour
	// solicitations and advertisements that ask for or speak of one of them.
	Neighbours []netip.Addr
	// Buffer is the room for events in bytes, rounded up to a power of two of pages. 0 means 1 MiB,
	// for some 3500 drops. What does not fit is counted as lost.
	Buffer int
}

// Drop is one packet that the kernel dropped. A frame that a bridge floods is several packets.
type Drop struct {
	Time time.Time `json:"time"`
	// Reason is the kernel's name without its prefix, "NETFILTER_DROP". For one that the kernel's
	// BTF does not name it is its subsystem and number, "OPENVSWITCH(7)".
	Reason     string `json:"reason"`
	ReasonCode uint32 `json:"reasonCode"` // of this kernel; other kernels number them otherwise
	// Unspecified: the kernel gave no reason (NOT_SPECIFIED), the location is all there is. Many
	// such calls end a packet that did its work.
	Unspecified bool `json:"unspecified,omitzero"`
	// Location is the function that dropped it, "nft_do_chain"; empty where /proc/kallsyms hides
	// addresses (kptr_restrict).
	Location string `json:"location,omitzero"`
	// Ifindex and Device are the interface that the packet was on. 0 and empty: it was on none any
	// more (in a socket, in reassembly).
	Ifindex int    `json:"ifindex,omitzero"`
	Device  string `json:"device,omitzero"`
	// InIfindex is the interface that it had come in by, 0 for one that was made here. It is an
	// index of the namespace that it came in, which need not be NetnsInode's.
	InIfindex int `json:"inIfindex,omitzero"`
	// NetnsInode is the inode of the network namespace (netns.ID.Ino), 0: unknown.
	NetnsInode uint64 `json:"netnsInode,omitzero"`
	// Machine is the number of the machine that dropped it (netns.ID.Machine); 0 where there is one only.
	Machine uint32 `json:"machine,omitzero"`

	// Flow is the index in Config.Flows of the flow that matched, with Neighbour in
	// Config.Neighbours.
	Flow      int  `json:"flow"`
	Reverse   bool `json:"reverse,omitzero"`   // from the flow's Dst to its Src
	Neighbour bool `json:"neighbour,omitzero"` // ARP or ND
	Inner     bool `json:"inner,omitzero"`     // what matched was inside a tunnel
	Quoted    bool `json:"quoted,omitzero"`    // what was dropped is an ICMP error that quotes it

	// Frame is the packet as an Ethernet frame: up to 192 bytes from the network header on, behind
	// the link header that it had. Where it had none yet or none any more the addresses are zero.
	Frame []byte `json:"frame"`
	// Offset is where in Frame the IP or ARP header is that matched. It may lie behind its end.
	Offset int `json:"offset"`
	// Length is the length in bytes of what was dropped, from the layer on that had the packet in
	// hand: UDP has taken the IP header off.
	Length int `json:"length"`
}

// In reports whether the packet was dropped in that namespace.
func (d *Drop) In(id netns.ID) bool { return d.NetnsInode == id.Ino && d.Machine == id.Machine() }

// DstMAC gives the destination address of the frame's outer link header, zero if it had none.
func (d *Drop) DstMAC() ether.MAC {
	if len(d.Frame) < ether.HeaderLen {
		return ether.MAC{}
	}
	return ether.MAC(d.Frame[:6])
}

// UnsupportedError says why drop reasons cannot be watched on this machine. It is
// errors.ErrUnsupported and what it wraps.
type UnsupportedError struct {
	Why        string // "the kernel has no BTF (/sys/kernel/btf/vmlinux)"
	Capability string // what is missing, if a capability is: "CAP_BPF and CAP_PERFMON"
	Err        error  // the kernel's answer, may be nil
}

// Error gives the reason and the kernel's answer.
func (e *UnsupportedError) Error() string {
	s := "watch kernel drops: " + e.Why
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Hint says what to do next, if anything can be done.
func (e *UnsupportedError) Hint() string {
	if e.Capability == "" {
		return ""
	}
	return "run podtrace as root, or give it " + e.Capability
}

// Is makes every UnsupportedError errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// Unwrap gives the kernel's answer.
func (e *UnsupportedError) Unwrap() error { return e.Err }
