package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main must be the first call of a program that calls Up. In a process that is to be a machine it does not return.
func Main() {
	switch {
	case os.Args[0] != marker:
		return
	case len(os.Args) == 2:
		status := os.NewFile(4, "status")
		err := become(os.Args[1])
		if err != nil {
			fmt.Fprint(status, err)
			log.Fatal(err)
		}
	default:
		log.Fatal(supervise(os.Args[2]))
	}
}

// specFile is where a machine finds its spec.
const specFile = "/etc/podtrace-e2e.json"

// become makes of the process, which is in new namespaces already, process 1 of the machine: its cgroups, its
// files. It executes the program anew, so that all threads are in the same namespaces.
func become(path string) error {
	runtime.LockOSThread()
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	for _, h := range s.Hierarchies {
		if err := h.enter(s.Name); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(s.Dir, "upper", "etc"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "upper", specFile), text, 0o600); err != nil {
		return err
	}
	if err := s.mount(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", []string{marker, "run", specFile}, os.Environ())
}

// A mount of a machine. A source that is a path is the host's.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// mount gives the machine a root of its own: the host's files below, its own above.
func (s spec) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := filepath.Join(s.Dir, "root")
	dir := func(name string) string { return filepath.Join(s.Dir, name) }
	mounts := []mount{
		{"overlay", "", "overlay", 0, "lowerdir=/,upperdir=" + dir("upper") + ",workdir=" + dir("work")},
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"},
		{"tmpfs", "/dev", "tmpfs", 0, "mode=755"},
		{"devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620"},
		{"tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", 0, "mode=1777"},
		{dir("log"), "/var/log", "", unix.MS_BIND, ""},
		{dir("var/kubelet"), "/var/lib/kubelet", "", unix.MS_BIND, ""},
		{dir("var/containerd"), "/var/lib/containerd", "", unix.MS_BIND, ""},
		{s.Bin, "/opt/e2e", "", unix.MS_BIND, ""},
	}
	for _, h := range s.Hierarchies {
		mounts = append(mounts, mount{"cgroup", h.Mount, "cgroup", 0, h.Options})
	}
	for _, m := range mounts {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := devices(filepath.Join(root, "dev")); err != nil {
		return err
	}
	if err := shield(root); err != nil {
		return err
	}
	return pivot(root)
}

// devices makes the character devices that programs expect; all else of the host's /dev stays out.
func devices(dev string) error {
	for name, n := range map[string][2]uint32{
		"null": {1, 3}, "zero": {1, 5}, "full": {1, 7}, "random": {1, 8}, "urandom": {1, 9}, "kmsg": {1, 11}, "tty": {5, 0},
	} {
		path := filepath.Join(dev, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(n[0], n[1]))); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
	}
	for link, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join(dev, link)); err != nil {
			return err
		}
	}
	return nil
}

// shield puts plain files over the sysctls that a kubelet sets and that no namespace has of its own. They hold what
// the kubelet wants, so that it is content.
func shield(root string) error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		file := filepath.Join(root, "run", "sysctl", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		err := unix.Mount(file, filepath.Join(root, "proc/sys", name), "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("shield sysctl %s: %w", name, err)
		}
	}
	return nil
}

// pivot makes root the root of the mount namespace, with nothing of the host's mounts left in it.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// volumes that a kubelet mounts must show in containers
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}
