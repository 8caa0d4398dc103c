package tables

import (
	"context"
	"net/netip"
	"os/exec"
	"reflect"
	"testing"

	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// TestReadIPsec: policies as ip xfrm sets them, the newest first.
func TestReadIPsec(t *testing.T) {
	ns := nstest.New(t)
	for _, args := range [][]string{
		{"src", "10.244.1.0/24", "dst", "10.244.2.0/24", "proto", "tcp", "sport", "7", "dport", "8080", "dir", "fwd", "action", "block", "priority", "9"},
		{"src", "10.1.11.91", "dst", "10.1.11.92", "dir", "out", "mark", "5", "mask", "0xff", "tmpl", "proto", "esp", "mode", "transport"},
		{"src", "fd00::/64", "dst", "fd01::1/128", "dir", "in", "tmpl", "proto", "esp", "mode", "tunnel", "level", "use"},
	} {
		err := ns.Do(func() error { return exec.Command("ip", append([]string{"xfrm", "policy", "add"}, args...)...).Run() })
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := Read(context.Background(), []Source{{Netns: ns, Node: "n", Name: HostName}})
	if err != nil {
		t.Fatal(err)
	}
	want := []IPsecPolicy{
		{Dir: "in", Src: netip.MustParsePrefix("fd00::/64"), Dst: netip.MustParsePrefix("fd01::1/128")},
		{Dir: "out", Src: netip.MustParsePrefix("10.1.11.91/32"), Dst: netip.MustParsePrefix("10.1.11.92/32"), Mark: PolicyMark{5, 0xff}, Needs: 1},
		{
			Dir: "fwd", Block: true, Src: netip.MustParsePrefix("10.244.1.0/24"), Dst: netip.MustParsePrefix("10.244.2.0/24"), Proto: 6,
			SrcPort: PortMask{7, 0xffff}, DstPort: PortMask{8080, 0xffff}, Priority: 9,
		},
	}
	if got := s.Netns[0].IPsec; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := want[2].String(); got != "src 10.244.1.0/24 dst 10.244.2.0/24 proto 6 sport 7 dport 8080 dir fwd action block priority 9" {
		t.Error(got)
	}
}
