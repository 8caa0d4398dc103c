package kdrop

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const kallsyms = `ffffffff81000000 T _text
ffffffff81000000 T startup_64
0000000000000010 A fixed_percpu_data
ffffffff81d00000 t vxlan_rcv
ffffffff81d00800 d some_data
ffffffff81c00400 T ip_forward
ffffffff81c00000 T ip_rcv
ffffffff81c00800 t nft_do_chain.constprop.0
ffffffffc0000000 t ovs_dp_process_packet	[openvswitch]
ffffffffc0000010 b ovs_counters	[openvswitch]
broken
`

func TestSymbols(t *testing.T) {
	tests := []struct {
		name string
		addr uint64
		want string
	}{
		{"first byte", 0xffffffff81c00400, "ip_forward"},
		{"inside", 0xffffffff81c003ff, "ip_rcv"},
		{"before another in any order", 0xffffffff81c007ff, "ip_forward"},
		{"suffix", 0xffffffff81c00810, "nft_do_chain"},
		{"data is no function", 0xffffffff81d00900, "vxlan_rcv"},
		{"module", 0xffffffffc0000020, "ovs_dp_process_packet"},
		{"before all", 0xfffffffe00000000, ""},
		{"far behind all", 0xffffffffffffffff, ""},
		{"none", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := symbols(strings.NewReader(kallsyms), []uint64{1, tt.addr})
			if err != nil || got[tt.addr] != tt.want {
				t.Errorf("symbols = %q, %v, want %q", got[tt.addr], err, tt.want)
			}
		})
	}
	hidden := "0000000000000000 T ip_rcv\n0000000000000000 T ip_forward\n"
	if got, err := symbols(strings.NewReader(hidden), []uint64{0xffffffff81c00400}); err != nil || len(got) != 0 {
		t.Errorf("with kptr_restrict: %v, %v, want nothing", got, err)
	}
}

func FuzzSymbols(f *testing.F) {
	f.Add([]byte(kallsyms), uint64(0xffffffff81c00410))
	f.Add([]byte("0 t \nffffffffffffffffff t x\nf t .cold\n"), uint64(15))
	f.Fuzz(func(t *testing.T, b []byte, addr uint64) {
		got, _ := symbols(bytes.NewReader(b), []uint64{addr})
		for a, name := range got {
			if a != addr || name == "" || strings.ContainsAny(name, " \n\t.") || !bytes.Contains(b, []byte(name)) {
				t.Errorf("symbols(%q, %#x) = %q at %#x", b, addr, name, a)
			}
		}
	})
}

func TestParseFormat(t *testing.T) {
	// the end of /sys/kernel/tracing/events/skb/kfree_skb/format, shortened
	const format = `print fmt: "skbaddr=%p reason: %s", REC->skbaddr, __print_symbolic(REC->reason, ` +
		`{ 1, "SKB_CONSUMED" }, { 2, "NOT_SPECIFIED" }, { 0x3, "NO_SOCKET" }, { 99999999999, "BIG" }, { x, "NO" })`
	want := map[uint32]string{1: "SKB_CONSUMED", 2: "NOT_SPECIFIED", 3: "NO_SOCKET"}
	if diff := cmp.Diff(want, parseFormat([]byte(format))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReasonName(t *testing.T) {
	r := &reasons{names: map[uint32]string{2: unspecified, 2<<16 | 1: "LAST_ACTION"}, subsys: map[uint32]string{0: "CORE", 2: "OPENVSWITCH"}}
	for code, want := range map[uint32]string{
		2: "NOT_SPECIFIED", 500: "REASON(500)", 2<<16 | 1: "LAST_ACTION", 2<<16 | 7: "OPENVSWITCH(7)", 9 << 16: "REASON(589824)",
	} {
		if got := r.name(code); got != want {
			t.Errorf("name(%#x) = %q, want %q", code, got, want)
		}
	}
}
