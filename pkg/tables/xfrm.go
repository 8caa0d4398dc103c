package tables

import (
	"fmt"
	"net/netip"
	"strings"
)

// IPsecPolicy is a policy of IPsec (ip-xfrm(8)): what becomes of packets that its selector matches.
type IPsecPolicy struct {
	Dir      string       `json:"dir"`             // "in", "out" or "fwd"
	Block    bool         `json:"block,omitempty"` // else allow
	Src      netip.Prefix `json:"src"`
	Dst      netip.Prefix `json:"dst"`
	Proto    uint8        `json:"proto,omitempty"` // 0: any
	SrcPort  PortMask     `json:"sport,omitzero"`
	DstPort  PortMask     `json:"dport,omitzero"`
	Index    Ifindex      `json:"dev,omitempty"`
	Mark     PolicyMark   `json:"mark,omitzero"`
	IfID     uint32       `json:"ifid,omitempty"` // of an xfrm interface
	Priority uint32       `json:"priority,omitempty"`
	// Needs are the transformations that a packet must have had (in, fwd) or gets (out).
	Needs int `json:"needs,omitempty"`
}

// PortMask matches a port in host byte order; a mask of 0 matches any.
type PortMask struct {
	Port uint16 `json:"port"`
	Mask uint16 `json:"mask"`
}

// PolicyMark matches a packet's mark; a mask of 0 matches any.
type PolicyMark struct {
	Value uint32 `json:"value"`
	Mask  uint32 `json:"mask"`
}

// IPsecFlow is what a selector asks of a packet.
type IPsecFlow struct {
	Src, Dst         netip.Addr
	Proto            uint8
	SrcPort, DstPort uint16 // host byte order
	Index            Ifindex
	Mark             uint32
}

// Matches is xfrm_selector_match. A policy of an xfrm interface is for that interface's packets alone.
func (p *IPsecPolicy) Matches(f IPsecFlow) bool {
	return p.IfID == 0 && p.Src.Contains(f.Src) && p.Dst.Contains(f.Dst) && (p.Proto == 0 || p.Proto == f.Proto) &&
		f.SrcPort&p.SrcPort.Mask == p.SrcPort.Port&p.SrcPort.Mask && f.DstPort&p.DstPort.Mask == p.DstPort.Port&p.DstPort.Mask &&
		(p.Index == 0 || p.Index == f.Index) && f.Mark&p.Mark.Mask == p.Mark.Value
}

// Selector names the policy as ip-xfrm(8) takes it.
func (p *IPsecPolicy) Selector() string {
	var b strings.Builder
	fmt.Fprintf(&b, "src %s dst %s", p.Src, p.Dst)
	if p.Proto != 0 {
		fmt.Fprintf(&b, " proto %d", p.Proto)
	}
	if p.SrcPort.Mask != 0 {
		fmt.Fprintf(&b, " sport %d", p.SrcPort.Port)
	}
	if p.DstPort.Mask != 0 {
		fmt.Fprintf(&b, " dport %d", p.DstPort.Port)
	}
	return b.String() + " dir " + p.Dir
}

// String gives the policy in one line.
func (p *IPsecPolicy) String() string {
	s := p.Selector()
	if p.Block {
		s += " action block"
	}
	s += fmt.Sprintf(" priority %d", p.Priority)
	if p.Needs > 0 {
		s += fmt.Sprintf(" (%d tmpl)", p.Needs)
	}
	return s
}
