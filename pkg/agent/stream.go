package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/node"
)

// A stream of frames is pulled: the near end asks for what there is, again and again, and so says how fast it can take
// it. All that the far end had read from its taps until then is in the answer, with how long ago that was, and what has
// no room until it is asked for is counted as dropped.

// maxWaiting bounds the bytes of frames that wait at the far end to be asked for.
const maxWaiting = 8 << 20

// maxPull bounds how long the far end waits for a frame before it says that there is none.
const maxPull = 10 * time.Second

type (
	pullArgs struct {
		Handle uint32        `json:"handle"`
		Wait   time.Duration `json:"wait"` // for a frame where there is none
	}
	// streamed is the answer; the frames came before it, as parts.
	streamed struct {
		Points []pointStats  `json:"points"`
		Late   time.Duration `json:"late"` // how long ago the taps were last read
	}
)

// outlet is a stream at the far end.
type outlet struct {
	run  node.Stream
	some chan struct{} // has one when there are frames

	mu      sync.Mutex
	parts   [][]byte
	bytes   int
	dropped map[int]uint64 // by tap
	round   time.Time
}

// read notes that all has been handed over.
func (o *outlet) read(complete time.Time) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.round = complete
	return 0
}

func (o *outlet) frame(f *capture.Frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bytes+frameHead+len(f.Data) > maxWaiting {
		o.dropped[f.Point]++
		return
	}
	if n := len(o.parts); n == 0 || len(o.parts[n-1]) >= partSize {
		o.parts = append(o.parts, nil)
	}
	last := &o.parts[len(o.parts)-1]
	*last = appendFrame(*last, f)
	o.bytes += frameHead + len(f.Data)
	select {
	case o.some <- struct{}{}:
	default:
	}
}

// take empties it. The counts are taken first: a frame is counted at the latest when it is handed over.
func (o *outlet) take() (parts [][]byte, st streamed) {
	stats := o.run.Stats()
	o.mu.Lock()
	defer o.mu.Unlock()
	parts, o.parts, o.bytes = o.parts, nil, 0
	st.Late = max(time.Since(o.round), 0)
	st.Points = []pointStats{}
	for _, p := range stats {
		p.Drops += o.dropped[p.ID]
		st.Points = append(st.Points, fromStats(p))
	}
	return parts, st
}

func (s *server) stream(ctx context.Context, cfg node.CaptureConfig) (any, error) {
	if err := checkCapture(cfg); err != nil {
		return nil, err
	}
	o := &outlet{some: make(chan struct{}, 1), dropped: make(map[int]uint64), round: time.Now()}
	var err error
	o.run, err = s.node.Stream(context.WithoutCancel(ctx), cfg, node.Sink{Frame: o.frame, Round: o.read})
	if err != nil {
		return nil, err
	}
	stop := func() { _ = o.run.Stop() }
	h, err := s.keep(o, stop)
	if err != nil {
		stop()
		return nil, err
	}
	return armed{h, o.run.ArmDuration()}, nil
}

func (s *server) streamPull(ctx context.Context, id uint32, a pullArgs) (any, error) {
	if a.Wait < 0 || a.Wait > maxPull {
		return nil, fmt.Errorf("wait for %s: at most %s", a.Wait, maxPull)
	}
	o, err := kept[*outlet](s, a.Handle)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(a.Wait)
	defer timer.Stop()
	select {
	case <-o.some:
	case <-timer.C:
	case <-ctx.Done():
	}
	parts, st := o.take()
	for _, b := range parts {
		if err := s.write(frame{kindPart, id, b}); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func (s *server) streamStop(h uint32) (any, error) {
	o, err := kept[*outlet](s, h)
	if err != nil {
		return nil, err
	}
	s.forget(h)
	return none{}, o.run.Stop()
}

// remoteStream is a stream at the near end.
type remoteStream struct {
	c    *Client
	made armed
	taps []node.Tap
	sink node.Sink
	end  context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	stats []capture.PointStats
}

// Stream arms taps there.
func (c *Client) Stream(ctx context.Context, cfg node.CaptureConfig, sink node.Sink) (node.Stream, error) {
	r := &remoteStream{c: c, taps: cfg.Taps, sink: sink, done: make(chan struct{})}
	if err := c.call(ctx, opStream, cfg, &r.made, nil); err != nil {
		return nil, err
	}
	for _, t := range cfg.Taps {
		r.stats = append(r.stats, capture.PointStats{ID: t.ID})
	}
	ctx, r.end = context.WithCancel(context.WithoutCancel(ctx))
	go r.pull(ctx)
	return r, nil
}

func (r *remoteStream) ArmDuration() time.Duration { return r.made.Arm }

// pull asks until the end.
func (r *remoteStream) pull(ctx context.Context) {
	const (
		slow = 5 * time.Minute        // for a stream that is
		idle = 250 * time.Millisecond // without a frame
	)
	defer close(r.done)
	complete := time.Now()
	for wait := idle; ctx.Err() == nil; {
		asked := time.Now()
		var res streamed
		if err := r.c.callFor(ctx, slow, opStreamPull, pullArgs{r.made.Handle, wait}, &res, r.take); err != nil {
			r.fail(err)
			return
		}
		r.count(res.Points)
		if at := asked.Add(-max(res.Late, 0)); at.After(complete) {
			complete = at
		}
		if wait = r.sink.Round(complete); wait <= 0 || wait > idle {
			wait = idle
		}
	}
}

// take hands on the frames of a part.
func (r *remoteStream) take(b []byte) error {
	frames, err := decodeFrames(b, maxWaiting/frameHead)
	if err != nil {
		return err
	}
	for i := range frames {
		if slices.ContainsFunc(r.taps, func(t node.Tap) bool { return t.ID == frames[i].Point }) {
			r.sink.Frame(&frames[i])
		}
	}
	return nil
}

func (r *remoteStream) count(points []pointStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range points {
		if i := slices.IndexFunc(r.stats, func(s capture.PointStats) bool { return s.ID == p.ID }); i >= 0 {
			r.stats[i] = p.stats()
		}
	}
}

// fail says at every tap that nothing comes any more.
func (r *remoteStream) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.stats {
		r.stats[i].Err = err
	}
}

func (r *remoteStream) Stats() []capture.PointStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stats)
}

func (r *remoteStream) Stop() error {
	r.end()
	<-r.done
	return r.c.call(context.Background(), opStreamStop, handle{r.made.Handle}, &none{}, nil)
}
