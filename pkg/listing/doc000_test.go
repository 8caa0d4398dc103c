package listing

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// docFiles are the listings of a published walk through flannel's VXLAN mode as they stand there, and the
// two of the far side (beyond-*) that it does not show.
func docFiles(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("testdata/doc000/*.txt")
	if err != nil || len(paths) < 9 {
		t.Fatalf("testdata: %v %v", paths, err)
	}
	out := make(map[string]string)
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(p)] = string(b)
	}
	return out
}

func parseFiles(files map[string]string) *Listing {
	var in []Input
	for _, name := range slices.Sorted(maps.Keys(files)) {
		in = append(in, Input{File: name, Text: []byte(files[name])})
	}
	return Parse(in)
}

// docCase asks for the way from one coffee to the other.
func docCase(t *testing.T, l *Listing) *trace.Case {
	t.Helper()
	c := &trace.Case{Inventory: l.Inventory, Snapshot: l.Snapshot}
	var err error
	for _, e := range []struct {
		name string
		loc  *resolve.Location
		ip   string
	}{{"coffee-67c6f7c5fd-2pfr4", &c.From, "10.244.1.32"}, {"coffee-67c6f7c5fd-c2lpg", &c.To, "10.244.2.40"}} {
		ep, lerr := l.Inventory.Lookup(e.name, "default")
		if lerr != nil {
			t.Fatal(lerr)
		}
		if *e.loc, err = resolve.Locate(l.Snapshot, l.Inventory, ep); err != nil {
			t.Fatal(err)
		}
		if c.Source.Name == "" {
			c.Source = ep
		}
		c.Destination = ep
	}
	c.Flow = forward.Flow{Proto: forward.ProtoICMP, ICMPType: 8, SrcPort: 7, Src: c.Source.IP(), Dst: c.Destination.IP()}
	return c
}

func TestDocumentHealthy(t *testing.T) {
	l := parseFiles(docFiles(t))
	if len(l.NotUnderstood) > 0 {
		t.Errorf("not understood: %+v", l.NotUnderstood)
	}
	r := trace.Judge(docCase(t, l))
	if r.Verdict.Status != report.Healthy || len(r.Findings) != 0 || len(r.Legs[0].Hops) != 10 || len(r.Legs[1].Hops) != 10 {
		t.Errorf("%+v %+v", r.Verdict, r.Findings)
	}
	if r.Datapath != "flannel-vxlan" {
		t.Errorf("datapath %q", r.Datapath)
	}
	var macs []string
	for _, f := range l.Leftovers {
		macs = append(macs, f.Entry[:17])
		if f.Node != "k8s-node01" || f.Interface != "flannel.1" || f.File != "node1-tables.txt" {
			t.Errorf("left over: %+v", f)
		}
	}
	if want := []string{"06:ee:53:fd:1a:a9", "36:36:40:76:1c:9f"}; !slices.Equal(macs, want) {
		t.Errorf("left over %q, want %q", macs, want)
	}
	// what the walk does not show is said, beside the verdict
	said := strings.Join(r.Incomplete, "\n")
	for _, want := range []string{"k8s-node01 host: proc: sysctls are not listed", "k8s-node01 host: netfilter: not listed", "rules: not listed",
		"flannel.1 is taken to have VNI 1", "UDP port 8472", "routes table local: not listed", "bridge port veth33136931 is taken as forwarding"} {
		if !strings.Contains(said, want) {
			t.Errorf("the report does not say %q:\n%s", want, said)
		}
	}
	for _, n := range l.Snapshot.Netns {
		if len(n.Sysctls) > 0 || n.Netfilter != nil {
			t.Errorf("%s %s has sysctls or rules that nobody listed", n.Node, n.Name)
		}
	}
}

