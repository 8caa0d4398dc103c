package trace

import (
	"cmp"
	"slices"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/forward"
)

// mostFrames is how much of real traffic is judged: the first of it, at all points alike.
const mostFrames = 20_000

// adopt takes the busiest flow from the source to the destination, as it leaves the source, for the flow of the
// trace: nobody named one.
func (st *stage) adopt() {
	st.trim()
	at := slices.IndexFunc(st.c.Observed.Points, func(p Point) bool {
		return p.Netns == st.c.From.PodNetns && p.Ifindex == st.c.From.Ifindex
	})
	if at < 0 {
		return
	}
	type flow struct {
		proto        uint8
		sport, dport uint16
	}
	count := make(map[flow]int)
	var d decode.Decoder
	var f decode.Frame
	for i := range st.c.Observed.Frames {
		fr := &st.c.Observed.Frames[i]
		if fr.Point != st.c.Observed.Points[at].ID || fr.Dir != capture.Out {
			continue
		}
		d.Decode(fr.Data, fr.WireLen, &f)
		h := f.Flow()
		if !h.HasIP || h.Dst != st.c.Flow.Dst || h.IsNeighbour() || h.FragOffset > 0 {
			continue
		}
		k := flow{h.Proto, h.SrcPort, h.DstPort}
		if h.IsEcho() {
			k.sport, k.dport = h.ICMPID, 0
		}
		count[k]++
	}
	var best flow
	for k, n := range count {
		if n > count[best] || n == count[best] && cmp.Compare(k.sport, best.sport) < 0 {
			best = k
		}
	}
	if count[best] == 0 {
		return
	}
	c := &st.c.Flow
	c.Proto, c.SrcPort, c.DstPort, c.TCPFlags = best.proto, best.sport, best.dport, 0
	if c.Proto == forward.ProtoTCP {
		c.TCPFlags = tcpSyn
	}
	setICMP(c)
	st.c.Probe.SrcPort, st.c.Probe.DstPort = c.SrcPort, c.DstPort
}

// trim keeps the first frames, and those of the same time at all points.
func (st *stage) trim() {
	o := st.c.Observed
	if len(o.Frames) <= mostFrames {
		return
	}
	slices.SortStableFunc(o.Frames, func(a, b capture.Frame) int { return a.Time.Compare(b.Time) })
	o.Frames = o.Frames[:mostFrames]
	o.End = o.Frames[mostFrames-1].Time.UnixNano()
}
