package listing

import (
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// linkKinds are the kinds of ip-link(8) whose line of details begins with their name.
var linkKinds = map[string]bool{
	"vxlan": true, "bridge": true, "veth": true, "vlan": true, "vrf": true, "macvlan": true, "macvtap": true, "ipvlan": true,
	"ipvtap": true, "tun": true, "tap": true, "dummy": true, "ifb": true, "bond": true, "ipip": true, "ip6tnl": true, "sit": true,
	"gre": true, "gretap": true, "ip6gre": true, "geneve": true, "wireguard": true, "netkit": true, "team": true, "vti": true,
	"openvswitch": true, "nlmon": true, "xfrm": true, "vcan": true, "hsr": true, "macsec": true, "netdevsim": true, "erspan": true,
}

// details reads the line of ip -d that begins with a kind, or with the kind of the master and "_slave".
func (p *ipLink) details(k *linkFact, w words) bool {
	first := w.next()
	switch {
	case strings.HasSuffix(first, "_slave"):
		if first == "bridge_slave" {
			readPort(k, w)
		}
		p.common(k, w)
		return true
	case linkKinds[first]:
	default:
		return false
	}
	kind := first
	if kind == "tap" {
		kind = "tun"
	}
	k.detail = true
	k.also(func(n *tables.Link) { n.Kind = kind })
	switch kind {
	case "vxlan":
		p.vxlan(k, w)
	case "bridge":
		readBridge(k, w)
	case "vlan":
		readVLAN(k, w)
	case "vrf":
		if w.skip("table") {
			v := number[uint32](w.peek())
			k.also(func(n *tables.Link) { n.VRF = v })
		}
	case "macvlan", "macvtap", "ipvlan", "ipvtap":
		w.skip("mode")
		v := w.peek()
		k.also(func(n *tables.Link) { n.Macvlan = v })
	}
	p.common(k, w)
	return true
}

func readVLAN(k *linkFact, w words) {
	for len(w) > 0 {
		if w.next() == "id" {
			v := number[uint16](w.peek())
			k.also(func(n *tables.Link) { n.VLANID = v })
			return
		}
	}
}

// vxlan reads "vxlan id 1 local 10.0.0.1 dev eth0 srcport 0 0 dstport 8472 nolearning ageing 300 …".
func (p *ipLink) vxlan(k *linkFact, w words) {
	x := tables.VXLAN{Learning: true, LocalBypass: true, DF: "unset"}
	for len(w) > 0 {
		key := w.next()
		switch key {
		case "id":
			x.VNI = number[tables.VNI](w.next())
		case "group", "remote":
			x.Group = parseIP(w.next())
		case "local":
			x.Local = parseIP(w.next())
		case "dev":
			k.lower = p.dev(w.next())
		case "srcport":
			x.SrcPortLow, x.SrcPortHigh = number[uint16](w.next()), number[uint16](w.next())
		case "dstport":
			x.Port = number[uint16](w.next())
		case "ttl":
			switch v := w.next(); v {
			case "inherit":
				x.TTLInherit = true
			case "auto":
			default:
				x.TTL = number[int](v)
			}
		case "tos":
			if v := w.next(); v == "inherit" {
				x.TOS = 1
			} else {
				x.TOS = number[int](v)
			}
		case "df":
			x.DF = w.next()
		case "ageing":
			x.Ageing = number[int](w.next())
		default:
			vxlanFlag(&x, key)
		}
	}
	k.also(func(n *tables.Link) { n.VXLAN = &x })
}

// vxlanFlag reads the words that stand alone, with "no" in front for off.
func vxlanFlag(x *tables.VXLAN, key string) {
	name, off := strings.CutPrefix(key, "no")
	on := !off
	switch name {
	case "learning":
		x.Learning = on
	case "proxy":
		x.Proxy = on
	case "rsc":
		x.RSC = on
	case "l2miss":
		x.L2Miss = on
	case "l3miss":
		x.L3Miss = on
	case "gbp":
		x.GBP = on
	case "gpe":
		x.GPE = on
	case "external":
		x.FlowBased = on
	case "udpcsum":
		x.UDPCsum = on
	case "udp6zerocsumtx":
		x.UDP6ZeroTx = on
	case "udp6zerocsumrx":
		x.UDP6ZeroRx = on
	case "localbypass":
		x.LocalBypass = on
	}
}

// readBridge reads the attributes of a bridge. Times are in hundredths of a second.
func readBridge(k *linkFact, w words) {
	attrs := pairs(w)
	k.isBr = true
	k.also(func(n *tables.Link) { setBridge(n, attrs) })
}

func setBridge(n *tables.Link, attrs map[string]string) {
	if n.Bridge == nil {
		n.Bridge = &tables.Bridge{}
	}
	br := n.Bridge
	for key, v := range attrs {
		switch key {
		case "ageing_time":
			br.Ageing = number[int](v) / 100
		case "stp_state":
			br.STP = v != "0"
		case "vlan_filtering":
			br.VLANFiltering = truth(v)
		case "vlan_default_pvid":
			br.DefaultPVID = number[uint16](v)
		case "nf_call_iptables":
			br.NFCallIP = truth(v)
		case "nf_call_ip6tables":
			br.NFCallIP6 = truth(v)
		case "nf_call_arptables":
			br.NFCallARP = truth(v)
		}
	}
}

// pairs reads "key value key value".
func pairs(w words) map[string]string {
	out := make(map[string]string, len(w)/2)
	for len(w) > 1 {
		key := w.next()
		out[key] = w.next()
	}
	return out
}

// readPort reads the attributes of a bridge port, of ip -d link and of bridge -d link.
func readPort(k *linkFact, w words) {
	attrs := pairs(w)
	k.slave = true
	if v, ok := attrs["port_no"]; ok {
		k.portNo = number[uint16](v)
	}
	k.also(func(n *tables.Link) { setPort(n, attrs) })
}

func setPort(n *tables.Link, attrs map[string]string) {
	p := portOf(n)
	for key, v := range attrs {
		switch key {
		case "state":
			p.State = v
		case "port_no", "no":
			p.No = number[uint16](v)
		case "hairpin":
			p.Hairpin = truth(v)
		case "guard":
			p.Guard = truth(v)
		case "isolated":
			p.Isolated = truth(v)
		case "learning":
			p.Learning = truth(v)
		case "flood":
			p.Flood = truth(v)
		case "mcast_flood":
			p.MulticastFl = truth(v)
		case "bcast_flood":
			p.BroadcastFl = truth(v)
		case "proxy_arp":
			p.ProxyARP = truth(v)
		case "neigh_suppress":
			p.NeighSuppress = truth(v)
		case "locked":
			p.Locked = truth(v)
		}
	}
}

// readXDP reads "prog/xdp id 5 tag 3b18… jited".
func readXDP(k *linkFact, w words) {
	h := tables.Hook{Where: "xdp", Kind: "bpf", Entry: strings.Join(w, " ")}
	for len(w) > 0 {
		switch w.next() {
		case "id":
			h.ID = number[uint32](w.next())
		case "name":
			h.Name = w.next()
		case "tag":
			h.Tag = w.next()
		}
	}
	k.also(func(n *tables.Link) { n.Hooks = append(n.Hooks, h) })
}

// ipBrief reads ip -br link and ip -br addr.
type ipBrief struct {
	*block
	addrs bool
}

func (p *ipBrief) line(l line) bool {
	w := wordsOf(l.text)
	if len(w) < 2 || strings.ToUpper(w[1]) != w[1] || isNumber(w[1]) {
		return false
	}
	name, parent, _ := strings.Cut(w.next(), "@")
	k := p.link(l, name, 0, nil)
	k.parentOf(p.block, parent)
	state := strings.ToLower(w.next())
	k.also(func(n *tables.Link) {
		n.OperState = state
		if n.Flags == 0 { // the state is all there is: a device that is up or of unknown state was set up
			n.Up, n.LowerUp = state != "down", state == "up" || state == "unknown"
			n.Loopback = n.Name == "lo"
		}
	})
	for len(w) > 0 {
		s := w.next()
		switch {
		case isMAC(s):
			k.also(func(n *tables.Link) { n.MAC, n.HardwareTy = parseMAC(s), 1 })
		case strings.HasPrefix(s, "<"):
			names := strings.Split(strings.Trim(s, "<>"), ",")
			k.also(func(n *tables.Link) { setFlags(n, names) })
		default:
			if !p.address(l, k.name, s, &w) {
				return false
			}
		}
	}
	return true
}

func (p *ipBrief) address(l line, dev, s string, w *words) bool {
	if s == "metric" {
		w.next()
		return true
	}
	pre, ok := parsePrefix(s)
	if !ok {
		return false
	}
	p.addrs = true
	a := tables.Addr{Index: p.dev(dev), Prefix: pre, Flags: 0x80, Scope: scopeOf(pre.Addr())}
	if w.skip("peer") {
		a.Peer, _ = parsePrefix(w.next())
	}
	p.block.addrs = append(p.block.addrs, fact[tables.Addr]{p.at(l), a})
	return true
}

// scopeOf is the scope that an address has by itself, for listings that don't show it.
func scopeOf(a netip.Addr) uint8 {
	switch {
	case a.IsLoopback():
		return scopes["host"]
	case a.IsLinkLocalUnicast():
		return scopes["link"]
	default:
		return scopes["global"]
	}
}

func (p *ipBrief) end() {
	if p.opts.limited {
		return
	}
	p.cover(tabLinks, p.opts.dev)
	if p.addrs && p.opts.family == 0 {
		p.cover(tabAddrs, p.opts.dev)
	}
}
