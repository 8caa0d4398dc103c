package cmd

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/podtrace/podtrace/pkg/pcapfile"
	"github.com/podtrace/podtrace/pkg/report"
)

// What people have in hand after an incident, made of the published walk: the same packets in files of every kind.

// analyze runs the command line and gives the report.
func analyze(t *testing.T, args ...string) (*report.Report, int, string) {
	t.Helper()
	s, out, errOut := buffers()
	code := Main(append([]string{"podtrace", "analyze", "-o", "json"}, args...), s)
	r := new(report.Report)
	if code != exitTool {
		if err := json.Unmarshal(out.Bytes(), r); err != nil {
			t.Fatal(err)
		}
	}
	return r, code, errOut.String()
}

// docRecords are the frames of a point, in order of time.
func docRecords(t *testing.T, points []docPoint, i int) (out []pcapfile.Record) {
	t.Helper()
	for k, s := range docSegments() {
		f, after := points[i].request, int64(i)*7
		if s.reply {
			f, after = points[i].reply, int64(len(points)-i)*7
		}
		b := f.bytes(t, s, uint16(k+1))
		out = append(out, pcapfile.Record{Time: (1610695707_000000 + int64(k)*400 + after) * 1000, OrigLen: len(b), Data: b})
	}
	return out
}

// sll2 makes a cooked frame of version 2 of an Ethernet frame.
func sll2(r pcapfile.Record, ifindex uint32, outgoing bool) pcapfile.Record {
	h := make([]byte, 20)
	copy(h, r.Data[12:14])
	binary.BigEndian.PutUint32(h[4:], ifindex)
	h[9], h[11] = 1, 6
	if outgoing {
		h[10] = 4
	}
	copy(h[12:], r.Data[6:12])
	r.Data = append(h, r.Data[14:]...)
	r.OrigLen = len(r.Data)
	return r
}

