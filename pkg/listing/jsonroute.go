package listing

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

type jsonHop struct {
	Gateway string
	Via     struct{ Host string }
	Dev     string
	Weight  int
	Flags   []string
	Encap   string
}

func (j *jsonRows) hop(h jsonHop) tables.NextHop {
	out := tables.NextHop{Gateway: parseIP(h.Gateway), Index: j.dev(h.Dev), Weight: max(h.Weight, 1), Encap: h.Encap}
	if g := parseIP(h.Via.Host); g.IsValid() {
		out.Gateway = g
	}
	for _, f := range h.Flags {
		switch f {
		case "onlink":
			out.Onlink = true
		case "dead":
			out.Dead = true
		case "linkdown":
			out.LinkDn = true
		}
	}
	return out
}

func (j *jsonRows) routeRow(l line, e json.RawMessage) error {
	var d struct {
		jsonHop
		Type, Dst, From, PrefSrc, Pref string
		Table, Protocol, Scope, TOS    value
		Metric, NHID, Expires          uint32
		NextHops                       []jsonHop
		Metrics                        []map[string]value
	}
	if err := json.Unmarshal(e, &d); err != nil {
		return fmt.Errorf("is no row of ip route: %w", err)
	}
	p := newIPRoute(j.block)
	r := tables.Route{
		Type: tables.RouteUnicast, Table: p.table, Protocol: 3, Metric: d.Metric, NexthopID: d.NHID, Expires: d.Expires,
		PrefSrc: parseIP(d.PrefSrc), TOS: number[uint8](string(d.TOS)), Pref: map[string]uint8{"high": 1, "low": 3}[d.Pref],
	}
	if t, ok := routeTypes[d.Type]; ok {
		r.Type = t
	}
	if d.Table != "" {
		r.Table = j.tableID(string(d.Table))
	}
	if d.Protocol != "" {
		r.Protocol = protocol(string(d.Protocol))
	}
	if d.Scope != "" {
		r.Scope = scope(string(d.Scope))
	}
	if s, ok := parsePrefix(d.From); ok {
		r.Src = s.Masked()
	}
	six := j.opts.family == afInet6 || d.Pref != "" || strings.Contains(d.Gateway, ":")
	r.Dst = anyPrefix(six)
	if pre, ok := parsePrefix(d.Dst); ok {
		r.Dst = pre.Masked()
	} else if d.Dst != "default" {
		return fmt.Errorf("%s is no destination", quote(d.Dst))
	}
	for _, m := range d.Metrics {
		if v, ok := m["mtu"]; ok {
			r.MTU = number[uint32](string(v))
		}
	}
	if d.Dev == "" {
		d.Dev = j.opts.dev
	}
	if h := j.hop(d.jsonHop); !leadsNowhere(r.Type) && (h.Index != 0 || h.Gateway.IsValid()) {
		r.NextHops = []tables.NextHop{h}
		hopToFlags(&r, h)
	}
	for _, h := range d.NextHops {
		r.NextHops = append(r.NextHops, j.hop(h))
	}
	for _, f := range d.Flags {
		r.Flags |= map[string]uint32{"offload": 8, "trap": 64}[f]
	}
	j.routes = append(j.routes, fact[tables.Route]{j.at(l), r})
	return nil
}

func (j *jsonRows) nexthopRow(l line, e json.RawMessage) error {
	var d struct {
		jsonHop
		ID    uint32
		Group []struct {
			ID     uint32
			Weight int
		}
		Blackhole present
	}
	if err := json.Unmarshal(e, &d); err != nil {
		return fmt.Errorf("is no row of ip nexthop: %w", err)
	}
	n := nexthopFact{Nexthop: tables.Nexthop{ID: d.ID, Blackhole: bool(d.Blackhole), Hop: j.hop(d.jsonHop)}}
	for _, g := range d.Group {
		n.Group, n.weights = append(n.Group, g.ID), append(n.weights, max(g.Weight, 1))
	}
	if n.Group != nil || n.Blackhole {
		n.Hop.Weight = 0
	}
	j.nexthop = append(j.nexthop, fact[nexthopFact]{j.at(l), n})
	return nil
}

