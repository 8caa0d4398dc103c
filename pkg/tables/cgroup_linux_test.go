package tables

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// unified is where cgroup v2 is mounted; where it is not, the test mounts it.
func unified(t *testing.T) string {
	t.Helper()
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mounts.Close() }()
	if root := cgroupMount(mounts); root != "" {
		return root
	}
	root := t.TempDir()
	if err := unix.Mount("podtrace-test", root, "cgroup2", 0, ""); err != nil {
		nstest.Skip(t, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	return root
}

// TestCgroupPrograms attaches a program that passes everything to a cgroup, puts a process with a namespace of its own
// into a cgroup below, and finds the program in the namespace's tables.
func TestCgroupPrograms(t *testing.T) {
	ns := nstest.New(t)
	root := unified(t)
	group := fmt.Sprintf("podtrace-test-%d", os.Getpid())
	below := filepath.Join(root, group, "pod")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(filepath.Join(root, group)) })
	t.Cleanup(func() { _ = os.Remove(below) })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pass_all", Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = prog.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: filepath.Join(root, group), Attach: ebpf.AttachCGroupInetEgress, Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	sleep := exec.Command("sleep", "60")
	if err := ns.Do(sleep.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	if err := os.WriteFile(filepath.Join(below, "cgroup.procs"), fmt.Append(nil, sleep.Process.Pid), 0o644); err != nil {
		t.Fatal(err)
	}

	snap, err := Read(t.Context(), []Source{{Netns: ns, Node: "n", Name: "pod"}})
	if err != nil {
		t.Fatal(err)
	}
	hooks := snap.Netns[0].Cgroup
	if len(hooks) != 1 || hooks[0].Where != "cgroup-egress" || hooks[0].Name != "pass_all" || hooks[0].ID == 0 || hooks[0].Tag == "" || hooks[0].Cgroup != "/"+group {
		t.Errorf("found %+v, want pass_all of /%s", hooks, group)
	}
}

func TestCgroupV2(t *testing.T) {
	for in, want := range map[string]string{
		"12:pids:/a\n0::/kubepods/pod1/c\n": "/kubepods/pod1/c",
		"0::/\n":                            "/",
		"1:name=systemd:/init.scope\n":      "/",
		"0::/../../etc\n":                   "/etc",
		"":                                  "/",
	} {
		if got := cgroupV2(in); got != want {
			t.Errorf("cgroupV2(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCgroupMount(t *testing.T) {
	const mounts = `25 1 0:22 / /sys rw - sysfs sysfs rw
29 25 0:24 /part /mnt rw - cgroup2 cgroup2 rw
30 25 0:25 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
`
	if got := cgroupMount(strings.NewReader(mounts)); got != "/sys/fs/cgroup/unified" {
		t.Errorf("found %q", got)
	}
}
