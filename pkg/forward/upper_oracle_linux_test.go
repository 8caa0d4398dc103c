package forward_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/tables"
)

// TestMacvlanAgainstKernel sends between macvlan containers on one device, to and from another node, and to
// their own node, which can't be reached that way.
func TestMacvlanAgainstKernel(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)))
	w.v6 = false
	for i, mode := range []netlink.MacvlanMode{netlink.MACVLAN_MODE_BRIDGE, netlink.MACVLAN_MODE_BRIDGE, netlink.MACVLAN_MODE_PRIVATE} {
		name := fmt.Sprintf("m%d", i+1)
		h := nstest.New(t)
		w.ns[name], w.ips[name] = h, netip.MustParseAddr(fmt.Sprintf("192.168.50.%d", 101+i))
		nstest.Do(t, w.ns["n1"], func(nl *netlink.Handle) error {
			up, err := nl.LinkByName("up0")
			if err != nil {
				return err
			}
			l := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: up.Attrs().Index}, Mode: mode}
			if err := nl.LinkAdd(l); err != nil {
				return err
			}
			return nl.LinkSetNsFd(l, h.Fd())
		})
		w.sh(name, fmt.Sprintf("ip link set %s up; ip addr add %s/24 dev %s", name, w.ips[name], name))
	}
	snapshot := func() *tables.Snapshot {
		src := []tables.Source{}
		for _, n := range worldNodes {
			src = append(src, tables.Source{Netns: w.ns[n], Node: n, Name: tables.HostName})
		}
		for _, m := range []string{"m1", "m2", "m3"} {
			src = append(src, tables.Source{Netns: w.ns[m], Node: "n1", Name: "default/" + m})
		}
		s, err := tables.Read(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		from, to string
		end      forward.End
	}{
		{"m1", "m2", forward.Delivered}, {"m2", "m1", forward.Delivered}, {"m1", "n2", forward.Delivered}, {"n2", "m1", forward.Delivered},
		{"m1", "m3", forward.Dropped}, {"m3", "n2", forward.Delivered}, {"m1", "n1", forward.Dropped}, {"n1", "m1", forward.Dropped},
	} {
		snap := snapshot()
		s := send{from: c.from, dst: w.ips[c.to], port: 9000, sport: 31000, size: 40, payload: make([]byte, 40)}
		copy(s.payload, "podtrace-path-oracle"+c.from+c.to)
		legs := forward.New(snap, forward.Options{}).Trace(w.ns[c.from].ID(), forward.Flow{
			Proto: forward.ProtoUDP, Src: w.ips[c.from], Dst: s.dst, SrcPort: s.sport, DstPort: s.port, Length: 68,
		})
		got, arrived := w.observe(snap, s)
		if legs[0].End != c.end || !w.agrees(legs, got, arrived) {
			t.Errorf("%s to %s: want %s", c.from, c.to, c.end)
			w.report(0, snap, s, legs, got, arrived)
		}
	}
}
