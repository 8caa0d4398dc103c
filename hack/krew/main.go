// Command krew packs the binaries of a release for krew, kubectl's plugin manager: an archive for each system, their
// SHA-256 sums, and the manifest of the plugin.
//
// The krew-index of the Kubernetes project has an unrelated plugin that is named podtrace, too. So the manifest is for an
// index of podtrace's own: kubectl krew index add podtrace https://github.com/podtrace/krew-index.git, and then
// kubectl krew install podtrace/podtrace.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"sigs.k8s.io/yaml"
)

// plugin is a Plugin of krew.googlecontainertools.github.com/v1alpha2, as far as podtrace needs it.
type plugin struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       spec     `json:"spec"`
}

type metadata struct {
	Name string `json:"name"`
}

type spec struct {
	Version          string     `json:"version"`
	Homepage         string     `json:"homepage"`
	ShortDescription string     `json:"shortDescription"`
	Description      string     `json:"description"`
	Caveats          string     `json:"caveats"`
	Platforms        []platform `json:"platforms"`
}

type platform struct {
	Selector selector `json:"selector"`
	URI      string   `json:"uri"`
	SHA256   string   `json:"sha256"`
	Bin      string   `json:"bin"`
}

type selector struct {
	MatchLabels map[string]string `json:"matchLabels"`
}

const (
	homepage    = "https://github.com/podtrace/podtrace"
	short       = "Find where a packet between two pods gets lost"
	description = `Traces the path between two pods hop by hop and judges it: what the control
plane meant, what each kernel was told, and what went over the wire, captured
at every interface of both nodes at once. Names the first place where two of
them disagree, with the entry that proves it and the command that mends it.
`
	caveats = `Sends a short-lived pod to each of the two nodes and removes it again. The
rights that it needs: https://github.com/podtrace/podtrace/blob/main/deploy/podtrace.yaml
`
)

func main() {
	version := flag.String("version", "", "of the release, vMAJOR.MINOR.PATCH")
	dist := flag.String("dist", "dist", "folder with OS/ARCH/podtrace, and where the archives go")
	flag.Parse()
	if err := run(*version, *dist, "LICENSE"); err != nil {
		fmt.Fprintln(os.Stderr, "krew:", err)
		os.Exit(1)
	}
}

// semver is the form that krew takes; what git describes between releases is one of its pre-releases.
var semver = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

func run(version, dist, license string) error {
	if !semver.MatchString(version) {
		version = "v0.0.0-" + regexp.MustCompile(`[^0-9A-Za-z-]+`).ReplaceAllString(version, "-")
	}
	p := plugin{
		APIVersion: "krew.googlecontainertools.github.com/v1alpha2", Kind: "Plugin", Metadata: metadata{Name: "podtrace"},
		Spec: spec{Version: version, Homepage: homepage, ShortDescription: short, Description: description, Caveats: caveats},
	}
	var sums bytes.Buffer
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			bin, source := "kubectl-podtrace", "podtrace"
			if system == "windows" {
				bin, source = bin+".exe", source+".exe"
			}
			name := fmt.Sprintf("podtrace_%s_%s.tar.gz", system, arch)
			sum, err := pack(filepath.Join(dist, name), bin, filepath.Join(dist, system, arch, source), license)
			if err != nil {
				return err
			}
			fmt.Fprintf(&sums, "%s  %s\n", sum, name)
			p.Spec.Platforms = append(p.Spec.Platforms, platform{
				Selector: selector{map[string]string{"os": system, "arch": arch}},
				URI:      homepage + "/releases/download/" + version + "/" + name, SHA256: sum, Bin: bin,
			})
		}
	}
	if err := os.WriteFile(filepath.Join(dist, "SHA256SUMS"), sums.Bytes(), 0o644); err != nil {
		return err
	}
	text, err := yaml.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dist, "podtrace.yaml"), text, 0o644)
}

// pack writes an archive with the binary and the license, and gives its SHA-256 sum in hex.
func pack(out, bin, source, license string) (string, error) {
	var b bytes.Buffer
	zip, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	w := tar.NewWriter(zip)
	for _, f := range []struct {
		name, path string
		mode       int64
	}{{bin, source, 0o755}, {"LICENSE", license, 0o644}} {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return "", err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			return "", err
		}
		if _, err := w.Write(content); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if err := zip.Close(); err != nil {
		return "", err
	}
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:]), os.WriteFile(out, b.Bytes(), 0o644)
}
