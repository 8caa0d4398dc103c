package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// record is what the lab remembers of itself, in state.json. It is written before what it
// describes is done, so that a crash leaves nothing that it does not know of.
type record struct {
	// MadeNetnsDir: /run/netns was not there before, and goes with the lab.
	MadeNetnsDir bool     `json:"madeNetnsDir,omitempty"`
	Server       process  `json:"server"`
	Broken       []Broken `json:"broken,omitempty"`
	// Complete: everything was built. A lab without it is torn down by the next Up.
	Complete bool `json:"complete,omitempty"`
	Spec     Spec `json:"spec,omitzero"`
}

// spec is the Spec that the lab was built of, completed; the default one's where none is on record, or
// one that this program does not know.
func (r record) spec() Spec {
	if s, err := r.Spec.complete(); err == nil {
		return s
	}
	s, _ := Spec{}.complete()
	return s
}

func (o Options) recordPath() string { return filepath.Join(o.StateDir, "state.json") }
func (o Options) lockPath() string   { return filepath.Join(o.StateDir, "lock") }
func (o Options) logPath() string    { return filepath.Join(o.StateDir, "server.log") }

// readRecord gives the zero record where there is none, or none that can be read.
func readRecord(o Options) (record, error) {
	var r record
	text, err := os.ReadFile(o.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if json.Unmarshal(text, &r) != nil {
		return record{}, nil // half-written by a crash: nothing of it counts
	}
	return r, nil
}

func writeRecord(o Options, r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(o.recordPath(), text)
}

// writeFile replaces a file as a whole.
func writeFile(path string, text []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, text, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// lock holds off every other Up, Down, Break and Mend of the same lab, in this process and others,
// until the returned file is unlocked. It makes the state directory.
func lock(ctx context.Context, o Options) (*os.File, error) {
	for {
		var f *os.File
		err := os.MkdirAll(o.StateDir, 0o755)
		if err == nil {
			f, err = os.OpenFile(o.lockPath(), os.O_RDWR|os.O_CREATE, 0o600)
		}
		if errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
			continue // a Down has just removed the directory
		}
		if err != nil {
			return nil, fmt.Errorf("state of the lab: %w", err)
		}
		if err := flock(ctx, f); err != nil {
			_ = f.Close()
			return nil, err
		}
		if isStill(f, o.lockPath()) {
			return f, nil
		}
		_ = f.Close() // a Down removed the file while we waited for it
	}
}

// flock waits for the lock of flock(2), which goes away with the process that holds it.
func flock(ctx context.Context, f *os.File) error {
	const wait = 5 * time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %q: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another command of the lab: %w", ctx.Err())
		case <-time.After(wait):
		}
	}
}

// unlock frees the lock even if a child process has inherited the file.
func unlock(f *os.File) {
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	_ = f.Close()
}

// isStill reports whether the open file is the one at path.
func isStill(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// removeState removes the state directory and, of the default lab, the one above it. The lock, which
// the caller holds, goes last: from then on the directory may be another command's.
func removeState(o Options) error {
	entries, err := os.ReadDir(o.StateDir)
	if err != nil {
		return ignoreNotExist(err)
	}
	for _, e := range entries {
		if path := filepath.Join(o.StateDir, e.Name()); path != o.lockPath() {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	if err := ignoreNotExist(os.Remove(o.lockPath())); err != nil {
		return err
	}
	dirs := []string{o.StateDir}
	if parent := filepath.Dir(o.StateDir); parent == filepath.Dir(DefaultStateDir) {
		dirs = append(dirs, parent)
	}
	for _, dir := range dirs {
		err := unix.Rmdir(dir)
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove %q: %w", dir, err)
		}
	}
	return nil
}
