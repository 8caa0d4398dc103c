package netfilter

import (
	"fmt"
	"strings"
)

// nftables makes tables of the families inet, ip and ip6 with sets and maps.
func (g *generator) nftables() string {
	var b strings.Builder
	for i := range 1 + g.r.IntN(2) {
		fam := g.one("inet", "ip", "ip6")
		g.v6 = fam == "ip6"
		fmt.Fprintf(&b, "table %s t%d {\n%s", fam, i, g.nftSets(fam))
		fmt.Fprintf(&b, " chain sub {\n")
		for range 1 + g.r.IntN(3) {
			fmt.Fprintf(&b, "  %s %s\n", g.nftMatches(fam, "sub"), g.one("return", "accept", "drop", "counter", "meta mark set 0x5"))
		}
		fmt.Fprintf(&b, " }\n")
		for k := range 2 + g.r.IntN(4) {
			g.nftChain(&b, fam, 1+8*i+k)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func (g *generator) nftSets(fam string) string {
	a, net := "ipv4_addr", "10.2.0.2-10.2.0.3, 10.96.0.0/16"
	one, two, client := "10.2.0.2", "10.96.0.1", "10.1.0.2"
	if g.v6 {
		a, net, one, two, client = "ipv6_addr", "fd02::2-fd02::3, fd96::/16", "fd02::2", "fd96::1", "fd01::2"
	}
	return fmt.Sprintf(` set plain { type %[1]s; elements = { %[3]s, %[4]s } }
 set nets { type %[1]s; flags interval; elements = { %[2]s } }
 set marks { type mark; flags interval; elements = { 0x1-0x10, 0x4000 } }
 set pairs { type %[1]s . inet_proto . inet_service; elements = { %[4]s . tcp . 80, %[4]s . udp . 53, %[3]s . tcp . 443 } }
 set wide { type %[1]s . inet_service; flags interval; elements = { %[4]s . 1-1000, %[6]s . 443 } }
 set dyn { type %[1]s; flags dynamic; size 100; }
 map ports { type inet_service : verdict; elements = { 80 : accept, 53 : drop, 443 : jump sub } }
 map dest { type %[1]s : %[1]s; elements = { %[4]s : %[3]s } }
 map vmarks { type %[1]s : mark; flags interval; elements = { %[5]s : 0x7, %[6]s : 0x8 } }
 counter hits { }
 quota cap { over 1000000 bytes }
 quota small { over 10 bytes }
`, a, net, one, two, client, strings.Split(net, ",")[0])
}

func (g *generator) nftChain(b *strings.Builder, fam string, k int) {
	hook := g.one("prerouting", "input", "forward", "output", "postrouting", "prerouting", "forward")
	typ, prio := "filter", g.one("-40", "-20", "20", "40")
	switch g.r.IntN(5) {
	case 0:
		prio = g.one("-330", "-270")
	case 1:
		prio = g.one("-170", "60", "140")
	case 2, 3:
		if hook != "forward" {
			typ, prio = "nat", map[string]string{"prerouting": "-100", "output": "-100", "input": "100", "postrouting": "100"}[hook]
		}
	}
	policy := ""
	if g.chance(12) {
		policy = "policy drop; "
	}
	g.quiet = g.quiet || hook == "output" || hook == "postrouting" || prio[0] == '-'
	fmt.Fprintf(b, " chain c%d { type %s hook %s priority %d; %s\n", k, typ, hook, atoi(prio)+k, policy)
	for range 1 + g.r.IntN(4) {
		fmt.Fprintf(b, "  %s %s\n", g.nftMatches(fam, hook), g.nftAction(fam, typ, hook))
	}
	fmt.Fprintf(b, " }\n")
}

func atoi(s string) (n int) {
	_, _ = fmt.Sscan(s, &n)
	return n
}

func (g *generator) nftMatches(fam, hook string) string {
	var out []string
	for range g.r.IntN(3) {
		out = append(out, g.nftMatch(fam, hook))
	}
	return strings.Join(out, " ")
}

func (g *generator) nftMatch(fam, hook string) string {
	ip, set := "ip", ""
	if g.v6 {
		ip = "ip6"
	}
	net := strings.Replace(g.net(), "::/0", "fd00::/8", 1)
	list := []string{
		ip + g.one(" saddr ", " daddr ") + g.one("", "!= ") + net,
		ip + g.one(" saddr ", " daddr ") + g.one("", "!= ") + g.one("@plain", "@nets"),
		ip + " daddr " + g.one("{ "+g.serverIP()+", "+g.serviceIP()+" }", "!= { "+g.serverIP()+" }"),
		g.one("tcp", "udp", "meta l4proto { tcp, udp } th") + " dport " + g.one("80", "!= 80", "1-1000", "{ 53, 80 }", "!= 80-443", ">= 443", "< 443"),
		g.one("tcp", "udp") + " sport " + g.one("20000-30000", "!= 53"),
		"tcp flags " + g.one("syn", "& (syn|ack) == syn", "ack", "!= syn", "& (fin|syn|rst|ack) == ack", "syn / syn,ack"),
		"meta l4proto " + g.one("tcp", "{ tcp, udp }", "!= udp"),
		"meta mark " + g.one("0x5", "and 0x1 == 0x1", "!= 0", "@marks", "> 3", "& 0x4000 != 0"),
		"ct mark " + g.one("0x9", "!= 0", "and 0x4 == 0x4"),
		"ct state " + g.one("new", "established,related", "invalid", "!= invalid", "untracked", "{ new, established }"),
		"ct status " + g.one("dnat", "snat", "seen-reply", "confirmed", "and dnat == 0"),
		"ct direction " + g.one("original", "reply"),
		"meta l4proto tcp ct original proto-dst " + g.one("80", "53", "1-1000"), "meta l4proto udp ct reply proto-src 80",
		"ct original " + ip + " daddr " + net, "ct reply " + ip + " saddr " + net, "ct protocol udp", "ct l3proto " + g.one("ipv4", "ipv6"),
		ip + " daddr . meta l4proto . th dport @pairs", "meta l4proto { tcp, udp } " + ip + " daddr . th dport @wide", "meta l4proto { tcp, udp } " + ip + " daddr . th dport != @wide",
		"meta length " + g.one("< 100", "> 60", "40-80"), "meta nfproto " + g.one("ipv4", "ipv6"), "meta protocol " + g.one("ip", "ip6"),
		"meta pkttype " + g.one("host", "!= host", "broadcast"),
		"fib daddr type " + g.one("local", "unicast", "!= local"), "fib saddr type " + g.one("local", "unicast"),
		"limit rate 100/second burst 1000 packets", "limit rate over 100/second", "numgen random mod 2 == 0", "jhash " + ip + " saddr mod 4 seed 0x1234 < 2",
		"meta l4proto { tcp, udp } jhash " + ip + " saddr . th sport mod 7 seed 0xdeadbeef offset 1 > 3", "quota over 500 bytes", "quota until 1000000 bytes", "meta l4proto { tcp, udp } @th,16,16 80", "meta protocol ip @nh,8,8 0x10",
	}
	set = list[g.r.IntN(len(list))]
	switch {
	case g.chance(8) && (hook == "prerouting" || hook == "input" || hook == "forward"):
		set = g.one("iifname rc", "iifname != rc", `iifname "r*"`, "iif rs", "iifname { rc, rs }", "meta iif != rc", "fib saddr . iif oif exists", "fib saddr . iif oif missing", "fib saddr . iif oifname rc",
			"ether saddr "+clientMAC.String(), "ether daddr != "+routerMACc.String())
	case g.chance(8) && (hook == "output" || hook == "postrouting" || hook == "forward"):
		set = g.one("oifname rs", "oifname != rs", `oifname "r*"`, "oif rc", "oifname { rc, lo }")
	case g.chance(6) && ip == "ip":
		set = g.one("ip ttl 64", "ip ttl < 64", "ip dscp 0x04", "ip dscp != 0", "icmp type echo-request", "ip protocol tcp", "ip length > 60", "ip version 4")
	case g.chance(6):
		set = g.one("ip6 hoplimit 64", "ip6 hoplimit < 64", "ip6 dscp != 0", "icmpv6 type echo-request", "ip6 nexthdr tcp", "ip6 length > 20")
		if fam == "ip" {
			set = "ip ttl 63"
		}
	case g.chance(3) && fam == "inet":
		set = "meta nfproto ipv4 ip saddr 10.1.0.2"
	}
	if fam == "ip" && strings.Contains(set, "ct reply ip6") {
		return ""
	}
	return set
}

func (g *generator) nftAction(fam, typ, hook string) string {
	ip, open, end := "ip", "", ""
	if g.v6 {
		ip, open, end = "ip6", "[", "]"
	}
	to := g.serverIP()
	if typ == "nat" {
		inet := ""
		if fam == "inet" {
			inet = ip + " "
		}
		first := strings.TrimRight(to, "0123456789")
		switch hook {
		case "prerouting", "output":
			if hook == "output" {
				return g.one("accept", "counter dnat "+inet+"to "+to, "meta l4proto tcp dnat "+inet+"to "+open+to+end+":8080")
			}
			return g.one("accept", "dnat "+inet+"to "+to, "meta l4proto { tcp, udp } dnat "+inet+"to "+open+to+end+":8080", "meta l4proto tcp redirect to :8080", "redirect", "drop",
				"dnat "+inet+"to "+ip+" daddr map @dest", "dnat "+inet+"to numgen random mod 2 map { 0 : "+first+"2, 1 : "+first+"3 }",
				"dnat "+inet+"to "+first+"2-"+first+"4", "dnat "+inet+"to jhash "+ip+" saddr mod 2 seed 0x1 map { 0 : "+first+"2, 1 : "+first+"3 }",
				"meta l4proto udp dnat "+inet+"to "+open+to+end+":8000-8003")
		case "postrouting":
			return g.one("accept", "oifname rs masquerade", "oifname { rc, rs } masquerade fully-random", "snat "+inet+"to "+to, "meta l4proto { tcp, udp } oifname rs masquerade to :30000-30100",
				"snat "+inet+"to "+first+"5-"+first+"8 persistent", "drop", "meta l4proto tcp snat "+inet+"to "+open+to+end+":5555")
		}
		return g.one("accept", "counter")
	}
	rejects := []string{"reject", "accept"}
	if hook == "input" || hook == "forward" || hook == "prerouting" || hook == "sub" {
		rejects = []string{"reject", "reject with tcp reset"}
		if fam == "inet" {
			rejects = append(rejects, "reject with icmpx admin-prohibited", "reject with icmpx no-route", "reject with icmpx host-unreachable", "reject with icmp host-prohibited", "reject with icmpv6 no-route")
		}
	}
	reject := rejects[g.r.IntN(len(rejects))]
	if strings.Contains(reject, "tcp reset") {
		reject = "meta l4proto tcp " + reject
	}
	if hook == "output" || hook == "postrouting" {
		reject = "drop"
	}
	return g.one("accept", "drop", reject, "counter", "meta mark set 0x1", "meta mark set meta mark or 0x4000", "meta mark set meta mark and 0xff xor 0x3", "ct mark set 0x9", "ct mark set meta mark",
		"meta mark set ct mark", "jump sub", "goto sub", "return", "meta l4proto { tcp, udp } th dport vmap @ports", ip+" daddr vmap { "+g.serverIP()+" : accept, "+g.serviceIP()+" : drop }", "counter name hits", `quota name "cap" drop`,
		`quota name "small" drop`, "log prefix \"x\" group 3", "update @dyn { "+ip+" saddr }", "add @dyn { "+ip+" saddr limit rate 100/second } accept", "meta mark set "+ip+" saddr map @vmarks", "notrack",
		ip+" dscp set 0x0a", map[bool]string{true: "ip6 hoplimit set 9", false: "ip ttl set 9"}[g.v6], "tcp option maxseg size set 1000", "meta l4proto . th dport vmap { tcp . 80 : drop, udp . 53 : accept }",
		"ct zone set 5", ip+" saddr . "+ip+" daddr vmap { "+g.clientIP()+" . "+g.serverIP()+" : drop }", "meta mark set numgen inc mod 2", "meta mark set jhash "+ip+" saddr mod 5 seed 0x77", "meta nftrace set 1")
}
