package counters

import (
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func encode(t testing.TB, header []byte, each func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	e := netlink.NewAttributeEncoder()
	each(e)
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append(header, b...)
}

func empty() *Snapshot {
	return &Snapshot{Devices: make(map[string]int), Values: make(map[Key]uint64)}
}

func TestShortMessages(t *testing.T) {
	names := map[int]string{2: "eth0"}
	for name, parse := range map[string]func(*Snapshot, []byte) error{
		"link":        func(s *Snapshot, b []byte) error { _, err := s.link(b); return err },
		"neigh table": (*Snapshot).neighTable,
		"qdisc":       func(s *Snapshot, b []byte) error { _, _, err := s.queue(Qdisc, b, names); return err },
		"bridge port": func(s *Snapshot, b []byte) error { return s.bridgePort(b, names) },
		"VNI":         func(s *Snapshot, b []byte) error { return s.vnis(b, names) },
	} {
		if err := parse(empty(), []byte{1, 2, 3}); err == nil {
			t.Errorf("%s: 3 bytes give no error", name)
		}
	}
	if _, err := empty().link(request(unix.SizeofIfInfomsg, 2)); err == nil {
		t.Error("a link without a name gives no error")
	}
}

func TestVNIs(t *testing.T) {
	b := encode(t, request(sizeofTunnelMsg, 2), func(e *netlink.AttributeEncoder) {
		e.Nested(vniEntry, func(e *netlink.AttributeEncoder) error {
			e.Uint32(vniEntryStart, 100)
			e.Uint32(vniEntryEnd, 199)
			e.Nested(vniEntryStats, func(e *netlink.AttributeEncoder) error {
				e.Uint64(7, 5) // VXLAN_VNIFILTER_ENTRY_STATS_TX_DROPS
				return nil
			})
			return nil
		})
	})
	s := empty()
	if err := s.vnis(b, map[int]string{2: "vx"}); err != nil {
		t.Fatal(err)
	}
	if got := s.Values[Key{VNI, "vx", "100-199.tx_drops"}]; got != 5 || len(s.Values) != 1 {
		t.Errorf("values = %v", s.Values)
	}
}

func TestHandle(t *testing.T) {
	for _, tt := range []struct {
		kind      Kind
		h, parent uint32
		want      string
	}{
		{Qdisc, 0xffff0000, 0xfffffff1, "ffff:"},
		{Qdisc, 0x80010000, tcHandleRoot, "8001:"},
		{Qdisc, 0, tcHandleRoot, "root"},
		{Qdisc, 0, 0x00000002, "parent 0:2"},
		{Class, 0x00010010, tcHandleRoot, "1:10"},
	} {
		if got := handle(tt.kind, tt.h, tt.parent); got != tt.want {
			t.Errorf("handle(%s, %#x, %#x) = %q, want %q", tt.kind, tt.h, tt.parent, got, tt.want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(encode(f, request(unix.SizeofIfInfomsg, 2), func(e *netlink.AttributeEncoder) {
		e.String(unix.IFLA_IFNAME, "eth0")
		e.Bytes(unix.IFLA_STATS64, make([]byte, 200))
	}))
	f.Add(encode(f, request(sizeofTcmsg, 2), func(e *netlink.AttributeEncoder) { e.String(unix.TCA_KIND, "tbf") }))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, names := empty(), map[int]string{2: "eth0"}
		_, _ = s.link(b)
		_ = s.neighTable(b)
		_, _, _ = s.queue(Qdisc, b, names)
		_, _, _ = s.queue(Class, b, names)
		_ = s.bridgePort(b, names)
		_ = s.vnis(b, names)
		for k, v := range s.Values {
			if v == 0 || k.Name == "" {
				t.Errorf("%s = %d", k, v)
			}
		}
	})
}
