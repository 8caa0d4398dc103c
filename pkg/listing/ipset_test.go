package listing

import (
	"testing"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// ipsetTexts are the same sets as ipset save and as ipset list prints them.
var ipsetTexts = map[string]string{
	"ipset save": `create ips hash:ip,port family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x430ccfd7
add ips 10.0.0.1,udp:53 timeout 99 comment "a b"
add ips 10.0.0.1,icmp:echo-request
create nets hash:net family inet6 hashsize 1024 maxelem 65536
add nets fd00::/8
add nets fd01::1 nomatch
create ports bitmap:port range 0-1000
add ports 80
create all list:set size 8
add all nets
`,
	"ipset list": `Name: ips
Type: hash:ip,port
Revision: 7
Header: family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x430ccfd7
Size in memory: 264
References: 1
Number of entries: 2
Members:
10.0.0.1,udp:53 timeout 99 comment "a b"
10.0.0.1,icmp:echo-request

Name: nets
Type: hash:net
Header: family inet6 hashsize 1024 maxelem 65536
Members:
fd00::/8
fd01::1 nomatch

Name: ports
Type: bitmap:port
Header: range 0-1000
Members:
80

Name: all
Type: list:set
Header: size 8
Members:
nets
`,
}

// TestIPSets: both forms give the same sets, by which rules refer to them; a set that is not listed is none.
func TestIPSets(t *testing.T) {
	const save = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set nets src -j DROP\n-A FORWARD -m set ! --match-set other dst,dst -j DROP\nCOMMIT\n"
	for command, text := range ipsetTexts {
		l := Parse([]Input{{File: "s", Command: command, Text: []byte(text)}, {File: "f", Command: "iptables-save", Text: []byte(save)}})
		n := l.Snapshot.Netns[0]
		got := jsonOf(n.Netfilter.IPSets)
		const want = `[{"index":0,"name":"ips","type":"hash:ip,port","family":2,"members":[{"addr":"10.0.0.1/32","addr2":"","proto":17,"port":53},` +
			`{"addr":"10.0.0.1/32","addr2":"","proto":1,"port":2048}]},` +
			`{"index":1,"name":"nets","type":"hash:net","family":10,"members":[{"addr":"fd00::/8","addr2":""},{"addr":"fd01::1/128","addr2":"","nomatch":true}]},` +
			`{"index":2,"name":"ports","type":"bitmap:port","members":[{"addr":"","addr2":"","port":80}]},` +
			`{"index":3,"name":"all","type":"list:set","members":[{"addr":"","addr2":"","set":"nets"}]}]`
		if len(l.NotUnderstood) > 0 || got != want {
			t.Errorf("%s: %+v\n got %s\nwant %s", command, l.NotUnderstood, got, want)
		}
		rules := n.Netfilter.Tables[0].Chains[0].Rules
		if a, b := rules[0].Exprs[0], rules[1].Exprs[0]; a.Op != netfilter.OpSet || a.Mod != 1 || b.Mod != noIPSet || !n.Lacks(tabNetfilter+" ipset", "") {
			t.Errorf("%s: %s, lacks %q", command, jsonOf(rules), n.Incomplete)
		}
	}
}
