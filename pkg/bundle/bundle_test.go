package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/safejson"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/tables/tablestest"
	"github.com/podtrace/podtrace/pkg/trace"
)

// fill sets every exported field below v to something that is not its zero value, each time another: a field that
// a bundle does not carry shows as a difference, also one that is added later.
func fill(v reflect.Value, n *int, depth int) {
	*n++
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{10, byte(*n >> 16), byte(*n >> 8), byte(*n)})))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(*n >> 16), byte(*n >> 8), byte(*n)}), 32)))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1_800_000_000, int64(*n)).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n % 100))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n%100) + 1)
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d \"</>é", *n))
	case reflect.Slice:
		if depth > 0 {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0), n, depth-1)
			fill(v.Index(1), n, depth-1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n, depth)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n, depth)
		fill(val, n, depth)
		v.SetMapIndex(key, val)
	case reflect.Pointer:
		if depth > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), n, depth-1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" {
				fill(v.Field(i), n, depth)
			}
		}
	default:
		panic("no filling for " + v.Type().String())
	}
}

func filled[T any](seed int) T {
	var v T
	fill(reflect.ValueOf(&v).Elem(), &seed, 6)
	return v
}

// full is a case with every field in use. It makes no sense as a whole.
func full() *trace.Case {
	inv := &inventory.Inventory{
		Nodes: []inventory.Node{{Name: "node1", Ready: true}, {Name: "node2", Ready: true}},
		Pods:  []inventory.Pod{{Namespace: "shop", Name: "cart", Node: "node1", Ready: true}},
		Services: []inventory.Service{{
			Namespace: "shop", Name: "web", Type: "ClusterIP", Ports: []inventory.ServicePort{{Name: "http", Proto: "TCP", Port: 80, Target: "8080"}},
		}},
	}
	n1, n2 := filled[tables.Netns](1000), filled[tables.Netns](9050)
	c := &trace.Case{
		Inventory: inv, Snapshot: &tables.Snapshot{Netns: []*tables.Netns{&n2, &n1}},
		Source: inventory.Endpoint{
			Kind: inventory.KindPod, Namespace: "shop", Name: "cart", IPs: []netip.Addr{tablestest.Coffee1IP}, Node: "node1",
			HostNetwork: true, Deployment: "carts", Pod: &inv.Pods[0], NodeObj: &inv.Nodes[0],
		},
		Destination: inventory.Endpoint{
			Kind: inventory.KindService, Namespace: "shop", Name: "web", IPs: []netip.Addr{tablestest.Coffee2IP},
			Service: &inv.Services[0], ServicePort: &inv.Services[0].Ports[0],
		},
		From: filled[resolve.Location](1), To: filled[resolve.Location](50), Flow: filled[forward.Flow](7), Sent: filled[diagnose.Sent](9),
		Witness: filled[diagnose.Witness](100), Opinion: &trace.Opinion{}, Probe: new(report.Probe), Version: "v9", Incomplete: []string{"a", "b"}, Lost: []string{"c"},
		Targets: []trace.Target{{
			Backend: inventory.Backend{IP: tablestest.Coffee2IP, Port: 8080, Node: "node2", Pod: &inv.Pods[0]}, At: filled[resolve.Location](60),
		}}, Marker: [8]byte{1, 2, 3, 4, 5, 6, 7, 8},
	}
	*c.Probe, *c.Opinion = filled[report.Probe](3), filled[trace.Opinion](5)
	c.Witness.Size = nil // Judge's own
	c.Observed = observed(0)
	c.Sized = &trace.Sized{Flow: filled[forward.Flow](70), Observed: observed(100), Size: filled[diagnose.Size](80), Witness: filled[diagnose.Witness](90)}
	c.Sized.Witness.Size = nil
	return c
}

