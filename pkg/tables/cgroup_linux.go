package tables

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// cgroupRoots are where cgroup v2 is mounted, alone or beside v1.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

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

// cgroupPrograms asks for the programs on the root of the cgroups. A machine without cgroup v2 has none.
func cgroupPrograms() ([]Hook, error) {
	for _, path := range cgroupRoots {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		hooks, err := queryCgroup(dir)
		return hooks, errors.Join(err, dir.Close())
	}
	return nil, nil
}

func queryCgroup(dir *os.File) (out []Hook, err error) {
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
			out = append(out, Hook{Where: h.where, Kind: "bpf", ID: uint32(p.ID)})
		}
	}
	describe(out)
	return out, nil
}