// classic writes a pcap file with one link type.
func classic(link pcapfile.LinkType, order binary.AppendByteOrder, nanos bool, records []pcapfile.Record) []byte {
	magic, div := uint32(0xa1b2c3d4), int64(1000)
	if nanos {
		magic, div = 0xa1b23c4d, 1
	}
	out := order.AppendUint32(nil, magic)
	out = order.AppendUint16(order.AppendUint16(out, 2), 4)
	for _, v := range []uint32{0, 0, 262144, uint32(link)} {
		out = order.AppendUint32(out, v)
	}
	for _, r := range records {
		for _, v := range []uint32{uint32(r.Time / 1e9), uint32(r.Time % 1e9 / div), uint32(len(r.Data)), uint32(r.OrigLen)} {
			out = order.AppendUint32(out, v)
		}
		out = append(out, r.Data...)
	}
	return out
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zst(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// TestIncidentForms: the walk's captures as files of every kind, without a name that says where they were taken.
func TestIncidentForms(t *testing.T) {
	dir := t.TempDir()
	points := docPoints()
	var files []string
	for i, f := range []struct {
		name string
		of   func(b []pcapfile.Record) []byte
	}{
		{"one.pcap.gz", func(r []pcapfile.Record) []byte { return gz(classic(1, binary.LittleEndian, false, r)) }},
		{"two", func(r []pcapfile.Record) []byte { return classic(1, binary.BigEndian, true, r) }},
		{"three.zst", func(r []pcapfile.Record) []byte { return zst(t, classic(1, binary.BigEndian, false, r)) }},
		{"four.cap", func(r []pcapfile.Record) []byte { return classic(1, binary.LittleEndian, true, r) }},
	} {
		files = append(files, write(t, filepath.Join(dir, f.name), f.of(docRecords(t, points, i))))
	}
	slices.Reverse(files)
	r, code, errOut := analyze(t, append(strings.Fields(docEnds), append(files, docListings)...)...)
	if code != 0 || r.Verdict.Status != report.Healthy {
		t.Fatalf("status %d: %+v %s", code, r.Verdict, errOut)
	}
	want := map[string]string{"eth0": "one.pcap.gz", "cni0": "two", "flannel.1": "three.zst", "ens192": "four.cap"}
	for _, p := range r.Capture.Points {
		if file := filepath.Base(strings.SplitN(p.Source, ":", 2)[0]); want[p.Interface] != file || !strings.Contains(p.Source, "by its frames") {
			t.Errorf("%s %s is from %q", p.Node, p.Interface, p.Source)
		}
	}
	if len(r.Capture.Points) != 4 {
		t.Errorf("%d points", len(r.Capture.Points))
	}
}

// TestIncidentAny: one capture of all interfaces of the node, cooked: what it does not carry is not judged.
func TestIncidentAny(t *testing.T) {
	points := docPoints()
	indexes := []uint32{0, 5, 4, 2} // of cni0, flannel.1 and ens192
	any := func(points []docPoint) []byte {
		var all []pcapfile.Record
		for i := 1; i < len(points); i++ {
			for k, r := range docRecords(t, points, i) {
				out := docSegments()[k].reply == (i == 1) // cni0 hands replies to the pod
				all = append(all, sll2(r, indexes[i], out))
			}
		}
		slices.SortFunc(all, func(a, b pcapfile.Record) int { return int(a.Time - b.Time) })
		return classic(pcapfile.LinkSLL2, binary.LittleEndian, false, all)
	}
	run := func(points []docPoint) (*report.Report, int, string) {
		dir := t.TempDir()
		pod := write(t, filepath.Join(dir, "pod.pcap"), classic(1, binary.LittleEndian, false, docRecords(t, points, 0)))
		node := write(t, filepath.Join(dir, "any.pcap"), any(points))
		return analyze(t, append(strings.Fields(docEnds), docListings, "--point", docPod1+"="+pod, "--point", "k8s-node01/any="+node)...)
	}
	r, code, errOut := run(points)
	if code != 0 || len(r.Capture.Points) != 4 {
		t.Fatalf("status %d: %+v %+v %s", code, r.Verdict, r.Capture, errOut)
	}
	for _, h := range r.Legs[0].Hops {
		if h.Interface == "ens192" && (h.State != report.StateOK || h.Observed.Outer == nil || h.Observed.Outer.EthDst == "00:00:00:00:00:00") {
			t.Errorf("%+v %+v", h, h.Observed.Outer)
		}
		for _, c := range h.Checks {
			if h.Interface == "flannel.1" && c.Name == "ethDst" {
				t.Errorf("a destination address that was not captured is judged: %+v", c)
			}
		}
	}
	points[3].request.vni = 9 // what it does carry is
	if r, code, _ := run(points); code != report.ExitFault || r.Verdict.Cause != "wrong-vni" {
		t.Errorf("status %d: %+v", code, r.Verdict)
	}
}

// TestIncidentInterfaces: one pcapng of several interfaces, by their names, with what the kernel dropped.
func TestIncidentInterfaces(t *testing.T) {
	names := []string{"", "cni0", "flannel.1", "ens192"}
	run := func(change func(i, k int, r *pcapfile.Record) bool, drops uint64) (*report.Report, int, string) {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "node.pcapng"))
		if err != nil {
			t.Fatal(err)
		}
		w, err := pcapfile.NewWriter(f, "test")
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(names); i++ {
			n, err := w.AddInterface(pcapfile.Interface{LinkType: pcapfile.LinkEthernet, Name: names[i]})
			if err != nil {
				t.Fatal(err)
			}
			for k, r := range docRecords(t, docPoints(), i) {
				r.Interface = n
				if change(i, k, &r) {
					if err := w.Write(&r); err != nil {
						t.Fatal(err)
					}
				}
			}
			if i == 3 {
				w.WriteStats(n, pcapfile.Stats{Received: 10, Dropped: drops})
			}
		}
		w.Flush()
		f.Close()
		pod := write(t, filepath.Join(dir, "pod.pcap"), classic(1, binary.LittleEndian, false, docRecords(t, docPoints(), 0)))
		return analyze(t, append(strings.Fields(docEnds), docListings, "--point", docPod1+"="+pod, "--point", "k8s-node01/any="+f.Name())...)
	}
	all := func(int, int, *pcapfile.Record) bool { return true }
	if r, code, errOut := run(all, 0); code != 0 || len(r.Capture.Points) != 4 {
		t.Errorf("status %d: %+v %s", code, r.Verdict, errOut)
	}
	// the requests are missing at the uplink, and the kernel dropped frames there: nobody can say that they were lost
	replies := func(i, k int, _ *pcapfile.Record) bool { return i != 3 || docSegments()[k].reply }
	r, _, _ := run(replies, 6)
	for _, h := range r.Legs[0].Hops {
		if h.Interface == "ens192" && (h.State != report.StateUnobserved || !strings.Contains(h.Note, "dropped 6")) {
			t.Errorf("%+v", h)
		}
	}
	if r, code, _ := run(replies, 0); code != report.ExitFault || r.Verdict.Cause != "unseen-at-ens192" {
		t.Errorf("status %d: %+v", code, r.Verdict)
	}
}

