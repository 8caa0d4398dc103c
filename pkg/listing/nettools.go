package listing

import (
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// routeTable reads route and netstat -r, of both families. They show table main as an ioctl does: a
// blackhole has no device, one hop stands for a multipath route, and what was not resolved has a name.
type routeTable struct {
	*block
	cols map[string]int
	six  bool
	any  bool
}

func (p *routeTable) line(l line) bool {
	w := wordsOf(l.text)
	switch {
	case strings.HasPrefix(strings.TrimSpace(l.text), "Kernel IP"):
		p.six = strings.Contains(l.text, "IPv6")
		return true
	case len(w) > 3 && w[0] == "Destination":
		p.header(l.text)
		return true
	case p.cols == nil || len(w) != len(p.cols):
		return false
	}
	r := tables.Route{Table: tables.TableMain, Type: tables.RouteUnicast, Protocol: protocols["boot"]} // not shown
	dst, gw := p.col(w, "Destination"), p.col(w, "Gateway")
	if r.Dst = p.destination(dst, p.col(w, "Genmask")); !r.Dst.IsValid() {
		return false
	}
	flags := p.col(w, "Flags")
	r.Metric = number[uint32](p.col(w, "Metric"))
	hop := tables.NextHop{Weight: 1}
	if strings.Contains(flags, "G") {
		if hop.Gateway = parseIP(gw); !hop.Gateway.IsValid() {
			return false // a name
		}
		if hop.Gateway.IsUnspecified() { // of the other family
			return false
		}
	} else if !p.six {
		r.Scope = scopes["link"]
	}
	dev := p.col(w, "Iface")
	switch {
	case strings.Contains(flags, "!") || dev == "*" || dev == "-":
		r.Type = tables.RouteUnreachable
	case p.six && (strings.Contains(flags, "n") || r.Dst.Addr().IsMulticast()):
		return true // of table local
	default:
		hop.Index = p.dev(dev)
		r.NextHops = []tables.NextHop{hop}
	}
	if strings.Contains(flags, "!") && p.six && r.Dst.Bits() == 0 {
		return true // the kernel's own null entry
	}
	p.routes = append(p.routes, fact[tables.Route]{p.at(l), r})
	p.any = true
	return true
}

func (p *routeTable) destination(dst, mask string) netip.Prefix {
	if dst == "default" {
		return anyPrefix(p.six)
	}
	pre, ok := parsePrefix(dst)
	if !ok {
		return netip.Prefix{}
	}
	if !p.six {
		bits, ok := maskBits(mask)
		if !ok {
			return netip.Prefix{}
		}
		pre = netip.PrefixFrom(pre.Addr(), bits)
	}
	return pre.Masked()
}

// header notes where the columns are. "Next Hop" is two words and one column.
func (p *routeTable) header(text string) {
	p.cols = make(map[string]int)
	names := map[string]string{"NextHop": "Gateway", "Flag": "Flags", "Met": "Metric", "If": "Iface"}
	for i, h := range wordsOf(strings.Replace(text, "Next Hop", "NextHop", 1)) {
		if n, ok := names[h]; ok {
			h = n
		}
		p.cols[h] = i
	}
}

func (p *routeTable) col(w words, name string) string {
	if i, ok := p.cols[name]; ok && i < len(w) {
		return w[i]
	}
	return ""
}

func (p *routeTable) end() {
	p.quality = fromNetTools
	if p.any && !p.opts.limited && len(p.cut) == 0 {
		fam := afInet
		if p.six {
			fam = afInet6
		}
		p.cover(tabRoutes, routeKey(fam, tables.TableMain))
	}
}

// arpTable reads arp in both its forms. Of the state it says only whether there is an address, and whether
// it is permanent.
type arpTable struct{ *block }

func newARPTable(b *block) *arpTable { return &arpTable{b} }

var arpLine = lazy(`^\s*(\S+) \(([0-9.]+)\) at (\S+)\s*(.*?)\s*on (\S+)\s*$`)

func (p *arpTable) line(l line) bool {
	if m := arpLine().FindStringSubmatch(l.text); m != nil {
		p.row(l, m[2], m[3], strings.Contains(m[4], "PERM"), strings.Contains(m[4], "PUB"), m[5])
		return true
	}
	w := wordsOf(l.text)
	switch {
	case len(w) > 3 && w[0] == "Address" && w[1] == "HWtype":
		return true
	case len(w) > 0 && w[0] == "Entries:":
		return true
	case len(w) == 3 && strings.Contains(w[1], "incomplete"):
		p.row(l, w[0], "", false, false, w[2])
		return true
	case len(w) >= 4 && parseIP(w[0]).IsValid() && (isMAC(w[2]) || w[2] == "<from_interface>"):
		flags := w[3]
		p.row(l, w[0], w[2], strings.Contains(flags, "M"), strings.Contains(flags, "P"), w[len(w)-1])
		return true
	}
	return false
}

func (p *arpTable) row(l line, ip, mac string, permanent, published bool, dev string) {
	n := tables.Neigh{IP: parseIP(ip), MAC: parseMAC(mac), Index: p.dev(dev), State: tables.NUDReachable}
	switch {
	case published:
		n.Proxy, n.State = true, 0
	case permanent:
		n.State = tables.NUDPermanent
	case n.MAC.IsZero():
		n.State = tables.NUDIncomplete
	}
	p.neighs = append(p.neighs, fact[tables.Neigh]{p.at(l), n})
}

func (p *arpTable) end() {
	p.quality = fromNetTools
	if !p.opts.limited && len(p.neighs) > 0 {
		p.cover(tabNeighs, "ipv4")
	}
}

// ifconfig reads ifconfig of net-tools, in the form of 2.x ("flags=4163<UP,…>") and the older one ("Link
// encap:Ethernet"), which busybox has kept.
type ifconfig struct {
	*block
	cur *linkFact
	dev tables.Ifindex
}

var (
	ifconfigNew = lazy(`^\s*(\S+): flags=(\d+)<([^>]*)>\s+mtu (\d+)`)
	ifconfigOld = lazy(`^\s*(\S+)\s+Link encap:(.*)$`)
	ifconfigRun = lazy(`^\s+([A-Z ]+?)\s+MTU:(\d+)\s+Metric:\d+`)
	colonPair   = lazy(`(\w+):\s?(\S+)`)
)

func (p *ifconfig) line(l line) bool {
	if m := ifconfigNew().FindStringSubmatch(l.text); m != nil {
		flags, mtu := number[uint32](m[2]), number[int](m[4])
		p.begin(l, m[1], func(n *tables.Link) {
			n.Flags, n.MTU = flags, mtu
			if flags&linkFlags["RUNNING"] != 0 { // the low 16 bits are all that the ioctl gives
				n.Flags |= linkFlags["LOWER_UP"]
			}
			applyFlags(n)
		})
		return true
	}
	if m := ifconfigOld().FindStringSubmatch(l.text); m != nil {
		p.begin(l, m[1], func(*tables.Link) {})
		p.encap(m[2])
		return true
	}
	return p.cur != nil && p.below(l)
}

func (p *ifconfig) begin(l line, name string, set func(*tables.Link)) {
	name, _, label := strings.Cut(name, ":") // eth0:1 is an address of eth0
	p.dev = p.block.dev(name)
	if label {
		p.cur = &linkFact{set: func(*tables.Link) {}}
		return
	}
	p.cur = p.link(l, name, 0, set)
}

// encap reads "Ethernet  HWaddr 6A:6D:35:69:37:FE".
func (p *ifconfig) encap(s string) {
	loop := strings.HasPrefix(s, "Local Loopback")
	_, mac, _ := strings.Cut(s, "HWaddr ")
	m := parseMAC(strings.TrimSpace(mac))
	p.cur.also(func(n *tables.Link) {
		n.MAC = m
		switch {
		case loop:
			n.HardwareTy = hardwareTypes["loopback"]
		case !m.IsZero():
			n.HardwareTy = hardwareTypes["ether"]
		}
	})
}

func (p *ifconfig) below(l line) bool {
	if m := ifconfigRun().FindStringSubmatch(l.text); m != nil {
		names, mtu := strings.Fields(m[1]), number[int](m[2])
		p.cur.also(func(n *tables.Link) {
			n.MTU, n.Flags = mtu, 0
			for _, s := range names {
				n.Flags |= linkFlags[s]
			}
			if n.Flags&linkFlags["RUNNING"] != 0 {
				n.Flags |= linkFlags["LOWER_UP"]
			}
			applyFlags(n)
		})
		return true
	}
	w := wordsOf(l.text)
	switch w.peek() {
	case "inet", "inet6":
		return p.addr(l, w)
	case "ether":
		m := parseMAC(w[min(1, len(w)-1)])
		p.cur.also(func(n *tables.Link) { n.MAC, n.HardwareTy = m, 1 })
		return true
	case "loop":
		p.cur.also(func(n *tables.Link) { n.HardwareTy = hardwareTypes["loopback"] })
		return true
	case "RX", "TX":
		p.counters(w)
		return true
	case "unspec", "tunnel", "sit", "device", "nodeinfo", "DOWN":
		return true
	}
	return strings.HasPrefix(w.peek(), "collisions:") || strings.HasPrefix(w.peek(), "Interrupt:") || strings.HasPrefix(w.peek(), "Memory:")
}

// addr reads "inet 10.0.0.1  netmask 255.255.255.0  broadcast 10.0.0.255", "inet6 fe80::1  prefixlen 64",
// "inet addr:10.0.0.1  Bcast:10.0.0.255  Mask:255.255.255.0" and "inet6 addr: fe80::1/64 Scope:Link".
func (p *ifconfig) addr(l line, w words) bool {
	attrs := make(map[string]string)
	if strings.Contains(l.text, "addr:") {
		for _, m := range colonPair().FindAllStringSubmatch(strings.Replace(l.text, "addr: ", "addr:", 1), 16) {
			attrs[map[string]string{"addr": "inet", "Bcast": "broadcast", "Mask": "netmask"}[m[1]]] = m[2]
		}
		if _, v, ok := strings.Cut(l.text, "addr:"); ok {
			attrs["inet"] = wordsOf(v + " -")[0]
		}
	} else {
		six := w.next() == "inet6"
		attrs["inet"] = w.next()
		for len(w) > 1 {
			k := w.next()
			attrs[k] = w.next()
		}
		if six {
			attrs["inet"] += "/" + attrs["prefixlen"]
		}
	}
	pre, ok := parsePrefix(attrs["inet"])
	if !ok {
		return false
	}
	if bits, ok := maskBits(attrs["netmask"]); ok && pre.Addr().Is4() {
		pre = netip.PrefixFrom(pre.Addr(), bits)
	}
	a := tables.Addr{Index: p.dev, Prefix: pre, Scope: scopeOf(pre.Addr()), Flags: 0x80}
	if b := parseIP(attrs["broadcast"]); b.IsValid() && !b.IsUnspecified() {
		a.Broadcast = b
	}
	p.addrs = append(p.addrs, fact[tables.Addr]{p.at(l), a})
	return true
}

// counters reads "RX packets 8681993  bytes 523607971 (499.3 MiB)" and "RX packets:14 errors:0 dropped:0".
func (p *ifconfig) counters(w words) {
	rx := w.next() == "RX"
	for len(w) > 0 {
		name, v, ok := strings.Cut(w.next(), ":")
		if !ok {
			v = w.next()
		}
		if n := number[uint64](v); isNumber(v) {
			p.cur.also(func(k *tables.Link) { setCounter(&k.Stats, rx, name, n) })
		}
	}
}

func (p *ifconfig) end() {
	p.quality = fromNetTools
	if len(p.links) > 0 && !p.opts.limited && strings.Contains(p.cmd.text, "-a") {
		p.cover(tabLinks, "")
	}
}
