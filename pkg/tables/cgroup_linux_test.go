package tables

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TestCgroupPrograms attaches a program that passes everything to a cgroup of its own and finds it there.
func TestCgroupPrograms(t *testing.T) {
	root := ""
	for _, path := range cgroupRoots {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			root = path
		}
	}
	if root == "" || os.Geteuid() != 0 {
		t.Skip("needs root and cgroup v2")
	}
	dir, err := os.MkdirTemp(root, "podtrace-test-")
	if err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	defer os.Remove(dir)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pass_all", Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Skipf("no program of this sort can be loaded: %v", err)
	}
	defer prog.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetEgress, Program: prog})
	if err != nil {
		t.Skipf("nothing can be attached to a cgroup: %v", err)
	}
	defer l.Close()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hooks, err := queryCgroup(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(hooks) != 1 || hooks[0].Where != "cgroup-egress" || hooks[0].Name != "pass_all" || hooks[0].ID == 0 || hooks[0].Tag == "" {
		t.Errorf("found %+v", hooks)
	}
}
