package netfilter

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Op is the sort of an expression.
type Op string

// Expressions of nftables work on registers, as in the kernel; those of iptables compare directly.
const (
	OpMeta      Op = "meta"      // Key → Dreg, or Sreg → Key
	OpPayload   Op = "payload"   // Base, Offset, Len → Dreg
	OpCmp       Op = "cmp"       // Sreg Cmp Data
	OpRange     Op = "range"     // Sreg within Data..DataEnd
	OpBitwise   Op = "bitwise"   // Sreg & Data ^ DataEnd → Dreg
	OpImmediate Op = "immediate" // Data → Dreg
	OpVerdict   Op = "verdict"   // Jump
	OpLookup    Op = "lookup"    // Sreg in Set (→ Dreg, or a verdict)
	OpCT        Op = "ct"        // Key → Dreg, or Sreg → Key
	OpNAT       Op = "nat"       // NAT
	OpNumgen    Op = "numgen"    // one of Mod values + Offset → Dreg
	OpFib       Op = "fib"       // Key result, Flags → Dreg
	OpReject    Op = "reject"
	OpNotrack   Op = "notrack"
	OpPass      Op = "pass"      // counter, log, comment: no effect on the verdict
	OpLimit     Op = "limit"     // within or over, which tables do not say: one outcome for each; Invert: over
	OpQuota     Op = "quota"     // Quota; Invert: over
	OpByteorder Op = "byteorder" // Sreg in words of Mod bytes, Len bytes → Dreg
	OpShift     Op = "shift"     // Sreg shifted by Mod bits, to the left, or with Invert to the right → Dreg
	OpBool      Op = "bool"      // Sreg Key ("and", "or", "xor") Sreg2 → Dreg
	OpHash      Op = "hash"      // jhash of Len bytes of Sreg with Seed, modulo Mod + Offset → Dreg
	OpWrite     Op = "write"     // Sreg → Base, Offset, Len of the packet
	OpExthdr    Op = "exthdr"    // a header option: Key what, Flags 1 presence only → Dreg
	OpDynset    Op = "dynset"    // element Sreg of Set; Sub are the element's expressions
	OpObjref    Op = "objref"    // Object, or the one that Set has for Sreg
	OpLoad      Op = "load"      // Text → Dreg: a value that tables do not hold
	OpOpaque    Op = "opaque"    // an action that is not known
	OpTuple     Op = "tuple"     // iptables: addresses, devices, protocol
	OpPorts     Op = "ports"     // iptables: tcp, udp, multiport
	OpICMP      Op = "icmp"      // iptables: type and codes
	OpState     Op = "state"     // iptables: conntrack state, status, direction
	OpMark      Op = "mark"      // iptables: mark match
	OpConnmark  Op = "connmark"  // iptables: connection mark match
	OpSetMark   Op = "setmark"   // iptables: MARK target, CONNMARK target with Key "ct"
	OpAddrtype  Op = "addrtype"
	OpStatistic Op = "statistic"
	OpPhysdev   Op = "physdev"
	OpMAC       Op = "mac"
	OpIPRange   Op = "iprange"
	OpLength    Op = "length"
	OpTTL       Op = "ttl"
	OpRPFilter  Op = "rpfilter"
	OpSet       Op = "set"    // iptables: -m set; Mod the index, Flags the directions, Len the dimension
	OpRecent    Op = "recent" // iptables: -m recent; Set the list
	OpOwner     Op = "owner"  // iptables: Mod what must match, Flags its inversion
	OpPkttype   Op = "pkttype"
	OpTOS       Op = "tos"     // iptables: TOS & Flags == Mod
	OpSetTOS    Op = "settos"  // iptables: TOS & ^Flags ^ Mod
	OpSetTTL    Op = "setttl"  // iptables: Flags 0 set, 1 add, 2 subtract Mod
	OpZone      Op = "zone"    // CT --zone: Mod
	OpUnknown   Op = "unknown" // a match that is not known
)

