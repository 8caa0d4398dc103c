package lab

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestFaultsOfDatapaths puts every fault that a lab can have where it is put by default, sees that the
// path that it is about does not work as said, and that it works again once the fault is mended.
func TestFaultsOfDatapaths(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait() // all at once, not as many as there are CPUs: most of it is waiting
	for name, s := range specs(t) {
		if s.Nodes > 3 {
			continue
		}
		wg.Go(func() { t.Run(name, func(t *testing.T) { checkFaults(t, s) }) })
	}
}

func checkFaults(t *testing.T, s Spec) {
	o, c := upSpec(t, s)
	faults, err := FaultsOf(s)
	if err != nil {
		t.Fatal(err)
	}
	before := tablesOf(t, o)
	for _, f := range faults {
		if isWorthIt(f, s) {
			checkFault(t, o, c, f)
		}
	}
	if diff := cmp.Diff(lines(before), lines(tablesOf(t, o))); diff != "" {
		t.Errorf("mended lab differs (-before +after):\n%s", diff)
	}
}

// isWorthIt leaves out what another lab shows just as well.
func isWorthIt(f Fault, s Spec) bool {
	switch {
	case s.VNI == 42:
		return f.ID == "fdb-aged" // it takes its time
	case s.Services != "":
		return slices.Equal(f.Datapaths, []string{"services"}) || strings.HasPrefix(f.ID, "forward-")
	}
	return f.ID != "fdb-aged" && f.ID != "ct-table-full" // it takes seconds to fill, in any lab alike
}

// brief is how long a packet may take that should be lost, patient one that should arrive.
const (
	brief   = 150 * time.Millisecond
	patient = 2 * time.Second
)

func checkFault(t *testing.T, o Options, c *cluster, f Fault) {
	t.Helper()
	if err := Break(t.Context(), o, f.ID, ""); err != nil {
		t.Errorf("%s: %v", f.ID, err)
		return
	}
	if f.ID == "fdb-aged" {
		time.Sleep(12 * time.Second)
	}
	requested, err := attempt(t, o, c, f, brief)
	switch f.Leg {
	case onNone:
		if err != nil {
			t.Errorf("%s: nothing should be lost: %v", f.ID, err)
		}
	case onReply:
		if !requested || err == nil {
			t.Errorf("%s: request %v, %v, want the reply alone to be lost", f.ID, requested, err)
		}
	case onLarge:
		size := c.podMTU()
		if f.ID == "pmtu-icmp-blocked" {
			size = c.uplinkMTU()
		}
		if _, large := probe(t, o, c, f, size-20, brief); err != nil || large == nil {
			t.Errorf("%s: small %v, large %v", f.ID, err, large)
		}
	default:
		if requested && !isAddress(f.To) || err == nil && f.ID != "duplicate-pod-ip" {
			t.Errorf("%s: request %v, %v, want it to be lost", f.ID, requested, err)
		}
	}
	if err := Mend(t.Context(), o, f.ID); err != nil {
		t.Errorf("%s: mend: %v", f.ID, err)
	}
	if requested, err := attempt(t, o, c, f, patient); err != nil || !requested {
		t.Errorf("%s: mended: request %v, %v", f.ID, requested, err)
	}
}

// lines tells a difference apart from all that is the same.
func lines(s string) []string { return strings.Split(s, "\n") }

func isAddress(to string) bool { return strings.ContainsAny(to, ".:") }

// attempt uses the path of a fault with a small packet.
func attempt(t *testing.T, o Options, c *cluster, f Fault, patience time.Duration) (requested bool, err error) {
	t.Helper()
	return probe(t, o, c, f, 0, patience)
}

// probe uses the path of a fault: a ping between pods or to a node, else a request to a service. It reports
// whether the request arrived, as far as that can be said.
func probe(t *testing.T, o Options, c *cluster, f Fault, size int, patience time.Duration) (requested bool, err error) {
	t.Helper()
	if to, err := netip.ParseAddrPort(f.To); err == nil {
		if f.ID == "ct-stale-udp" {
			return true, exchangeFrom(o, f.From, staleFlowPort, "udp", to, 0, patience)
		}
		return true, exchange(o, f.From, "http", to, patience)
	}
	if to, err := netip.ParseAddr(f.To); err == nil {
		return true, exchange(o, f.From, "icmp", netip.AddrPortFrom(to, 0), patience)
	}
	var to netip.Addr
	for _, p := range c.pods {
		if p.name == f.To {
			to = p.ip()
			if strings.HasPrefix(f.ID, "v6-") {
				to = of(p.ips, true)
			}
		}
	}
	before := requestsAt(t, o, f.To)
	err = exchangeFrom(o, f.From, 0, "icmp", netip.AddrPortFrom(to, 0), size, patience)
	return requestsAt(t, o, f.To) > before, err
}

// TestServices uses every service from everywhere that may.
func TestServices(t *testing.T) {
	for _, mode := range []string{ServicesIPTables, ServicesIPTablesLegacy, ServicesNFTables} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			o, _ := upSpec(t, Spec{Services: mode})
			check := func(from, proto, to string) {
				t.Helper()
				if err := exchange(o, from, proto, netip.MustParseAddrPort(to), patient); err != nil {
					t.Errorf("%s from %s to %s: %v", proto, from, to, err)
				}
			}
			for range 4 { // of two endpoints one is chosen by chance
				for _, from := range []string{"coffee-1", "tea-1", "coffee-2", "node1", "node2"} {
					for _, to := range []string{"10.96.0.10:80", "10.96.0.11:80", "10.101.171.243:80"} {
						check(from, "http", to)
					}
					check(from, "tcp", "10.96.0.12:7")
					check(from, "udp", "10.96.0.12:7")
				}
				for _, node := range []string{"10.1.11.91", "10.1.11.92"} {
					for _, port := range []string{":30080", ":30082", ":32604"} {
						check(clientName, "http", node+port)
					}
					check(clientName, "udp", node+":30007")
				}
			}
			if err := exchange(o, "coffee-1", "http", netip.MustParseAddrPort("10.96.0.14:80"), patient); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("a service without endpoints: %v, want it refused", err)
			}
		})
	}
}

// TestTwoFaults: any two at once, each mended alone.
func TestTwoFaults(t *testing.T) {
	o, c := upSpec(t, Spec{Datapath: CalicoVXLAN})
	for _, f := range []Broken{{"fdb-wrong-dst", "node1"}, {"pod-host-route-missing", "node2"}} {
		if err := Break(context.Background(), o, f.ID, f.Node); err != nil {
			t.Fatal(err)
		}
	}
	path := Fault{From: "coffee-1", To: "coffee-2"}
	for _, id := range []string{"fdb-wrong-dst", "pod-host-route-missing"} {
		if requested, err := attempt(t, o, c, path, brief); requested || err == nil {
			t.Errorf("before %s is mended: request %v, %v", id, requested, err)
		}
		if err := Mend(t.Context(), o, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := attempt(t, o, c, path, patient); err != nil {
		t.Error(err)
	}
}
