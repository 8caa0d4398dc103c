package tables

import (
	"net/netip"
	"reflect"
	"testing"
)

func TestParseIPVS(t *testing.T) {
	const text = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000A:0050 rr
  -> 0AF40228:1F90      Masq    1      0          0
  -> 0AF40129:1F90      Masq    1      0          0
UDP  0A600064:0035 rr
TCP  [fd00:0000:0000:0000:0000:0000:0000:0001]:01BB rr
  -> [fd44:0000:0000:0002:0000:0000:0000:0028]:1F90      Masq    1      0          0
FWM  00000007 wlc
TCP  nonsense:0050 rr
UDP  0A600064:99999 rr
`
	want := []VirtualServer{
		{Proto: "TCP", Addr: netip.MustParseAddrPort("10.96.0.10:80"), Real: []string{"10.244.2.40:8080", "10.244.1.41:8080"}},
		{Proto: "UDP", Addr: netip.MustParseAddrPort("10.96.0.100:53")},
		{Proto: "TCP", Addr: netip.MustParseAddrPort("[fd00::1]:443"), Real: []string{"[fd44:0:0:2::28]:8080"}},
		{Mark: 7},
	}
	if got := parseIPVS(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
