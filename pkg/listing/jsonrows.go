package listing

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// value is a JSON scalar as text, however the tool wrote it: 1, "1", true.
type value string

// UnmarshalJSON takes scalars, and leaves anything else empty.
func (v *value) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*v = value(s)
		return nil
	}
	if len(b) > 0 && b[0] != '{' && b[0] != '[' && string(b) != "null" {
		*v = value(b)
	}
	return nil
}

// present is a key whose being there is what it says ("not": null).
type present bool

// UnmarshalJSON is called for null as well.
func (p *present) UnmarshalJSON(b []byte) error {
	*p = string(b) != "false"
	return nil
}

type jsonStats struct {
	Packets, Errors, Dropped uint64
	OverErrors               uint64 `json:"over_errors"`
	Missed                   uint64 `json:"missed_errors"`
	FrameErrors              uint64 `json:"frame_errors"`
	CRCErrors                uint64 `json:"crc_errors"`
	NoHandler                uint64 `json:"nohandler"`
	Carrier                  uint64 `json:"carrier_errors"`
}

type jsonLink struct {
	Ifindex   int      `json:"ifindex"`
	Ifname    string   `json:"ifname"`
	Link      *string  `json:"link"`
	LinkIndex int      `json:"link_index"`
	NetnsID   *int     `json:"link_netnsid"`
	Netns     string   `json:"link_netns"`
	Flags     []string `json:"flags"`
	MTU       int      `json:"mtu"`
	Qdisc     string   `json:"qdisc"`
	Master    string   `json:"master"`
	OperState string   `json:"operstate"`
	State     string   `json:"state"` // bridge link
	Group     value    `json:"group"`
	Type      string   `json:"link_type"`
	Address   string   `json:"address"`
	Alias     string   `json:"ifalias"`
	Promisc   *int     `json:"promiscuity"`
	GSOMax    uint32   `json:"gso_max_size"`
	Info      *struct {
		Kind      string           `json:"info_kind"`
		Data      json.RawMessage  `json:"info_data"`
		SlaveKind string           `json:"info_slave_kind"`
		SlaveData map[string]value `json:"info_slave_data"`
	} `json:"linkinfo"`
	Stats *struct{ RX, TX jsonStats } `json:"stats64"`
	Addrs []jsonAddr                  `json:"addr_info"`
	XDP   json.RawMessage             `json:"xdp"`
}

func (j *jsonRows) linkRow(l line, e json.RawMessage, addrs, whole bool) error {
	var k jsonLink
	if err := json.Unmarshal(e, &k); err != nil {
		return fmt.Errorf("is no row of ip link: %w", err)
	}
	f := j.link(l, k.Ifname, tables.Ifindex(k.Ifindex), func(n *tables.Link) { k.set(n, whole) })
	switch {
	case k.NetnsID != nil:
		f.away = fmt.Sprint(*k.NetnsID)
	case k.Netns != "":
		f.away = "netns " + k.Netns
	case k.Link != nil:
		f.parent = j.dev(*k.Link)
	case k.LinkIndex != 0:
		f.away = "?"
	}
	if k.Master != "" {
		f.master = j.dev(k.Master)
	}
	if k.State != "" { // bridge link
		f.slave = true
		var attrs map[string]value
		_ = json.Unmarshal(e, &attrs)
		f.also(func(n *tables.Link) { setPort(n, plain(attrs)) })
	}
	if k.Info != nil || k.Promisc != nil {
		f.detail = true
	}
	j.linkInfo(f, &k)
	if addrs {
		j.seen["addr_info"] = true
		for _, a := range k.Addrs {
			j.addrRow(l, k.Ifname, a)
		}
	}
	return nil
}

func plain(in map[string]value) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[k] = string(v)
	}
	return out
}

// set copies what every form has; whole is the form of ip link, as opposed to bridge link.
func (k *jsonLink) set(n *tables.Link, whole bool) {
	setFlags(n, k.Flags)
	n.MTU = k.MTU
	if k.LinkIndex != 0 {
		n.Parent = tables.Ifindex(k.LinkIndex)
	}
	if !whole {
		return
	}
	n.Qdisc, n.OperState = k.Qdisc, strings.ToLower(k.OperState)
	if k.Alias != "" { // ip -j addr has none
		n.Alias = k.Alias
	}
	n.MAC, n.HardwareTy = parseMAC(k.Address), hardwareTypes[k.Type]
	if n.HardwareTy == 0 {
		n.HardwareTy = number[uint16](strings.Trim(k.Type, "[]"))
	}
	n.Group = number[uint32](string(k.Group))
	if k.GSOMax != 0 {
		n.GSOMax = k.GSOMax
	}
	if k.Promisc != nil {
		n.Promisc = *k.Promisc
	}
	if s := k.Stats; s != nil {
		n.Stats = tables.Stats{
			RxPackets: s.RX.Packets, TxPackets: s.TX.Packets, RxErrors: s.RX.Errors, TxErrors: s.TX.Errors,
			RxDropped: s.RX.Dropped, TxDropped: s.TX.Dropped, TxCarrier: s.TX.Carrier, RxNoHandler: s.RX.NoHandler,
			RxMissed: s.RX.Missed, RxOverErrors: s.RX.OverErrors, RxFrameErrors: s.RX.FrameErrors, RxCRCErrors: s.RX.CRCErrors,
		}
	}
}

