// Command image makes podtrace's container image without a container engine: an OCI archive (an image layout in a tar
// file) with the static binary and nothing else, for each platform. It is what agents run as.
//
//	go run -C hack/image . -name ghcr.io/podtrace/podtrace:v1.2.3 -o podtrace.tar linux/amd64=bin/a linux/arm64=bin/b
//
// containerd takes the file (ctr -n k8s.io images import), so do podman, skopeo and crane.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/google/go-containerregistry/pkg/name"
)

// binary is where the program is in the image.
const binary = "podtrace"

// epoch is the time of everything in the image: the same sources give the same bytes.
var epoch = time.Unix(0, 0).UTC()

func main() {
	ref := flag.String("name", "", "name of the image, with a tag")
	out := flag.String("o", "podtrace-image.tar", "file to write")
	flag.Parse()
	if err := run(*ref, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ref, out string, platforms []string) error {
	tag, err := name.NewTag(ref, name.StrictValidation)
	if err != nil {
		return err
	}
	if len(platforms) == 0 {
		return errors.New("no OS/ARCH=BINARY is given")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms {
		at, path, ok := strings.Cut(p, "=")
		platform, err := v1.ParsePlatform(at)
		if !ok || err != nil {
			return fmt.Errorf("platform %q: want OS/ARCH=BINARY", p)
		}
		img, err := image(platform, path, tag)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
	}
	dir, err := os.MkdirTemp("", "podtrace-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// by the first annotation containerd finds the name, by the second everybody else the tag
	if err := l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name": tag.Name(), "org.opencontainers.image.ref.name": tag.TagStr(),
	})); err != nil {
		return err
	}
	return archive(out, dir)
}

// image is the image of one platform.
func image(p *v1.Platform, path string, tag name.Tag) (v1.Image, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	content, err := layer(b)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{CreatedBy: "podtrace hack/image", Created: v1.Time{Time: epoch}}}); err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, config(img, p, tag))
}

func config(img v1.Image, p *v1.Platform, tag name.Tag) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		panic(err) // of an image that was made in memory
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = p.OS, p.Architecture, v1.Time{Time: epoch}
	c.Config = v1.Config{
		Entrypoint: []string{"/" + binary}, User: "0:0",
		Labels: map[string]string{
			"org.opencontainers.image.title": "podtrace", "org.opencontainers.image.version": tag.TagStr(),
			"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.source": "https://github.com/podtrace/podtrace",
		},
	}
	return c
}

// layer holds the binary, and the folders that the agents' container mounts something on: its root is read-only.
func layer(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"run/", "run/podtrace/", "tmp/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: epoch}); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: binary, Mode: 0o755, Size: int64(len(b)), ModTime: epoch}); err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// archive writes a folder as a tar file, in the order of names.
func archive(out, dir string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(rel), Mode: 0o644, Size: int64(len(b)), ModTime: epoch}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
	return errors.Join(err, w.Close())
}
