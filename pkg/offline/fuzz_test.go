package offline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/yamlfile"
)

// FuzzCapture: a capture beside good listings may hold anything, of any link type: it is judged, or refused, and never
// makes a packet that was not there.
func FuzzCapture(f *testing.F) {
	files, _ := filepath.Glob("../../examples/incident/node*/*.pcap")
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b, true)
			for _, link := range []byte{0, 101, 113, 228} { // the same bytes under another link type
				c := append([]byte(nil), b...)
				if len(c) > 24 {
					c[20] = link
				}
				f.Add(c, false)
			}
			if len(b) > 24 {
				c := append([]byte(nil), b...)
				c[20], c[21] = 0x14, 0x01 // LINUX_SLL2
				f.Add(c, true)
			}
		}
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "x.pcap")
	f.Fuzz(func(t *testing.T, b []byte, placed bool) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		q := Request{Paths: []string{doc}, Source: "coffee-67c6f7c5fd-2pfr4", Destination: "coffee-67c6f7c5fd-c2lpg", Namespace: "default"}
		if placed {
			q.Points = []string{"k8s-node01/any=" + path, "k8s-node01/ens192=" + path}[:1+len(b)%2]
		} else {
			q.Paths = append(q.Paths, path)
		}
		r, err := Judge(q)
		if err != nil {
			if r != nil {
				t.Error("a report beside an error")
			}
			return
		}
		if r.Capture != nil && r.Capture.Packets > len(b)/16 {
			t.Errorf("%d packets of %d bytes", r.Capture.Packets, len(b))
		}
		if r.Verdict.Status == "" || report.ExitCode(r.Verdict.Status) < 0 {
			t.Errorf("%+v", r.Verdict)
		}
	})
}

// FuzzPlan: an analyze.yaml is read or refused, and names no file outside of its folder.
func FuzzPlan(f *testing.F) {
	f.Add("from: a\nto: b\npoints: [{file: x.pcap, at: n/eth0}]\nlistings: [{file: y.txt, node: n, pod: a/b, command: ip r}]\n")
	f.Add("points: [{file: ../x}]\n")
	dir := f.TempDir()
	path := filepath.Join(dir, PlanName)
	for _, n := range []string{"x.pcap", "y.txt"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil || len(text) > yamlfile.MaxSize {
			return
		}
		p, err := ReadPlan(dir)
		if err != nil || p == nil {
			return
		}
		for _, x := range p.Points {
			if !strings.HasPrefix(x.File, dir+string(filepath.Separator)) {
				t.Errorf("%q is outside of the folder", x.File)
			}
		}
	})
}
