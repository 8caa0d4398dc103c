package flows

import (
	"context"
	"math"
	"time"

	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// disorder is how far a packet may lie before another in time and come after it in the file, as
// captures of several queues have it. Files with more of it are sorted.
const disorder = int64(MinWindow / 2)

// source parses one file in a goroutine of its own and hands over its sightings in batches.
type source struct {
	point  int
	cfg    Point
	reader *pcapfile.Reader
	parser parser
	known  known
	full   chan *batch
	free   chan *batch
	done   chan struct{}
	err    error // what ended it, valid after full is closed

	batch *batch // that the merger is in
	pos   int
	// head is the time of the next sighting, at least that of those before it; MaxInt64 at the end.
	head        int64
	first, last int64 // times of the first and of the last packet
	sort        bool
	tempDir     string
}

// batches is how many go around between a source and the merger.
const batches = 4

// openSources opens all files and starts reading them. What it gives must be waited for, even with an
// error.
func openSources(ctx context.Context, cfg Config, plan *plan) ([]*source, error) {
	var out []*source
	for i, p := range plan.points {
		s := &source{
			point: i, cfg: p, sort: plan.unsorted[i], tempDir: cfg.TempDir,
			parser: parser{port: p.VXLANPort, prefix: plan.prefix},
			full:   make(chan *batch, batches), free: make(chan *batch, batches), done: make(chan struct{}),
			head: math.MinInt64, first: math.MaxInt64, last: math.MinInt64,
		}
		var err error
		if s.reader, err = pcapfile.Open(p.Path); err != nil {
			return out, err
		}
		for range batches {
			s.free <- newBatch()
		}
		out = append(out, s)
		go s.run(ctx)
	}
	return out, nil
}

// wait returns when the source's goroutine has ended; its context must have been cancelled, or all
// its batches taken.
func (s *source) wait() { <-s.done }

func (s *source) run(ctx context.Context) {
	defer close(s.done)
	defer close(s.full)
	defer s.reader.Close() //nolint:errcheck // only read
	if s.sort {
		s.err = s.sorted(ctx)
	} else {
		s.err = s.inOrder(ctx)
	}
}

// inOrder hands over the sightings as they are in the file.
func (s *source) inOrder(ctx context.Context) error {
	b, err := s.take(ctx)
	if err != nil {
		return err
	}
	var rec pcapfile.Record
	for s.next(&rec) {
		n := len(b.sightings)
		b.sightings = b.sightings[:n+1]
		if !s.parser.parse(&rec, &b.sightings[n]) {
			b.sightings = b.sightings[:n]
			continue
		}
		if s.first <= s.last && rec.Time < s.last-disorder {
			return &unsortedError{s.point}
		}
		s.saw(rec.Time)
		if hash := b.sightings[n].tuple; s.known.add(hash) {
			b.tuples = append(b.tuples, named{hash, s.parser.tuple})
		}
		if n+1 == batchLen {
			if b, err = s.give(ctx, b); err != nil {
				return err
			}
		}
	}
	_, err = s.give(ctx, b)
	return err
}

// next reads the next packet of the point's interface.
func (s *source) next(rec *pcapfile.Record) bool {
	for s.reader.Next(rec) == nil {
		if s.cfg.Takes(rec) {
			return true
		}
	}
	return false
}

func (s *source) saw(t int64) {
	s.first, s.last = min(s.first, t), max(s.last, t)
}

// take gets an empty batch.
func (s *source) take(ctx context.Context) (*batch, error) {
	select {
	case b := <-s.free:
		b.reset()
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// give hands over a batch and takes an empty one.
func (s *source) give(ctx context.Context, b *batch) (*batch, error) {
	select {
	case s.full <- b:
		return s.take(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// result gives what the source counted. It must have ended.
func (s *source) result(offset int64, vni uint32) PointResult {
	r := s.parser.counts
	r.Name = s.cfg.Name
	if r.Name == "" {
		r.Name = s.cfg.Path
	}
	for i, f := range s.reader.Interfaces() {
		if s.cfg.Interface == 0 || i == s.cfg.Interface-1 {
			r.Drops += f.Drops()
		}
	}
	if s.first <= s.last {
		r.First, r.Last = s.first, s.last
	}
	r.VNI = vni
	r.Offset = time.Duration(offset)
	r.Unsorted = s.sort
	r.Damage = s.reader.Damage()
	return r
}

// end is the moment until which the point captured, by its own clock: the last packet, or what the
// file says.
func (s *source) end() int64 {
	end := s.last
	for _, f := range s.reader.Interfaces() {
		end = max(end, f.Stats.End)
	}
	return end
}

// merger takes the sightings of all sources in order of time, as far as that matters: a source is let
// run ahead of the others by a part of the window, so that most of its batch goes in one piece.
type merger struct {
	sources []*source
	c       *correlator
}

func (m *merger) run(ctx context.Context) error {
	for _, s := range m.sources {
		if err := m.load(s); err != nil {
			return err
		}
	}
	for {
		s, limit := m.earliest()
		if s == nil {
			return ctx.Err()
		}
		m.c.advance(s.head)
		m.consume(s, limit)
		if s.pos == len(s.batch.sightings) {
			s.free <- s.batch
			if err := m.load(s); err != nil {
				return err
			}
		}
	}
}

// load gets the next batch of a source. At its end, the head is the end of time.
func (m *merger) load(s *source) error {
	for {
		b, ok := <-s.full
		if !ok {
			s.head = math.MaxInt64
			if s.err == nil {
				m.c.ended(s)
			}
			return s.err
		}
		s.batch, s.pos = b, 0
		m.c.learn(b.tuples)
		if len(b.sightings) > 0 {
			m.c.began(s, b.sightings[0].time)
			s.head = max(s.head, b.sightings[0].time+m.c.offset[s.point])
			return nil
		}
		s.free <- b
	}
}

// earliest gives the source whose next sighting is the first, and the time up to which it may be read;
// nil if all have ended.
func (m *merger) earliest() (*source, int64) {
	var s *source
	second := int64(math.MaxInt64)
	for _, o := range m.sources {
		switch {
		case o.head == math.MaxInt64:
		case s == nil:
			s = o
		case o.head < s.head:
			second, s = s.head, o
		default:
			second = min(second, o.head)
		}
	}
	if second == math.MaxInt64 {
		return s, second
	}
	return s, second + m.c.window/8
}

// consume gives the correlator the sightings of a source up to the limit.
func (m *merger) consume(s *source, limit int64) {
	b := s.batch.sightings[s.pos:]
	offset := m.c.offset[s.point]
	n := 1
	for n < len(b) && b[n].time+offset <= limit {
		n++
	}
	m.c.see(s.point, b[:n])
	s.pos += n
	if n < len(b) {
		s.head = max(s.head, b[n].time+offset)
	}
}
