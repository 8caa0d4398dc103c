package cmd

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropProgramPages unmaps the pages of the program's code: those that are
// run again come back from the page cache one by one. Without /proc nothing happens.
func dropProgramPages() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for sc := bufio.NewScanner(maps); sc.Scan(); {
		f := strings.Fields(sc.Text())                   // from-to perms offset device inode path (proc_pid_maps(5))
		if len(f) < 6 || f[5] != exe || f[1] != "r-xp" { // what a linker has filled in may be read-only by now, and would be lost
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err == nil && to > from {
			// pages of a file that were never written are read again from it (madvise(2)); a refusal costs memory alone
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
