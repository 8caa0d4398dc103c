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
	OpPass      Op = "pass"     // counter, log, comment: no effect on the verdict
	OpAssume    Op = "assume"   // limit: taken as within
	OpTuple     Op = "tuple"    // iptables: addresses, devices, protocol
	OpPorts     Op = "ports"    // iptables: tcp, udp, multiport
	OpTCPFlags  Op = "tcpflags" // iptables: Data[0] mask, Data[1] value
	OpICMP      Op = "icmp"     // iptables: type and codes
	OpState     Op = "state"    // iptables: conntrack state, status, direction
	OpMark      Op = "mark"     // iptables: mark match
	OpConnmark  Op = "connmark" // iptables: connection mark match
	OpSetMark   Op = "setmark"  // iptables: MARK target, CONNMARK target with Key "ct"
	OpAddrtype  Op = "addrtype"
	OpStatistic Op = "statistic"
	OpPhysdev   Op = "physdev"
	OpMAC       Op = "mac"
	OpIPRange   Op = "iprange"
	OpLength    Op = "length"
	OpTTL       Op = "ttl"
	OpRPFilter  Op = "rpfilter"
	OpUnknown   Op = "unknown"
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
}

// NAT is a translation, by registers (nft) or by values (iptables).
type NAT struct {
	Kind     string     // "snat", "dnat", "masquerade", "redirect"
	AddrMin  netip.Addr // invalid: the address stays
	PortMin  uint16     // 0: the port stays
	AddrReg  uint32
	ProtoReg uint32
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
	if m.Src.IsValid() && m.Src.Bits() > 0 {
		add(m.NotSrc, "-s", m.Src.String())
	}
	if m.Dst.IsValid() && m.Dst.Bits() > 0 {
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
