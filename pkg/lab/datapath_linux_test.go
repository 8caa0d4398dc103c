package lab

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// upSpec brings up a lab of a Spec.
func upSpec(t testing.TB, s Spec) (Options, *cluster) {
	t.Helper()
	o := testOptions(t)
	o.Spec = s
	start := time.Now()
	if err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Logf("up in %v", time.Since(start))
	s, err := s.complete()
	if err != nil {
		t.Fatal(err)
	}
	return o, newCluster(s)
}

// TestDatapaths lets everyone talk to everyone in each lab, by ICMP, TCP and UDP.
func TestDatapaths(t *testing.T) {
	for name, s := range specs(t) {
		if s.Nodes > 10 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, c := upSpec(t, s)
			var wg sync.WaitGroup
			limit := make(chan struct{}, 16)
			for _, p := range pairs(c) {
				wg.Go(func() {
					limit <- struct{}{}
					defer func() { <-limit }()
					for _, proto := range []string{"icmp", "tcp", "udp"} {
						if err := exchange(o, p.from, proto, netip.AddrPortFrom(p.to, echoPort), 2*time.Second); err != nil {
							t.Errorf("%s from %s to %s: %v", proto, p.from, p.to, err)
						}
					}
				})
			}
			wg.Wait()
			start := time.Now()
			if err := Down(t.Context(), o); err != nil {
				t.Error(err)
			}
			t.Logf("down in %v", time.Since(start))
			checkNothingLeft(t, o)
		})
	}
}

type pair struct {
	from string
	to   netip.Addr
}

// pairs are those that have something to say to each other: pods with pods, and nodes with pods both
// ways. Of a large lab every seventh.
func pairs(c *cluster) (list []pair) {
	for _, p := range c.pods {
		for _, ip := range p.ips {
			for _, q := range c.pods {
				list = append(list, pair{q.name, ip})
			}
			for _, n := range c.nodes {
				list = append(list, pair{n.name, ip})
			}
		}
	}
	for _, n := range c.nodes {
		for _, ip := range n.ips {
			for _, p := range c.pods {
				list = append(list, pair{p.name, ip})
			}
		}
	}
	if len(list) < 200 {
		return list
	}
	var some []pair
	for i := 0; i < len(list); i += 7 {
		some = append(some, list[i])
	}
	return some
}

// TestOther: a lab that stands is kept by an Up that asks for nothing, or for the same, and by one that
// asks for another. Faults that it cannot have are refused.
func TestOther(t *testing.T) {
	o, _ := upSpec(t, Spec{Datapath: FlannelHostGW})
	for _, tt := range []struct {
		datapath string
		want     error
	}{{"", nil}, {FlannelHostGW, nil}, {FlannelUDP, ErrOther}, {"weave", ErrNoDatapath}} {
		o.Spec = Spec{Datapath: tt.datapath}
		if err := Up(t.Context(), o); !errors.Is(err, tt.want) {
			t.Errorf("Up %q = %v, want %v", tt.datapath, err, tt.want)
		}
	}
	if s, err := Status(t.Context(), o); err != nil || !s.Up || s.Spec.Datapath != FlannelHostGW {
		t.Errorf("Status = %+v, %v", s, err)
	}
	for _, tt := range []struct {
		fault, node string
		want        error
	}{{"fdb-missing", "", ErrUnfit}, {"route-missing", "node9", ErrNoName}, {"duplicate-pod-ip", "node2", ErrUnfit}} {
		if err := Break(t.Context(), o, tt.fault, tt.node); !errors.Is(err, tt.want) {
			t.Errorf("Break %s on %q = %v, want %v", tt.fault, tt.node, err, tt.want)
		}
	}
}
