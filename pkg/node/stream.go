package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
)

// Sink takes what taps see while they see it. Its functions are called one at a time, must not block, and may look at
// a frame during the call alone.
type Sink struct {
	Frame func(*capture.Frame)
	// Round is called after some frames, and ten times a second without: everything that the taps saw before complete,
	// by this machine's clock, has been handed on, but for what a ring may hold back (capture.Config.RetireTimeout).
	// It gives the time after which to call it again at the latest; 0: as usual.
	Round func(complete time.Time) time.Duration
}

// idleRound is the longest time between two rounds.
const idleRound = 100 * time.Millisecond

// Stream is taps that hand on every frame and keep none.
type Stream interface {
	ArmDuration() time.Duration
	// Stats are the counts in the order of the taps, as late as what was handed on. What found no room on its way
	// counts as dropped.
	Stats() []capture.PointStats
	// Stop ends it. Sink is not called any more.
	Stop() error
}

// Stream arms taps on this machine.
func (l *Local) Stream(ctx context.Context, cfg CaptureConfig, sink Sink) (Stream, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	points, err := l.points(cfg.Taps)
	if err != nil {
		return nil, err
	}
	s, err := capture.Open(ctx, capture.Config{
		Points: points, SnapLen: cfg.SnapLen, Engine: cfg.Engine, Reserve: l.reserve, Stream: true, OnFrame: sink.Frame,
		OnRound: func() time.Duration {
			if next := sink.Round(time.Now()); next > 0 && next < idleRound {
				return next
			}
			return idleRound
		},
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	return localStream{s}, nil
}

type localStream struct{ *capture.Session }

func (s localStream) Stop() error {
	s.Session.Stop()
	return nil
}

// Streams is a stream of each node of a path.
type Streams struct {
	edge  *Edge
	taps  []Tap
	sink  Sink
	arm   time.Duration
	parts []*streamPart

	mu    sync.Mutex // held while Sink is called
	ended bool
}

// streamPart is what comes from one node.
type streamPart struct {
	m        *member
	run      Stream
	cfg      CaptureConfig
	complete time.Time
}

// Stream arms taps on all nodes and waits for the last. What they see is handed on by this machine's clock, in the
// order of each tap. A node that is lost meanwhile has taps whose Stats say so.
func (e *Edge) Stream(ctx context.Context, cfg CaptureConfig, sink Sink) (*Streams, error) {
	s := &Streams{edge: e, taps: cfg.Taps, sink: sink}
	for _, m := range e.reached() {
		if mine := e.share(m, cfg); len(mine.Taps) > 0 {
			s.parts = append(s.parts, &streamPart{m: m, cfg: mine, complete: time.Now()})
		}
	}
	err := e.each(func(m *member) (err error) {
		i := slices.IndexFunc(s.parts, func(p *streamPart) bool { return p.m == m })
		if i < 0 {
			return nil
		}
		p := s.parts[i]
		run, err := m.Stream(ctx, p.cfg, s.from(p))
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.run = run; err != nil {
			return err
		}
		s.arm = max(s.arm, run.ArmDuration())
		return nil
	})
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// from is the sink for one node.
func (s *Streams) from(p *streamPart) Sink {
	ahead := p.m.Machine().Ahead
	return Sink{
		Frame: func(f *capture.Frame) {
			if ahead != 0 {
				f.Time = f.Time.Add(-ahead)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.ended {
				s.sink.Frame(f)
			}
		},
		Round: func(complete time.Time) time.Duration {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.ended {
				return 0
			}
			p.complete = complete
			return s.sink.Round(s.least())
		},
	}
}

// least is the time until which all nodes in reach have handed on what they saw. The caller holds the lock.
func (s *Streams) least() time.Time {
	at := time.Now()
	for _, p := range s.parts {
		if p.complete.Before(at) && !s.edge.IsLost(p.m.names[0]) {
			at = p.complete
		}
	}
	return at
}

// ArmDuration is how long the slowest node took.
func (s *Streams) ArmDuration() time.Duration { return s.arm }

// Complete is the time until which everything was handed on, see Sink.
func (s *Streams) Complete() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.least()
}

// Between runs f while the sink is not called.
func (s *Streams) Between(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Stats gives the counts in the order of the taps.
func (s *Streams) Stats() (out []capture.PointStats) {
	by := make(map[int]capture.PointStats)
	for _, p := range s.parts {
		if p.run == nil || s.edge.IsLost(p.m.names[0]) {
			continue
		}
		for _, st := range p.run.Stats() {
			by[st.ID] = st
		}
	}
	for _, tap := range s.taps {
		st, ok := by[tap.ID]
		if !ok {
			st = capture.PointStats{ID: tap.ID, Err: errOutOfReach}
		}
		out = append(out, st)
	}
	return out
}

var errOutOfReach = errors.New("its node went out of reach")

// Stop ends all.
func (s *Streams) Stop() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range s.parts {
		if p.run != nil {
			wg.Go(func() { _ = s.edge.note(p.m, p.run.Stop()) })
		}
	}
	wg.Wait()
}