// TestDocumentOneValueChanged changes the text of one listing at a time: each has to be found, at its place.
func TestDocumentOneValueChanged(t *testing.T) {
	replace := func(file, from, to string) func(map[string]string) bool {
		return func(f map[string]string) bool {
			before := f[file]
			f[file] = strings.Replace(before, from, to, 1)
			return f[file] != before
		}
	}
	add := func(text string) func(map[string]string) bool {
		return func(f map[string]string) bool {
			f["zz-more.txt"] = text
			return true
		}
	}
	const flannel2 = "[root@k8s-node02 ~]# ip -d link show dev flannel.1\n" +
		"4: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN mode DEFAULT group default \n" +
		"    link/ether ce:b8:fc:a6:06:d2 brd ff:ff:ff:ff:ff:ff promiscuity 0 \n" +
		"    vxlan id VNI local 10.1.11.92 dev eno16780032 srcport 0 0 dstport PORT nolearning ageing 300 noudpcsum\n"
	vxlan := func(vni, port string) func(map[string]string) bool {
		return add(strings.NewReplacer("VNI", vni, "PORT", port).Replace(flannel2))
	}
	for _, c := range []struct {
		name                  string
		change                func(map[string]string) bool
		cause, node, dev, leg string
	}{
		{"the same, listed", vxlan("1", "8472"), "", "", "", ""},
		{"fdb dst", replace("node1-tables.txt", "ce:b8:fc:a6:06:d2 dst 10.1.11.92", "ce:b8:fc:a6:06:d2 dst 10.1.11.99"), "fdb-wrong-dst", "k8s-node01", "flannel.1", "request"},
		{"fdb dst of the other node", replace("beyond-node2.txt", "dst 10.1.11.91", "dst 10.1.11.99"), "fdb-wrong-dst", "k8s-node02", "flannel.1", "reply"},
		{"fdb row", replace("node1-tables.txt", "ce:b8:fc:a6:06:d2 dst 10.1.11.92 self permanent\n", ""), "fdb-missing", "k8s-node01", "flannel.1", "request"},
		{"neigh lladdr", replace("node1-tables.txt", "10.244.2.0 lladdr ce:b8:fc:a6:06:d2", "10.244.2.0 lladdr 0a:0a:00:00:00:99"), "neigh-wrong-mac", "k8s-node01", "flannel.1", "request"},
		{"neigh row", replace("node1-tables.txt", "10.244.2.0 lladdr ce:b8:fc:a6:06:d2 PERMANENT\n", ""), "neigh-missing", "k8s-node01", "flannel.1", "request"},
		{"vtep MAC", replace("node2-ip-a.txt", "link/ether ce:b8:fc:a6:06:d2", "link/ether 0a:0a:00:00:00:77"), "vtep-mac-changed", "k8s-node02", "flannel.1", "request"},
		{"route, default left", replace("node1-tables.txt", "10.244.2.0 10.244.2.0 255.255.255.0 UG 0 0 0 flannel.1\n", ""), "route-missing", "k8s-node01", "cni0", "request"},
		{"route back", replace("beyond-node2.txt", "10.244.1.0      10.244.1.0      255.255.255.0   UG    0      0        0 flannel.1\n", ""), "route-missing", "k8s-node02", "cni0", "reply"},
		{"route type", add("[root@k8s-node01 ~]# ip route | grep black\nblackhole 10.244.2.0/25 \n"), "blackhole-route", "k8s-node01", "cni0", "request"},
		{"forwarding", add("[root@k8s-node01 ~]# sysctl net.ipv4.conf.cni0.forwarding\nnet.ipv4.conf.cni0.forwarding = 0\n"), "ip-forward-off", "k8s-node01", "cni0", "request"},
		{"vni", vxlan("4096", "8472"), "vni-mismatch", "k8s-node02", "flannel.1", "request"},
		{"vxlan port", vxlan("1", "4789"), "vxlan-port-mismatch", "k8s-node02", "flannel.1", "request"},
		{"vxlan down on the receiver", replace("node2-ip-a.txt", "4: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP>", "4: flannel.1: <BROADCAST,MULTICAST>"), "vxlan-down", "k8s-node02", "flannel.1", "request"},
		{"pod's routes", replace("coffee1.txt", "0.0.0.0 10.244.1.1 0.0.0.0 UG 0 0 0 eth0\n10.244.0.0 10.244.1.1 255.255.0.0 UG 0 0 0 eth0\n", ""), "pod-default-route-missing", "k8s-node01", "", "request"},
		{"pod's interface", replace("beyond-coffee2.txt", "eth0@if41: <BROADCAST,MULTICAST,UP,LOWER_UP>", "eth0@if41: <BROADCAST,MULTICAST>"), "pod-link-down", "k8s-node02", "eth0", "request"},
		{"bridge port", add("[root@k8s-node02 ~]# bridge link\n41: veth7c1d0a2f@eno1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 master cni0 state blocking priority 32 cost 2 \n"), "bridge-port-blocked", "k8s-node02", "veth7c1d0a2f", "request"},
		{"bridge", replace("beyond-node2.txt", " master cni0", ""), "veth-no-master", "k8s-node02", "veth7c1d0a2f", "request"},
		{"pod's neighbour", add("[root@k8s-node02 ~]# ip neigh show dev cni0\n10.244.2.40 lladdr 02:de:ad:00:00:01 PERMANENT\n"), "pod-neigh-stale", "k8s-node02", "cni0", "request"},
		{"a rule", add("[root@k8s-node01 ~]# iptables-save\n*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -d 10.244.2.0/24 -j DROP\nCOMMIT\n"), "netfilter-drop", "k8s-node01", "", "request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := docFiles(t)
			if !c.change(files) {
				t.Fatal("the change changes nothing")
			}
			l := parseFiles(files)
			v := trace.Judge(docCase(t, l)).Verdict
			if c.cause == "" {
				if v.Status != report.Healthy {
					t.Errorf("%+v", v)
				}
				return
			}
			if v.Status == report.Healthy || v.Cause != c.cause || v.Node != c.node || c.dev != "" && v.Interface != c.dev || v.Leg != c.leg {
				t.Errorf("%s %s at %s %s (%s), want %s at %s %s (%s): %s", v.Status, v.Cause, v.Node, v.Interface, v.Leg, c.cause, c.node, c.dev, c.leg, v.Summary)
			}
		})
	}
}

