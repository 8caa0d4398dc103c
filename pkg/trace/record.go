package trace

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/recorder"
	"github.com/podtrace/podtrace/pkg/report"
)

// RecordOptions say how long to record, and what makes an incident.
type RecordOptions struct {
	Keep   time.Duration // how much of the past an incident has, if Memory holds as much
	Memory int           // bytes of frames that are kept
	Bound  time.Duration // a packet that takes longer is an incident; 0: none is
	// Rest, if set, is called when the taps are armed and after each judgement: much of the memory that was in
	// use is not needed until the next.
	Rest func()
	// OnIncident gets each incident, from the goroutine that called Record. It says whether to go on.
	OnIncident func(*Incident) (more bool, err error)
}

func (r *RecordOptions) rest() {
	if r.Rest != nil {
		r.Rest()
	}
}

// Incident is something that happened to a packet, with all that a judgement of it rests on.
type Incident struct {
	Notice recorder.Notice
	Case   *Case
	Report *report.Report
}

// Recorded is what a recorder saw.
type Recorded struct {
	recorder.Stats
	Incidents int // that OnIncident got
	Again     int // notices of what the incident before them showed already
	Dismissed int // notices that proved to be nothing
	Unclear   int // losses that may be the capture's own
	Drops     uint64
}

const (
	// grace is how long after its first sighting a packet must have been seen everywhere: rings hold a frame
	// back for their retire timeout, and are read at a pace.
	grace = 30 * time.Millisecond
	// aftermath is how much longer is waited where there is room: what follows a loss tells of its cause.
	aftermath = 300 * time.Millisecond
	// lull is the time after which the same trouble counts as new.
	lull = 30 * time.Second
	// apart is the least time between two looks at the same trouble.
	apart = time.Second
	// mostExamined is how many frames an incident is judged by: the newest. A judgement takes some kilobytes of
	// memory for each. Whether headers are right, fewer tell.
	mostExamined, mostForHeaders = 600, 300
	// pending bounds the notices that wait to be looked at.
	pending = 64
)

// Record watches real traffic until ctx ends: the rings run, nothing is kept but the last seconds, and what happens
// to a packet is looked at when it happens. When interfaces of the path come or go, the taps are set anew.
func Record(ctx context.Context, o Options, r RecordOptions) (*Recorded, error) {
	rec := &recording{o: o, r: r, sum: Recorded{Stats: recorder.Stats{Noticed: map[recorder.Kind]uint64{}}}}
	for ctx.Err() == nil {
		more, err := rec.session(ctx)
		if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			err = nil // the end came while tables were read
		}
		if err != nil || !more {
			return &rec.sum, err
		}
	}
	return &rec.sum, nil
}

// recording is what outlives the taps.
type recording struct {
	o   Options
	r   RecordOptions
	sum Recorded
	// last is what the latest incident was about, and when it was noticed last.
	last     trouble
	lastSeen time.Time
}

// trouble is what an incident is about.
type trouble struct{ leg, node, iface, cause string }

// same reports whether it is the trouble of before: at the same place, with the same cause or none that the tables
// show (they may have been mended since the packet was lost).
func (t trouble) same(before trouble) bool {
	at := t
	at.cause = before.cause
	return at == before && (t.cause == before.cause || strings.HasPrefix(t.cause, "lost-after-"))
}

// taping is one set of taps at work.
type taping struct {
	*recording
	st      *stage
	points  []Point
	ses     *node.Streams
	history *recorder.History
	watch   *recorder.Detector
	notices chan recorder.Notice
	drops   *node.DropWatch
	dropped []kdrop.Drop // what it saw in the last seconds
	unseen  int          // that found no room
	dropErr []error
	before  map[netns.ID]*counters.Snapshot
	stats   []sample // of the last seconds
}

// sample is the points' counts at a time.
type sample struct {
	at    time.Time
	stats []capture.PointStats
}

// session records until ctx ends, an incident ends it (more is false), or the path has other taps (more is true).
func (rec *recording) session(ctx context.Context) (more bool, err error) {
	o := rec.o
	o.taps, o.lean = true, true
	s, err := start(ctx, o)
	if err != nil {
		return false, err
	}
	defer s.end()
	t := &taping{recording: rec, st: &stage{session: s, c: &s.c, spec: probe.Spec{Proto: probe.None}}, notices: make(chan recorder.Notice, pending)}
	if err := t.arm(ctx); err != nil {
		return false, err
	}
	defer t.end()
	return t.run(ctx)
}

