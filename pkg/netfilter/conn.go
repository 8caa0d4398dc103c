package netfilter

import (
	"fmt"
	"net/netip"
)

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

func isICMP(p uint8) bool { return p == 1 || p == 58 }

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
	// known is set of entries that the kernel had, as opposed to those of the walk.
	known bool
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
}

// State is the rules of a namespace and the connections that a walk made there. It is immutable.
type State struct {
	rules *Ruleset
	conns []Entry
}

// NewState begins with what the kernel knew.
func NewState(r *Ruleset) State { return State{rules: r} }

// with adds a connection, or replaces the one with its original tuple.
func (s State) with(e Entry) State {
	conns := make([]Entry, 0, len(s.conns)+1)
	for _, o := range s.conns {
		if o.Orig != e.Orig {
			conns = append(conns, o)
		}
	}
	s.conns = append(conns, e)
	return s
}

func (p *Packet) tuple() Tuple {
	t := Tuple{Src: p.Src, Dst: p.Dst, Proto: p.Proto, SrcPort: p.SrcPort, DstPort: p.DstPort}
	if isICMP(p.Proto) {
		t.SrcPort, t.DstPort = p.ICMPID, 0
	}
	return t
}

// lookup is nf_conntrack_in: the packet's connection, or a new one.
func (s State) lookup(p *Packet) Conn {
	t := p.tuple()
	for k, list := range [2][]Entry{s.conns, s.rules.Conns} {
		for _, e := range list {
			e.known = k == 1
			switch {
			case e.Orig == t:
				c := Conn{State: ConnNew, Entry: e, srcDone: true, dstDone: true}
				if e.Replied {
					c.State = ConnEstablished
				}
				return c
			case e.Reply == t:
				e.Replied = true
				return Conn{State: ConnEstablished, Reply: true, Entry: e, srcDone: true, dstDone: true}
			}
		}
	}
	if isICMP(p.Proto) && !echoRequest(p) {
		return Conn{State: ConnInvalid}
	}
	if p.Proto == 6 && p.TCPFlags&0x04 != 0 {
		return Conn{State: ConnInvalid} // a RST of no connection
	}
	return Conn{State: ConnNew, Entry: Entry{Orig: t, Reply: t.reversed()}}
}

func echoRequest(p *Packet) bool {
	return p.Proto == 1 && p.ICMPType == 8 || p.Proto == 58 && p.ICMPType == 128
}

// tracks reports whether conntrack has hooks in this namespace: something has to ask for it.
func (r *Ruleset) tracks(fam Family) bool {
	if len(r.Conns) > 0 {
		return true
	}
	for i := range r.Tables {
		t := &r.Tables[i]
		if t.Family != fam && t.Family != FamilyInet || t.Dormant {
			continue
		}
		for k := range t.Chains {
			if t.Chains[k].Base && t.Chains[k].Type == "nat" || t.Chains[k].asksCT() {
				return true
			}
		}
	}
	return false
}

func (c *Chain) asksCT() bool {
	for i := range c.Rules {
		for _, e := range c.Rules[i].Exprs {
			switch e.Op {
			case OpCT, OpNAT, OpState, OpConnmark, OpNotrack:
				return true
			default:
			}
		}
	}
	return false
}

// translate applies the connection's tuples at a hook: destinations change where packets come in,
// sources where they go out (nf_nat_packet).
func (c *Conn) translate(p *Packet, dst bool) bool {
	if c.State != ConnNew && c.State != ConnEstablished {
		return false
	}
	want := c.Entry.Reply.reversed()
	if c.Reply {
		want = c.Entry.Orig.reversed()
	}
	before := *p
	if dst {
		p.Dst = want.Dst
		if !isICMP(p.Proto) {
			p.DstPort = want.DstPort
		}
	} else {
		p.Src = want.Src
		if !isICMP(p.Proto) {
			p.SrcPort = want.SrcPort
		}
	}
	return *p != before
}
