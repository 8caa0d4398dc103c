package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
)

// ReadOptions bounds which tracked connections are read.
type ReadOptions struct {
	// Addrs keeps the connections that touch one of these addresses, and those between two of Nodes; both nil keep
	// all, up to maxConns, both empty none: the kernel walks its whole table to answer, however little is in it.
	Addrs []netip.Addr
	Nodes []netip.Addr
}

// Tuple is one direction of a connection. Of ICMP SrcPort is the identifier and DstPort 0.
type Tuple struct {
	Src     netip.Addr `json:"src"`
	Dst     netip.Addr `json:"dst"`
	Proto   uint8      `json:"proto"`
	SrcPort uint16     `json:"sport"`
	DstPort uint16     `json:"dport"`
}

func (t Tuple) reversed() Tuple {
	r := Tuple{Src: t.Dst, Dst: t.Src, Proto: t.Proto, SrcPort: t.DstPort, DstPort: t.SrcPort}
	if isICMP(t.Proto) {
		r.SrcPort, r.DstPort = t.SrcPort, 0
	}
	return r
}

// Protocols of the IP layer.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

func isICMP(p uint8) bool { return p == protoICMP || p == protoICMPv6 }

// String gives the form of conntrack(8).
func (t Tuple) String() string {
	return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d", t.Src, t.Dst, t.SrcPort, t.DstPort)
}

// Entry is one tracked connection.
type Entry struct {
	Orig    Tuple  `json:"orig"`
	Reply   Tuple  `json:"reply"`
	Mark    uint32 `json:"mark,omitempty"`
	Replied bool   `json:"replied,omitempty"` // SEEN_REPLY
	Assured bool   `json:"assured,omitempty"`
	Timeout uint32 `json:"timeout,omitempty"` // seconds
	Zone    uint16 `json:"zone,omitempty"`
	// Closed is set of a TCP connection that a SYN opens anew (TIME_WAIT, CLOSE).
	Closed bool `json:"closed,omitempty"`
	// Expected is set of a connection that a helper foretold: its first packet is RELATED.
	Expected bool `json:"expected,omitempty"`
	// virtual is set of a connection whose destination IPVS translates, behind INPUT, and NAT does not.
	virtual bool
	// known is set of entries that the kernel had, as opposed to those of the walk.
	known bool
	// anyZone is set of a connection that is only assumed: it is of every zone.
	anyZone bool
}

// String gives the entry as conntrack -L would, without its timers.
func (e Entry) String() string {
	return fmt.Sprintf("conntrack %s %s %s", protoName(e.Orig.Proto), e.Orig, e.Reply)
}

// ConnState is a packet's place in its connection.
type ConnState uint8

// The states; the zero value is a packet that conntrack has not looked at.
const (
	ConnNone ConnState = iota
	ConnNew
	ConnEstablished
	ConnRelated
	ConnInvalid
	ConnUntracked
)

// Conn is a packet's connection while the packet is in one namespace.
type Conn struct {
	State ConnState
	Reply bool // the packet goes against the original direction
	Entry Entry
	// srcDone and dstDone: the connection's first packet has been through the nat chains of that sort
	srcDone, dstDone bool
	// template: a rule chose the zone before conntrack looked; the first that does so has its way
	template bool
	zone     uint16
}

// tracked reports whether the packet has a connection (nf_ct_get is not NULL).
func (c *Conn) tracked() bool {
	return c.State == ConnNew || c.State == ConnEstablished || c.State == ConnRelated
}

// State is the rules of a namespace and the connections that a walk made there. It is immutable.
type State struct {
	rules *Ruleset
	conns []Entry
	added []addition
}

// addition is an element that a rule has put into a set, or into a list of -m recent, on the walk.
type addition struct {
	table *Table // nil: a list of -m recent, whose addresses are the keys
	set   string
	el    Element
	gone  bool // taken out
}

// put notes an addition.
func (s State) put(a addition) State {
	s.added = append(slices.Clip(s.added), a)
	return s
}

