package tables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ciliumIPCache is where Cilium pins the map that is read here, the second layout of it (bpf/lib/eps.h of Cilium, map
// cilium_ipcache_v2): a longest-prefix map from struct ipcache_key to struct remote_endpoint_info, 24 bytes each. The
// layout before it (cilium_ipcache) had other values and is not read.
const ciliumIPCache = "/sys/fs/bpf/tc/globals/cilium_ipcache_v2"

// Sizes and offsets of that layout, and bits of its flags on a little-endian machine.
const (
	ipcacheKey, ipcacheValue          = 24, 24
	ipcacheStatic                     = 32 // bits of the key between the prefix length and the address
	ipcacheFamily4, ipcacheFamily6    = 1, 2
	ipcacheSkip, ipcacheHas, ipcache6 = 1 << 0, 1 << 1, 1 << 2
)

// ipcache asks for the addresses that the path is about. The map is the machine's, so it is read for the namespace
// that the machine started with alone.
func (r *reader) ipcache() error {
	if r.ns.Name != HostName || !isInitial(r.ns.ID) {
		return nil
	}
	entries, err := readIPCache(ciliumIPCache, r.src.Conns.Addrs)
	r.ns.IPCache = entries
	return err
}

// isInitial reports whether a namespace is that of the machine's first process.
func isInitial(id NetnsID) bool {
	var st unix.Stat_t
	return unix.Stat("/proc/1/ns/net", &st) == nil && st.Ino == id.Ino && st.Dev == id.Dev
}

// readIPCache looks addresses up in a pinned map. A machine without Cilium has none; one of another layout is refused.
func readIPCache(path string, addrs []netip.Addr) (out []IPCacheEntry, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open Cilium's ipcache: %w", err)
	}
	defer m.Close() //nolint:errcheck // it was only read
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, errors.New("read Cilium's ipcache: how its flags lie on a big-endian machine is not known")
	}
	if m.Type() != ebpf.LPMTrie || m.KeySize() != ipcacheKey || m.ValueSize() != ipcacheValue {
		return nil, fmt.Errorf("ipcache of Cilium is %s with keys of %d and values of %d bytes, which is not the layout that is known (LPMTrie, %d, %d)",
			m.Type(), m.KeySize(), m.ValueSize(), ipcacheKey, ipcacheValue)
	}
	for _, a := range addrs {
		value := make([]byte, ipcacheValue)
		switch err := m.Lookup(ipcacheKeyOf(a), &value); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
		case err != nil:
			return out, fmt.Errorf("look %s up in Cilium's ipcache: %w", a, err)
		default:
			out = append(out, parseIPCache(a, value))
		}
	}
	return out, nil
}

// ipcacheKeyOf is struct ipcache_key for one address of the cluster's own (cluster_id 0).
func ipcacheKeyOf(a netip.Addr) []byte {
	key := make([]byte, ipcacheKey)
	binary.NativeEndian.PutUint32(key, uint32(ipcacheStatic+a.BitLen())) //nolint:gosec // at most 160
	key[7] = ipcacheFamily4
	if a.Is6() {
		key[7] = ipcacheFamily6
	}
	copy(key[8:], a.AsSlice())
	return key
}

// parseIPCache reads struct remote_endpoint_info.
func parseIPCache(a netip.Addr, b []byte) IPCacheEntry {
	e := IPCacheEntry{Addr: a, Identity: u32(b), Skip: b[23]&ipcacheSkip != 0}
	switch {
	case b[23]&ipcacheHas == 0:
	case b[23]&ipcache6 != 0:
		e.Tunnel, _ = netip.AddrFromSlice(b[4:20])
	default:
		e.Tunnel, _ = netip.AddrFromSlice(b[4:8])
	}
	return e
}
