package tables

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const procUDP = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  712: 5B0B010A:205D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 ffff888102030405 0
  713: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 ffff888102030406 0
  cut
  714: 5B0B01:205D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4243 2 ffff888102030407 0
`

func TestParseUDPSockets(t *testing.T) {
	got, err := parseUDPSockets(strings.NewReader(procUDP))
	if err != nil || len(got) != 2 || got["4242"] != netip.MustParseAddrPort("10.1.11.91:8285") || got["0"].Port() != 8472 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTunOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "7")
	if err := os.WriteFile(path, []byte("pos:\t0\nflags:\t02004002\nmnt_id:\t15\niff:\tflannel0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tunOf(path); len(got) != 1 || got[0] != "flannel0" {
		t.Errorf("%q", got)
	}
	if got := tunOf(path + ".gone"); got != nil {
		t.Errorf("of no file: %q", got)
	}
}

func TestProxiesOfAProcess(t *testing.T) {
	f := files{tuns: []string{"flannel0"}, sockets: []string{"9", "4242"}}
	sockets := map[string]netip.AddrPort{"4242": netip.MustParseAddrPort("10.1.11.91:8285")}
	got := f.proxies("/proc/4000000", &Link{Index: 7, Name: "flannel0"}, sockets)
	if len(got) != 1 || got[0].PID != 4000000 || got[0].Index != 7 || got[0].Local.Port() != 8285 {
		t.Errorf("%+v", got)
	}
}