func observed(id int) *trace.Observed {
	o := &trace.Observed{
		Points: []trace.Point{filled[tracePoint](1).point(id + 3), filled[tracePoint](2).point(id + 1), filled[tracePoint](3).point(id + 2)},
		ArmNs:  77, Begin: 1_700_000_000_000_000_001, End: 1_800_000_000_000_000_123,
	}
	o.Points[0].Stats.Err = errors.New("network is down")
	at := time.Unix(1_800_000_000, 5).UTC()
	o.Frames = []capture.Frame{
		{Point: id + 3, Time: at, HWType: 1, Data: []byte{1, 2, 3}, WireLen: 65000, GSO: true, GSOSize: 1400, Stamp: capture.StampStack, Dir: capture.Out},
		{Point: id + 1, Time: at.Add(1), HWType: 65534, Data: []byte{0x45}, WireLen: 1, CsumNotReady: true},
		{Point: id + 3, Time: at.Add(1), HWType: 772, Data: bytes.Repeat([]byte{7}, 300), WireLen: 300, CsumValid: true, OtherHost: true},
		{Point: id + 2, Time: at, HWType: 1, Data: nil, WireLen: 60},
	}
	return o
}

// tracePoint is trace.Point without the error, which is an interface.
type tracePoint struct {
	Netns                                 netns.ID
	Node, Name, Interface                 string
	Ifindex                               tables.Ifindex
	Packets, Drops, Overflow, FreezeQueue uint64
	StatsID, Truncated                    int
	Flapped                               bool
}

func (p tracePoint) point(id int) trace.Point {
	return trace.Point{ID: id, Netns: p.Netns, Node: p.Node, Name: p.Name, Interface: p.Interface, Ifindex: p.Ifindex, Stats: capture.PointStats{
		ID: p.StatsID, Packets: p.Packets, Drops: p.Drops, Overflow: p.Overflow, FreezeQueue: p.FreezeQueue, Truncated: p.Truncated, Flapped: p.Flapped,
	}}
}

// same compares two cases.
func same(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) }),
		cmp.FilterPath(func(p cmp.Path) bool {
			if len(p) < 2 {
				return false
			}
			f, ok := p.Last().(cmp.StructField)
			if !ok {
				return false
			}
			sf, _ := p.Index(-2).Type().FieldByName(f.Name())
			return !sf.IsExported() || sf.Tag.Get("json") == "-"
		}, cmp.Ignore()))
}

// TestFull: the case of the other tests sets every field, also one that is added later.
func TestFull(t *testing.T) {
	c := full()
	for _, v := range []any{c, c.Observed, c.Sized, c.Sized.Observed} {
		s := reflect.ValueOf(v).Elem()
		for i := range s.NumField() {
			if s.Field(i).IsZero() {
				t.Errorf("%s.%s is not set: see that a bundle carries it", s.Type(), s.Type().Field(i).Name)
			}
		}
	}
}

// TestRoundTrip writes a case with every field in use, as a file and as a folder, and reads the same.
func TestRoundTrip(t *testing.T) {
	want := &Bundle{Case: full(), Interrupted: true}
	for _, name := range []string{"b.tar.gz", "folder" + string(filepath.Separator)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x") + name
			if err := Write(path, want); err != nil {
				t.Fatal(err)
			}
			if !Is(path) {
				t.Error("it is not known for a bundle")
			}
			got, err := Read(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := same(want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if got.Case.Source.Pod != &got.Case.Inventory.Pods[0] || got.Case.Destination.ServicePort != &got.Case.Inventory.Services[0].Ports[0] {
				t.Error("endpoints do not point into the inventory")
			}
		})
	}
}

// TestDeterministic writes twice, with another day in between.
func TestDeterministic(t *testing.T) {
	var out [2][]byte
	for i := range out {
		path := filepath.Join(t.TempDir(), "b.tar.gz")
		if err := Write(path, &Bundle{Case: full()}); err != nil {
			t.Fatal(err)
		}
		out[i], _ = os.ReadFile(path)
		time.Sleep(1100 * time.Millisecond) // a tar header's unit is a second
	}
	if !bytes.Equal(out[0], out[1]) {
		t.Error("the same case gives other bytes")
	}
}

