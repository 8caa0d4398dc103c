package trace_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// TestConntrackTableFull fills a node's connection table up to the machine's limit with connections that the kernel
// does not evict. New connections are dropped then; the verdict says so, and in time although the table is long.
func TestConntrackTableFull(t *testing.T) {
	ofFaults(t)
	limit := conntrackMax(t)
	if limit > 1<<19 {
		t.Skipf("the machine's limit of %d connections takes too long to reach", limit)
	}
	inv := up(t)
	fillConntrack(t, inv.Node("node1"), limit)
	began := time.Now()
	r, err := trace.Path(t.Context(), options(inv, "coffee-1", "coffee-2", "tcp:8080"))
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	v := r.Verdict
	if v.Status != report.Broken || v.Cause != "ct-table-full" || v.Node != "node1" || v.Leg != request {
		t.Errorf("%+v\n%s", v, text(r))
	}
	t.Logf("%d connections, verdict after %s: %s", limit, took, v.Summary)
}

func conntrackMax(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func fillConntrack(t *testing.T, node *inventory.Node, limit int) {
	t.Helper()
	h, err := netns.Open(node.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var conn *conntrack.Conn
	if err := h.Do(func() (err error) { conn, err = conntrack.Dial(nil); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range limit {
		ip := [4]byte{198, 18, 0, 1}
		binary.BigEndian.PutUint16(ip[2:], uint16(i>>8))
		a, b, port := netip.AddrFrom4(ip), netip.MustParseAddr("198.51.100.1"), uint16(1024+i&0xff)
		err := conn.Create(conntrack.Flow{
			Timeout: 300, Status: conntrack.StatusConfirmed | conntrack.StatusAssured | conntrack.StatusSeenReply,
			TupleOrig:  conntrack.Tuple{IP: conntrack.IPTuple{SourceAddress: a, DestinationAddress: b}, Proto: conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, SourcePort: port, DestinationPort: 53}},
			TupleReply: conntrack.Tuple{IP: conntrack.IPTuple{SourceAddress: b, DestinationAddress: a}, Proto: conntrack.ProtoTuple{Protocol: unix.IPPROTO_UDP, SourcePort: 53, DestinationPort: port}},
		})
		if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EEXIST) {
			break // the node has a few of its own
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
