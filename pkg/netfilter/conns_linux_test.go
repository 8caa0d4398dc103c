package netfilter

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// TestAskConns fills a table beyond what is read whole, has the kernel choose, and holds its choice against the whole
// table as the library reads it.
func TestAskConns(t *testing.T) {
	ns := nstest.New(t)
	var conn *conntrack.Conn
	if err := ns.Do(func() (err error) { conn, err = conntrack.Dial(nil); return err }); err != nil {
		nstest.Skip(t, err)
	}
	defer conn.Close()
	r := rand.New(rand.NewPCG(1, 2))
	for range manyConns + 500 {
		if err := conn.Create(randomFlow(r)); err != nil && !errors.Is(err, unix.EEXIST) {
			t.Fatal(err)
		}
	}
	all, err := Read(ns, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o := ReadOptions{Addrs: []netip.Addr{addr4(3), addr6(4), addr4(250)}, Nodes: []netip.Addr{addr4(1), addr4(2), addr6(1), addr6(2)}}
	var want []Entry
	for _, e := range all.Conns {
		if o.wants(e) {
			want = append(want, e)
		}
	}
	chosen, err := Read(ns, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(chosen.Incomplete) > 0 || len(want) < 100 || len(want) == len(all.Conns) {
		t.Fatalf("%d of %d connections, incomplete: %q", len(want), len(all.Conns), chosen.Incomplete)
	}
	order := func(a, b Entry) int {
		return cmp.Or(a.Orig.Src.Compare(b.Orig.Src), a.Orig.Dst.Compare(b.Orig.Dst), cmp.Compare(a.Orig.Proto, b.Orig.Proto),
			cmp.Compare(a.Orig.SrcPort, b.Orig.SrcPort), cmp.Compare(a.Orig.DstPort, b.Orig.DstPort))
	}
	slices.SortFunc(want, order)
	slices.SortFunc(chosen.Conns, order)
	late := cmpopts.EquateApprox(0, 5) // seconds until they end
	diff := gocmp.Diff(want, chosen.Conns, cmpopts.IgnoreUnexported(Entry{}), gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		gocmp.FilterPath(func(p gocmp.Path) bool { return p.Last().String() == ".Timeout" }, gocmp.Transformer("s", func(v uint32) float64 { return float64(v) })), late)
	if diff != "" {
		t.Errorf("the kernel's choice differs from the library's table (-library +kernel):\n%s", diff)
	}
	t.Logf("%d of %d connections", len(chosen.Conns), len(all.Conns))
}

func addr4(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, i}) }

func addr6(i byte) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 15: i}) }

// randomFlow is a connection between a few addresses, some of them translated.
func randomFlow(r *rand.Rand) conntrack.Flow {
	addr := addr4
	if r.IntN(3) == 0 {
		addr = addr6
	}
	pick := func() netip.Addr { return addr(byte(1 + r.IntN(40))) }
	src, dst := pick(), pick()
	f := conntrack.Flow{Timeout: 600, Mark: uint32(r.IntN(3)), Status: conntrack.StatusConfirmed}
	o := conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, SourcePort: uint16(1024 + r.IntN(60000)), DestinationPort: uint16(1 + r.IntN(60000))}
	if r.IntN(2) == 0 {
		o.Protocol = unix.IPPROTO_TCP
		f.ProtoInfo.TCP = &conntrack.ProtoInfoTCP{State: uint8(1 + r.IntN(8))}
	}
	if r.IntN(2) == 0 {
		f.Status |= conntrack.StatusSeenReply | conntrack.StatusAssured
	}
	back := o
	back.SourcePort, back.DestinationPort = o.DestinationPort, o.SourcePort
	from, to := dst, src
	if r.IntN(4) == 0 {
		from = pick()
		f.Status |= conntrack.StatusDstNAT | conntrack.StatusDstNATDone | conntrack.StatusSrcNATDone
	}
	f.TupleOrig = conntrack.Tuple{IP: conntrack.IPTuple{SourceAddress: src, DestinationAddress: dst}, Proto: o}
	f.TupleReply = conntrack.Tuple{IP: conntrack.IPTuple{SourceAddress: from, DestinationAddress: to}, Proto: back}
	return f
}