// healthy is a case of tables alone.
func healthy() *trace.Case {
	s := tablestest.Cluster()
	inv := &inventory.Inventory{Nodes: []inventory.Node{{Name: "node1", Ready: true}, {Name: "node2", Ready: true}}}
	ep := func(name, node string, ip netip.Addr) inventory.Endpoint {
		return inventory.Endpoint{Kind: inventory.KindPod, Namespace: "default", Name: name, IPs: []netip.Addr{ip}, Node: node}
	}
	return &trace.Case{
		Inventory: inv, Snapshot: s, Source: ep("coffee-1", "node1", tablestest.Coffee1IP), Destination: ep("coffee-2", "node2", tablestest.Coffee2IP),
		From: resolve.Location{Node: "node1", PodNetns: tablestest.Coffee1, HostNetns: tablestest.Node1, Interface: "eth0", Ifindex: 3, Veth: "veth33", VethIndex: 33, Bridge: "cni0", BridgeIndex: 5},
		To:   resolve.Location{Node: "node2", PodNetns: tablestest.Coffee2, HostNetns: tablestest.Node2, Interface: "eth0", Ifindex: 3, Veth: "veth41", VethIndex: 41, Bridge: "cni0", BridgeIndex: 5},
		Flow: forward.Flow{Proto: forward.ProtoICMP, ICMPType: 8, SrcPort: 7, Src: tablestest.Coffee1IP, Dst: tablestest.Coffee2IP},
	}
}

// TestNodePort: a node's port leads to its service again, and a hostPort to its pod.
func TestNodePort(t *testing.T) {
	node := netip.MustParseAddr("10.1.11.92")
	for _, port := range []uint16{30080, 9090} {
		c := healthy()
		c.Inventory.Nodes[1].InternalIPs = []netip.Addr{node}
		c.Inventory.Services = []inventory.Service{{Namespace: "default", Name: "web", Ports: []inventory.ServicePort{{Proto: "TCP", Port: 80, NodePort: 30080}}}}
		c.Inventory.Pods = []inventory.Pod{{
			Namespace: "default", Name: "coffee-2", Node: "node2", IPs: []netip.Addr{tablestest.Coffee2IP}, Phase: "Running",
			Ports: []inventory.ContainerPort{{Port: 8080, HostPort: 9090, Proto: "TCP"}},
		}}
		var err error
		if c.Destination, err = c.Inventory.Lookup(fmt.Sprintf("node/node2:%d", port), ""); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "b.tar.gz")
		if err := Write(path, &Bundle{Case: c}); err != nil {
			t.Fatal(err)
		}
		b, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		got := b.Case.Destination
		if got.Port != port || got.ServicePort == nil || *got.ServicePort != *c.Destination.ServicePort || (got.Service == nil) == (got.Pod == nil) {
			t.Errorf("port %d: %+v", port, got)
		}
	}
}

// TestTablesAlone: without a capture there is none afterwards, and the report is the same.
func TestTablesAlone(t *testing.T) {
	c := healthy()
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	if err := Write(path, &Bundle{Case: c, Report: trace.Judge(c)}); err != nil {
		t.Fatal(err)
	}
	b, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.Case.Observed != nil || b.Case.Sized != nil || b.Report == nil {
		t.Errorf("%+v", b)
	}
	sameReport(t, trace.Judge(c), trace.Judge(b.Case))
}

// sameReport compares two reports as bytes, in every format.
func sameReport(t *testing.T, want, got *report.Report) {
	t.Helper()
	for _, f := range report.Formats() {
		var a, b bytes.Buffer
		if err := errors.Join(report.Write(&a, want, f, report.Options{}), report.Write(&b, got, f, report.Options{})); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(a.String(), b.String()); d != "" {
			t.Errorf("%s (-live +read):\n%s", f, d)
		}
	}
}

type entry struct {
	name string
	data []byte
	kind byte
}

