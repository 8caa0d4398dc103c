package netfilter

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"strings"
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

// arptGetInfo is ARPT_SO_GET_INFO (linux/netfilter_arp/arp_tables.h).
const arptGetInfo = 96

// readARPTable notes that a table of legacy arptables holds rules. They are not read: what they do with a
// packet is unknown. The kernel keeps a policy for each of its three hooks, and an end.
func readARPTable(fd, level int, fam Family, name string) (Table, error) {
	info := make([]byte, nameLen+4*9)
	copy(info[:nameLen-1], name)
	t := Table{Backend: BackendLegacy, Family: fam, Name: name}
	if err := getsockopt(fd, level, arptGetInfo, info); err != nil {
		return t, err
	}
	valid, entries := binary.NativeEndian.Uint32(info[nameLen:]), binary.NativeEndian.Uint32(info[nameLen+28:])
	if int(entries) <= bits.OnesCount32(valid)+1 {
		return t, nil
	}
	for i, h := range [...]Hook{HookInput, HookOutput, HookForward} {
		if valid&(1<<i) != 0 {
			rule := Rule{Number: 1, Exprs: []Expr{{Op: OpOpaque, Text: fmt.Sprintf("(%d rules of arptables, not read)", entries)}}}
			t.Chains = append(t.Chains, Chain{Name: strings.ToUpper(h.String()), Base: true, Type: "filter", Hook: h, Rules: []Rule{rule}})
		}
	}
	return t, nil
}
