package tables

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// pinned makes a map of Cilium's kind and pins it where a test mounts a BPF file system.
func pinned(t *testing.T, key, value uint32, entries map[string]string) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("podtrace-test", root, "bpf", 0, ""); err != nil {
		nstest.Skip(t, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "cilium_ipcache", Type: ebpf.LPMTrie, KeySize: key, ValueSize: value, MaxEntries: 16, Flags: unix.BPF_F_NO_PREALLOC,
	})
	if err != nil {
		nstest.Skip(t, err)
	}
	t.Cleanup(func() { _ = m.Close() })
	for k, v := range entries {
		if err := m.Put([]byte(k), []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(root, "cilium_ipcache_v2")
	if err := m.Pin(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReadIPCache: entries as the agent writes them, byte for byte by bpf/lib/eps.h: prefix length 32 + 32 or 128,
// cluster 0, pad, family, address; identity, tunnel endpoint in network byte order, pad, key, flags.
func TestReadIPCache(t *testing.T) {
	path := pinned(t, 24, 24, map[string]string{
		"\x40\x00\x00\x00\x00\x00\x00\x01\x0a\x00\x01\x05" + strings.Repeat("\x00", 12):  "\xd2\x04\x00\x00\x0a\x01\x0b\x5c" + strings.Repeat("\x00", 12) + "\x00\x00\x00\x02",
		"\x40\x00\x00\x00\x00\x00\x00\x01\x0a\x00\x01\x06" + strings.Repeat("\x00", 12):  "\x01\x00\x00\x00" + strings.Repeat("\x00", 16) + "\x00\x00\x00\x01",
		"\x38\x00\x00\x00\x00\x00\x00\x01\x0a\x00\x02\x00" + strings.Repeat("\x00", 12):  "\x02\x00\x00\x00\x0a\x01\x0b\x5d" + strings.Repeat("\x00", 12) + "\x00\x00\x00\x02",
		"\xa0\x00\x00\x00\x00\x00\x00\x02\xfd\x00" + strings.Repeat("\x00", 13) + "\x05": "\x03\x00\x00\x00\xfd\x01" + strings.Repeat("\x00", 13) + "\x5c\x00\x00\x00\x06",
	})
	ip := netip.MustParseAddr
	got, err := readIPCache(path, []netip.Addr{ip("10.0.1.5"), ip("10.0.1.6"), ip("10.0.2.77"), ip("fd00::5"), ip("192.0.2.1")})
	if err != nil {
		t.Fatal(err)
	}
	want := []IPCacheEntry{
		{Addr: ip("10.0.1.5"), Identity: 1234, Tunnel: ip("10.1.11.92")},
		{Addr: ip("10.0.1.6"), Identity: 1, Skip: true},
		{Addr: ip("10.0.2.77"), Identity: 2, Tunnel: ip("10.1.11.93")}, // by its range
		{Addr: ip("fd00::5"), Identity: 3, Tunnel: ip("fd01::5c")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestIPCacheOfAnotherLayout: nothing is read where the sizes are not those that are known.
func TestIPCacheOfAnotherLayout(t *testing.T) {
	path := pinned(t, 24, 12, nil)
	if got, err := readIPCache(path, []netip.Addr{netip.MustParseAddr("10.0.1.5")}); got != nil || err == nil || !strings.Contains(err.Error(), "values of 12 bytes") {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := readIPCache(filepath.Join(t.TempDir(), "none"), nil); got != nil || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}
