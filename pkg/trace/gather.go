package trace

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// Gather does the live half of a trace: it probes, captures at every point and asks every witness, and gives what
// Judge needs. Which further probes to send it finds by judging meanwhile. A cancelled context ends the capture
// early; the case then comes with the context's error.
func Gather(ctx context.Context, o Options) (*Case, error) {
	o.taps = true
	s, err := start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer s.end()
	st := &stage{session: s, c: &s.c, spec: s.o.Probe, opts: probe.Options{SrcPort: o.SourcePort}, count: o.Count, interval: o.Interval, timeout: o.Timeout}
	if s.edge.IsLost(s.c.From.Node) {
		st.guess()
		return &s.c, ctx.Err()
	}
	if err := st.run(ctx); err != nil {
		return nil, err
	}
	s.o.say("judging %d frames", len(s.c.Observed.Frames))
	s.contrast(ctx, Judge(&s.c))
	return &s.c, errors.Join(s.vanished(), ctx.Err())
}

// guess settles the packet that the tables are asked about where none can be sent.
func (st *stage) guess() {
	f := &st.c.Flow
	f.Proto, f.SrcPort, f.DstPort = protoOf(st.spec, f.Dst), tablePort, st.spec.Port
	if f.Proto == forward.ProtoTCP {
		f.TCPFlags = tcpSyn
	}
	setICMP(f)
}

// Comments says of each frame of the capture at which hop it was seen and which checks failed there, "" for a
// frame of no journey. Its result runs along c.Observed.Frames.
func Comments(c *Case) []string {
	if c.Observed == nil {
		return nil
	}
	p, in := compare(c)
	path := verify.Verify(in)
	texts := make(map[sightingKey]string)
	comment(texts, c, &path.Request, in.Wire.Journeys.Request)
	comment(texts, c, &path.Reply, in.Wire.Journeys.Reply)
	seen := sightings(c, p)
	out := make([]string, len(seen))
	for i := range seen {
		out[i] = texts[keyOf(&seen[i])]
	}
	return out
}

// sightingKey tells one sighting from another.
type sightingKey struct {
	point int
	dir   correlate.Direction
	time  int64
	wire  int
	hash  uint64
}

func keyOf(s *correlate.Sighting) sightingKey {
	return sightingKey{s.Point, s.Dir, s.Time, s.Wire, s.Hash}
}

// comment notes for each sighting of a leg's journeys the hop that it belongs to.
func comment(to map[sightingKey]string, c *Case, l *verify.Leg, js []correlate.Journey) {
	type place struct {
		netns   netns.ID
		ifindex tables.Ifindex
		dir     correlate.Direction
	}
	hops := make(map[place]string)
	for i := range l.Hops {
		h := &l.Hops[i]
		dir := correlate.In
		if h.Dir == forward.Out {
			dir = correlate.Out
		}
		if at := (place{h.Netns, h.Ifindex, dir}); hops[at] == "" {
			hops[at] = hopComment(l.Name, i, h)
		}
	}
	points := make(map[int]*Point)
	for i := range c.Observed.Points {
		points[c.Observed.Points[i].ID] = &c.Observed.Points[i]
	}
	for _, j := range js {
		for i := range j.Sightings {
			s := &j.Sightings[i]
			if pt := points[s.Point]; pt != nil {
				to[keyOf(s)] = hops[place{pt.Netns, pt.Ifindex, s.Dir}]
			}
		}
	}
}

func hopComment(leg string, i int, h *verify.Hop) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s hop %d: %s %s %s %s", leg, i+1, h.Node, h.Name, h.Interface, h.Dir)
	for k := range h.Checks {
		if ch := &h.Checks[k]; !ch.OK {
			fmt.Fprintf(&b, "; failed: %s: expected %s, observed %s", ch.Name, ch.Expected, ch.Observed)
		}
	}
	return report.Clean(b.String())
}