// TestIncidentDamaged: what comes before the damage is used, and the damage has a file and an offset.
func TestIncidentDamaged(t *testing.T) {
	dir := t.TempDir()
	args := append(strings.Fields(docEnds), docListings)
	at := 0
	for i, p := range docPoints() {
		b := classic(1, binary.LittleEndian, false, docRecords(t, docPoints(), i))
		if i == 2 {
			at = 24 + 7*16
			for _, r := range docRecords(t, docPoints(), i)[:7] {
				at += len(r.Data)
			}
			b = b[:at+20] // as tcpdump leaves it while it writes
		}
		args = append(args, "--point", p.at+"="+write(t, filepath.Join(dir, fmt.Sprint(i, ".pcap")), b))
	}
	r, code, errOut := analyze(t, args...)
	if code == exitTool {
		t.Fatal(errOut)
	}
	for _, p := range r.Capture.Points {
		if cut := p.Interface == "flannel.1"; cut != strings.Contains(p.Error, fmt.Sprintf("2.pcap\": byte %d: cut short", at)) || cut && p.Packets != 7 {
			t.Errorf("%+v", p)
		}
	}
	if r.Verdict.Status == report.Broken {
		t.Errorf("%+v", r.Verdict)
	}
}

// TestIncidentFolder: analyze.yaml says what the names of the files do not.
func TestIncidentFolder(t *testing.T) {
	dir := t.TempDir()
	plan := "from: " + strings.Replace(docEnds, " ", "\nto: ", 1) + "\npoints:\n"
	for i, p := range docPoints() {
		name := fmt.Sprintf("taps/%d.pcap", i)
		write(t, filepath.Join(dir, name), classic(1, binary.LittleEndian, false, docRecords(t, docPoints(), i)))
		plan += fmt.Sprintf("- {file: %s, at: %s}\n", name, p.at)
	}
	plan += "listings:\n"
	pages, err := filepath.Glob(filepath.Join(docListings, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "deep/er/than/any", filepath.Base(p)), b)
		plan += fmt.Sprintf("- {file: deep/er/than/any/%s}\n", filepath.Base(p))
	}
	write(t, filepath.Join(dir, "README.md"), []byte("node1$ ip route\nblackhole 10.244.2.0/24\n")) // not named, not read
	path := write(t, filepath.Join(dir, "analyze.yaml"), []byte(plan))
	if r, code, errOut := analyze(t, dir); code != 0 || r.Verdict.Status != report.Healthy || len(r.Capture.Points) != 4 {
		t.Errorf("status %d: %+v %s", code, r.Verdict, errOut)
	}
	outside := write(t, filepath.Join(t.TempDir(), "secret"), []byte("secret"))
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, want string }{
		{"point: []\n", `:1: field "point" is not known`},
		{"from: a\npoints: [{file: taps/0.pcap}]\n", "from and to belong together"},
		{"points: [{at: x}]\n", "point 1 has no file"},
		{"points: []\n", "it names no file"},
		{"listings: [{file: README.md, pod: a/b}]\n", "its node is missing"},
		{"points: [{file: ../secret}]\n", `file "../secret"`},
		{"points: [{file: /etc/hostname}]\n", `file "/etc/hostname"`},
		{"listings: [{file: link}]\n", `file "link"`},
		{"listings: [{file: taps}]\n", "is no regular file"},
		{"points: [{file: README.md, at: x/y}]\n", "is no capture file"},
		{"from: a\nto: b\nprobe: sctp\npoints: [{file: taps/0.pcap}]\n", "probe"},
	} {
		write(t, path, []byte(c.text))
		if _, code, errOut := analyze(t, dir); code != exitTool || !strings.Contains(errOut, c.want) {
			t.Errorf("%q: status %d: %s, want %s", c.text, code, errOut, c.want)
		}
	}
}

