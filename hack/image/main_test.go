package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestImage: the archive is an image layout whose parts are there, with the binary, and made twice it is the same.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.WriteFile(bin, []byte("#!binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	var made [2][]byte
	for i := range made {
		out := filepath.Join(dir, "out.tar")
		if err := run("registry.example/podtrace:v1", out, []string{"linux/amd64=" + bin, "linux/arm64=" + bin}); err != nil {
			t.Fatal(err)
		}
		made[i], _ = os.ReadFile(out)
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("two images of the same binary differ")
	}
	files := make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(made[0])); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name], _ = io.ReadAll(r)
	}
	type descriptor struct {
		Digest      string
		Annotations map[string]string
		Platform    struct{ OS, Architecture string }
	}
	read := func(name string, to any) {
		t.Helper()
		if err := json.Unmarshal(files[name], to); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	blob := func(d string) string { return "blobs/sha256/" + d[len("sha256:"):] }
	var top, index struct{ Manifests []descriptor }
	read("index.json", &top)
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["io.containerd.image.name"] != "registry.example/podtrace:v1" {
		t.Fatalf("index.json: %s", files["index.json"])
	}
	read(blob(top.Manifests[0].Digest), &index)
	if len(index.Manifests) != 2 || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Fatalf("%+v", index)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	read(blob(index.Manifests[0].Digest), &manifest)
	var config struct {
		Architecture string
		Config       struct{ Entrypoint []string }
	}
	read(blob(manifest.Config.Digest), &config)
	if config.Architecture != "amd64" || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/podtrace" || len(manifest.Layers) != 1 {
		t.Errorf("config %+v, %d layers", config, len(manifest.Layers))
	}
	if len(files[blob(manifest.Layers[0].Digest)]) == 0 {
		t.Error("the layer is missing")
	}
	if err := run("no name", "x", []string{"linux/amd64=x"}); err == nil {
		t.Error("a name that is none is taken")
	}
}