// NewState begins with what the kernel knew.
func NewState(r *Ruleset) State { return State{rules: r} }

// with adds a connection, or replaces the one with its original tuple.
func (s State) with(e Entry) State {
	conns := make([]Entry, 0, len(s.conns)+1)
	for _, o := range s.conns {
		if o.Orig != e.Orig || o.Zone != e.Zone {
			conns = append(conns, o)
		}
	}
	s.conns = append(conns, e)
	return s
}

// Redirect is ip_vs_update_conntrack of IPVS, for a packet that came through INPUT: answers to its connection come
// from another address and port. It is confirmed where it leaves, and its source may be translated there.
func (s State) Redirect(c Conn, to netip.AddrPort) (State, Conn) {
	if c.State == ConnNew {
		c.Entry.Reply.Src, c.Entry.Reply.SrcPort = to.Addr(), to.Port()
		c.Entry.virtual, c.srcDone, c.dstDone = true, false, true
		s = s.with(c.Entry)
	}
	return s, c
}

// Opened adds a connection as a first packet of the tuple would have opened it, in whatever zone. The second port of ICMP
// echo is not looked at.
func (s State) Opened(t Tuple) State {
	if isICMP(t.Proto) {
		t.DstPort = 0
	}
	return s.with(Entry{Orig: t, Reply: t.reversed(), anyZone: true})
}

func (p *Packet) tuple() Tuple {
	t := Tuple{Src: p.Src, Dst: p.Dst, Proto: p.Proto, SrcPort: p.SrcPort, DstPort: p.DstPort}
	if isICMP(p.Proto) {
		t.SrcPort, t.DstPort = p.ICMPID, 0
	}
	return t
}

// lookup is nf_conntrack_in: the packet's connection, or a new one.
func (s State) lookup(p *Packet, zone uint16) Conn {
	if c, ok := special(p); ok {
		return c
	}
	if isICMPError(p) {
		return s.related(p, zone)
	}
	t := p.tuple()
	if e, reply, ok := s.find(t, zone, func(reply bool) bool { return !isICMP(p.Proto) || reply == !icmpRequest(p) }); ok {
		c := Conn{State: ConnNew, Entry: e, srcDone: true, dstDone: true, Reply: reply, zone: zone}
		switch {
		case reply:
			c.Entry.Replied, c.State = true, ConnEstablished
		case e.Replied:
			c.State = ConnEstablished
		case e.Expected:
			c.State = ConnRelated
		}
		if reply || !e.Closed || !opens(p) {
			return c
		}
	}
	if isICMP(p.Proto) && !icmpRequest(p) || p.Proto == protoTCP && !mayOpen(p.TCPFlags) {
		return Conn{State: ConnInvalid, zone: zone}
	}
	return Conn{State: ConnNew, Entry: Entry{Orig: t, Reply: t.reversed(), Zone: zone}, zone: zone}
}

// find gives the connection that has a tuple in a direction that the caller wants.
func (s State) find(t Tuple, zone uint16, want func(reply bool) bool) (e Entry, reply, ok bool) {
	for k, list := range [2][]Entry{s.conns, s.rules.Conns} {
		for i := range list {
			o := &list[i]
			orig := o.Orig == t && want(false)
			if o.Zone != zone && !o.anyZone || !orig && !(o.Reply == t && want(true)) {
				continue
			}
			e := *o
			e.known, e.Zone = k == 1, zone
			return e, !orig, true
		}
	}
	return Entry{}, false, false
}

// Types of ICMP and ICMPv6 that matter to conntrack (nf_conntrack_proto_icmp.c and _icmpv6.c).
const (
	icmp6ListenerQuery   = 130
	icmp6ListenerReport2 = 143
	icmp6RedirectType    = 137
)

