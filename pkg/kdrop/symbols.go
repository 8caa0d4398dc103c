package kdrop

import (
	"bufio"
	"bytes"
	"io"
	"strconv"
)

// maxFunction bounds how far behind its symbol a location can be, in bytes. The kernel's largest functions
// have some ten thousand; what is further behind belongs to something that has no symbol.
const maxFunction = 1 << 18

// symbols finds the functions that contain the given addresses in the format of /proc/kallsyms: "ADDRESS TYPE
// NAME [MODULE]" lines in any order. An address without one is not in the result; there is none at all where
// kptr_restrict has zeroed the addresses.
func symbols(r io.Reader, addrs []uint64) (map[uint64]string, error) {
	type best struct {
		start uint64
		name  []byte
	}
	found := make([]best, len(addrs))
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		start, name, ok := symbol(sc.Bytes())
		if !ok {
			continue
		}
		for i, a := range addrs {
			if start <= a && a-start < maxFunction && start > found[i].start {
				found[i].start = start
				found[i].name = append(found[i].name[:0], name...)
			}
		}
	}
	out := make(map[uint64]string, len(addrs))
	for i, a := range addrs {
		if found[i].start != 0 {
			out[a] = string(found[i].name)
		}
	}
	return out, sc.Err()
}

// symbol reads one line of a function (types t, T, w, W of nm(1)). The compiler's suffixes go: vxlan_xmit_one
// and vxlan_xmit_one.constprop.0 are one place to a reader.
func symbol(line []byte) (start uint64, name []byte, ok bool) {
	addr, rest, _ := bytes.Cut(line, []byte{' '})
	if len(rest) < 3 || rest[1] != ' ' || bytes.IndexByte([]byte("tTwW"), rest[0]) < 0 {
		return 0, nil, false
	}
	start, err := strconv.ParseUint(string(addr), 16, 64)
	if err != nil || start == 0 {
		return 0, nil, false
	}
	name = rest[2:]
	if i := bytes.IndexAny(name, "\t ."); i >= 0 {
		name = name[:i]
	}
	return start, name, len(name) > 0
}