// TestDocumentAlone: without the far side's listings nobody can say that the path is whole.
func TestDocumentAlone(t *testing.T) {
	files := docFiles(t)
	delete(files, "beyond-node2.txt")
	delete(files, "beyond-coffee2.txt")
	l := parseFiles(files)
	node2 := l.Snapshot.Host("k8s-node02")
	if node2 == nil {
		t.Fatal("no node 2")
	}
	for _, table := range []string{tabRoutes, tabNeighs, tabFDB, tabSysctls, tabNetfilter} {
		if !node2.Lacks(table, "") {
			t.Errorf("node 2 does not say that its %s are not listed: %q", table, node2.Incomplete)
		}
	}
	node1 := l.Snapshot.Host("k8s-node01")
	if node1.Lacks(tabRoutes, "") || node1.Lacks(tabFDB, "flannel.1") || !node1.Lacks(tabFDB, "cni0") {
		t.Errorf("node 1: %q", node1.Incomplete)
	}
	ep, err := l.Inventory.Lookup("coffee-67c6f7c5fd-c2lpg", "default")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resolve.Locate(l.Snapshot, l.Inventory, ep); !errors.Is(err, resolve.ErrNotRead) {
		t.Errorf("the far pod is located without a listing of its namespace: %v", err)
	}
}

// TestOrigins: evidence can cite where an entry was read.
func TestOrigins(t *testing.T) {
	l := parseFiles(docFiles(t))
	ns := l.Snapshot.Host("k8s-node01")
	for _, c := range []struct {
		entry string
		want  string
	}{
		{ns.FormatFDB(ns.FDB[0]), "node1-tables.txt:22"},
		{ns.FormatNeigh(ns.Neighs[1]), "node1-tables.txt:16"},
		{ns.FormatLink(*ns.LinkByName("cni0")), "node1-ip-a.txt:18"},
		{ns.FormatRoute(ns.Routes[0]), "node1-tables.txt:4"},
	} {
		at := l.Origins(ns.ID, c.entry)
		if len(at) == 0 || at[0].String() != c.want {
			t.Errorf("%q is from %v, want %s", c.entry, at, c.want)
		}
	}
	if at := l.Origins(tables.NetnsID{}, "nothing"); at != nil {
		t.Errorf("nothing is from %v", at)
	}
}
