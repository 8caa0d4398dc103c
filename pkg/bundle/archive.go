package bundle

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of what is read, in bytes after decompression.
const (
	maxText    = 128 << 20 // of one JSON or YAML file
	maxCapture = 768 << 20
	maxTotal   = 1 << 30 // of all files of an archive, those that are not used included
	maxFiles   = 20000
)

// limit bounds a file by its name.
func limit(name string) int64 {
	if strings.HasSuffix(name, ".pcapng") {
		return maxCapture
	}
	return maxText
}

// writeArchive writes a tar.gz beside path and puts it in its place.
func writeArchive(path string, files []file, when time.Time) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".podtrace-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := tarFiles(tmp, files, when); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// tarFiles writes the archive. Owner, mode and time are the same whoever writes it and when.
func tarFiles(to io.Writer, files []file, when time.Time) error {
	z := gzip.NewWriter(to)
	w := tar.NewWriter(z)
	if when.Unix() < 0 {
		when = time.Unix(0, 0)
	}
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: when.Truncate(time.Second), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(f.data); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close())
}

func writeFolder(dir string, files []file) error {
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// source gives the files of a bundle by name; fs.ErrNotExist for one that is not there.
type source interface {
	read(name string) ([]byte, error)
	close()
}

func open(name string) (source, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		return folder{root}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readArchive(f)
}

// folder is a bundle as a folder. os.Root lets no name and no symbolic link lead out of it.
type folder struct{ root *os.Root }

func (d folder) close() { _ = d.root.Close() }

func (d folder) read(name string) ([]byte, error) {
	if !fs.ValidPath(name) || strings.Contains(name, `\`) {
		return nil, fmt.Errorf("%q is no name of a file in a bundle", name)
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is no regular file", name)
	}
	return readBounded(f, name, limit(name))
}

// readBounded reads no more than most bytes.
func readBounded(r io.Reader, name string, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%s: more than %d bytes", name, most)
	}
	return b, nil
}

// archive is a bundle as a tar.gz, in memory.
type archive map[string][]byte

func (a archive) close() {}

func (a archive) read(name string) ([]byte, error) {
	b, ok := a[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return b, nil
}

// readArchive unpacks into memory what belongs to a bundle. A folder that was packed by hand has its name before
// every file, or "./"; both are taken off.
func readArchive(r io.Reader) (archive, error) {
	z, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotBundle, err)
	}
	t := tar.NewReader(&budget{r: z, left: maxTotal})
	out := make(archive)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out.stripped(), nil
		}
		switch {
		case err != nil && n == 0 && errors.Is(err, tar.ErrHeader):
			return nil, fmt.Errorf("%w: it is compressed, and no archive", ErrNotBundle)
		case err != nil:
			return nil, fmt.Errorf("archive: %w", err)
		case n == maxFiles:
			return nil, fmt.Errorf("archive: more than %d files", maxFiles)
		}
		if err := out.add(t, h); err != nil {
			return nil, err
		}
	}
}

func (a archive) add(t io.Reader, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("archive: %q is no regular file", h.Name)
	}
	name := strings.TrimPrefix(h.Name, "./")
	if !fs.ValidPath(name) || strings.Contains(name, `\`) {
		return fmt.Errorf("archive: %q is no name of a file in a bundle", h.Name)
	}
	if _, ok := a[name]; ok {
		return fmt.Errorf("archive: %q is there twice", h.Name)
	}
	switch path.Ext(name) {
	case ".json", ".yaml", ".pcapng":
	default:
		return nil // somebody's note
	}
	b, err := readBounded(t, name, limit(name))
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	a[name] = b
	return nil
}

// stripped takes the name of a folder off that every file is in.
func (a archive) stripped() archive {
	if a[manifestName] != nil {
		return a
	}
	prefix := ""
	for name := range a {
		dir, file, ok := strings.Cut(name, "/")
		if ok && file == manifestName && prefix == "" {
			prefix = dir + "/"
		}
	}
	out := make(archive)
	for name, b := range a {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			out[rest] = b
		}
	}
	return out
}

// budget ends a decompression that does not end by itself.
type budget struct {
	r    io.Reader
	left int64
}

// Read gives an error once the budget is used up.
func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("more than %d bytes after decompression", maxTotal)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// isArchive reports whether a file is a gzip of a tar.
func isArchive(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return false
	}
	_, err = tar.NewReader(&budget{r: z, left: 1 << 20}).Next()
	return err == nil
}
