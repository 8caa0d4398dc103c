package tables

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// maxCgroups bounds how many cgroups of one namespace are looked into.
const maxCgroups = 64

// cgroupHooks are the places of a cgroup where a program decides over packets and connections.
var cgroupHooks = []struct {
	where  string
	attach ebpf.AttachType
}{
	{"cgroup-ingress", ebpf.AttachCGroupInetIngress},
	{"cgroup-egress", ebpf.AttachCGroupInetEgress},
	{"cgroup-connect4", ebpf.AttachCGroupInet4Connect},
	{"cgroup-connect6", ebpf.AttachCGroupInet6Connect},
	{"cgroup-sendmsg4", ebpf.AttachCGroupUDP4Sendmsg},
	{"cgroup-sendmsg6", ebpf.AttachCGroupUDP6Sendmsg},
}

// cgroupPrograms asks for the programs on the cgroups whose processes are in a namespace: of a node's own, those on
// the root. A machine without cgroup v2 has none.
func (r *reader) cgroupPrograms() (out []Hook, err error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	root := cgroupMount(mounts)
	_ = mounts.Close()
	if root == "" {
		return nil, nil
	}
	groups := []string{"/"}
	if r.ns.Name != HostName {
		groups = r.groups()[r.ns.ID]
	}
	for _, g := range groups {
		dir, err := os.Open(filepath.Join(root, g))
		if err != nil {
			continue // its last process ended meanwhile, or it is outside of what is mounted here
		}
		hooks, err := queryCgroup(dir, g)
		_ = dir.Close()
		out = append(out, hooks...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// cgroupMount finds where all of cgroup v2 is mounted (proc_pid_mountinfo(5)), alone or beside v1. "": nowhere.
func cgroupMount(mounts io.Reader) string {
	for s := bufio.NewScanner(mounts); s.Scan(); {
		mount, super, ok := strings.Cut(s.Text(), " - ")
		f := strings.Fields(mount)
		if ok && len(f) > 4 && f[3] == "/" && strings.HasPrefix(super, "cgroup2 ") {
			return f[4]
		}
	}
	return ""
}

// cgroups are those of the processes in each namespace, and those above them but the root.
func cgroups(sources []Source) map[netns.ID][]string {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	out := make(map[netns.ID][]string)
	for _, s := range sources {
		out[s.Netns.ID()] = nil
	}
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir+"/ns/net", &st) != nil {
			continue
		}
		id := netns.ID{Dev: st.Dev, Ino: st.Ino}
		if _, wanted := out[id]; !wanted {
			continue
		}
		b, err := os.ReadFile(dir + "/cgroup")
		if err != nil {
			continue
		}
		for g := cgroupV2(string(b)); g != "/" && g != "." && len(out[id]) < maxCgroups; g = filepath.Dir(g) {
			if !slices.Contains(out[id], g) {
				out[id] = append(out[id], g)
			}
		}
	}
	return out
}

// cgroupV2 is the process's cgroup in the unified hierarchy, by its /proc/PID/cgroup (cgroups(7)); "/" when it has none.
func cgroupV2(s string) string {
	for line := range strings.Lines(s) {
		if g, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return filepath.Clean("/" + g)
		}
	}
	return "/"
}

func queryCgroup(dir *os.File, group string) (out []Hook, err error) {
	for _, h := range cgroupHooks {
		res, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: h.attach})
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.ENOSYS):
			continue // a kernel without this hook
		case errors.Is(err, fs.ErrPermission):
			return out, fmt.Errorf("%w (needs CAP_BPF or CAP_NET_ADMIN)", unix.EPERM)
		case err != nil:
			return out, err
		}
		for _, p := range res.Programs {
			out = append(out, Hook{Where: h.where, Kind: "bpf", ID: uint32(p.ID), Cgroup: group})
		}
	}
	describe(out)
	return out, nil
}