// docAsItStands are the listings that the walk shows, without the far side that was added to them.
func docAsItStands(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []string{"annotations.txt", "coffee1.txt", "describe.txt", "node1-ip-a.txt", "node1-tables.txt", "node2-ip-a.txt", "pods.txt"} {
		b, err := os.ReadFile(filepath.Join(docListings, f))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, f), b)
	}
	return dir
}

// TestIncidentOneSide: of the far pod nobody listed anything. Without packets nothing can be said; with the answers of
// the walk's captures the near half is judged, and the rest is named.
func TestIncidentOneSide(t *testing.T) {
	dir := docAsItStands(t)
	const unread = "c2lpg: nothing of its network namespace is listed"
	r, code, _ := analyze(t, append(strings.Fields(docEnds), dir)...)
	if code != report.ExitInconclusive || !strings.Contains(strings.Join(r.Incomplete, "\n"), unread) {
		t.Errorf("tables alone: status %d: %+v", code, r.Verdict)
	}
	r, code = judgeDocument(t, dir, docPoints())
	if code != 0 || !strings.Contains(strings.Join(r.Incomplete, "\n"), unread) || !strings.Contains(r.Verdict.Summary, "not captured from k8s-node02") {
		t.Errorf("status %d: %+v %q", code, r.Verdict, r.Incomplete)
	}
	requests := docPoints()
	for i := range requests {
		requests[i].reply = docFrame{ethSrc: "02:00:00:00:00:01", ethDst: "02:00:00:00:00:02", src: "192.0.2.1:1", dst: "192.0.2.2:2", ttl: 9}
	}
	if r, code := judgeDocument(t, dir, requests); code != report.ExitInconclusive || !strings.Contains(r.Verdict.Summary, "nobody captured; 0 came back") {
		t.Errorf("without answers: status %d: %+v", code, r.Verdict)
	}
	if err := os.Remove(filepath.Join(dir, "coffee1.txt")); err != nil {
		t.Fatal(err)
	}
	if _, code, errOut := analyze(t, append(strings.Fields(docEnds), dir)...); code != exitTool || !strings.Contains(errOut, "nothing of the network namespaces of") {
		t.Errorf("neither end: status %d: %s", code, errOut)
	}
}

// TestIncidentSeed: the published document itself, prose and all, beside the captures that it describes.
func TestIncidentSeed(t *testing.T) {
	files, _ := filepath.Glob("../../../shared/seeds/000_*.txt")
	if len(files) != 1 {
		t.Skip("the document is not there")
	}
	r, code := judgeDocument(t, files[0], docPoints())
	if code != 0 {
		t.Errorf("status %d: %+v", code, r.Verdict)
	}
	n := 0
	for _, f := range r.Findings {
		if f.Cause == "fdb-leftover" {
			n++
		}
	}
	if n != 2 || len(r.Findings) != 2 {
		t.Errorf("%+v", r.Findings)
	}
}
