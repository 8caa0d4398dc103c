// Package netfilter holds the packet filter and address translation of one network namespace as a
// value, nftables and legacy iptables alike, with a reader for each and an evaluator: a packet in,
// outcomes out, with the rules that decided. Connection tracking is part of it, because in the kernel it
// is. An expression that it does not know makes the outcome Unknown; it is never taken for an accept.
//
// Sources: nf_tables(7) and net/netfilter/nft_*.c; ip_tables.h and the xt_*.h headers of the kernel's
// uapi; nf_nat_core.c for the order of translation.
package netfilter

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
)

// Family is NFPROTO_* of linux/netfilter.h.
type Family uint8

// The families of tables.
const (
	FamilyInet   Family = 1
	FamilyIPv4   Family = 2
	FamilyARP    Family = 3
	FamilyNetdev Family = 5
	FamilyBridge Family = 7
	FamilyIPv6   Family = 10
)

// String gives the word of nft(8).
func (f Family) String() string {
	switch f {
	case FamilyInet:
		return "inet"
	case FamilyIPv4:
		return "ip"
	case FamilyARP:
		return "arp"
	case FamilyNetdev:
		return "netdev"
	case FamilyBridge:
		return "bridge"
	case FamilyIPv6:
		return "ip6"
	default:
		return fmt.Sprintf("family %d", uint8(f))
	}
}

// Hook is a place in the stack where chains are called.
type Hook uint8

// The hooks, in the numbering of enum nf_inet_hooks; those of netdev follow.
const (
	HookPrerouting Hook = iota
	HookInput
	HookForward
	HookOutput
	HookPostrouting
	HookIngress
	HookEgress
)

