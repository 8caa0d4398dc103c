package netfilter

import (
	"fmt"
	"net/netip"
	"strings"
)

// rng is what the generator needs of a random source.
type rng interface {
	IntN(n int) int
	Uint32() uint32
}

// generator makes random rules and packets. Addresses and ports come from small pools, so that rules and
// packets meet.
type generator struct {
	r     rng
	v6    bool
	quiet bool // rules may stop the router's own answers
	port  uint16
}

func (g *generator) one(s ...string) string  { return s[g.r.IntN(len(s))] }
func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

func (g *generator) clientIP() string {
	if g.v6 {
		return g.one("fd01::2", "fd01::3")
	}
	return g.one("10.1.0.2", "10.1.0.3")
}

func (g *generator) serverIP() string {
	if g.v6 {
		return g.one("fd02::2", "fd02::3", "fd02::4")
	}
	return g.one("10.2.0.2", "10.2.0.3", "10.2.0.4")
}

func (g *generator) serviceIP() string {
	if g.v6 {
		return g.one("fd96::1", "fd96::2")
	}
	return g.one("10.96.0.1", "10.96.0.2")
}

func (g *generator) routerIP() string {
	if g.v6 {
		return g.one("fd01::1", "fd02::1")
	}
	return g.one("10.1.0.1", "10.2.0.1")
}

func (g *generator) net() string {
	if g.v6 {
		return g.one(g.clientIP(), g.serverIP(), g.serviceIP(), "fd01::/64", "fd02::/64", "fd96::/16", "fd02::2/127", "::/0")
	}
	return g.one(g.clientIP(), g.serverIP(), g.serviceIP(), "10.1.0.0/24", "10.2.0.0/24", "10.96.0.0/16", "10.2.0.2/31", "10.0.0.0/8")
}

func (g *generator) port80() string { return g.one("80", "80", "443", "53", "8080") }

func (g *generator) probe() probe {
	g.v6 = g.chance(40)
	g.port++
	q := probe{from: g.one("client", "client", "client", "client", "router", "server"), cookie: g.r.Uint32()}
	p := &q.p
	p.Family, p.EtherType = FamilyIPv4, etherIPv4
	head := ipv4HeaderLen
	if g.v6 {
		p.Family, p.EtherType, head = FamilyIPv6, etherIPv6, ipv6HeaderLen
	}
	src := map[string]string{"client": g.clientIP(), "server": g.serverIP(), "router": g.routerIP()}[q.from]
	dst := g.one(g.serverIP(), g.serverIP(), g.serviceIP(), g.serviceIP(), g.routerIP())
	if q.from == "server" {
		dst = g.one(g.clientIP(), g.routerIP())
	}
	p.Src, p.Dst = netip.MustParseAddr(src), netip.MustParseAddr(dst)
	p.TTL, p.TOS = [...]uint8{64, 63, 5}[g.r.IntN(3)], [...]uint8{0, 0, 0x10, 0x28}[g.r.IntN(4)]
	p.SrcPort = 20000 + g.port
	_, _ = fmt.Sscan(g.port80(), &p.DstPort)
	if q.from == "router" && g.chance(30) {
		p.Mark = uint32(g.r.IntN(4))
	}
	switch g.r.IntN(5) {
	case 0, 1:
		p.Proto, p.Length = protoUDP, head+12+g.r.IntN(3)*100
	case 2, 3:
		p.Proto, p.Length = protoTCP, head+20
		p.TCPFlags = [...]uint8{tcpSYN, tcpSYN, tcpSYN, tcpSYN, tcpSYN, tcpACK, tcpSYN | tcpACK, tcpRST, tcpFIN}[g.r.IntN(9)]
	default:
		p.Proto, p.ICMPType, p.Length = protoICMP, 8, head+12
		if g.v6 {
			p.Proto, p.ICMPType = protoICMPv6, 128
		}
		p.ICMPID, p.SrcPort, p.DstPort = p.SrcPort, 0, 0
	}
	q.ethernet()
	return q
}

