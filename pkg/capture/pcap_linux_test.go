//go:build libpcap

package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// seen is what both engines know of a frame.
func seen(frames []Frame) []string {
	var out []string
	for _, f := range frames {
		out = append(out, fmt.Sprintf("point %d %s %d bytes %x", f.Point, f.Dir, f.WireLen, f.Data))
	}
	slices.Sort(out) // the order among points is that of time, which each takes for itself
	return out
}

// TestEnginesAgree lets both engines see every case of the filters, and a few hundred more frames: each of them has
// to give the same frames, byte for byte, with the same direction and length.
func TestEnginesAgree(t *testing.T) {
	for name, in := range map[string]struct {
		flow  Flow
		encap []Encap
		cases []filterCase
	}{
		"tcp": {tcpFlow, nil, tcpCases(t)}, "icmp behind VXLAN": {icmpFlow, bothPorts, encapCases(t, icmpCases(t))},
		"tcp behind VXLAN": {tcpFlow, bothPorts, encapCases(t, tcpCases(t))},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			pt := p.point()
			pt.Filter = mustFilter(t, in.flow, in.encap, FilterOptions{})
			far := Point{ID: 8, Netns: p.far, Ifindex: pt.Ifindex, Filter: pt.Filter}
			far.Interface, far.Ifindex = "far0", ifindexOf(t, p)
			var sessions []*Session
			for _, e := range []Engine{EngineRing, EnginePcap} {
				s := mustOpen(t, Config{Points: []Point{pt, far}, Engine: e, SnapLen: 200})
				s.Start()
				sessions = append(sessions, s)
			}
			for range 20 {
				for _, c := range in.cases {
					if len(c.frame) >= 18 {
						p.send(t, c.frame)
					}
				}
			}
			time.Sleep(50 * time.Millisecond)
			ring, other := sessions[0].Stop(), sessions[1].Stop()
			a, b := seen(ring.Frames), seen(other.Frames)
			if len(a) == 0 || !slices.Equal(a, b) {
				t.Errorf("the rings saw %d frames, libpcap %d", len(a), len(b))
			}
			for i := range ring.Points {
				if r, o := ring.Points[i], other.Points[i]; r.Packets != o.Packets || r.Drops+o.Drops != 0 || r.Truncated != o.Truncated {
					t.Errorf("point %d: %+v and %+v", r.ID, r, o)
				}
			}
		})
	}
}

func ifindexOf(t *testing.T, p *pair) (index int) {
	t.Helper()
	sa, err := unix.Getsockname(p.raw)
	if err != nil {
		t.Fatal(err)
	}
	return sa.(*unix.SockaddrLinklayer).Ifindex
}

// TestPcapEngineInterface: an interface that is not there is an error that names it.
func TestPcapEngineInterface(t *testing.T) {
	p := newPair(t)
	_, err := Open(t.Context(), Config{Engine: EnginePcap, Points: []Point{{ID: 3, Netns: p.near, Ifindex: 1, Interface: "none0"}}})
	if pe := (*PointError)(nil); !errors.As(err, &pe) || pe.ID != 3 || pe.Interface != "none0" {
		t.Errorf("Open = %v", err)
	}
}

// TestExpression puts expressions beside a flow's filter: what passes has to match both, in the frame and behind an
// encapsulation, and what tells of failures passes in any case.
func TestExpression(t *testing.T) {
	flow := Flow{A: []netip.Addr{podA, podA6}, B: []netip.Addr{podB, podB6}}
	web, dns := plain4(podA, podB, tcp(40001, 80)), plain4(podA, podB, udp(40001, 53))
	web6 := plain6(podA6, podB6, 6, tcp(40001, 80))
	stranger := plain4(podC, podB, tcp(40001, 80))
	cases := []filterCase{
		{"the port", web.bytes(t), true},
		{"the answer", plain4(podB, podA, tcp(80, 40001)).bytes(t), true},
		{"IPv6", web6.bytes(t), true},
		{"another port", plain4(podA, podB, tcp(40001, 81)).bytes(t), false},
		{"another protocol", dns.bytes(t), false},
		{"strangers", stranger.bytes(t), false},
		{"behind VXLAN", vxlan(t, 8472, web).bytes(t), true},
		{"IPv6 behind VXLAN", vxlan(t, 8472, web6).bytes(t), true},
		{"second port", vxlan(t, 4789, web).bytes(t), true},
		{"another port behind VXLAN", vxlan(t, 8472, plain4(podA, podB, tcp(40001, 81))).bytes(t), false},
		{"another protocol behind VXLAN", vxlan(t, 8472, dns).bytes(t), false},
		{"strangers behind VXLAN", vxlan(t, 8472, stranger).bytes(t), false},
		{"over IPv6", vxlan(t, 8472, web, eth(0x86dd), ip6(podC6, podC6, 17)).bytes(t), true},
		{"another protocol over IPv6", vxlan(t, 8472, dns, eth(0x86dd), ip6(podC6, podC6, 17)).bytes(t), false},
		{"ARP", stack{eth(0x0806), payload, payload, payload}.bytes(t), true},
		{"error about the flow", icmpError(t, node1, podA, 3, web, 28).bytes(t), true},
		{"error about strangers", icmpError(t, node1, podC, 3, stranger, 28).bytes(t), false},
	}
	filter, err := WithExpression(mustFilter(t, flow, bothPorts, FilterOptions{}), "tcp port 80", bothPorts, FilterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	runFilterCases(t, filter, cases)
	if _, ok := bpf.Disassemble(filter); !ok {
		t.Error("the program has instructions that nobody knows")
	}
	p := newPair(t) // the kernel takes it too
	pt := p.point()
	pt.Filter = filter
	if r := mustOpen(t, Config{Points: []Point{pt}}).Stop(); r.Points[0].Err != nil {
		t.Error(r.Points[0].Err)
	}
}

func TestExpressionErrors(t *testing.T) {
	for _, expr := range []string{"tcp prot 80", "greater 100", "inbound", ")"} {
		if err := CheckExpression(expr); err == nil {
			t.Errorf("%q is taken", expr)
		}
	}
	if err := CheckExpression("tcp port 80 or icmp"); err != nil {
		t.Error(err)
	}
}
