package tables

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseIPVS(t *testing.T) {
	const text = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000A:0050 rr
  -> 0AF40228:1F90      Masq    1      0          0
  -> 0AF40129:1F90      Masq    0      0          0
UDP  0A600064:0035 rr persistent 10800 FFFFFFFF
TCP  [fd00:0000:0000:0000:0000:0000:0000:0001]:01BB rr
  -> [fd44:0000:0000:0002:0000:0000:0000:0028]:1F90      Masq    1      0          0
FWM  0000001A wlc
  -> 0AF40228:1F90      Route   3
TCP  nonsense:0050 rr
UDP  0A600064:99999 rr
  -> 0AF40228:1F90      Masq    many   0          0
`
	const adm = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.10:80 rr
  -> 10.244.2.40:8080             Masq    1      0          0
  -> 10.244.1.41:8080             Masq    0      0          0
UDP  10.96.0.100:53 rr persistent 10800
TCP  [fd00::1]:443 rr
  -> [fd44:0:0:2::28]:8080        Masq    1      0          0
FWM  26 wlc
  -> 10.244.2.40:8080             Route   3      0          0
TCP  web.example.com:http rr
`
	coffee := netip.MustParseAddrPort("10.244.2.40:8080")
	want := []VirtualServer{
		{Proto: "TCP", Addr: netip.MustParseAddrPort("10.96.0.10:80"), Scheduler: "rr", Real: []RealServer{
			{coffee, "Masq", 1}, {netip.MustParseAddrPort("10.244.1.41:8080"), "Masq", 0},
		}},
		{Proto: "UDP", Addr: netip.MustParseAddrPort("10.96.0.100:53"), Scheduler: "rr"},
		{Proto: "TCP", Addr: netip.MustParseAddrPort("[fd00::1]:443"), Scheduler: "rr", Real: []RealServer{
			{netip.MustParseAddrPort("[fd44:0:0:2::28]:8080"), "Masq", 1},
		}},
		{Mark: 26, Scheduler: "wlc", Real: []RealServer{{coffee, "Route", 3}}},
	}
	if got := parseIPVS(text); !reflect.DeepEqual(got, want) {
		t.Errorf("/proc/net/ip_vs:\ngot  %+v\nwant %+v", got, want)
	}
	table := IPVSTable{Form: IPVSAdm}
	for line := range strings.Lines(adm) {
		if ok := table.Line(line); ok == strings.Contains(line, "example") {
			t.Errorf("%q: understood %v", line, ok)
		}
	}
	if !reflect.DeepEqual(table.Servers, want) {
		t.Errorf("ipvsadm:\ngot  %+v\nwant %+v", table.Servers, want)
	}
	if got := want[0].Option() + " " + want[3].Option() + " " + want[0].Real[0].String(); got != "-t 10.96.0.10:80 -f 26 -> 10.244.2.40:8080 Masq 1" {
		t.Error(got)
	}
}