// special are the packets that conntrack leaves alone: neighbour discovery and multicast listeners.
func special(p *Packet) (Conn, bool) {
	t := p.ICMPType
	if p.Proto == protoICMPv6 && (t >= icmp6ListenerQuery && t < icmp6RedirectType || t == icmp6ListenerReport2) {
		return Conn{State: ConnUntracked}, true
	}
	return Conn{}, false
}

func icmpRequest(p *Packet) bool {
	if p.Proto == protoICMP {
		return p.ICMPType == 8 || p.ICMPType == 13 || p.ICMPType == 15 || p.ICMPType == 17
	}
	return p.Proto == protoICMPv6 && (p.ICMPType == 128 || p.ICMPType == 139)
}

// isICMPError: those quote the packet that they are about.
func isICMPError(p *Packet) bool {
	switch p.Proto {
	case protoICMP:
		t := p.ICMPType
		return t == 3 || t == 4 || t == 5 || t == 11 || t == 12
	case protoICMPv6:
		return p.ICMPType < 128
	}
	return false
}

// related is nf_conntrack_inet_error: an error belongs to the connection of the packet that it quotes.
func (s State) related(p *Packet, zone uint16) Conn {
	if !p.Inner.Src.IsValid() {
		return Conn{State: ConnInvalid, zone: zone}
	}
	e, reply, ok := s.find(p.Inner.reversed(), zone, func(bool) bool { return true })
	if !ok {
		return Conn{State: ConnInvalid, zone: zone}
	}
	return Conn{State: ConnRelated, Entry: e, Reply: reply, srcDone: true, dstDone: true, zone: zone}
}

// Flags of a TCP segment.
const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
	tcpURG
)

// mayOpen reports whether a segment without a connection makes one (tcp_new, with nf_conntrack_tcp_loose
// as it is by default). Flags 0 are of a packet whose flags are not known.
func mayOpen(flags uint8) bool {
	switch flags & (tcpFIN | tcpSYN | tcpRST | tcpACK | tcpURG) {
	case tcpSYN, tcpSYN | tcpURG, tcpACK, tcpACK | tcpURG:
		return true
	}
	return flags == 0
}

func opens(p *Packet) bool { return p.TCPFlags&(tcpSYN|tcpACK|tcpRST|tcpFIN) == tcpSYN }

// tracks reports whether conntrack has hooks in this namespace: a rule has to ask for it
// (nf_ct_netns_get). A nat chain without a translation does not.
func (r *Ruleset) tracks(fam Family) bool {
	for i := range r.Tables {
		t := &r.Tables[i]
		if t.Family != fam && t.Family != FamilyInet {
			continue
		}
		for k := range t.Chains {
			if t.Chains[k].asksCT(fam) {
				return true
			}
		}
	}
	// rules that could not be read may be the ones that ask
	return len(r.Incomplete) > 0 && len(r.Conns) > 0
}

func (c *Chain) asksCT(fam Family) bool {
	for i := range c.Rules {
		for _, e := range c.Rules[i].Exprs {
			switch e.Op {
			case OpCT, OpState, OpConnmark, OpZone:
				return true
			case OpNAT: // one to addresses of a family, in a table of both, asks for that family alone
				if e.NAT == nil {
					continue
				}
				if f := e.NAT.Family; f == 0 || f == FamilyInet || f == fam {
					return true
				}
			case OpSetMark:
				if e.Key != "" {
					return true
				}
			case OpLimit, OpUnknown, OpPass:
				if e.Key == needsCT {
					return true
				}
			default:
			}
		}
	}
	return false
}

// needsCT is the Key of expressions without a meaning here that turn conntrack on.
const needsCT = "conntrack"

// confirm keeps a new connection once its packet has left or arrived.
func (r *run) confirm() {
	if r.hook != HookInput && r.hook != HookPostrouting {
		return
	}
	switch {
	case r.ct.State == ConnNew, r.ct.State == ConnEstablished && r.ct.Reply:
		r.ct.Entry.known = false
		r.state = r.state.with(r.ct.Entry)
	}
}
