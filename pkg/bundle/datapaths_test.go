package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

var update = flag.Bool("update", false, "rewrite the reports in the bundles under testdata/bundles from what the code judges")

// bundleDir holds a healthy and a broken trace of every datapath, recorded from the lab (go test -run Datapaths -record).
// Their names are DATAPATH.STATUS[.CAUSE].tar.gz.
const bundleDir = "../../testdata/bundles"

// TestDatapathBundles judges each recorded trace: the verdict is what the name says, the report the recorded one.
func TestDatapathBundles(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(bundleDir, "*.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	healthy, broken := map[string]bool{}, map[string]bool{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".tar.gz")
		t.Run(name, func(t *testing.T) {
			datapath, status, _ := strings.Cut(name, ".")
			status, cause, _ := strings.Cut(status, ".")
			b, err := Read(path)
			if err != nil {
				t.Fatal(err)
			}
			r := trace.Judge(b.Case)
			if r.Verdict.Status != status || r.Verdict.Cause != cause {
				t.Errorf("%s %s", r.Verdict.Status, r.Verdict.Cause)
			}
			if *update {
				if err := Write(path, &Bundle{Case: b.Case, Report: r}); err != nil {
					t.Fatal(err)
				}
			}
			var got bytes.Buffer
			if err := report.Write(&got, r, report.FormatJSON, report.Options{}); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(recordedReport(t, path)), got.String()); d != "" {
				t.Errorf("report (-recorded +got):\n%s", d)
			}
			healthy[datapath] = healthy[datapath] || status == report.Healthy
			broken[datapath] = broken[datapath] || cause != ""
		})
	}
	for _, datapath := range datapathNames {
		if !healthy[datapath] || !broken[datapath] {
			t.Errorf("%s: healthy %v, broken %v: one of each is needed", datapath, healthy[datapath], broken[datapath])
		}
	}
}

// datapathNames are those of the lab, and of its services.
var datapathNames = []string{
	"flannel-vxlan", "flannel-vxlan-42", "flannel-host-gw", "flannel-directrouting", "flannel-udp", "flannel-dual", "flannel-v6", "flannel-nat",
	"calico-vxlan", "cilium-eni", "k3s", "kind", "services-iptables", "services-nftables", "services-ipvs", "services-client", "services-nodeport",
	"services-outside", "services-node", "services-affinity", "services-dual", "services-nat",
}

// recordedReport gives the bytes of report.json in a bundle.
func recordedReport(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Fatal("no report.json")
		}
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(h.Name) == "report.json" {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
	}
}
