package cmd

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropProgramPages unmaps the pages of the program's code and constants, most of which served its start alone: those
// that are used again come back from the page cache one by one. Without /proc nothing happens.
func dropProgramPages() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer smaps.Close()
	var from, to uintptr
	for sc := bufio.NewScanner(smaps); sc.Scan(); {
		f := strings.Fields(sc.Text())
		switch {
		case len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" && to > from:
			// No page of the mapping was ever written, not even by a linker before it was made read-only: all of them
			// are read again from the file (madvise(2)). A refusal costs memory alone.
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		case len(f) > 0 && !strings.HasSuffix(f[0], ":"): // from-to perms offset device inode path (proc_pid_maps(5))
			from, to = 0, 0
			if len(f) == 6 && f[5] == exe && strings.HasPrefix(f[1], "r-") {
				if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil {
					from, to = 0, 0
				}
			}
		}
	}
}
