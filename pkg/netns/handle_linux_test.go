package netns_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// The startup thread cannot exit and /proc/self describes it: keep it away from helper goroutines.
func init() { runtime.LockOSThread() }

func threadNetns(t testing.TB) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkThreads fails unless every thread of the process is in the namespace want.
func checkThreads(t *testing.T, want string) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		got, err := os.Readlink(l)
		if err == nil && got != want { // a thread may end in between
			t.Errorf("%s is in %s, want %s", l, got, want)
		}
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestCurrent(t *testing.T) {
	h, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if got, want := h.ID().String(), threadNetns(t); got != want || h.ID().IsZero() {
		t.Errorf("ID = %s, want %s", got, want)
	}
	p, err := netns.OpenPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.ID() != h.ID() {
		t.Errorf("OpenPID = %v, want %v", p.ID(), h.ID())
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	regular := filepath.Join(dir, "file")
	if err := os.WriteFile(regular, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		want       error
	}{
		{"absent", filepath.Join(dir, "none"), fs.ErrNotExist},
		{"regular file", regular, netns.ErrNotNetns},
		{"directory", dir, netns.ErrNotNetns},
		{"FIFO does not block", fifo, netns.ErrNotNetns},
		{"other kind of namespace", "/proc/self/ns/uts", netns.ErrNotNetns},
		{"empty", "", fs.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := netns.Open(tt.path)
			if h != nil || !errors.Is(err, tt.want) {
				t.Errorf("Open(%q) = %v, %v, want %v", tt.path, h, err, tt.want)
			}
		})
	}
}

func TestDo(t *testing.T) {
	h := nstest.New(t)
	before := threadNetns(t)
	var inside string
	var names []string
	err := h.Do(func() error {
		inside = threadNetns(t)
		ifs, err := net.Interfaces()
		for _, i := range ifs {
			names = append(names, i.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if inside != h.ID().String() || inside == before {
		t.Errorf("inside Do: %s, want %s", inside, h.ID())
	}
	if got := strings.Join(names, " "); got != "lo" {
		t.Errorf("interfaces inside: %q, want lo alone", got)
	}
	if after := threadNetns(t); after != before {
		t.Errorf("after Do: %s, want %s", after, before)
	}
	checkThreads(t, before)
}

func TestDoError(t *testing.T) {
	h := nstest.New(t)
	want := errors.New("from f")
	if err := h.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do = %v, want %v", err, want)
	}
	if err := h.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do of a function that ends its goroutine = nil, want an error")
	}
	checkThreads(t, threadNetns(t))
}

func TestDoClosed(t *testing.T) {
	h, err := netns.New()
	if err != nil {
		nstest.Skip(t, err)
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	called := false
	if err := h.Do(func() error { called = true; return nil }); !errors.Is(err, os.ErrClosed) || called {
		t.Errorf("Do on a closed handle = %v (called %v), want %v", err, called, os.ErrClosed)
	}
}

func TestNewPath(t *testing.T) {
	h := nstest.New(t)
	again, err := netns.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ID() != h.ID() {
		t.Errorf("Open(Path) = %v, want %v", again.ID(), h.ID())
	}
}

func TestDoConcurrent(t *testing.T) {
	before, fds := threadNetns(t), countFDs(t)
	t.Run("many", func(t *testing.T) {
		spaces := make([]*netns.Handle, 4)
		for i := range spaces {
			spaces[i] = nstest.New(t)
		}
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				h := spaces[i%len(spaces)]
				err := h.Do(func() error {
					if got := threadNetns(t); got != h.ID().String() {
						t.Errorf("inside %s, want %s", got, h.ID())
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if got := threadNetns(t); got != before {
					t.Errorf("another goroutine is in %s, want %s", got, before)
				}
			})
		}
		wg.Wait()
	})
	checkThreads(t, before)
	if got := countFDs(t); got != fds {
		t.Errorf("%d file descriptors open, want %d as before", got, fds)
	}
}

// TestChild shows that commands started inside run there, which the lab relies on.
func TestChild(t *testing.T) {
	h := nstest.New(t)
	var out []byte
	err := h.Do(func() (err error) {
		out, err = exec.Command("readlink", "/proc/self/ns/net").Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != h.ID().String() {
		t.Errorf("child is in %s, want %s", got, h.ID())
	}
}

func TestPermissionError(t *testing.T) {
	err := error(&netns.PermissionError{Op: "enter netns \"x\"", Capability: "CAP_SYS_ADMIN", Err: unix.EPERM})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("PermissionError = %v", err)
	}
}

func BenchmarkDo(b *testing.B) {
	h := nstest.New(b)
	for b.Loop() {
		if err := h.Do(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