// ruleset gives the scripts of one round.
func (g *generator) ruleset() []script {
	g.quiet = false
	var out []script
	kinds := g.r.IntN(6)
	for _, v6 := range []bool{false, true} {
		g.v6 = v6
		prefix := "iptables"
		if v6 {
			prefix = "ip6tables"
		}
		if kinds == 0 || kinds == 3 {
			out = append(out, script{prefix + "-legacy-restore", g.iptables()})
		}
		if kinds == 1 || kinds == 4 {
			out = append(out, script{prefix + "-nft-restore", g.iptables()})
		}
	}
	if kinds == 2 || kinds >= 3 {
		out = append(out, script{"nft", g.nftables()})
	}
	return out
}

// chainsOf are the base chains of iptables' tables.
var chainsOf = map[string][]string{
	"raw": {"PREROUTING", "OUTPUT"}, "mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"nat": {"PREROUTING", "OUTPUT", "POSTROUTING", "INPUT"}, "filter": {"INPUT", "FORWARD", "OUTPUT"},
}

func (g *generator) iptables() string {
	var b strings.Builder
	for _, table := range []string{"raw", "mangle", "nat", "filter"} {
		fmt.Fprintf(&b, "*%s\n", table)
		for _, c := range chainsOf[table] {
			policy := "ACCEPT"
			if table == "filter" && g.chance(15) {
				policy = "DROP"
				g.quiet = g.quiet || c == "OUTPUT"
			}
			fmt.Fprintf(&b, ":%s %s [%d:%d]\n", c, policy, g.r.IntN(9), g.r.IntN(900))
		}
		if table == "filter" || table == "mangle" {
			b.WriteString(":U1 - [0:0]\n:U2 - [0:0]\n")
			for range 1 + g.r.IntN(3) {
				fmt.Fprintf(&b, "-A U1%s\n", g.xtRule(table, "U1", []string{"RETURN", "ACCEPT", "DROP", "MARK --set-xmark 0x2/0x2"}))
				fmt.Fprintf(&b, "-A U2%s\n", g.xtRule(table, "U2", []string{"RETURN", "ACCEPT", "U1", "MARK --set-xmark 0x4/0x4"}))
			}
		}
		for _, c := range chainsOf[table] {
			for range g.r.IntN(4) {
				rule := g.xtRule(table, c, g.xtTargets(table, c))
				if rule == "" {
					continue
				}
				fmt.Fprintf(&b, "-A %s%s\n", c, rule)
				g.quiet = g.quiet || c == "OUTPUT" || c == "POSTROUTING" || table == "raw" && c == "PREROUTING"
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

func (g *generator) xtTargets(table, chain string) []string {
	to := g.serverIP()
	switch table {
	case "raw":
		return []string{"ACCEPT", "DROP", "CT --notrack", "MARK --set-mark 0x1", "CT --zone 3"}
	case "mangle":
		ttl := "TTL --ttl"
		if g.v6 {
			ttl = "HL --hl"
		}
		return []string{"ACCEPT", "DROP", "MARK --set-xmark 0x1/0x1", "MARK --or-mark 0x4000", "MARK --and-mark 0xfff0", "MARK --xor-mark 0x3", "CONNMARK --save-mark",
			"CONNMARK --restore-mark", "CONNMARK --set-mark 0x9", "CONNMARK --set-xmark 0x4/0x6", "TOS --set-tos 0x10", "DSCP --set-dscp 10", ttl + "-set 33", ttl + "-inc 2", ttl + "-dec 1", "U1", "U2",
			"LOG --log-prefix x", "CONNMARK --restore-mark --mask 0xf"}
	case "nat":
		open, end := "", ""
		if g.v6 {
			open, end = "[", "]"
		}
		switch chain {
		case "PREROUTING", "OUTPUT":
			last := "3"
			first := strings.TrimRight(to, "0123456789")
			return []string{"ACCEPT", "RETURN", "P:DNAT --to-destination " + open + to + end + ":8080", "DNAT --to-destination " + to, "P:REDIRECT --to-ports 8080", "REDIRECT",
				"DNAT --to-destination " + first + "2-" + first + last, "P:DNAT --to-destination " + open + to + end + ":8000-8003", "NETMAP --to " + g.one(first+"0/"+g.netmask()),
				"DNAT --to-destination " + first + "2-" + first + "4 --persistent"}
		case "INPUT":
			return []string{"ACCEPT", "RETURN"}
		default:
			src := g.one(strings.Replace(to, "2", "2", 1))
			first := strings.TrimRight(src, "0123456789")
			return []string{"ACCEPT", "OUT:MASQUERADE", "OUT:MASQUERADE --random-fully", "OUT:P:MASQUERADE --to-ports 40000-40010", "SNAT --to-source " + src, "P:SNAT --to-source " + open + src + end + ":4444",
				"SNAT --to-source " + first + "5-" + first + "8", "P:SNAT --to-source " + open + src + end + ":30000-60000", "SNAT --to-source " + first + "5-" + first + "8 --random --persistent"}
		}
	default:
		rejects := []string{"REJECT --reject-with icmp-port-unreachable", "REJECT --reject-with icmp-admin-prohibited", "REJECT --reject-with icmp-host-prohibited", "REJECT"}
		if g.v6 {
			rejects = []string{"REJECT --reject-with icmp6-port-unreachable", "REJECT --reject-with icmp6-adm-prohibited", "REJECT --reject-with icmp6-no-route", "REJECT"}
		}
		return append(rejects, "ACCEPT", "ACCEPT", "DROP", "RETURN", "U1", "U2", "TCP:REJECT --reject-with tcp-reset", "LOG", "U2")
	}
}

func (g *generator) netmask() string {
	if g.v6 {
		return "120"
	}
	return "24"
}

// xtRule gives matches and a target. Targets that begin with "P:" need ports, "TCP:" TCP, "OUT:" a device.
func (g *generator) xtRule(table, chain string, targets []string) string {
	target := targets[g.r.IntN(len(targets))]
	s, proto := "", ""
	if t, ok := strings.CutPrefix(target, "OUT:"); ok {
		target = t
		s += " -o " + g.one("rs", "rc")
	} else if g.chance(20) {
		switch chain {
		case "PREROUTING", "INPUT":
			s += g.one(" -i rc", " ! -i rc", " -i r+", " -i rs")
		case "OUTPUT", "POSTROUTING":
			s += g.one(" -o rs", " ! -o rs", " -o r+", " -o lo")
		case "FORWARD":
			s += g.one(" -i rc", " -o rs", " -i rc -o rs", " ! -o rc")
		}
	}
	if t, ok := strings.CutPrefix(target, "P:"); ok {
		target, proto = t, g.one("tcp", "udp")
	}
	if t, ok := strings.CutPrefix(target, "TCP:"); ok {
		target, proto = t, "tcp"
	}
	if proto == "" && g.chance(40) {
		proto = g.one("tcp", "udp", "icmp")
	}
	s += g.xtProto(proto)
	if g.chance(35) {
		s += g.one(" -s ", " ! -s ") + g.net()
	}
	if g.chance(35) {
		s += g.one(" -d ", " -d ", " ! -d ") + g.net()
	}
	for range g.r.IntN(3) {
		if m := g.xtMatch(table, chain); !strings.Contains(s, m) {
			s += m
		}
	}
	if g.chance(5) {
		s += ` -m comment --comment "a \"word\""`
	}
	if target == "U2" && g.chance(50) {
		return s + " -g U2"
	}
	return s + " -j " + target
}

func (g *generator) xtProto(proto string) string {
	switch proto {
	case "":
		return ""
	case "icmp":
		if g.v6 {
			return " -p ipv6-icmp -m icmp6 " + g.one("", "! ") + "--icmpv6-type " + g.one("128", "1/3")
		}
		return g.one(" -p icmp", " -p icmp -m icmp --icmp-type "+g.one("8", "3/1", "any"), " -p icmp -m icmp ! --icmp-type 8")
	}
	s := g.one(" -p ", " -p ", " -p ") + proto
	switch g.r.IntN(7) {
	case 0:
		s += " -m " + proto + g.one(" --dport ", " ! --dport ") + g.one(g.port80(), "80:443", "1:1024")
	case 1:
		s += " -m " + proto + g.one(" --sport ", " ! --sport ") + g.one("20000:20100", "1024:65535", "53")
	case 2:
		s += " -m multiport " + g.one("", "! ") + g.one("--dports 80,443", "--dports 53,80:443", "--sports 20000:20200,53", "--ports 80,53")
	case 3:
		if proto == "tcp" {
			s += " -m tcp " + g.one("--syn", "! --syn", "--tcp-flags ALL ACK", "--tcp-flags SYN,RST SYN --dport 80", "--tcp-flags ALL SYN,ACK")
		}
	}
	return s
}

func (g *generator) xtMatch(table, chain string) string {
	hl := " -m ttl --ttl-"
	icmp := g.net()
	if g.v6 {
		hl = " -m hl --hl-"
	}
	list := []string{
		" -m mark" + g.one(" --mark 0x1/0x1", " --mark 0", " ! --mark 0x4000/0x4000", " --mark 0x2"),
		" -m connmark" + g.one(" --mark 0x9", " ! --mark 0x0", " --mark 0x4/0x4"),
		" -m addrtype" + g.one(" --dst-type LOCAL", " ! --dst-type LOCAL", " --src-type UNICAST", " --dst-type UNICAST", " --src-type LOCAL"),
		" -m length" + g.one(" --length 0:60", " ! --length 60", " --length 61:400"),
		hl + g.one("eq 64", "lt 64", "gt 10", "eq 63"),
		" -m tos" + g.one(" --tos 0x10", " ! --tos 0x10", " --tos 0x28/0x38"),
		" -m dscp" + g.one(" --dscp 10", " ! --dscp 0"),
		" -m pkttype" + g.one(" --pkt-type unicast", " ! --pkt-type unicast", " --pkt-type broadcast"),
		" -m statistic --mode random --probability 0.5", " -m statistic --mode random --probability 1", " -m statistic --mode nth --every 1 --packet 0",
		" -m limit --limit 5/min", " -m physdev ! --physdev-is-bridged", " -m comment --comment hello",
		" -m recent --name seen" + g.one(" --rcheck", " --set", " --update --seconds 100", " ! --rcheck"),
	}
	if table != "raw" {
		list = append(list, " -m conntrack"+g.one(" --ctstate NEW", " --ctstate RELATED,ESTABLISHED", " ! --ctstate INVALID", " --ctstate DNAT", " --ctstate SNAT", " --ctstate UNTRACKED,INVALID",
			" --ctproto 17", " --ctorigdst "+icmp, " ! --ctorigsrc "+icmp, " --ctdir ORIGINAL", " --ctdir REPLY", " --ctstatus SEEN_REPLY", " ! --ctstatus CONFIRMED", " --ctreplsrc "+icmp, " --ctrepldst "+icmp),
			" -m state --state "+g.one("NEW", "ESTABLISHED", "INVALID", "UNTRACKED"))
	}
	if !g.v6 {
		list = append(list, " -m iprange"+g.one(" --src-range 10.1.0.2-10.1.0.9", " ! --dst-range 10.2.0.0-10.2.0.3"))
	} else {
		list = append(list, " -m iprange"+g.one(" --src-range fd01::2-fd01::9", " ! --dst-range fd02::-fd02::3"))
	}
	switch chain {
	case "PREROUTING":
		list = append(list, " -m mac"+g.one(" --mac-source ", " ! --mac-source ")+clientMAC.String())
		if table == "raw" || table == "mangle" {
			list = append(list, " -m rpfilter"+g.one("", " --invert", " --loose", " --validmark"))
		}
		list = append(list, " -m addrtype --dst-type LOCAL --limit-iface-in")
	case "FORWARD":
		list = append(list, " -m mac --mac-source "+clientMAC.String())
	}
	return list[g.r.IntN(len(list))]
}
