package trace_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/trace"
)

// TestKernelDiffers changes one table after it was read: the kernel's own answer is set beside it.
func TestKernelDiffers(t *testing.T) {
	for name, c := range map[string]struct{ change, command, kernel string }{
		"route":     {"ip route replace 10.244.2.0/24 via 10.244.9.0 dev flannel.1 onlink", "ip route get", "10.244.9.0"},
		"neighbour": {"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent", "ip neigh", "02:00:00:00:00:99"},
		"FDB":       {"bridge fdb replace VTEP dev flannel.1 dst 10.1.11.99", "bridge fdb", "10.1.11.99"},
	} {
		t.Run(name, func(t *testing.T) {
			inv := up(t)
			change := strings.Replace(c.change, "VTEP", inv.Node("node2").Flannel.VtepMAC.String(), 1)
			o := options(inv, "coffee-1", "coffee-2", "icmp")
			o.Contrast = trace.ContrastNever
			done := false
			o.Progress = func(format string, args ...any) {
				if line := fmt.Sprintf(format, args...); !done && strings.Contains(line, "arming") {
					done = true
					argv := append([]string{"netns", "exec", labOptions().Prefix + "node1"}, strings.Fields(change)...)
					if out, err := exec.Command("ip", argv...).CombinedOutput(); err != nil {
						t.Errorf("%v: %s", err, out)
					}
				}
			}
			r, err := trace.Path(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if !done || r.Kernel == nil || len(r.Kernel.Differs) == 0 {
				t.Fatalf("changed %v, the kernel said %+v", done, r.Kernel)
			}
			d := r.Kernel.Differs[0]
			if d.Node != "node1" || !strings.Contains(d.Command, c.command) || !strings.Contains(d.Kernel, c.kernel) || strings.Contains(d.Tables, c.kernel) {
				t.Errorf("%+v", d)
			}
			if !strings.Contains(text(r), c.kernel) {
				t.Errorf("the text does not say it:\n%s", text(r))
			}
		})
	}
}