func (j *jsonRows) ruleRow(l line, e json.RawMessage) error {
	var d struct {
		Priority                                           uint32
		Not, Nop, L3MDev                                   present
		Src, Dst, IIF, OIF, Action                         string
		SrcLen, DstLen                                     *int
		Table, Protocol, FWMark, FWMask, TOS, IPProto, SIG value
		SuppressIfGroup                                    value   `json:"suppress_ifgroup"`
		Suppress                                           *int    `json:"suppress_prefixlen"`
		Goto                                               *uint32 `json:"goto"`
		SPort, DPort                                       uint16
		SPortStart                                         uint16  `json:"sport_start"`
		SPortEnd                                           uint16  `json:"sport_end"`
		DPortStart                                         uint16  `json:"dport_start"`
		DPortEnd                                           uint16  `json:"dport_end"`
		UIDStart                                           *uint32 `json:"uid_start"`
		UIDEnd                                             uint32  `json:"uid_end"`
		TunID                                              uint64  `json:"tun_id"`
	}
	if err := json.Unmarshal(e, &d); err != nil {
		return fmt.Errorf("is no row of ip rule: %w", err)
	}
	r := tables.Rule{
		Family: max(j.opts.family, afInet), Priority: d.Priority, Invert: bool(d.Not), IIF: d.IIF, OIF: d.OIF,
		TOS: number[uint8](string(d.TOS)), Mark: number[uint32](string(d.FWMark)), IPProto: ipProto(string(d.IPProto)), TunID: d.TunID,
		L3MDev: bool(d.L3MDev), Action: tables.RuleTable, Protocol: 2, SuppressPrefixLen: -1, SuppressIfGroup: -1,
	}
	r.Src, r.Dst = jsonSelector(d.Src, d.SrcLen), jsonSelector(d.Dst, d.DstLen)
	if r.Src.IsValid() && r.Src.Addr().Is6() || r.Dst.IsValid() && r.Dst.Addr().Is6() {
		r.Family = afInet6
	}
	if d.FWMark != "" {
		r.Mask = ^uint32(0)
	}
	if d.FWMask != "" {
		r.Mask = number[uint32](string(d.FWMask))
	}
	if d.Table != "" {
		r.Table = j.tableID(string(d.Table))
	}
	if d.Protocol != "" {
		r.Protocol = protocol(string(d.Protocol))
	}
	if d.Suppress != nil {
		r.SuppressPrefixLen = *d.Suppress
	}
	if d.SuppressIfGroup != "" {
		r.SuppressIfGroup = number[int](string(d.SuppressIfGroup))
	}
	r.SPort, r.DPort = jsonPorts(d.SPort, d.SPortStart, d.SPortEnd), jsonPorts(d.DPort, d.DPortStart, d.DPortEnd)
	if d.UIDStart != nil {
		r.UIDRange = &tables.UIDRange{Lo: *d.UIDStart, Hi: d.UIDEnd}
	}
	switch {
	case d.Goto != nil:
		r.Action, r.Goto = tables.RuleGoto, *d.Goto
	case bool(d.Nop):
		r.Action = tables.RuleNop
	case d.Action != "" && d.Action != "to_tbl":
		r.Action = tables.RuleAction(d.Action)
	}
	j.rules = append(j.rules, fact[tables.Rule]{j.at(l), r})
	return nil
}

func jsonSelector(s string, bits *int) netip.Prefix {
	a := parseIP(s)
	switch {
	case !a.IsValid():
		return netip.Prefix{}
	case bits == nil:
		return netip.PrefixFrom(a, a.BitLen())
	default:
		return netip.PrefixFrom(a, *bits).Masked()
	}
}

func jsonPorts(one, lo, hi uint16) *tables.PortRange {
	switch {
	case one != 0:
		return &tables.PortRange{Lo: one, Hi: one}
	case hi != 0:
		return &tables.PortRange{Lo: lo, Hi: hi}
	default:
		return nil
	}
}

func (j *jsonRows) neighRow(l line, e json.RawMessage) error {
	var d struct {
		Dst, Dev, LLAddr string
		State            []string
		Router, Proxy    present
		ExtLearn         present `json:"extern_learn"`
	}
	if err := json.Unmarshal(e, &d); err != nil {
		return fmt.Errorf("is no row of ip neigh: %w", err)
	}
	n := tables.Neigh{IP: parseIP(d.Dst), MAC: parseMAC(d.LLAddr), Router: bool(d.Router), Proxy: bool(d.Proxy) || j.opts.proxy, ExtLrn: bool(d.ExtLearn)}
	if !n.IP.IsValid() {
		return fmt.Errorf("%s is no address", quote(d.Dst))
	}
	if d.Dev == "" {
		d.Dev = j.opts.dev
	}
	n.Index = j.dev(d.Dev)
	for _, s := range d.State {
		n.State |= neighStates[s]
	}
	j.neighs = append(j.neighs, fact[tables.Neigh]{j.at(l), n})
	return nil
}

