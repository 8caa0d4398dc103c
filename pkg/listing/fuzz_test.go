package listing

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse: a page may hold anything. Parsing it ends, never panics, and reports lines that exist.
func FuzzParse(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*/*.txt")
	more, _ := filepath.Glob("testdata/*.*")
	for _, p := range append(paths, more...) {
		if b, err := os.ReadFile(p); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) { check(t, Parse([]Input{{File: "x", Text: b}})) })
}

// FuzzCommand: every parser with lines that are not of its output.
func FuzzCommand(f *testing.F) {
	for _, c := range fuzzCommands {
		f.Add(c, "")
	}
	f.Add("ip -d link", "2: a@if3: <UP> mtu 1 master b\n vxlan id 1 dev c\n bridge_slave state x port_no 0x1\n inet 1.2.3.4/9 peer 1::/0")
	f.Add("ip -j route", `[{"dst":"default","nexthops":[{"dev":"a","weight":-1}],"metrics":[{"mtu":"x"}]},{"dst":1}]`)
	f.Add("nft list ruleset", "table ip a {\n chain b {\n type nat hook prerouting priority -100; policy drop;\n ip saddr { 1.2.3.4, 5.6.7.0/24 } dnat to 1.1.1.1:80\n }\n}")
	f.Add("nft -j list ruleset", `{"nftables":[{"rule":{"family":"ip","table":"a","chain":"b","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[1,{"range":[2,3]}]}}}]}}]}`)
	f.Fuzz(func(t *testing.T, command, text string) {
		check(t, Parse([]Input{{File: "x", Node: "n", Netns: "host", Command: command, Text: []byte(text)}}))
	})
}

var fuzzCommands = []string{
	"ip -d link", "ip -br a", "ip addr", "bridge link", "ip route show table all", "ip -6 r", "ip rule", "ip -s neigh", "ip nexthop", "bridge fdb", "bridge vlan", "brctl show",
	"brctl showmacs br0", "route -n", "netstat -rn", "arp -an", "ifconfig -a", "ethtool -S eth0", "tc qdisc", "tc filter show dev a ingress",
	"iptables-save -c", "iptables -S", "iptables -t nat -nvL", "ip6tables -nL --line-numbers", "nft list ruleset", "conntrack -L", "ipvsadm -Ln", "cat /proc/net/ip_vs", "sysctl -a",
	"cat /sys/class/net/eth0/iflink", "grep . /sys/class/net/*/ifindex", "kubectl get pods -A -o wide", "kubectl get nodes -o yaml", "kubectl get nodes -o yaml | grep -A3 Vtep",
	"kubectl describe pod x", "docker inspect -f {{.State.Pid}} abcd", "kubectl exec -n a b -- nsenter -t 1 -n sh -c 'ip a'",
}

func check(t *testing.T, l *Listing) {
	t.Helper()
	if l.Snapshot == nil || l.Inventory == nil {
		t.Fatal("nothing came back")
	}
	for _, u := range l.NotUnderstood {
		if u.Line < 1 {
			t.Errorf("line %d", u.Line)
		}
	}
	for _, n := range l.Snapshot.Netns {
		for _, r := range n.Routes {
			if !r.Dst.IsValid() {
				t.Errorf("route without a destination: %+v", r)
			}
			n.FormatRoute(r)
		}
		for _, k := range n.Links {
			if k.Index <= 0 {
				t.Errorf("link without an index: %+v", k)
			}
		}
		for _, a := range n.Addrs {
			if !a.Prefix.IsValid() || a.Index <= 0 {
				t.Errorf("address %+v", a)
			}
		}
	}
	jsonOf(l.Snapshot)
}