// pack makes an archive by hand.
func pack(t testing.TB, entries ...entry) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostile.tar.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.data)), Typeflag: e.kind}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.kind == tar.TypeSymlink {
			h.Linkname = "/etc/passwd"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// entries are the files of a good bundle.
func entries(t testing.TB) []entry {
	t.Helper()
	c := full()
	files, _, err := encode(&Bundle{Case: c})
	if err != nil {
		t.Fatal(err)
	}
	var out []entry
	for _, f := range files {
		out = append(out, entry{name: f.name, data: f.data})
	}
	return out
}

func TestHostile(t *testing.T) {
	good := slices.Clip(entries(t))
	with := func(name string, change func(e *entry)) []entry {
		out := append([]entry{}, good...)
		for i := range out {
			if strings.HasPrefix(out[i].name, name) {
				out[i].data = bytes.Clone(out[i].data)
				change(&out[i])
				return out
			}
		}
		t.Fatalf("no %s", name)
		return nil
	}
	replace := func(old, to string) func(*entry) {
		return func(e *entry) {
			if !bytes.Contains(e.data, []byte(old)) {
				t.Fatalf("no %q in %s", old, e.name)
			}
			e.data = bytes.Replace(e.data, []byte(old), []byte(to), 1)
		}
	}
	prefixed := append([]entry{}, good...)
	for i := range prefixed {
		prefixed[i].name = "./trace/" + prefixed[i].name
	}
	for _, c := range []struct {
		name    string
		entries []entry
		want    string // in the error; "": none
	}{
		{"good", good, ""},
		{"packed by hand", prefixed, ""},
		{"older podtrace, more fields", with(manifestName, replace(`"podtrace"`, `"later": 1, "podtrace"`)), ""},
		{"empty", nil, "no podtrace bundle"},
		{"newer", with(manifestName, replace(`"format": 1`, `"format": 2`)), `bundle format 2, written by podtrace "v9"`},
		{"no format", with(manifestName, replace(`"format": 1`, `"format": 0`)), "names no format"},
		{"manifest", with(manifestName, replace(`{`, `[`)), "no podtrace bundle"},
		{"up", append(good, entry{name: "../../etc/cron.json"}), `"../../etc/cron.json" is no name of a file`},
		{"root", append(good, entry{name: "/etc/cron.json"}), `is no name of a file`},
		{"windows", append(good, entry{name: `tables\..\x.json`}), `is no name of a file`},
		{"link", append(good, entry{name: "x.json", kind: tar.TypeSymlink}), `"x.json" is no regular file`},
		{"twice", append(good, good[1]), `is there twice`},
		{"table elsewhere", with(manifestName, replace(`"file": "tables/`, `"file": "../tables/`)), "file does not exist"},
		{"table of another", with("tables/", replace(`"node": "`, `"node": "x`)), "and the manifest says"},
		{"table is a list", with("tables/", func(e *entry) { e.data = []byte("[]") }), "cannot unmarshal array"},
		{"table is null", with("tables/", func(e *entry) { e.data = []byte("null") }), "and the manifest says"},
		{"many rows", with("tables/", func(e *entry) {
			e.data = []byte(`{"links":[` + strings.Repeat("0,", safejson.MaxElements) + "0]}")
		}), "elements, at most"},
		{"cluster", with(clusterName, func(e *entry) { e.data = []byte("kind: [") }), clusterName},
		{"capture cut", with(captureName, func(e *entry) { e.data = e.data[:len(e.data)-10] }), "cut short"},
		{"capture compressed", with(captureName, func(e *entry) {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = z.Write(e.data)
			_ = z.Close()
			e.data = b.Bytes()
		}), "is no pcapng"},
		{"capture without points", with(manifestName, replace(`"points": [`, `"points": [], "other": [`)), "is no point of the manifest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Read(pack(t, c.entries...))
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || b != nil):
				t.Errorf("error %v, want %q", err, c.want)
			case err != nil && strings.ContainsAny(err.Error(), "\n\r"):
				t.Errorf("error of several lines: %q", err)
			}
		})
	}
}