func (j *jsonRows) linkInfo(f *linkFact, k *jsonLink) {
	if k.Info == nil {
		return
	}
	kind := k.Info.Kind
	if kind != "" {
		f.also(func(n *tables.Link) { n.Kind = kind })
	}
	var attrs map[string]value
	_ = json.Unmarshal(k.Info.Data, &attrs)
	data := plain(attrs)
	switch kind {
	case "vxlan":
		j.vxlan(f, k.Info.Data)
	case "bridge":
		f.isBr = true
		f.also(func(n *tables.Link) { setBridge(n, data) })
	case "vlan":
		f.also(func(n *tables.Link) { n.VLANID = number[uint16](data["id"]) })
	case "vrf":
		f.also(func(n *tables.Link) { n.VRF = number[uint32](data["table"]) })
	case "macvlan", "macvtap", "ipvlan", "ipvtap":
		f.also(func(n *tables.Link) { n.Macvlan = data["mode"] })
	}
	if k.Info.SlaveKind == "bridge" {
		slave := plain(k.Info.SlaveData)
		f.slave, f.portNo = true, number[uint16](slave["no"])
		f.also(func(n *tables.Link) { setPort(n, slave) })
	}
}

func (j *jsonRows) vxlan(f *linkFact, data json.RawMessage) {
	var d struct {
		ID, Port                     uint32
		Local, Local6, Group, Group6 string
		Remote, Remote6, Link        string
		PortRange                    struct{ Low, High uint16 } `json:"port_range"`
		TTL, TOS                     value
		DF                           string
		Ageing                       int
		Learning                     *bool
		GBP, GPE, External           present
		Proxy, RSC, L2Miss, L3Miss   bool
		UDPCsum                      bool  `json:"udp_csum"`
		Tx                           bool  `json:"udp_zero_csum6_tx"`
		Rx                           bool  `json:"udp_zero_csum6_rx"`
		LocalBypass                  *bool `json:"localbypass"`
	}
	_ = json.Unmarshal(data, &d)
	first := func(list ...string) (a netip.Addr) {
		for _, s := range list {
			if !a.IsValid() {
				a = parseIP(s)
			}
		}
		return a
	}
	x := tables.VXLAN{
		VNI: tables.VNI(d.ID), Port: uint16(d.Port), SrcPortLow: d.PortRange.Low, SrcPortHigh: d.PortRange.High,
		Local: first(d.Local, d.Local6), Group: first(d.Group, d.Group6, d.Remote, d.Remote6), DF: d.DF, Ageing: d.Ageing,
		TTL: number[int](string(d.TTL)), TTLInherit: d.TTL == "inherit", TOS: number[int](string(d.TOS)),
		Learning: d.Learning == nil || *d.Learning, GBP: bool(d.GBP), GPE: bool(d.GPE), FlowBased: bool(d.External),
		Proxy: d.Proxy, RSC: d.RSC, L2Miss: d.L2Miss, L3Miss: d.L3Miss, UDPCsum: d.UDPCsum, UDP6ZeroTx: d.Tx, UDP6ZeroRx: d.Rx,
		LocalBypass: d.LocalBypass == nil || *d.LocalBypass,
	}
	if d.TOS == "inherit" {
		x.TOS = 1
	}
	if x.DF == "" {
		x.DF = "unset"
	}
	f.lower = j.dev(d.Link)
	f.also(func(n *tables.Link) { n.VXLAN = &x })
}

type jsonAddr struct {
	Local, Address, Broadcast, Anycast      string
	PrefixLen                               int `json:"prefixlen"`
	Scope                                   value
	Secondary, Temporary, Nodad, Optimistic bool
	DadFailed                               bool `json:"dadfailed"`
	Home, Deprecated, Tentative, Dynamic    bool
	Mngtmpaddr, NoPrefixRoute, Autojoin     bool
}

func (j *jsonRows) addrRow(l line, dev string, a jsonAddr) {
	ip := parseIP(a.Local)
	if !ip.IsValid() || a.PrefixLen < 0 || a.PrefixLen > ip.BitLen() {
		j.unread(l, quote(a.Local)+" is no address")
		return
	}
	out := tables.Addr{Index: j.dev(dev), Prefix: netip.PrefixFrom(ip, a.PrefixLen), Broadcast: parseIP(a.Broadcast), Scope: scope(string(a.Scope))}
	if p := parseIP(a.Address); p.IsValid() {
		out.Peer = netip.PrefixFrom(p, min(a.PrefixLen, p.BitLen()))
	}
	for _, f := range []struct {
		on   bool
		name string
	}{
		{a.Secondary, "secondary"}, {a.Temporary, "temporary"}, {a.Nodad, "nodad"}, {a.Optimistic, "optimistic"},
		{a.DadFailed, "dadfailed"}, {a.Home, "home"}, {a.Deprecated, "deprecated"}, {a.Tentative, "tentative"},
		{a.Mngtmpaddr, "mngtmpaddr"}, {a.NoPrefixRoute, "noprefixroute"}, {a.Autojoin, "autojoin"},
	} {
		if f.on {
			out.Flags |= addrFlags[f.name]
		}
	}
	if !a.Dynamic {
		out.Flags |= 0x80
	}
	j.addrs = append(j.addrs, fact[tables.Addr]{j.at(l), out})
}

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
