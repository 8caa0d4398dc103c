package counters

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parsed(parse func([]byte, func(string, uint64)), text string) map[string]uint64 {
	out := make(map[string]uint64)
	parse([]byte(text), func(name string, v uint64) {
		if v != 0 {
			out[name] = v
		}
	})
	return out
}

const snmp = `Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 18446744073709551615
Tcp: MaxConn OutSegs
Tcp: -1 12
Udp: InDatagrams NoPorts
Udp: 7 2 99
`

func TestParse(t *testing.T) {
	tests := []struct {
		name  string
		parse func([]byte, func(string, uint64))
		text  string
		want  map[string]uint64
	}{
		{"snmp", parseSNMP, snmp, map[string]uint64{
			"Ip.Forwarding": 1, "Ip.DefaultTTL": 64, "Ip.InReceives": 1<<64 - 1, "Tcp.OutSegs": 12, "Udp.InDatagrams": 7, "Udp.NoPorts": 2,
		}},
		{"snmp, values missing", parseSNMP, "Ip: A B\nUdp: A\nUdp: 5\n", map[string]uint64{"Udp.A": 5}},
		{"snmp6", parseSNMP6, "Ip6InReceives                   \t5\nUdpLite6InErrors 2\nIcmp6InType136 1\nbroken\nx6 4\nIp6Bad x\n",
			map[string]uint64{"Ip6.InReceives": 5, "UdpLite6.InErrors": 2, "Icmp6.InType136": 1}},
		{"conntrack", parseConntrack, "entries  clashres found insert_failed drop icmp_error\n" +
			"00000009 00000001 00000002 0000000a ffffffff 00000000\n00000009 00000001 00000000 00000001 00000001 00000003\n",
			map[string]uint64{"clash_resolve": 2, "found": 2, "insert_failed": 11, "drop": 1 << 32, "error": 3}},
		{"stat, more columns than names", parseStat, "a b\n1 2 3\nzz 2\n", map[string]uint64{"a": 1, "b": 4}},
		{"softnet", parseSoftnet, "00000010 00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000005 00000000 00000000\n" +
			"00000001 00000001\n", map[string]uint64{"processed": 17, "dropped": 2, "time_squeeze": 2, "flow_limit": 5}},
		{"empty", parseStat, "", map[string]uint64{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parsed(tt.parse, tt.text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(snmp))
	f.Add([]byte("Ip6InReceives 5\nx6\n"))
	f.Add([]byte("entries drop\n0000000a ffffffff\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte, func(string, uint64)){parseSNMP, parseSNMP6, parseStat, parseSoftnet, parseConntrack} {
			parse(b, func(name string, _ uint64) {
				if name == "" {
					t.Errorf("a counter without a name in %q", b)
				}
			})
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add("link/eth0/rx_dropped")
	f.Add("proto//Udp.NoPorts")
	f.Fuzz(func(t *testing.T, s string) {
		var k Key
		if err := k.UnmarshalText([]byte(s)); err == nil && k.String() != s {
			t.Errorf("%q reads as %q", s, k)
		} else if err != nil && k != (Key{}) {
			t.Errorf("%q: %v and %v", s, k, err)
		}
	})
}
