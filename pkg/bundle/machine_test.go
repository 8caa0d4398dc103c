package bundle

import (
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// TestTablesOfTheMachine: tables that all namespaces of a machine share can't be filled by a test. A recorded healthy
// trace is judged as it would have been recorded there: packets end at node2 before its bridge, and a counter says why.
func TestTablesOfTheMachine(t *testing.T) {
	for _, c := range []struct{ counter, full, cause string }{
		{"neigh//arp_cache.table_fulls", "1024 of 1024 entries", "neigh-table-overflow"},
		{"conntrack//drop", "262144 of 262144 entries", "ct-table-full"},
		{"neigh//arp_cache.table_fulls", "", "lost-after-flannel.1"}, // there was room: somebody else's
	} {
		b, err := Read("testdata/healthy.tar.gz")
		if err != nil {
			t.Fatal(err)
		}
		k := b.Case
		endAt(k, "node2", "flannel.1")
		node2 := k.Snapshot.Host("node2")
		k.Witness.Moved = append(k.Witness.Moved, diagnose.Moved{Netns: node2.ID, Node: "node2", Name: node2.Name, Counter: c.counter, By: 3, Text: "no room", Full: c.full})
		v := trace.Judge(k).Verdict
		if v.Status != report.Broken || v.Cause != c.cause || v.Node != "node2" || v.Leg != report.Request {
			t.Errorf("%s %q: %+v, want %s", c.counter, c.full, v, c.cause)
		}
	}
}

// endAt leaves out what was seen of the request after the far node's VXLAN device, and all of the reply.
func endAt(k *trace.Case, far, last string) {
	request := make(map[int]capture.Direction)
	for _, p := range k.Observed.Points {
		switch {
		case p.Node != far && p.Interface == "cni0", p.Node != far && strings.HasPrefix(p.Interface, "veth"):
			request[p.ID] = capture.In
		case p.Node != far:
			request[p.ID] = capture.Out
		case p.Interface == last || p.Interface == "eno16780032":
			request[p.ID] = capture.In
		}
	}
	k.Observed.Frames = slices.DeleteFunc(k.Observed.Frames, func(f capture.Frame) bool {
		dir, there := request[f.Point]
		return !there || f.Dir != dir
	})
	k.Sent.Answered, k.Sized, k.Witness.Drops = 0, nil, nil
}
