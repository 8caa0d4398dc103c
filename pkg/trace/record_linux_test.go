package trace_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/recorder"
	"github.com/podtrace/podtrace/pkg/trace"
)

// chatter sends datagrams from coffee-1 to a port of coffee-2 that answers, until ctx ends.
func chatter(ctx context.Context, t testing.TB, inv *inventory.Inventory, every time.Duration) (wait func()) {
	t.Helper()
	from, err := inv.Lookup("coffee-1", "default")
	if err != nil {
		t.Fatal(err)
	}
	to, err := inv.Lookup("coffee-2", "default")
	if err != nil {
		t.Fatal(err)
	}
	const echo = 7
	h, err := netns.Open(from.Pod.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var conn *net.UDPConn
	if err := h.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.IP(), echo)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close()
		buf := make([]byte, 1500)
		for i := 0; ctx.Err() == nil; i++ {
			_, _ = conn.Write(fmt.Appendf(nil, "datagram %d", i)) // what is refused is what the test is about
			_ = conn.SetReadDeadline(time.Now().Add(every))
			_, _ = conn.Read(buf)
			time.Sleep(every)
		}
	})
	return wg.Wait
}

// record starts a recorder; incidents come on the channel, and end gives what it saw.
func record(ctx context.Context, t testing.TB, inv *inventory.Inventory, dial node.Dialer) (incidents chan *trace.Incident, end func() *trace.Recorded) {
	t.Helper()
	incidents = make(chan *trace.Incident, 100)
	armed := make(chan struct{}, 100)
	o := options(inv, "coffee-1", "coffee-2", "none")
	o.Dial, o.Version = dial, "test"
	o.Progress = func(format string, _ ...any) {
		if strings.HasPrefix(format, "armed") {
			armed <- struct{}{}
		}
	}
	var sum *trace.Recorded
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		sum, err = trace.Record(ctx, o, trace.RecordOptions{
			Keep: 5 * time.Second, Memory: 8 << 20, OnIncident: func(in *trace.Incident) (bool, error) {
				incidents <- in
				return true, nil
			},
		})
	}()
	select {
	case <-armed:
	case <-done:
		t.Fatal(err)
	}
	return incidents, func() *trace.Recorded {
		<-done
		if err != nil {
			t.Error(err)
		}
		return sum
	}
}

// TestRecord breaks the lab under a recorder that has seen nothing wrong, mends it, and breaks it in another way: each
// is one incident, with its cause, and what goes on meanwhile is none. By agents it is the same.
func TestRecord(t *testing.T) {
	inv := up(t)
	t.Run("direct", func(t *testing.T) { testRecord(t, inv, nil) })
	t.Run("by agents", func(t *testing.T) { testRecord(t, inv, (&agents{t: t, inv: inv}).dial) })
	t.Run("by a slow agent", func(t *testing.T) {
		testRecord(t, inv, (&agents{t: t, inv: inv, slow: "node2", late: 200 * time.Millisecond}).dial)
	})
}

func testRecord(t *testing.T, inv *inventory.Inventory, dial node.Dialer) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	incidents, end := record(ctx, t, inv, dial)
	quiet := chatter(ctx, t, inv, 10*time.Millisecond)
	time.Sleep(2 * time.Second)
	for _, f := range []struct{ id, node string }{{"fdb-missing", "node1"}, {"forward-policy-drop", "node2"}} {
		if err := lab.Break(ctx, labOptions(), f.id, f.node); err != nil {
			t.Fatal(err)
		}
		select {
		case in := <-incidents:
			v := in.Report.Verdict
			if v.Cause != f.id || v.Node != f.node || in.Notice.Kind != recorder.Lost {
				t.Errorf("%s: %s %s on %s, for %s:\n%s", f.id, v.Status, v.Cause, v.Node, in.Notice, text(in.Report))
			}
			if n := len(in.Case.Observed.Frames); n == 0 || n > 10_000 {
				t.Errorf("%s: %d frames", f.id, n)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is not noticed", f.id)
		}
		if err := lab.Mend(ctx, labOptions(), f.id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
	cancel()
	quiet()
	sum := end()
	if sum.Incidents != 2 || sum.Packets == 0 || sum.Drops != 0 {
		t.Errorf("recorded %+v", *sum)
	}
	for len(incidents) > 0 {
		in := <-incidents
		t.Errorf("one more incident, %s:\n%s", in.Notice, text(in.Report))
	}
}

// soakEnv is for how long TestSoak runs, as a duration; without it, it does not.
const soakEnv = "SOAK"

// footprint is what must not grow.
type footprint struct {
	heap, rss, files, goroutines int // heap and RSS in KiB
}

func measure() footprint {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{heap: int(m.HeapAlloc >> 10), goroutines: runtime.NumGoroutine()}
	files, _ := os.ReadDir("/proc/self/fd")
	f.files = len(files)
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if w := strings.Fields(rest); len(w) > 0 {
		f.rss, _ = strconv.Atoi(w[0])
	}
	return f
}

// TestSoak records for a long time while the lab breaks and heals every ten seconds: what the first third needed is
// enough for the last.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv(soakEnv))
	if err != nil {
		t.Skipf("a soak runs for as long as %s says", soakEnv)
	}
	inv := up(t)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	incidents, end := record(ctx, t, inv, nil)
	quiet := chatter(ctx, t, inv, 500*time.Microsecond)
	var all []footprint
	for i := 0; ctx.Err() == nil; i++ {
		if i%10 == 9 {
			if err := lab.Break(t.Context(), labOptions(), "fdb-missing", "node1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if err := lab.Mend(t.Context(), labOptions(), "fdb-missing"); err != nil {
				t.Fatal(err)
			}
		}
		for len(incidents) > 0 {
			<-incidents
		}
		if f := measure(); ctx.Err() == nil {
			all = append(all, f)
		}
		time.Sleep(time.Second)
	}
	quiet()
	sum := end()
	third := len(all) / 3
	early, late := usual(all[:third]), usual(all[len(all)-third:])
	t.Logf("%d packets, %d incidents and %d more notices; %+v in the first third, %+v in the last", sum.Packets, sum.Incidents, sum.Again, early, late)
	if late.heap > early.heap*5/4+1024 || late.rss > early.rss*11/10+4096 || late.files > early.files || late.goroutines > early.goroutines {
		t.Errorf("grown: %+v, then %+v", early, late)
	}
	if sum.Packets == 0 || sum.Incidents == 0 || sum.Drops > 0 {
		t.Errorf("recorded %+v", *sum)
	}
}

// usual is the median of each: a look at an incident opens files and takes memory for a moment, and the first are
// taken before all is armed.
func usual(fs []footprint) footprint {
	by := func(f func(footprint) int) int {
		var v []int
		for _, x := range fs {
			v = append(v, f(x))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return footprint{
		heap: by(func(f footprint) int { return f.heap }), rss: by(func(f footprint) int { return f.rss }),
		files: by(func(f footprint) int { return f.files }), goroutines: by(func(f footprint) int { return f.goroutines }),
	}
}
