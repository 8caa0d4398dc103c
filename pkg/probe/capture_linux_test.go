package probe_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
	"github.com/podtrace/podtrace/pkg/probe"
)

// TestFilterOfFlow shows that what Flow announces is what a filter made of it sees: the request and
// the answer, and with a marker also where no address is known.
func TestFilterOfFlow(t *testing.T) {
	a, b := nstest.New(t), nstest.New(t)
	nstest.Veth(t, a, "eth0", b, "eth0")
	for _, addr := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		nstest.Addr(t, a, "eth0", addr)
	}
	for _, addr := range []string{"192.0.2.2/24", "2001:db8::2/64"} {
		nstest.Addr(t, b, "eth0", addr)
	}
	strangers := []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:9::1")}
	for _, dst := range []string{"192.0.2.2", "2001:db8::2"} {
		for _, name := range []string{"icmp", "tcp:9", "udp:9"} {
			t.Run(name+" "+dst, func(t *testing.T) {
				spec, err := probe.ParseSpec(name)
				if err != nil {
					t.Fatal(err)
				}
				p, err := probe.Prepare(a, spec, netip.Addr{}, netip.MustParseAddr(dst), probe.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				f := p.Flow()
				flow := capture.Flow{
					Proto: f.Proto, A: []netip.Addr{f.Src}, B: []netip.Addr{f.Dst}, APort: f.SrcPort, BPort: f.DstPort,
				}
				marked := capture.Flow{Proto: f.Proto, A: strangers, Marker: f.Marker}
				index := nstest.Ifindex(t, a, "eth0")
				points := make([]capture.Point, 2)
				for i, fl := range []capture.Flow{flow, marked} {
					prog, err := capture.Filter(fl, nil, capture.FilterOptions{})
					if err != nil {
						t.Fatal(err)
					}
					points[i] = capture.Point{ID: i, Netns: a, Ifindex: index, Interface: "eth0", Filter: prog}
				}
				s, err := capture.Open(t.Context(), capture.Config{Points: points})
				if err != nil {
					t.Fatal(err)
				}
				s.Start()
				p.Run(t.Context(), 1, 0, time.Second)
				r := s.Stop()
				if out, in := transport(r, 0, capture.Out), transport(r, 0, capture.In); out != 1 || in != 1 {
					t.Errorf("%d out and %d in, want one of each", out, in)
				}
				if out := transport(r, 1, capture.Out); name != "tcp:9" && out != 1 {
					t.Errorf("%d out by the marker alone, want one", out)
				}
			})
		}
	}
}

// transport counts a point's frames in a direction, without ARP and neighbour discovery.
func transport(r capture.Result, point int, dir capture.Direction) int {
	n := 0
	for _, f := range r.Frames {
		arp := f.Data[12] == 8 && f.Data[13] == 6
		nd := f.Data[12] == 0x86 && f.Data[20] == 58 && f.Data[54] >= 133 && f.Data[54] <= 137
		if f.Point == point && f.Dir == dir && !arp && !nd {
			n++
		}
	}
	return n
}