func (j *jsonRows) fdbRow(l line, e json.RawMessage) error {
	var d struct {
		MAC, Ifname, Dst, Master, State string
		ViaIf                           string `json:"viaIf"`
		Vlan, Port                      uint16
		VNI                             tables.VNI
		SrcVNI                          tables.VNI `json:"src_vni"`
		NHID, Updated                   uint32
		Flags                           []string
	}
	if err := json.Unmarshal(e, &d); err != nil {
		return fmt.Errorf("is no row of bridge fdb: %w", err)
	}
	f := tables.FDB{
		MAC: parseMAC(d.MAC), Index: j.dev(d.Ifname), Dst: parseIP(d.Dst), Master: j.dev(d.Master), VLAN: d.Vlan, Port: d.Port,
		VNI: d.VNI, SrcVNI: d.SrcVNI, NHID: d.NHID, Updated: d.Updated, Via: j.dev(d.ViaIf), State: tables.NUDReachable,
	}
	for _, s := range d.Flags {
		switch s {
		case "sticky":
			f.Sticky = true
		case "extern_learn":
			f.ExtLrn = true
		}
	}
	switch d.State {
	case "permanent":
		f.State = tables.NUDPermanent
	case "static":
		f.State = tables.NUDNoARP
	case "stale":
		f.State = tables.NUDStale
	}
	finishFDB(&f)
	j.facts.fdb = append(j.facts.fdb, fact[tables.FDB]{j.at(l), f})
	return nil
}

func (j *jsonRows) vlanRow(l line, e json.RawMessage) error {
	var d struct {
		Ifname string
		Vlans  []struct {
			Vlan, VlanEnd uint16
			Flags         []string
		}
	}
	if err := json.Unmarshal(e, &d); err != nil {
		return fmt.Errorf("is no row of bridge vlan: %w", err)
	}
	j.link(l, d.Ifname, 0, func(n *tables.Link) {
		for _, v := range d.Vlans {
			flags := strings.Join(v.Flags, " ")
			for id := v.Vlan; n.Port != nil && id <= max(v.Vlan, v.VlanEnd) && id < 4095; id++ {
				n.Port.VLANs = append(n.Port.VLANs, tables.VLAN{ID: id, PVID: strings.Contains(flags, "PVID"), Untagged: strings.Contains(flags, "Untagged")})
			}
		}
	})
	return nil
}

// tcRow reads tc -j qdisc and tc -j filter.
func (j *jsonRows) tcRow(l line, e json.RawMessage, filter bool) error {
	var d struct {
		Kind, Dev, Parent, Protocol string
		Pref                        uint32
		Root                        bool
		Options                     struct {
			Handle  value
			BPFName string `json:"bpf_name"`
			Prog    struct {
				ID   uint32
				Name string
				Tag  string
			}
		}
	}
	if err := json.Unmarshal(e, &d); err != nil {
		return fmt.Errorf("is no row of tc: %w", err)
	}
	if d.Dev == "" {
		d.Dev = j.opts.dev
	}
	if !filter {
		j.kind(kindQdisc)
		if d.Root && d.Dev != "" {
			j.link(l, d.Dev, 0, func(n *tables.Link) { n.Qdisc = d.Kind })
		}
		return nil
	}
	j.kind(kindFilter)
	o := d.Options
	if o.Handle == "" || d.Dev == "" {
		return nil // the heading of a priority
	}
	h := tables.Hook{Where: "tc-ingress", Kind: d.Kind, Name: o.BPFName, ID: o.Prog.ID, Tag: o.Prog.Tag}
	if j.opts.egress || d.Parent == "ffff:fff3" {
		h.Where = "tc-egress"
	}
	h.Entry = strings.TrimSpace(fmt.Sprintf("filter protocol %s pref %d %s handle %s %s", d.Protocol, d.Pref, d.Kind, o.Handle, o.BPFName))
	j.link(l, d.Dev, 0, func(n *tables.Link) { n.Hooks = append(n.Hooks, h) })
	return nil
}
