package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// hierarchy is a cgroup v1 hierarchy of the host and the cluster's group in it.
type hierarchy struct {
	Mount   string // its mount point: "/sys/fs/cgroup/memory"
	Options string // to mount it by: "memory", "none,name=systemd"
	Group   string // the cluster's group as a folder of the host
}

// hierarchies lists the host's hierarchies, with a group of the given name below the caller's own: limits that the
// caller is under hold for the cluster too.
func hierarchies(name string) ([]hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var out []hierarchy
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line) // device, mount point, type, options
		if len(f) < 4 || f[2] != "cgroup" {
			continue
		}
		h := hierarchy{Mount: f[1], Options: controllers(f[3])}
		h.Group = filepath.Join(h.Mount, ownGroup(string(own), h.Options), name)
		out = append(out, h)
	}
	if len(out) == 0 {
		return nil, errors.New("no cgroup v1 hierarchy is mounted: the cluster's kubelets are set up for version 1")
	}
	return out, nil
}

// controllers leaves of a mount's options what names the hierarchy.
func controllers(options string) string {
	var keep []string
	for o := range strings.SplitSeq(options, ",") {
		if !slices.Contains([]string{"rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "xattr", "clone_children"}, o) {
			keep = append(keep, o)
		}
	}
	if len(keep) > 0 && strings.HasPrefix(keep[0], "name=") {
		keep = append([]string{"none"}, keep...)
	}
	return strings.Join(keep, ",")
}

// ownGroup finds the process's group of a hierarchy in /proc/self/cgroup: "4:memory:/a/b".
func ownGroup(groups, options string) string {
	name := strings.TrimPrefix(options, "none,")
	for line := range strings.Lines(groups) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[1] == name {
			// a group of this or another cluster's machine is not nested in
			return strings.SplitN(f[2], "/podtrace-e2e", 2)[0]
		}
	}
	return "/"
}

// enter moves the calling process into a machine's group, which it makes.
func (h hierarchy) enter(machine string) error {
	group := filepath.Join(h.Group, machine)
	for _, dir := range []string{h.Group, group} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// a cpuset is empty at first and takes no process
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			v, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, f), v, 0); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0)
}

// processes lists those of the cluster's group and all below, as the host numbers them.
func (h hierarchy) processes() []int {
	var pids []int
	for _, dir := range h.groups() {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // it went away meanwhile, and its processes before it
		}
		for f := range strings.FieldsSeq(string(text)) {
			var pid int
			if _, err := fmt.Sscan(f, &pid); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// groups lists the cluster's group and all below it, parents first.
func (h hierarchy) groups() []string {
	var dirs []string
	_ = filepath.WalkDir(h.Group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // a folder that goes away while it is walked is no error
	})
	return dirs
}

// kill ends all processes of the group, and waits until they are gone.
func (h hierarchy) kill(wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		pids := h.processes()
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: processes do not end: %v", h.Group, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// remove removes the group and all below it. The kernel may still be busy with a group for a moment after its
// last process.
func (h hierarchy) remove(wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		dirs := h.groups()
		if len(dirs) == 0 {
			return nil
		}
		var err error
		for _, dir := range slices.Backward(dirs) {
			err = errors.Join(err, syscall.Rmdir(dir))
		}
		if err != nil && time.Now().After(deadline) {
			return fmt.Errorf("remove %s: %w", h.Group, err)
		}
	}
}
