package trace_test

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// otherNames are faults that look like another: of a host-gw cluster of two nodes one lost route is all of them.
var otherNames = map[string]string{
	"flannel-host-gw route-missing": "direct-route-lost",
	// the one near node's route is all direct routes, and its VTEP is known all the same
	"flannel-directrouting direct-route-lost": "route-missing",
	"flannel-v6 v6-overlay-missing":           "neigh-missing", // there is no other family to compare with
}

// onTheWire are faults that tables alone do not show: they are in the network, in checksums, in programs, or hang on
// what a rule counts.
var onTheWire = []string{
	"vxlan-port-underlay-drop", "vxlan-csum-offload", "mtu-path-blackhole", "pmtu-icmp-blocked", "src-dst-check",
	"ct-table-full", "tc-bpf-drop",
	"calico-vxlan wrong-iface",    // no annotation says the address
	"nat-port-race",               // takes two connections
	"cilium-eni eni-rule-missing", // which interface's address a pod has is known to the cloud alone
}

// TestFaultsOfDatapaths puts in every fault of the other labs, where the lab has it by default, and follows the path
// that shows it. With FAULTS_OF only one of them.
func TestFaultsOfDatapaths(t *testing.T) {
	ofFaults(t)
	only := os.Getenv("FAULTS_OF")
	specs := []lab.Spec{}
	for _, d := range lab.Datapaths() {
		if d.Name != lab.FlannelVXLAN {
			specs = append(specs, lab.Spec{Datapath: d.Name})
		}
	}
	specs = append(specs, lab.Spec{Services: lab.ServicesIPTables}, lab.Spec{Services: lab.ServicesNFTables})
	for _, spec := range specs {
		name := spec.Datapath + spec.Services
		if only != "" && name != only {
			continue
		}
		t.Run(name, func(t *testing.T) { faultsOf(t, spec) })
	}
}

func faultsOf(t *testing.T, spec lab.Spec) {
	inv := upSpec(t, spec)
	faults, err := lab.FaultsOf(spec)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	tw := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tON\tPATH\tVERDICT\tNODE\tINTERFACE\tLEG\tTIME\tBY TABLES\tRIGHT")
	for _, f := range faults {
		if spec.Services != "" && !slices.Contains(f.Datapaths, "services") || slices.Contains(elsewhere, f.ID) {
			continue
		}
		t.Run(f.ID, func(t *testing.T) { tryOne(t, spec, inv, f, tw) })
	}
	_ = tw.Flush()
	t.Logf("\n%s", &out)
}

func tryOne(t *testing.T, spec lab.Spec, inv *inventory.Inventory, f lab.Fault, tw *tabwriter.Writer) {
	o := labOptions()
	o.Spec = spec
	if err := lab.Break(t.Context(), o, f.ID, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.Mend(t.Context(), o, f.ID); err != nil {
			t.Error(err)
		}
	}()
	from, how := f.From, "icmp"
	if from == "client" {
		from = inv.Hosts[0].IPs[0].String()
	}
	switch {
	case f.ID == "nat-port-race": // of connections: another one has the port
		how = "tcp:8080"
		defer connection(t, inv, "tea-1", f.To).Close()
	case strings.HasPrefix(f.To, "svc/") || from != f.From:
		how = "tcp"
	}
	opts := options(inv, from, f.To, how)
	if f.ID == "ct-stale-udp" { // the flow that the lab's entry holds
		opts.SourcePort, opts.Probe.Proto = 40000, probe.UDP
	}
	tables, err := trace.Check(t.Context(), opts)
	if err != nil {
		t.Errorf("check %s: %s to %s: %v", f.ID, f.From, f.To, err)
		return
	}
	began := time.Now()
	r, err := trace.Path(t.Context(), opts)
	if err != nil {
		t.Errorf("%s: %s to %s: %v", f.ID, f.From, f.To, err)
		return
	}
	took := time.Since(began)
	v := r.Verdict
	want := f.ID
	want = cmp.Or(otherNames[spec.Datapath+" "+want], otherNames[want], want)
	right := v.Cause == want && (v.Status == report.Broken || v.Status == report.Degraded) &&
		(v.Node == f.Node) != (f.ID == "vxlan-csum-offload") && // the receiver's kernel drops what the sender spoilt
		(v.Leg == f.Leg || f.Leg != request && f.Leg != reply)
	fmt.Fprintf(tw, "%s\t%s\t%s → %s\t%s %s\t%s\t%s\t%s\t%s\t%s\t%v\n", f.ID, f.Node, f.From, f.To, v.Status, v.Cause, v.Node, v.Interface, v.Leg,
		took.Round(time.Millisecond), strings.TrimSpace(tables.Verdict.Status+" "+tables.Verdict.Cause), right)
	wireOnly := slices.Contains(onTheWire, f.ID) || slices.Contains(onTheWire, spec.Datapath+" "+f.ID)
	if shown := tables.Verdict.Cause; shown != want && !wireOnly {
		t.Errorf("check says %s %q, want %s\n%s", tables.Verdict.Status, shown, want, text(tables))
	} else if wireOnly && tables.Verdict.Status == report.Broken {
		t.Errorf("tables can't show it, and say %s %s", tables.Verdict.Status, shown)
	}
	if !right {
		t.Errorf("%s %s on %s, %s leg, want %s on %s, %s leg\n%s", v.Status, v.Cause, v.Node, v.Leg, want, f.Node, f.Leg, text(r))
	}
}

// connection opens TCP from one pod to port 8080 of another and holds it.
func connection(t *testing.T, inv *inventory.Inventory, from, to string) (c net.Conn) {
	t.Helper()
	h, err := netns.Open(inv.Pod("default", from).Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	err = h.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(inv.Pod("default", to).IPs[0], 8080).String(), time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