var hookNames = [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress", "egress"}

// String gives nft's word for the hook.
func (h Hook) String() string {
	if int(h) < len(hookNames) {
		return hookNames[h]
	}
	return "?"
}

// Backends of a table.
const (
	BackendNFT    = "nft"
	BackendLegacy = "legacy"
)

// Ruleset is all of one namespace.
type Ruleset struct {
	Tables []Table `json:"tables,omitempty"`
	Conns  []Entry `json:"conns,omitempty"`
	// IPSets are the sets of ipset(8), to which -m set refers by Index.
	IPSets []IPSet `json:"ipsets,omitempty"`
	// Recent are the lists of -m recent. A list that is missing holds no address.
	Recent []RecentList `json:"recent,omitempty"`
	// Incomplete names what could not be read, and why.
	Incomplete []string `json:"incomplete,omitempty"`
}

// Table is one table of either backend.
type Table struct {
	Backend string   `json:"backend"`
	Family  Family   `json:"family"`
	Name    string   `json:"name"`
	Chains  []Chain  `json:"chains,omitempty"`
	Sets    []Set    `json:"sets,omitempty"`
	Objects []Object `json:"objects,omitempty"` // named counters, quotas and limits of nftables
	// Dormant tables hang on no hook.
	Dormant bool `json:"dormant,omitempty"`
}

// Chain is one chain. Base chains hang on a hook.
type Chain struct {
	Name     string   `json:"name"`
	Base     bool     `json:"base,omitempty"`
	Type     string   `json:"type,omitempty"` // "filter", "nat", "route"
	Hook     Hook     `json:"hook,omitempty"`
	Priority int32    `json:"priority,omitempty"`
	Drop     bool     `json:"drop,omitempty"` // policy drop
	Devices  []string `json:"devices,omitempty"`
	Rules    []Rule   `json:"rules,omitempty"`
	Packets  uint64   `json:"packets,omitempty"` // that met the policy, where the kernel counts them
	Bytes    uint64   `json:"bytes,omitempty"`
	Counted  bool     `json:"counted,omitempty"` // the kernel counts what meets the policy
}

// Rule is one rule as a list of expressions, run from left to right until one does not match.
type Rule struct {
	Handle  uint64 `json:"handle,omitempty"` // nft
	Number  int    `json:"number"`           // from 1, in its chain
	Comment string `json:"comment,omitempty"`
	Exprs   []Expr `json:"exprs,omitempty"`
	Packets uint64 `json:"packets,omitempty"` // by its counter
	Bytes   uint64 `json:"bytes,omitempty"`
	Counted bool   `json:"counted,omitempty"`
}

// Set is a named or anonymous set or map.
type Set struct {
	Name     string `json:"name"`
	Interval bool   `json:"interval,omitempty"`
	Map      bool   `json:"map,omitempty"`
	KeyLen   uint32 `json:"keyLen,omitempty"` // bytes
	DataLen  uint32 `json:"dataLen,omitempty"`
	// Fields are the lengths in bytes of the parts of a concatenated key; each part is padded to a
	// multiple of four. Empty: the key is one value.
	Fields   []uint32  `json:"fields,omitempty"`
	Elements []Element `json:"elements,omitempty"`
}

// Element is one element; in an interval set End rows close the one before.
type Element struct {
	Key     []byte `json:"key,omitempty"`
	KeyEnd  []byte `json:"keyEnd,omitempty"`
	End     bool   `json:"end,omitempty"`
	Any     bool   `json:"any,omitempty"` // catch-all
	Data    []byte `json:"data,omitempty"`
	Verdict *Jump  `json:"verdict,omitempty"`
	Object  string `json:"object,omitempty"`  // of a map to objects: the object's name
	Limited bool   `json:"limited,omitempty"` // carries a limit or quota of its own, which may stop the rule
}

// Object is a named stateful object of nftables.
type Object struct {
	Name string `json:"name"`
	// Expr is what a reference to the object does: a counter passes, a quota or limit may not match.
	Expr    Expr   `json:"expr"`
	Packets uint64 `json:"packets,omitempty"` // of a counter
	Bytes   uint64 `json:"bytes,omitempty"`
	Counted bool   `json:"counted,omitempty"`
}

// Jump is a verdict of a rule.
type Jump struct {
	Code  JumpCode `json:"code"`
	Chain string   `json:"chain,omitempty"`
}

// JumpCode says what a verdict does.
type JumpCode string

// The verdicts of a rule.
const (
	JumpAccept   JumpCode = "accept"
	JumpDrop     JumpCode = "drop"
	JumpReject   JumpCode = "reject"
	JumpQueue    JumpCode = "queue"
	JumpContinue JumpCode = "continue"
	JumpReturn   JumpCode = "return"
	JumpJump     JumpCode = "jump"
	JumpGoto     JumpCode = "goto"
	// JumpStolen hands the packet to something that is not in the model: another device, a socket.
	JumpStolen JumpCode = "stolen"
	// JumpUnknown ends the evaluation: what becomes of the packet is not known.
	JumpUnknown JumpCode = "unknown"
)

// Packet is what rules may ask about a packet.
type Packet struct {
	Family             Family // FamilyIPv4, FamilyIPv6 or FamilyARP
	EtherType          uint16
	EthSrc, EthDst     ether.MAC
	Src, Dst           netip.Addr
	Proto              uint8
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8
	ICMPID             uint16
	TCPFlags           uint8
	TTL, TOS           uint8
	Length             int // bytes of the IP packet
	In, Out            string
	InIndex, OutIndex  int
	PhysIn, PhysOut    string
	Mark               uint32
	// AnySrcPort is set once a translation gave the packet a source port (of ICMP an identifier) that the
	// tables do not determine: --random-fully, a range, or a port that is taken. SrcPort (ICMPID) is then
	// still the one before.
	AnySrcPort bool
	ARPOp      uint16 // of ARP: 1 request, 2 reply, 0 not known
	// Inner is, of an ICMP error, the packet that it is about; the zero value is not known.
	Inner Tuple
}

// Env answers what rules ask of the rest of the namespace.
type Env interface {
	// AddrType is the type of route that table local has for an address ("local", "broadcast", …), else
	// "unicast"; dev "" is any device.
	AddrType(addr netip.Addr, dev string) (typ string, ok bool)
	// MasqueradeAddr is the source address that packets to dst get on a device.
	MasqueradeAddr(out string, dst netip.Addr) (netip.Addr, bool)
	// PrimaryAddr is the first address of a device.
	PrimaryAddr(dev string, v6 bool) (netip.Addr, bool)
	// ReverseDevice is the device by which an address would be answered; "" when there is no route.
	ReverseDevice(addr netip.Addr, mark uint32) string
}

// DeviceEnv is what an Env may say of devices besides: their type (ARPHRD_*) and index. Without it rules that
// ask for these are unknown.
type DeviceEnv interface {
	DeviceType(name string) (arphrd uint16, ok bool)
	DeviceIndex(name string) (index int, ok bool)
}

// Verdict is what becomes of a packet at one hook.
type Verdict uint8

// The verdicts.
const (
	Accept Verdict = iota + 1
	Drop
	Reject
	Stolen  // handed to user space
	Unknown // depends on an expression that is not known
)

// String gives the verdict's word.
func (v Verdict) String() string {
	switch v {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Reject:
		return "reject"
	case Stolen:
		return "queue"
	case Unknown:
		return "unknown"
	default:
		return "?"
	}
}

// What a Ref stands for.
const (
	WhatPolicy  = "policy"
	WhatAccept  = "accept"
	WhatDrop    = "drop"
	WhatReject  = "reject"
	WhatQueue   = "queue"
	WhatNAT     = "nat"
	WhatMark    = "mark"
	WhatUnknown = "unknown"
	WhatConn    = "conntrack"
	WhatIPVS    = "ipvs" // a virtual server, which stands in no table of rules
)

// Ref points at the rule, policy or connection that decided.
type Ref struct {
	Backend string
	Family  Family
	Table   string
	Chain   string
	Hook    Hook
	Rule    int    // number in the chain from 1; 0: the policy
	Handle  uint64 // nft
	What    string
	Text    string
	Command string // shows a person the chain
	Packets uint64 // its counter in the snapshot
	Bytes   uint64
}

// Rejection is the answer that a rejected packet's sender gets.
type Rejection struct {
	// Reset is a TCP reset; else it is an ICMP (ICMPv6) error of Type and Code.
	Reset bool  `json:"reset,omitempty"`
	Type  uint8 `json:"type,omitempty"`
	Code  uint8 `json:"code,omitempty"`
}

// IsNAT reports whether the rule, connection or virtual server translates addresses.
func (r Ref) IsNAT() bool { return r.What == WhatNAT || r.What == WhatConn || r.What == WhatIPVS }

// String gives the rule in one line, with where it stands.
func (r Ref) String() string {
	if r.What == WhatConn || r.What == WhatIPVS {
		return r.Text
	}
	where := fmt.Sprintf("%s %s table %s chain %s", r.Backend, r.Family, r.Table, r.Chain)
	if r.Rule == 0 {
		return where + " policy " + strings.ToUpper(r.Text)
	}
	if r.Backend == BackendNFT {
		return fmt.Sprintf("%s handle %d: %s", where, r.Handle, r.Text)
	}
	return fmt.Sprintf("%s rule %d: %s", where, r.Rule, r.Text)
}

// Outcome is one way in which a hook may end.
type Outcome struct {
	Verdict Verdict
	Packet  Packet // with addresses and mark rewritten
	State   State
	Conn    Conn
	Trail   []Ref  // what decided, the last one finally
	Chance  string // under which condition, where there are several outcomes
	// Ways are what an Unknown outcome may come to, where the rules give no more than these.
	Ways []Outcome
	// Answer is what a Reject sends back; nil: nothing, or not known.
	Answer *Rejection
}
