package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/podtrace/podtrace/pkg/listing"
	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// Bounds of what is read, for a folder that was named by mistake: files, and bytes of listings.
const (
	maxFiles = 10_000
	maxText  = 256 << 20
)

// Source is one capture file and its place.
type Source struct {
	Path string
	At   string // NODE/…/INTERFACE; "": nobody said
}

// Material is what files and folders hold.
type Material struct {
	Listings []listing.Input
	Captures []Source
	text     int // bytes of listings
}

// listing takes the text of a listing.
func (m *Material) listing(in ...listing.Input) error {
	for _, i := range in {
		if m.text += len(i.Text); m.text > maxText {
			return fmt.Errorf("%q: more than %d MiB of listings", i.File, maxText>>20)
		}
		m.Listings = append(m.Listings, i)
	}
	return nil
}

// IsCapture reports whether a file is a capture.
func IsCapture(path string) (bool, error) {
	r, err := pcapfile.Open(path)
	switch {
	case errors.Is(err, pcapfile.ErrFormat):
		return false, nil
	case err != nil:
		return false, err
	}
	if d := r.Damage(); d != nil && len(r.Interfaces()) == 0 { // a few bytes of anything
		return false, r.Close()
	}
	return true, r.Close()
}

// Sort tells captures from listings. points are NODE/…/INTERFACE=FILE.
func Sort(paths, points []string) (*Material, error) {
	m := &Material{}
	for _, root := range paths {
		fi, err := os.Stat(root)
		if err != nil {
			return nil, err
		}
		if fi.IsDir() {
			err = m.folder(root)
		} else {
			err = m.file(root, filepath.Base(root))
		}
		if err != nil {
			return nil, err
		}
	}
	for _, p := range points {
		at, path, ok := strings.Cut(p, "=")
		if !ok || at == "" || path == "" {
			return nil, fmt.Errorf("point %q is not NODE/INTERFACE=FILE", p)
		}
		if is, err := IsCapture(path); err != nil {
			return nil, err
		} else if !is {
			return nil, fmt.Errorf("point %q: %q is no capture file", at, path)
		}
		m.Captures = append(m.Captures, Source{Path: path, At: at})
	}
	return m, nil
}

// folder takes what a folder's analyze.yaml names, else all files of it.
func (m *Material) folder(root string) error {
	plan, err := ReadPlan(root)
	if err != nil {
		return err
	}
	if plan != nil {
		return m.plan(plan)
	}
	n := 0
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		if n++; n > maxFiles {
			return fmt.Errorf("%q: more than %d files", root, maxFiles)
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		return m.file(p, filepath.ToSlash(rel))
	})
}

func (m *Material) plan(p *Plan) error {
	for _, x := range p.Points {
		if is, err := IsCapture(x.File); err != nil {
			return err
		} else if !is {
			return fmt.Errorf("point %q: %q is no capture file", x.At, x.File)
		}
		m.Captures = append(m.Captures, Source{Path: x.File, At: x.At})
	}
	for _, x := range p.Listings {
		in, err := listing.ReadPath(x.File)
		if err != nil {
			return err
		}
		for i := range in {
			in[i].Node, in[i].Netns, in[i].Command = x.Node, x.Pod, x.Command
		}
		if err := m.listing(in...); err != nil {
			return err
		}
	}
	return nil
}

// file takes one file, with its path in the folder that was named.
func (m *Material) file(path, rel string) error {
	is, err := IsCapture(path)
	if err != nil {
		return err
	}
	dirs := strings.Split(rel, "/")
	if is {
		at := ""
		if len(dirs) == 2 || len(dirs) == 4 {
			at = stem(rel)
		}
		m.Captures = append(m.Captures, Source{Path: path, At: at})
		return nil
	}
	in, err := listing.ReadPath(path)
	if err != nil {
		return err
	}
	for i := range in {
		in[i].File = rel
		switch len(dirs) {
		case 2:
			in[i].Node = dirs[0]
		case 4:
			in[i].Node, in[i].Netns = dirs[0], dirs[1]+"/"+dirs[2]
		}
	}
	return m.listing(in...)
}

// stem takes the endings of a capture's name off, and no others: interfaces have dots in their names.
func stem(name string) string {
	for _, ext := range []string{".gz", ".zst", ".pcap", ".pcapng", ".cap", ".dump"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}
