package listing

import (
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/tables"
)

// ipLink reads ip link, ip addr and bridge link: they share the first line of a record, and what is
// indented below it says what it is by its first word.
type ipLink struct {
	*block
	cur    *linkFact
	counts []string // headings of the counters that follow
	addrs  bool
}

var (
	linkHead = lazy(`^\s*(\d+): ([^\s:@]+)(?:@([^\s:]+))?: <([^>]*)>\s*(.*)$`)
	addrRow  = lazy(`^\s*(\d+): (\S+)\s+(inet6?)\s+(.*)$`)
)

func (p *ipLink) line(l line) bool {
	text := l.text
	if m := linkHead().FindStringSubmatch(text); m != nil {
		p.head(l, m)
		return true
	}
	if m := addrRow().FindStringSubmatch(text); m != nil {
		p.addrs = true
		p.link(l, m[2], tables.Ifindex(number[int](m[1])), nil)
		return p.addr(l, append(words{m[3]}, wordsOf(m[4])...))
	}
	if p.cur == nil {
		return false
	}
	for part := range strings.SplitSeq(text, `\`) { // ip -o
		if !p.below(l, wordsOf(part)) {
			return false
		}
	}
	return true
}

// link adds a fact about an interface.
func (b *block) link(l line, name string, index tables.Ifindex, set func(*tables.Link)) *linkFact {
	if set == nil {
		set = func(*tables.Link) {}
	}
	b.links = append(b.links, linkFact{at: b.at(l), name: name, index: index, set: set})
	return &b.links[len(b.links)-1]
}

// also adds to what a fact says.
func (f *linkFact) also(set func(*tables.Link)) {
	before := f.set
	f.set = func(l *tables.Link) {
		before(l)
		set(l)
	}
}

// head reads "4: eth0@if5: <UP> mtu 1500 qdisc noqueue master cni0 state UP mode DEFAULT group default".
func (p *ipLink) head(l line, m []string) {
	rest, more, _ := strings.Cut(m[5], `\`)
	k := p.link(l, m[2], tables.Ifindex(number[int](m[1])), nil)
	p.cur, p.counts = k, nil
	k.parentOf(p.block, m[3])
	flags := m[4]
	if flags != "..." {
		k.also(func(n *tables.Link) { setFlags(n, strings.Split(flags, ",")) })
	}
	w := wordsOf(rest)
	port := false
	for len(w) > 0 {
		switch key := w.next(); key {
		case "mtu":
			v := number[int](w.next())
			k.also(func(n *tables.Link) { n.MTU = v })
		case "qdisc":
			if v := w.next(); v != "..." {
				k.also(func(n *tables.Link) { n.Qdisc = v })
			}
		case "master":
			k.master = p.dev(w.next())
		case "state":
			p.state(k, w.next(), &port)
		case "group":
			if v := w.next(); isNumber(v) {
				k.also(func(n *tables.Link) { n.Group = number[uint32](v) })
			}
		case "mode", "qlen", "priority", "cost":
			w.next()
		}
	}
	for part := range strings.SplitSeq(more, `\`) {
		if part != "" && !p.below(l, wordsOf(part)) {
			p.unread(l, "not understood as "+p.Kind)
		}
	}
}

// state is the link's operational state, or in bridge link the port's.
func (p *ipLink) state(k *linkFact, v string, port *bool) {
	if strings.ToUpper(v) == v {
		k.also(func(n *tables.Link) { n.OperState = strings.ToLower(v) })
		return
	}
	*port, k.slave = true, true
	k.also(func(n *tables.Link) { portOf(n).State = v })
}

// portOf gives the port of a link, with what the kernel sets for a new one.
func portOf(n *tables.Link) *tables.BridgePort {
	if n.Port == nil {
		n.Port = &tables.BridgePort{State: "forwarding", Learning: true, Flood: true, MulticastFl: true, BroadcastFl: true}
	}
	return n.Port
}

// parentOf reads what stands behind @: a device here, or "ifN" for index N of another namespace.
func (f *linkFact) parentOf(b *block, s string) {
	switch {
	case s == "" || s == "NONE":
	case strings.HasPrefix(s, "if") && isNumber(s[2:]):
		v := tables.Ifindex(number[int](s[2:]))
		f.away = "?"
		f.also(func(n *tables.Link) { n.Parent = v })
	default:
		f.parent = b.dev(s)
	}
}

// IFF_* by the names that ip-link(8) prints.
var linkFlags = map[string]uint32{
	"UP": 0x1, "BROADCAST": 0x2, "DEBUG": 0x4, "LOOPBACK": 0x8, "POINTOPOINT": 0x10, "NOTRAILERS": 0x20, "RUNNING": 0x40,
	"NOARP": 0x80, "PROMISC": 0x100, "ALLMULTI": 0x200, "MASTER": 0x400, "SLAVE": 0x800, "MULTICAST": 0x1000,
	"PORTSEL": 0x2000, "AUTOMEDIA": 0x4000, "DYNAMIC": 0x8000, "LOWER_UP": 0x10000, "DORMANT": 0x20000, "ECHO": 0x40000,
}

// setFlags reads the names of flags. ip says NO-CARRIER in place of a missing RUNNING.
func setFlags(n *tables.Link, names []string) {
	carrier := true
	n.Flags = 0
	for _, name := range names {
		switch v, ok := linkFlags[name]; {
		case ok:
			n.Flags |= v
		case name == "NO-CARRIER":
			carrier = false
		default:
			n.Flags |= number[uint32]("0x" + strings.TrimPrefix(name, "0x"))
		}
	}
	if n.Flags&linkFlags["UP"] != 0 && carrier {
		n.Flags |= linkFlags["RUNNING"]
	}
	applyFlags(n)
}

func applyFlags(n *tables.Link) {
	has := func(name string) bool { return n.Flags&linkFlags[name] != 0 }
	n.Up, n.LowerUp, n.Loopback, n.PointToP = has("UP"), has("LOWER_UP"), has("LOOPBACK"), has("POINTOPOINT")
	n.Broadcast, n.NoARP, n.AllMulti = has("BROADCAST"), has("NOARP"), has("ALLMULTI")
}

// ARPHRD_* by the names behind "link/".
var hardwareTypes = map[string]uint16{
	"ether": 1, "loopback": 772, "none": 65534, "ipip": 768, "tunnel6": 769, "sit": 776, "gre": 778, "gre6": 823, "ppp": 512,
	"infiniband": 32, "rawip": 519, "netrom": 0,
}

// below reads an indented line of a record.
func (p *ipLink) below(l line, w words) bool {
	k := p.cur
	switch first := w.peek(); {
	case first == "":
		return true
	case strings.HasPrefix(first, "link/"):
		return p.hardware(k, w)
	case first == "inet" || first == "inet6":
		p.addrs = true
		return p.addr(l, w)
	case first == "valid_lft", first == "altname", first == "info:", first == "vf":
		return true
	case first == "alias":
		v := strings.Join(w[1:], " ")
		k.also(func(n *tables.Link) { n.Alias = v })
		return true
	case first == "RX:" || first == "TX:":
		p.counts = w
		return true
	case p.counts != nil && isNumber(first):
		p.counters(k, w)
		return true
	case first == "hairpin": // bridge -d link
		readPort(k, w)
		return true
	case strings.HasPrefix(first, "prog/xdp"):
		readXDP(k, w)
		return true
	default:
		return p.details(k, w)
	}
}

// hardware reads "link/ether MAC brd MAC link-netnsid 0 promiscuity 1", and what ip -d puts behind it.
func (p *ipLink) hardware(k *linkFact, w words) bool {
	name := strings.TrimPrefix(w.next(), "link/")
	ty, ok := hardwareTypes[name]
	if !ok {
		ty = number[uint16](strings.Trim(name, "[]"))
	}
	k.also(func(n *tables.Link) { n.HardwareTy = ty })
	if a := w.peek(); isMAC(a) || parseIP(a).IsValid() {
		mac := parseMAC(w.next())
		k.also(func(n *tables.Link) { n.MAC = mac })
	}
	p.common(k, w)
	return true
}

// common are the words that stand on the line of the hardware address, or at the end of the kind's line.
func (p *ipLink) common(k *linkFact, w words) {
	for len(w) > 0 {
		switch w.next() {
		case "link-netnsid":
			k.away = w.next()
		case "link-netns":
			k.away = "netns " + w.next()
		case "promiscuity":
			v := number[int](w.next())
			k.detail = true
			k.also(func(n *tables.Link) { n.Promisc = v })
		case "gso_max_size":
			v := number[uint32](w.next())
			k.also(func(n *tables.Link) { n.GSOMax = v })
		}
	}
}

// counters reads a row of ip -s by the headings above it.
func (p *ipLink) counters(k *linkFact, w words) {
	rx := strings.TrimSuffix(p.counts[0], ":") == "RX"
	for i, h := range p.counts[1:] {
		if h == "errors:" || i >= len(w) { // "RX errors:", a finer table below
			break
		}
		v := number[uint64](w[i])
		k.also(func(n *tables.Link) { setCounter(&n.Stats, rx, h, v) })
	}
	p.counts = nil
}

func setCounter(s *tables.Stats, rx bool, name string, v uint64) {
	switch {
	case rx && name == "packets":
		s.RxPackets = v
	case rx && name == "errors":
		s.RxErrors = v
	case rx && name == "dropped":
		s.RxDropped = v
	case rx && name == "missed":
		s.RxMissed = v
	case rx && (name == "overruns" || name == "overrun"):
		s.RxOverErrors = v
	case rx && name == "frame":
		s.RxFrameErrors = v
	case !rx && name == "packets":
		s.TxPackets = v
	case !rx && name == "errors":
		s.TxErrors = v
	case !rx && name == "dropped":
		s.TxDropped = v
	case !rx && name == "carrier":
		s.TxCarrier = v
	}
}

// IFA_F_* by the words of ip-address(8).
var addrFlags = map[string]uint32{
	"secondary": 0x01, "temporary": 0x01, "nodad": 0x02, "optimistic": 0x04, "dadfailed": 0x08, "home": 0x10,
	"deprecated": 0x20, "tentative": 0x40, "mngtmpaddr": 0x100, "noprefixroute": 0x200, "autojoin": 0x400, "stable-privacy": 0x800,
}

// RT_SCOPE_* by the names of rt_scopes.
var scopes = map[string]uint8{"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}

func scope(s string) uint8 {
	if v, ok := scopes[s]; ok {
		return v
	}
	return number[uint8](s)
}

// addr reads "inet 10.0.0.1/24 brd 10.0.0.255 scope global secondary eth0:1".
func (p *ipLink) addr(l line, w words) bool {
	k := &p.links[len(p.links)-1]
	w.next()
	text := w.next()
	pre, ok := parsePrefix(text)
	if !ok {
		return false
	}
	a := tables.Addr{Index: p.dev(k.name), Prefix: pre, Flags: 0x80} // IFA_F_PERMANENT unless "dynamic"
	for len(w) > 0 {
		switch key := strings.TrimSuffix(w.next(), `\`); key {
		case "peer":
			if peer, ok := parsePrefix(w.next()); ok {
				a.Peer, a.Prefix = peer, netip.PrefixFrom(pre.Addr(), peer.Bits())
			}
		case "brd":
			a.Broadcast = parseIP(w.next())
		case "scope":
			a.Scope = scope(w.next())
		case "dynamic":
			a.Flags &^= 0x80
		case "metric", "proto":
			w.next()
		case "valid_lft":
			w = nil
		default:
			a.Flags |= addrFlags[key]
		}
	}
	p.block.addrs = append(p.block.addrs, fact[tables.Addr]{p.at(l), a})
	return true
}

// end says what the output covers: all devices, or the one that was asked for.
func (p *ipLink) end() {
	if p.Rows == 0 && len(p.links) == 0 || len(p.cut) > 0 || strings.Contains(p.cmd.text, "bridge") {
		return
	}
	if !p.opts.limited {
		p.cover(tabLinks, p.opts.dev)
	}
	if p.addrs && !p.opts.limited && p.opts.family == 0 {
		p.cover(tabAddrs, p.opts.dev)
	}
}
