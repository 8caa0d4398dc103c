package trace_test

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// while runs f once, as soon as the probes are under way.
func while(o *trace.Options, f func()) (wait func()) {
	var once sync.Once
	var wg sync.WaitGroup
	wg.Add(1)
	o.Progress = func(format string, _ ...any) {
		if strings.HasPrefix(format, "sending") {
			once.Do(func() { go func() { defer wg.Done(); f() }() })
		}
	}
	return wg.Wait
}

// TestHealsByItself: a fault that ends while podtrace looks is told as one that did.
func TestHealsByItself(t *testing.T) {
	inv := up(t)
	t.Run("entry", func(t *testing.T) {
		if err := lab.Break(t.Context(), labOptions(), "fdb-missing", "node1"); err != nil {
			t.Fatal(err)
		}
		o := options(inv, "coffee-1", "coffee-2", "icmp")
		o.Count, o.Interval = 20, 50*time.Millisecond
		wait := while(&o, func() {
			time.Sleep(300 * time.Millisecond)
			if err := lab.Mend(t.Context(), labOptions(), "fdb-missing"); err != nil {
				t.Error(err)
			}
		})
		r, err := trace.Path(t.Context(), o)
		wait()
		if err != nil {
			t.Fatal(err)
		}
		v := r.Verdict
		if v.Status != report.Degraded || v.Cause != "fdb-missing" || v.Node != "node1" || !strings.Contains(text(r), "it healed by itself") {
			t.Errorf("%+v\n%s", v, text(r))
		}
	})
	t.Run("link", func(t *testing.T) {
		o := options(inv, "coffee-1", "coffee-2", "icmp")
		o.Count, o.Interval = 20, 50*time.Millisecond
		wait := while(&o, func() {
			time.Sleep(200 * time.Millisecond)
			flap := "ip link set eno16780032 down; sleep 0.2; ip link set eno16780032 up; ip route replace 10.1.11.91 dev eno16780032 2>&1"
			if out, err := exec.Command("ip", "netns", "exec", labOptions().Prefix+"node2", "sh", "-c", flap).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		r, err := trace.Path(t.Context(), o)
		wait()
		if err != nil {
			t.Fatal(err)
		}
		v := r.Verdict
		if v.Status != report.Degraded || v.Cause != "link-flap" || v.Node != "node2" || v.Interface != "eno16780032" {
			t.Errorf("%+v\n%s", v, text(r))
		}
	})
}
