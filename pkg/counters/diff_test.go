package counters

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtrace/podtrace/pkg/netns"
)

func snap(devices map[string]int, values map[Key]uint64) *Snapshot {
	return &Snapshot{Devices: devices, Values: values}
}

func TestDiff(t *testing.T) {
	eth0 := map[string]int{"eth0": 2}
	rx := Key{Link, "eth0", "rx_dropped"}
	noPorts := Key{Proto, "", "Udp.NoPorts"}
	failed := Key{Conntrack, "", "insert_failed"}
	drops := Key{Qdisc, "eth0", "tbf[1:].drops"}
	count := Key{Conntrack, "", "count"}
	tests := []struct {
		name          string
		before, after *Snapshot
		want          []Delta
	}{
		{"nothing", snap(eth0, map[Key]uint64{rx: 5}), snap(eth0, map[Key]uint64{rx: 5}), nil},
		{"moved, in order",
			snap(eth0, map[Key]uint64{rx: 5}), snap(eth0, map[Key]uint64{noPorts: 1, rx: 7, failed: 2}),
			[]Delta{{Key: failed, After: 2, N: 2}, {Key: rx, Before: 5, After: 7, N: 2}, {Key: noPorts, After: 1, N: 1}}},
		{"device made again", snap(eth0, map[Key]uint64{rx: 5}), snap(map[string]int{"eth0": 9}, map[Key]uint64{rx: 7}),
			[]Delta{{Key: rx, Before: 5, After: 7, N: 7, Reset: true}}},
		{"device made again, nothing counted", snap(eth0, map[Key]uint64{rx: 5}), snap(map[string]int{"eth0": 9}, nil), nil},
		{"device is new", snap(nil, nil), snap(eth0, map[Key]uint64{rx: 7}),
			[]Delta{{Key: rx, After: 7, N: 7, Reset: true}}},
		{"device gone", snap(eth0, map[Key]uint64{rx: 5}), snap(nil, nil), nil},
		{"cleared", snap(eth0, map[Key]uint64{rx: 50}), snap(eth0, map[Key]uint64{rx: 7}),
			[]Delta{{Key: rx, Before: 50, After: 7, N: 7, Reset: true}}},
		{"cleared to nothing", snap(eth0, map[Key]uint64{rx: 50}), snap(eth0, nil),
			[]Delta{{Key: rx, Before: 50, Reset: true}}},
		{"64 bits, large", snap(eth0, map[Key]uint64{rx: 1<<32 - 1}), snap(eth0, map[Key]uint64{rx: 1<<32 + 1}),
			[]Delta{{Key: rx, Before: 1<<32 - 1, After: 1<<32 + 1, N: 2}}},
		{"32 bits wrap", snap(eth0, map[Key]uint64{drops: 1<<32 - 2}), snap(eth0, map[Key]uint64{drops: 3}),
			[]Delta{{Key: drops, Before: 1<<32 - 2, After: 3, N: 5}}},
		// two CPUs: 0xffffffff and 10 become 1 and 10
		{"one CPU of a sum wraps", snap(eth0, map[Key]uint64{failed: 1<<32 + 9}), snap(eth0, map[Key]uint64{failed: 11}),
			[]Delta{{Key: failed, Before: 1<<32 + 9, After: 11, N: 2}}},
		{"32 bits cleared", snap(eth0, map[Key]uint64{drops: 1000}), snap(eth0, map[Key]uint64{drops: 1}),
			[]Delta{{Key: drops, Before: 1000, After: 1, N: 1, Reset: true}}},
		{"a level falls", snap(eth0, map[Key]uint64{count: 9}), snap(eth0, map[Key]uint64{count: 4}),
			[]Delta{{Key: count, Before: 9, After: 4, N: -5}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Diff(tt.before, tt.after)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoss(t *testing.T) {
	tests := []struct {
		key  Key
		n    int64
		want bool
	}{
		{Key{Link, "eth0", "rx_dropped"}, 1, true},
		{Key{Link, "eth0", "rx_dropped"}, 0, false},
		{Key{Link, "eth0", "rx_packets"}, 1, false},
		{Key{Proto, "", "Udp.NoPorts"}, 1, true},
		{Key{Proto, "", "Udp6.NoPorts"}, 1, true},
		{Key{Proto, "eth0", "Ip6.InNoRoutes"}, 1, true},
		{Key{Proto, "", "Ip.InReceives"}, 1, false},
		{Key{Proto, "", "Tcp.CurrEstab"}, 1, false},
		{Key{Conntrack, "", "count"}, 1, false},
		{Key{Conntrack, "", "drop"}, 1, true},
		{Key{Qdisc, "eth0", "clsact[ffff:].drops"}, 1, true},
		{Key{Qdisc, "eth0", "tbf[1:].overlimits"}, 1, false},
		{Key{Class, "eth0", "htb[1:10].drops"}, 1, true},
		{Key{Neigh, "", "arp_cache.table_fulls"}, 1, true},
		{Key{Neigh, "", "arp_cache.entries"}, 1, false},
		{Key{VNI, "vx", "100-199.tx_drops"}, 1, true},
		{Key{"new kind", "", "drops"}, 1, false},
	}
	for _, tt := range tests {
		if _, got := (Delta{Key: tt.key, N: tt.n}).Loss(); got != tt.want {
			t.Errorf("Loss of %s by %d = %v, want %v", tt.key, tt.n, got, tt.want)
		}
	}
	l, _ := Meaning(Key{Qdisc, "eth0", "clsact[ffff:].drops"})
	if q, _ := Meaning(Key{Qdisc, "eth0", "tbf[1:].drops"}); l == q {
		t.Error("a drop by a filter reads like one by a queue")
	}
	for _, m := range []map[string]Loss{protoLosses, proto6Losses, losses[Link], losses[Neigh], losses[Conntrack], losses[Softnet]} {
		for name, l := range m {
			if l.Text == "" || l.Source == "" {
				t.Errorf("%s: text %q, source %q", name, l.Text, l.Source)
			}
		}
	}
}

func TestJSON(t *testing.T) {
	want := &Snapshot{
		Netns: netns.ID{Dev: 4, Ino: 4026531840}, Taken: time.Unix(1, 2).UTC(), Devices: map[string]int{"eth0": 2},
		Values: map[Key]uint64{{Link, "eth0", "rx_dropped"}: 1<<64 - 1, {Proto, "", "Udp.NoPorts"}: 3},
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Snapshot
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", b, diff)
	}
	for _, bad := range []string{"", "link", "link/eth0", "link/eth0/", "//x", "link//" + string(make([]byte, maxKey))} {
		var k Key
		if err := k.UnmarshalText([]byte(bad)); err == nil || k != (Key{}) {
			t.Errorf("UnmarshalText(%.20q) = %v, %v", bad, k, err)
		}
	}
}