// TestNotArchive: other files are no bundles.
func TestNotArchive(t *testing.T) {
	dir := t.TempDir()
	plain, zipped := filepath.Join(dir, "a.pcap"), filepath.Join(dir, "a.gz")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, strings.Repeat("no tar ", 1000))
	_ = z.Close()
	if err := errors.Join(os.WriteFile(plain, []byte("\xd4\xc3\xb2\xa1"), 0o600), os.WriteFile(zipped, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, zipped, dir} {
		if Is(path) {
			t.Errorf("%s passes for a bundle", path)
		}
		if _, err := Read(path); !errors.Is(err, ErrNotBundle) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Read(filepath.Join(dir, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestBudget ends a decompression beyond its bound.
func TestBudget(t *testing.T) {
	if _, err := io.Copy(io.Discard, &budget{r: zeros{}, left: 1 << 20}); err == nil || !strings.Contains(err.Error(), "after decompression") {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestFolderLinks: a link in a folder leads nowhere.
func TestFolderLinks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	if err := Write(dir+"/", &Bundle{Case: healthy()}); err != nil {
		t.Fatal(err)
	}
	cluster := filepath.Join(dir, clusterName)
	secret := filepath.Join(t.TempDir(), "secret.yaml")
	if err := errors.Join(os.Rename(cluster, secret), os.Symlink(secret, cluster)); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Error(err)
	}
	if err := Write(dir, &Bundle{Case: healthy()}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Error(err)
	}
	if err := Write(filepath.Join(dir, "no", "such.tar.gz"), &Bundle{Case: healthy()}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestTableName(t *testing.T) {
	taken := make(map[string]bool)
	long := strings.Repeat("x", 300)
	for _, c := range []struct{ node, netns, want string }{
		{"node1", "host", "tables/node1/host.json"},
		{"node1", "default/coffee-1", "tables/node1/default%2Fcoffee-1.json"},
		{"NODE1", "host", "tables/NODE1/host~2.json"},
		{"..", ".", "tables/%2E./%2E.json"},
		{"", "a b\x00\\:", "tables/%/a%20b%00%5C%3A.json"},
		{"n", long, "tables/n/" + long[:180] + "~0d4e2ca9e9cbced7.json"},
	} {
		got := tableName(c.node, c.netns, taken)
		if got != c.want {
			t.Errorf("%q %q: %q, want %q", c.node, c.netns, got, c.want)
		}
	}
}

// TestRecorded judges what the lab gave, without it; the verdicts hold, and a bundle of the bundle is the same.
func TestRecorded(t *testing.T) {
	for name, want := range map[string]report.Verdict{
		"healthy":            {Status: report.Healthy},
		"fdb-missing":        {Status: report.Broken, Cause: "fdb-missing", Node: "node1", Interface: "flannel.1", Leg: report.Request},
		"mtu-path-blackhole": {Status: report.Degraded, Cause: "mtu-path-blackhole"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := Read(filepath.Join("testdata", name+".tar.gz"))
			if err != nil {
				t.Fatal(err)
			}
			r := trace.Judge(b.Case)
			if v := r.Verdict; v.Status != want.Status || v.Cause != want.Cause || want.Node != "" && (v.Node != want.Node || v.Interface != want.Interface || v.Leg != want.Leg) {
				t.Errorf("%+v, want %+v", v, want)
			}
			if b.Report == nil || b.Report.Verdict.Cause != want.Cause {
				t.Errorf("recorded as %+v", b.Report)
			}
			path := filepath.Join(t.TempDir(), "again.tar.gz")
			if err := Write(path, &Bundle{Case: b.Case, Report: r}); err != nil {
				t.Fatal(err)
			}
			again, err := Read(path)
			if err != nil {
				t.Fatal(err)
			}
			sameReport(t, r, trace.Judge(again.Case))
		})
	}
}