func (t *taping) arm(ctx context.Context) (err error) {
	st := t.st
	st.watchFlow()
	p := newPlan(st.c)
	t.points = st.points(p)
	if t.r.Bound > 0 && slices.ContainsFunc(t.points, func(pt Point) bool { return pt.Netns.Machine() != t.points[0].Netns.Machine() }) {
		return &Error{
			Msg:  "the path crosses machines, and their clocks are not the same: how long a packet takes is not known to be right",
			hint: "watch without a bound of the latency, or between pods of one node",
		}
	}
	pts, err := st.taps(p, t.points)
	if err != nil {
		return err
	}
	t.history = recorder.NewHistory(t.r.Memory)
	t.watch = recorder.New(detectorConfig(st.c, p, t.points, t.r.Bound), func(n recorder.Notice) {
		select {
		case t.notices <- n:
		default: // as many as this are being looked at
		}
	})
	t.o.say("arming %d taps", len(pts))
	t.ses, err = st.edge.Stream(ctx, captureConfig(&t.o, pts), node.Sink{
		Frame: func(f *capture.Frame) {
			t.history.Add(f)
			t.watch.Look(f)
		},
		Round: func(complete time.Time) time.Duration {
			if t.watch.Tick(time.Now(), complete) {
				return grace
			}
			return 0
		},
	})
	if err != nil {
		return err
	}
	t.o.say("armed in %s, watching", t.ses.ArmDuration().Round(10*time.Microsecond))
	t.drops, t.before = st.watchAnyDrops(ctx, p), st.edge.Counters(ctx)
	t.r.rest()
	return nil
}

func (t *taping) end() {
	t.ses.Stop()
	if t.drops != nil {
		_ = t.drops.Close() // what it saw is not asked for any more
	}
	t.sum.add(t.watch.Stats())
	for _, st := range t.ses.Stats() {
		t.sum.Drops += st.Drops
	}
}

// add sums up.
func (r *Recorded) add(s recorder.Stats) {
	r.Sightings += s.Sightings
	r.Packets += s.Packets
	r.Unjudged += s.Unjudged
	for k, n := range s.Noticed {
		r.Noticed[k] += n
	}
}

func (t *taping) run(ctx context.Context) (more bool, err error) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	t.sample()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-second.C:
			t.takeDrops(ctx)
			if t.sample() {
				t.o.say("an interface of the path went down: setting the taps anew")
				return true, pause(ctx, apart)
			}
		case n := <-t.notices:
			more, err := t.consider(ctx, n)
			if err != nil || !more {
				return false, err
			}
			t.r.rest()
		}
	}
}

// takeDrops takes what the kernel dropped, so that there is room for more, and forgets what is long ago.
func (t *taping) takeDrops(ctx context.Context) {
	const most = 1000
	if t.drops == nil {
		return
	}
	drops, lost, errs := t.drops.Take(ctx)
	t.dropped = append(t.dropped, drops...)
	old := time.Now().Add(-t.r.Keep)
	t.dropped = slices.DeleteFunc(t.dropped, func(d kdrop.Drop) bool { return d.Time.Before(old) })
	t.dropped = t.dropped[max(0, len(t.dropped)-most):]
	t.unseen, t.dropErr = lost, errs
}

