package kdrop

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewTableErrors(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no address", Config{Flows: []Flow{{Src: v4}}}, "two addresses"},
		{"two families", Config{Flows: []Flow{{Src: v4, Dst: v6}}}, "one family"},
		{"no neighbour", Config{Neighbours: []netip.Addr{{}}}, "neighbour"},
		{"too many", Config{Flows: make([]Flow, maxFlows+1)}, "more than 4096"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := newTable(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want one about %q", err, tt.want)
			}
		})
	}
}

func TestNewTable(t *testing.T) {
	f := udpFlow("192.0.2.1:4000", "192.0.2.2:53")
	mapped := f
	mapped.Src = netip.AddrFrom16(f.Src.As16())
	tab, err := newTable(Config{Flows: []Flow{f, mapped}, Neighbours: []netip.Addr{f.Dst}})
	if err != nil {
		t.Fatal(err)
	}
	port := func(hi, lo byte) uint16 { return binary.NativeEndian.Uint16([]byte{hi, lo}) }
	a, b := f.Src.As16(), f.Dst.As16()
	want := map[kfreeKey]uint32{
		{Src: a, Dst: b, Proto: 17, Sport: port(0x0f, 0xa0), Dport: port(0, 53)}: 0,
		{Src: b, Dst: a, Proto: 17, Dport: port(0x0f, 0xa0), Sport: port(0, 53)}: 1 << 31,
		{Src: a, Dst: b, Proto: 17, Kind: kindFragment}:                          0,
		{Src: b, Dst: a, Proto: 17, Kind: kindFragment}:                          1 << 31,
		{Dst: b, Kind: kindNeigh}:                                                0,
	}
	if diff := cmp.Diff(want, tab.keys); diff != "" || tab.wild != 0 {
		t.Errorf("wild %d, keys (-want +got):\n%s", tab.wild, diff)
	}
}

func TestParseEvent(t *testing.T) {
	e := kfreeEvent{
		Time: 1500, Reason: 2, Ifindex: 3, Netns: 4026531840, Len: 60, Flow: 1<<31 | 5, Offset: 50, Caplen: 4,
		Flags: flagInner | flagMAC, Dev: [16]uint8{'e', 't', 'h', '0', 0, 'x'}, Mac: [16]uint8{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 9, 9},
		Packet: [192]uint8{0x45, 1, 2, 3, 4}, Protocol: binary.NativeEndian.Uint16([]byte{8, 0}),
	}
	b, err := binary.Append(nil, binary.NativeEndian, &e)
	if err != nil {
		t.Fatal(err)
	}
	if len(b)+8 != recordSize {
		t.Errorf("event of %d bytes", len(b))
	}
	got, err := parseEvent(b)
	if err != nil {
		t.Fatal(err)
	}
	boot := time.Unix(100, 0)
	want := Drop{
		Time: boot.Add(1500), Reason: "NOT_SPECIFIED", ReasonCode: 2, Unspecified: true, Ifindex: 3, Device: "eth0",
		NetnsInode: 4026531840, Flow: 5, Reverse: true, Inner: true, Offset: 64, Length: 60,
		Frame: []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 1, 2, 3},
	}
	r := &reasons{names: map[uint32]string{2: unspecified}}
	if diff := cmp.Diff(want, got.drop(r, boot)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := parseEvent(b[:len(b)-1]); err == nil {
		t.Error("a short event gives no error")
	}
}

func TestRingSize(t *testing.T) {
	for n, want := range map[int]uint32{0: 1 << 20, -1: 1 << 20, 1 << 18: 1 << 18, 1<<18 + 1: 1 << 19, 1<<31 - 1: 1 << 30} {
		if got := ringSize(n); got != want {
			t.Errorf("ringSize(%d) = %d, want %d", n, got, want)
		}
	}
}
