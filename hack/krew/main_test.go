package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestManifest is the check of the krew manifest: what krew's own validation asks for (names, versions, sums, one
// archive a system, each with the binary that it names), and the archives are those that were summed.
func TestManifest(t *testing.T) {
	dist := t.TempDir()
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			dir := filepath.Join(dist, system, arch)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			name := "podtrace"
			if system == "windows" {
				name += ".exe"
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte("program for "+system+" "+arch), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for given, want := range map[string]string{"v1.2.3": "v1.2.3", "a1b2c3d-dirty": "v0.0.0-a1b2c3d-dirty", "v1.2.3-4-gabc": "v1.2.3-4-gabc"} {
		if err := run(given, dist, "../../LICENSE"); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dist, "podtrace.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var p plugin
		if err := yaml.UnmarshalStrict(b, &p); err != nil {
			t.Fatal(err)
		}
		if p.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || p.Kind != "Plugin" || p.Metadata.Name != "podtrace" || p.Spec.Version != want {
			t.Errorf("%+v", p)
		}
		if s := p.Spec.ShortDescription; s == "" || len(s) > 50 || strings.Contains(s, "\n") || strings.HasSuffix(s, ".") {
			t.Errorf("short description %q", s)
		}
		seen := make(map[string]bool)
		for _, f := range p.Spec.Platforms {
			system, arch := f.Selector.MatchLabels["os"], f.Selector.MatchLabels["arch"]
			seen[system+"/"+arch] = true
			checkPlatform(t, dist, f, want)
		}
		if len(seen) != 6 || len(p.Spec.Platforms) != 6 {
			t.Errorf("platforms %v", seen)
		}
	}
}

func checkPlatform(t *testing.T, dist string, f platform, version string) {
	t.Helper()
	if !regexp.MustCompile(`^https://[^ ]+/` + regexp.QuoteMeta(version) + `/podtrace_[a-z]+_[a-z0-9]+\.tar\.gz$`).MatchString(f.URI) {
		t.Errorf("URI %q", f.URI)
	}
	b, err := os.ReadFile(filepath.Join(dist, filepath.Base(f.URI)))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 {
		t.Errorf("%s: the sum is of something else", f.URI)
	}
	zip, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(zip).Next()
	if err != nil || h.Name != f.Bin || h.Mode&0o111 == 0 || filepath.IsAbs(f.Bin) {
		t.Errorf("%s: %+v, %v, want an executable %q first", f.URI, h, err, f.Bin)
	}
}