// sample takes the counts, and reports whether a tap has ended.
func (t *taping) sample() (ended bool) {
	s := sample{time.Now(), t.ses.Stats()}
	t.stats = append(t.stats, s)
	t.stats = t.stats[max(0, len(t.stats)-1-int(t.r.Keep/time.Second)):]
	return slices.ContainsFunc(s.stats, func(p capture.PointStats) bool { return p.Err != nil })
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

// consider looks at a notice, and at those that came with it.
func (t *taping) consider(ctx context.Context, n recorder.Notice) (more bool, err error) {
	span := time.Since(t.oldest())
	patient := span > 4*aftermath || span < aftermath // there is room, or hardly anything has been seen
	if patient {
		_ = pause(ctx, aftermath)
	}
	n = t.worst(n)
	end := n.Time.Add(grace)
	if c := t.ses.Complete().Add(-grace); patient && c.After(end) {
		end = c // what came since may still be in some of the rings
	}
	if !t.complete(ctx, end.Add(grace)) {
		t.sum.Unclear++
		t.o.say("%s, but a node is too late with what it saw", n)
		return true, nil
	}
	in, err := t.examine(ctx, n, end)
	if err != nil {
		return false, err
	}
	v := &in.Report.Verdict
	faulty := v.Status == report.Broken || v.Status == report.Degraded
	switch {
	case faulty || n.Kind == recorder.Retransmit || n.Kind == recorder.Slow:
	case v.Status == report.Inconclusive && n.Kind == recorder.Lost:
		t.sum.Unclear++
		t.o.say("%s, but %s", n, v.Summary)
		return true, nil
	default:
		t.sum.Dismissed++
		return true, nil
	}
	now := trouble{leg: v.Leg, node: v.Node, iface: v.Interface, cause: v.Cause}
	if !faulty {
		now.cause = string(n.Kind)
	}
	again := now.same(t.last) && time.Since(t.lastSeen) < lull
	t.lastSeen = time.Now()
	if again {
		t.sum.Again++
		return true, pause(ctx, apart)
	}
	t.last = now
	t.sum.Incidents++
	return t.r.OnIncident(in)
}

// complete waits until what was seen before at is there, or for long enough.
func (t *taping) complete(ctx context.Context, at time.Time) bool {
	const most = 5 * time.Second
	for begin := time.Now(); t.ses.Complete().Before(at); _ = pause(ctx, grace) {
		if ctx.Err() != nil || time.Since(begin) > most {
			return false
		}
	}
	return true
}

func (t *taping) oldest() (at time.Time) {
	t.ses.Between(func() { at = t.history.Oldest() })
	return at
}

// worst takes, among the notices that are there, the first of those that say most. One from long before the newest is
// of a trouble that the tables may not have any more.
func (t *taping) worst(n recorder.Notice) recorder.Notice {
	order := []recorder.Kind{recorder.Lost, recorder.Retransmit, recorder.Slow, recorder.Rewrite}
	all := []recorder.Notice{n}
	for len(t.notices) > 0 { // nobody else takes any
		all = append(all, <-t.notices)
	}
	newest := slices.MaxFunc(all, func(a, b recorder.Notice) int { return a.Time.Compare(b.Time) })
	all = slices.DeleteFunc(all, func(o recorder.Notice) bool { return newest.Time.Sub(o.Time) > 4*aftermath })
	return slices.MinFunc(all, func(a, b recorder.Notice) int {
		return cmp.Or(slices.Index(order, a.Kind)-slices.Index(order, b.Kind), a.Time.Compare(b.Time))
	})
}

// examine reads the tables as they are now and judges what was seen until end.
func (t *taping) examine(ctx context.Context, n recorder.Notice, end time.Time) (*Incident, error) {
	frames, points := t.window(n, end)
	s, err := start(ctx, t.o)
	missing := ""
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		missing = "the tables after the incident: " + err.Error()
		s = &session{o: t.o, c: t.st.c.again(), edge: t.st.edge}
	} else {
		defer s.end()
	}
	c := &s.c
	if missing != "" {
		c.Incomplete = append(c.Incomplete, missing)
	}
	c.aim(n)
	c.Sent = diagnose.Sent{Watching: true}
	c.Probe = &report.Probe{Protocol: probe.None, SrcPort: c.Flow.SrcPort, DstPort: c.Flow.DstPort}
	c.Observed = &Observed{Points: points, Frames: frames, ArmNs: t.ses.ArmDuration().Nanoseconds(), End: end.UnixNano()}
	if len(frames) > 0 { // a packet that was under way when they begin is not seen whole
		c.Observed.Begin = earliest(frames).Add(underWay).UnixNano()
	}
	if n.Kind == recorder.Lost { // those before it passed by other tables, perhaps; they are kept, and not judged
		c.Observed.Begin = max(c.Observed.Begin, n.Time.UnixNano())
	}
	st := &stage{session: s, c: c, spec: probe.Spec{Proto: probe.None}}
	p := newPlan(c)
	c.Opinion = st.ask(ctx, p)
	t.takeDrops(ctx)
	c.Witness.Drops = slices.DeleteFunc(slices.Clone(t.dropped), func(d kdrop.Drop) bool { return d.Time.UnixNano() < c.Observed.Begin })
	st.missDrops(t.unseen, t.dropErr)
	after := st.edge.Counters(ctx)
	st.takeCounters(ctx, t.before, after)
	t.before = after
	st.takeNeighbours(ctx, p)
	return &Incident{Notice: n, Case: c, Report: Judge(c)}, nil
}

// watchAnyDrops asks for the kernel's drops of whatever flow there will be between the two ends.
func (st *stage) watchAnyDrops(ctx context.Context, p plan) *node.DropWatch {
	flow := st.c.Flow
	defer func() { st.c.Flow = flow }()
	st.c.Flow = forward.Flow{Src: flow.Src, Dst: flow.Dst}
	return st.watchDrops(ctx, p)
}

// again is the case as it was resolved, without what was seen.
func (c *Case) again() Case {
	return Case{
		Inventory: c.Inventory, Source: c.Source, Destination: c.Destination, From: c.From, To: c.To, Targets: c.Targets,
		Snapshot: c.Snapshot, Flow: forward.Flow{Src: c.Flow.Src, Dst: c.Flow.Dst}, Version: c.Version,
	}
}