// Expr is one expression. Which fields mean something depends on Op.
type Expr struct {
	Op      Op     `json:"op"`
	Text    string `json:"text"` // as nft(8) or iptables(8) would print it, as far as known
	Key     string `json:"key,omitempty"`
	Sreg    uint32 `json:"sreg,omitempty"`
	Dreg    uint32 `json:"dreg,omitempty"`
	Base    uint32 `json:"base,omitempty"`
	Offset  uint32 `json:"offset,omitempty"`
	Len     uint32 `json:"len,omitempty"`
	Cmp     uint32 `json:"cmp,omitempty"`
	Data    []byte `json:"data,omitempty"`
	DataEnd []byte `json:"dataEnd,omitempty"`
	Set     string `json:"set,omitempty"`
	Invert  bool   `json:"invert,omitempty"`
	Dir     int8   `json:"dir,omitempty"` // ct: 0 any, 1 original, 2 reply
	Flags   uint32 `json:"flags,omitempty"`
	Mod     uint32 `json:"mod,omitempty"`
	Jump    *Jump  `json:"jump,omitempty"`
	NAT     *NAT   `json:"nat,omitempty"`
	Tuple   *Match `json:"tuple,omitempty"`
	Sreg2   uint32 `json:"sreg2,omitempty"`
	Seed    uint32 `json:"seed,omitempty"`
	Object  string `json:"object,omitempty"`
	Sub     []Expr `json:"sub,omitempty"`
	// Quota is the limit in bytes, Used what of it was used up in the snapshot.
	Quota  uint64     `json:"quota,omitempty"`
	Used   uint64     `json:"used,omitempty"`
	Answer *Rejection `json:"answer,omitempty"` // of a reject
	Track  *ConnMatch `json:"track,omitempty"`  // of -m conntrack: what it asks besides state and status
}

// NAT is a translation (struct nf_nat_range2), by registers (nft) or by values (iptables).
type NAT struct {
	Kind    string     // "snat", "dnat", "masquerade", "redirect"
	AddrMin netip.Addr // invalid: the address stays
	AddrMax netip.Addr // invalid: AddrMin
	PortMin uint16     // 0: the port stays
	PortMax uint16     // 0: PortMin
	// PortBase shifts ports: PortMin + (port - PortBase). 0: no shift.
	PortBase    uint16
	Random      bool // random or random-fully
	Persistent  bool
	Netmap      bool // the network of the address is replaced, its host part stays
	AddrReg     uint32
	AddrMaxReg  uint32
	ProtoReg    uint32
	ProtoMaxReg uint32
	Family      Family // of the addresses, in tables of family inet; 0: any
}

// ConnMatch is what -m conntrack asks of a connection besides its state, status and direction (struct
// xt_conntrack_mtinfo3). A nil or zero field is not asked.
type ConnMatch struct {
	Proto    uint8
	NotProto bool
	// Addrs and Ports are of the original source and destination, then of the reply's.
	Addrs    [4]*netip.Prefix
	NotAddrs [4]bool
	Ports    [4]*[2]uint16
	NotPorts [4]bool
	Expires  bool // asks for the remaining time, which passes
}

// Match is the fixed part of an iptables rule, and its port lists.
type Match struct {
	Src, Dst             netip.Prefix
	NotSrc, NotDst       bool
	In, Out              string // with a trailing + for a prefix
	NotIn, NotOut        bool
	Proto                uint8
	NotProto             bool
	Fragment, NotFrag    bool
	SPorts, DPorts       [][2]uint16
	Either               [][2]uint16 // source or destination
	NotSPorts, NotDPorts bool
	// TCPFlags are asked as flags & TCPMask == TCPFlags where TCPMask is not 0.
	TCPMask, TCPFlags uint8
	NotTCPFlags       bool
}

// Text gives the rule in one line.
func (r *Rule) Text() string {
	var parts []string
	for _, e := range r.Exprs {
		if e.Text != "" {
			parts = append(parts, e.Text)
		}
	}
	if r.Comment != "" {
		parts = append(parts, strconv.Quote(r.Comment))
	}
	return strings.Join(parts, " ")
}

func (m *Match) text() string {
	var b strings.Builder
	add := func(not bool, flag, v string) {
		if v == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if not {
			b.WriteString("! ")
		}
		b.WriteString(flag + " " + v)
	}
	if m.Src.IsValid() && (m.Src.Bits() > 0 || m.NotSrc) {
		add(m.NotSrc, "-s", m.Src.String())
	}
	if m.Dst.IsValid() && (m.Dst.Bits() > 0 || m.NotDst) {
		add(m.NotDst, "-d", m.Dst.String())
	}
	add(m.NotIn, "-i", m.In)
	add(m.NotOut, "-o", m.Out)
	if m.Proto != 0 {
		add(m.NotProto, "-p", protoName(m.Proto))
	}
	return b.String()
}

func protoName(p uint8) string {
	switch p {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "ipv6-icmp"
	default:
		return strconv.Itoa(int(p))
	}
}

func portsText(rs [][2]uint16) string {
	var out []string
	for _, r := range rs {
		if r[0] == r[1] {
			out = append(out, strconv.Itoa(int(r[0])))
		} else {
			out = append(out, fmt.Sprintf("%d:%d", r[0], r[1]))
		}
	}
	return strings.Join(out, ",")
}
