package netfilter

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options of ip_tables and ip6_tables (linux/netfilter_ipv4/ip_tables.h).
const (
	soGetInfo    = 64
	soGetEntries = 65
	nameLen      = 32
	infoLen      = 84 // struct ipt_getinfo
	entriesHead  = 40 // struct ipt_get_entries: name, size, padding
)

// getsockopt with a buffer that is also the question.
func getsockopt(fd, level, opt int, b []byte) error {
	n := uint32(len(b)) //nolint:gosec // bounded by the kernel's own size
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}

// maxLegacy bounds a table: 64 MiB hold half a million rules.
const maxLegacy = 64 << 20

func readLegacyTable(fd, level int, fam Family, name string) (Table, error) {
	info := make([]byte, infoLen)
	copy(info[:nameLen-1], name)
	if err := getsockopt(fd, level, soGetInfo, info); err != nil {
		return Table{}, err
	}
	var li legacyInfo
	li.valid = binary.NativeEndian.Uint32(info[nameLen:])
	for h := range li.entry {
		li.entry[h] = binary.NativeEndian.Uint32(info[nameLen+4+4*h:])
		li.end[h] = binary.NativeEndian.Uint32(info[nameLen+24+4*h:])
	}
	li.size = binary.NativeEndian.Uint32(info[nameLen+48:])
	if li.size > maxLegacy {
		return Table{}, fmt.Errorf("%d bytes are more than %d", li.size, maxLegacy)
	}
	b := make([]byte, entriesHead+int(li.size))
	copy(b[:nameLen-1], name)
	binary.NativeEndian.PutUint32(b[nameLen:], li.size)
	if err := getsockopt(fd, level, soGetEntries, b); err != nil {
		return Table{}, err
	}
	return parseLegacy(name, fam, li, b[entriesHead:])
}