// aim makes the packet's flow that of the case.
func (c *Case) aim(n recorder.Notice) {
	f := &c.Flow
	f.Proto, f.SrcPort, f.DstPort, f.TCPFlags, f.ICMPType = n.Proto, n.SrcPort, n.DstPort, 0, 0
	src := n.Src
	if n.Reply {
		src = n.Dst
		if hasPorts(n.Proto) {
			f.SrcPort, f.DstPort = n.DstPort, n.SrcPort
		}
		if sp := c.Destination.ServicePort; sp != nil && hasPorts(n.Proto) {
			f.DstPort = c.Destination.Port // the reply sets out from the endpoint's own
		}
	}
	if !f.Src.IsValid() {
		f.Src = src
	}
	if n.Proto == forward.ProtoTCP {
		f.TCPFlags = tcpSyn
	}
	setICMP(f)
}

// window takes the frames that an incident is judged by, and what the points lost meanwhile.
func (t *taping) window(n recorder.Notice, end time.Time) (frames []capture.Frame, points []Point) {
	from, most := n.Time.Add(-t.r.Keep), mostExamined
	if n.Kind == recorder.Rewrite {
		most = mostForHeaders
	}
	t.ses.Between(func() { frames = t.history.Frames(from, end, most) })
	if len(frames) == most { // of each point the newest: from the moment on at which all are there
		frames = sinceAll(frames)
	}
	slices.SortStableFunc(frames, func(a, b capture.Frame) int { return a.Time.Compare(b.Time) })
	t.sample()
	begin := end
	if len(frames) > 0 {
		begin = frames[0].Time
	}
	then := t.stats[0]
	for _, s := range t.stats {
		if s.at.Before(begin) {
			then = s
		}
	}
	now := t.stats[len(t.stats)-1]
	points = slices.Clone(t.points)
	for i := range points {
		st := now.stats[i]
		st.Packets -= then.stats[i].Packets
		st.Drops -= then.stats[i].Drops
		st.FreezeQueue -= then.stats[i].FreezeQueue
		st.Truncated -= then.stats[i].Truncated
		points[i].Stats = st
	}
	return frames, points
}

// sinceAll leaves out what came before the newest first frame of any point.
func sinceAll(frames []capture.Frame) []capture.Frame {
	first := map[int]time.Time{}
	for i := range frames {
		if _, ok := first[frames[i].Point]; !ok {
			first[frames[i].Point] = frames[i].Time
		}
	}
	var from time.Time
	for _, at := range first {
		if at.After(from) {
			from = at
		}
	}
	return slices.DeleteFunc(frames, func(f capture.Frame) bool { return f.Time.Before(from) })
}

func earliest(frames []capture.Frame) time.Time {
	return slices.MinFunc(frames, func(a, b capture.Frame) int { return a.Time.Compare(b.Time) }).Time
}

// detectorConfig is the path as a detector has to know it: of the ways that the tables allow, the longest.
func detectorConfig(c *Case, p plan, points []Point, bound time.Duration) recorder.Config {
	cfg := recorder.Config{
		Encap: map[int]bool{}, Decoder: decode.Decoder{VXLANPorts: c.Snapshot.VXLANPorts(), IPUDPPorts: p.proxyPorts()}, Grace: grace, Bound: bound,
	}
	cfg.A, cfg.B = aliases(c, p)
	for _, pt := range points {
		if p.model.IsUnderlay(pt.Netns, pt.Ifindex) {
			cfg.Encap[pt.ID] = true
		}
	}
	for i, legs := range [][]forward.Leg{p.request, p.reply} {
		var longest forward.Leg
		for _, l := range legs {
			if len(l.Hops) > len(longest.Hops) {
				longest = l
			}
		}
		for _, h := range longest.Hops {
			cfg.Legs[i] = append(cfg.Legs[i], placeOf(h, points))
		}
	}
	return cfg
}

// placeOf is where a hop is seen, with a negative point if it is not.
func placeOf(h forward.Hop, points []Point) recorder.Place {
	at := recorder.Place{Point: -1, Dir: capture.In}
	if h.Dir == forward.Out {
		at.Dir = capture.Out
	}
	if h.Hidden != "" || h.Opaque != "" || h.Bridged {
		return at
	}
	if i := slices.IndexFunc(points, func(p Point) bool { return p.Netns == h.Netns && p.Ifindex == h.Ifindex }); i >= 0 {
		at.Point = points[i].ID
	}
	return at
}
