package listing

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFiles bounds a folder that was named by mistake.
const maxFiles = 10_000

// ReadPath reads a file, or every file of a folder. In a folder the way to a file says where it was taken:
// NODE/FILE on a node, NODE/NAMESPACE/POD/FILE in a pod; files at the top say it themselves.
func ReadPath(path string) ([]Input, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read listings: %w", err)
	}
	if !info.IsDir() {
		in, err := readInput(path, filepath.Base(path))
		return []Input{in}, err
	}
	var out []Input
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		if len(out) >= maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		rel, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		in, err := readInput(p, filepath.ToSlash(rel))
		out = append(out, in)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read listings in %q: %w", path, err)
	}
	return out, nil
}

// readInput reads one byte more than Parse takes, so that Parse can say that there is more.
func readInput(path, rel string) (Input, error) {
	f, err := os.Open(path)
	if err != nil {
		return Input{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	in := Input{File: rel, Text: b}
	switch dirs := strings.Split(rel, "/"); len(dirs) {
	case 2:
		in.Node = dirs[0]
	case 4:
		in.Node, in.Netns = dirs[0], dirs[1]+"/"+dirs[2]
	}
	return in, err
}
