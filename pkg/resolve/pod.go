package resolve

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/netns"
)

// procDir is where proc(5) is mounted.
const procDir = "/proc"

// Bounds of what is read of /proc.
const (
	maxCgroupFile = 64 << 10 // a cgroup v1 file has a line for each hierarchy
	maxPodProcs   = 4096     // processes of one pod that are looked at
)

// podProc is a process in the cgroup of a pod.
type podProc struct {
	pid   int
	pause bool   // the sandbox's own process, as containerd, CRI-O and docker name it
	netns string // "net:[4026532281]"; "" when it is not permitted to read
}

// openPod opens the network namespace of the pod with that UID by one of its processes.
//
// The kubelet puts the UID into the name of the pod's cgroup, whatever runtime and cgroup driver there are, so
// no runtime has to be asked. All containers of a pod share the sandbox's network namespace; what runs in the
// pod's cgroup and in podtrace's own namespace is the runtime's (conmon, a shim), and a process may have made a
// namespace for itself, so the sandbox's own process counts first and then what most of them are in.
func openPod(root, uid string) (int, *netns.Handle, error) {
	procs, err := podProcs(root, uid)
	if err != nil {
		return 0, nil, err
	}
	own, err := os.Readlink(filepath.Join(root, "self", "ns", "net"))
	if err != nil {
		return 0, nil, err
	}
	chosen := choose(procs, own)
	if len(chosen) == 0 && len(procs) > 0 && !slices.ContainsFunc(procs, func(p podProc) bool { return p.netns != "" }) {
		return 0, nil, &netns.PermissionError{Op: "read the namespaces of its processes", Capability: "CAP_SYS_PTRACE", Err: fs.ErrPermission}
	}
	last := ErrNoProcess
	for _, p := range chosen {
		h, err := openProcess(p.pid)
		if err != nil {
			last = err
			continue
		}
		if inPod(root, p.pid, uid) { // its id may be another process's by now
			return p.pid, h, nil
		}
		last = errors.Join(ErrNoProcess, h.Close())
	}
	return 0, nil, last
}

// podProcs finds the processes of a pod.
func podProcs(root, uid string) ([]podProc, error) {
	if !plausibleUID(uid) {
		return nil, fmt.Errorf("pod UID %q: not one of Kubernetes", uid)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var out []podProc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid <= 0 || len(out) == maxPodProcs || !inPod(root, pid, uid) {
			continue
		}
		p := podProc{pid: pid}
		p.netns, _ = os.Readlink(filepath.Join(root, e.Name(), "ns", "net"))
		comm, _ := readSome(filepath.Join(root, e.Name(), "comm"), 64)
		p.pause = strings.TrimSpace(comm) == "pause"
		out = append(out, p)
	}
	return out, nil
}

// plausibleUID takes the UUIDs of the API server, and the hashes that a kubelet gives to pods of its own files.
func plausibleUID(uid string) bool {
	hex := func(r rune) bool { return r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r == '-' }
	return len(uid) >= 16 && len(uid) <= 64 && !strings.ContainsFunc(uid, func(r rune) bool { return !hex(r) })
}

// choose orders the processes that a pod's namespace can be opened by, best first: sandbox, then the namespace that
// most are in, then the oldest.
func choose(procs []podProc, own string) []podProc {
	count := make(map[string]int)
	var out []podProc
	for _, p := range procs {
		if p.netns != "" && p.netns != own {
			count[p.netns]++
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b podProc) int {
		if a.pause != b.pause {
			if a.pause {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(count[b.netns], count[a.netns]), cmp.Compare(a.pid, b.pid))
	})
	return out
}

// inPod reports whether a process is in the cgroup of a pod.
func inPod(root string, pid int, uid string) bool {
	text, err := readSome(filepath.Join(root, strconv.Itoa(pid), "cgroup"), maxCgroupFile)
	return err == nil && cgroupHas(text, uid)
}

// cgroupHas looks for a pod in a /proc/PID/cgroup file (cgroups(7)), lines of "ID:CONTROLLERS:PATH".
func cgroupHas(text, uid string) bool {
	for line := range strings.Lines(text) {
		_, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		_, path, ok2 := strings.Cut(rest, ":")
		if ok && ok2 && podOf(path) == uid {
			return true
		}
	}
	return false
}

// podOf gives the UID of the pod that a cgroup belongs to, "" where it is none's. Seen from a cgroup namespace the path
// begins with "/..". The kubelet's part of it comes first: what a pod makes inside of its own cgroup, and names like
// another pod's, does not count.
func podOf(path string) string {
	for part := range strings.SplitSeq(path, "/") {
		if uid, ok := podCgroup(part); ok && plausibleUID(uid) {
			return uid
		}
	}
	return ""
}

// podCgroup takes the UID out of the name of a pod's cgroup: "podUID" with the kubelet's cgroupfs driver, and
// "[PARENT-]kubepods[-QOS]-podUID.slice" with systemd's, where the dashes of the UID are underscores. Behind the latter
// stands ":RUNTIME:CONTAINER" where the kubelet uses systemd and the runtime does not: it takes for a folder what was
// meant for systemd.
func podCgroup(name string) (uid string, ok bool) {
	name, _, _ = strings.Cut(name, ":")
	slice, isSlice := strings.CutSuffix(name, ".slice")
	if !isSlice {
		return strings.CutPrefix(name, "pod")
	}
	i := strings.LastIndex(slice, "-")
	uid, ok = strings.CutPrefix(slice[i+1:], "pod")
	return strings.ReplaceAll(uid, "_", "-"), ok
}

// readSome reads the beginning of a file.
func readSome(path string, most int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most))
	return string(b), err
}
