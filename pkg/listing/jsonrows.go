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
