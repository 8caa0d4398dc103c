package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/safejson"
)

// do runs one request.
func (s *server) do(ctx context.Context, id uint32, q request) (any, error) {
	switch q.Op {
	case opClock:
		return time.Now().UnixNano(), nil
	case opOpen:
		return with(q, func(a openArgs) (any, error) {
			if len(a.Wants) > maxWants {
				return nil, fmt.Errorf("more than %d namespaces", maxWants)
			}
			return s.node.Open(ctx, a.Wants)
		})
	case opRead:
		return with(q, func(a netfilter.ReadOptions) (any, error) {
			if len(a.Addrs)+len(a.Nodes) > maxQuestions {
				return nil, fmt.Errorf("connections of more than %d addresses", maxQuestions)
			}
			return s.node.Read(ctx, a)
		})
	case opAsk:
		return with(q, func(a askArgs) (any, error) {
			if len(a.Questions) > maxQuestions {
				return nil, fmt.Errorf("more than %d questions", maxQuestions)
			}
			return s.node.Ask(ctx, a.Netns, a.Questions)
		})
	case opCounters:
		return s.node.Counters(ctx)
	case opRules:
		return with(q, func(a netnsArgs) (any, error) { return s.node.Rules(ctx, a.Netns) })
	case opCapture:
		return with(q, func(a node.CaptureConfig) (any, error) { return s.capture(ctx, a) })
	case opCaptureIdle:
		return with(q, func(a handle) (any, error) {
			c, err := kept[node.Capture](s, a.Handle)
			if err != nil {
				return nil, err
			}
			d, err := c.Idle(ctx)
			return idle{d}, err
		})
	case opCaptureStop:
		return with(q, func(a handle) (any, error) { return s.captureStop(ctx, id, a.Handle) })
	case opStream:
		return with(q, func(a node.CaptureConfig) (any, error) { return s.stream(ctx, a) })
	case opStreamPull:
		return with(q, func(a pullArgs) (any, error) { return s.streamPull(ctx, id, a) })
	case opStreamStop:
		return with(q, func(a handle) (any, error) { return s.streamStop(a.Handle) })
	case opDrops:
		return with(q, func(a kdrop.Config) (any, error) { return s.drops(ctx, a) })
	case opDropsTake:
		return with(q, func(a handle) (any, error) {
			return s.dropped(a.Handle, func(d node.Drops) ([]kdrop.Drop, int, error) { return d.Take(ctx) })
		})
	case opDropsStop:
		return with(q, func(a handle) (any, error) {
			return s.dropped(a.Handle, func(d node.Drops) ([]kdrop.Drop, int, error) { return d.Stop(ctx) })
		})
	case opDropsClose:
		return with(q, func(a handle) (any, error) {
			d, err := kept[node.Drops](s, a.Handle)
			if err != nil {
				return nil, err
			}
			s.forget(a.Handle)
			return none{}, d.Close()
		})
	case opPrepare:
		return with(q, func(a prepareArgs) (any, error) { return s.prepare(ctx, a) })
	case opRun:
		return with(q, func(a runArgs) (any, error) { return s.run(ctx, a) })
	case opProbeClose:
		return with(q, func(a handle) (any, error) {
			p, err := kept[node.Prober](s, a.Handle)
			if err != nil {
				return nil, err
			}
			s.forget(a.Handle)
			return none{}, p.Close()
		})
	default:
		return nil, fmt.Errorf("operation %q is not known", q.Op)
	}
}

// with reads the arguments of a request.
func with[A any](q request, f func(A) (any, error)) (any, error) {
	var a A
	if err := safejson.Unmarshal(q.Op, q.Args, &a); err != nil {
		return nil, err
	}
	return f(a)
}

func checkCapture(cfg node.CaptureConfig) error {
	if len(cfg.Taps) > maxTaps || cfg.SnapLen < 0 || cfg.SnapLen > maxSnap {
		return fmt.Errorf("capture of %d bytes at %d taps: want at most %d and %d", cfg.SnapLen, len(cfg.Taps), maxSnap, maxTaps)
	}
	return nil
}

func (s *server) capture(ctx context.Context, cfg node.CaptureConfig) (any, error) {
	if err := checkCapture(cfg); err != nil {
		return nil, err
	}
	cfg.Budget = maxKept
	c, err := s.node.Capture(context.WithoutCancel(ctx), cfg) // it goes on when the request is done
	if err != nil {
		return nil, err
	}
	stop := func() { _, _ = c.Stop(context.Background()) }
	h, err := s.keep(c, stop)
	if err != nil {
		stop()
		return nil, err
	}
	return armed{h, c.ArmDuration()}, nil
}

// captureStop sends the frames as parts. Where the stream is slow, it waits: nothing piles up.
func (s *server) captureStop(ctx context.Context, id, h uint32) (any, error) {
	c, err := kept[node.Capture](s, h)
	if err != nil {
		return nil, err
	}
	s.forget(h)
	r, err := c.Stop(ctx)
	if err != nil {
		return nil, err
	}
	out := captured{Points: []pointStats{}, Cut: r.Cut}
	for _, p := range r.Points {
		out.Points = append(out.Points, fromStats(p))
	}
	return out, s.sendFrames(id, r.Frames)
}

func (s *server) sendFrames(id uint32, frames []capture.Frame) error {
	var b []byte
	for i := range frames {
		b = appendFrame(b, &frames[i])
		if len(b) < partSize && i+1 < len(frames) {
			continue
		}
		if err := s.write(frame{kindPart, id, b}); err != nil {
			return err
		}
		b = nil
	}
	return nil
}

func (s *server) drops(ctx context.Context, cfg kdrop.Config) (any, error) {
	const most = 1024
	if len(cfg.Flows) > most || len(cfg.Neighbours) > most || cfg.Buffer < 0 || cfg.Buffer > 16<<20 {
		return nil, fmt.Errorf("more than %d flows to watch for, or too large a buffer", most)
	}
	d, err := s.node.WatchDrops(ctx, cfg)
	if err != nil {
		return nil, err
	}
	h, err := s.keep(d, func() { _ = d.Close() })
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	return handle{h}, nil
}

func (s *server) dropped(h uint32, from func(node.Drops) ([]kdrop.Drop, int, error)) (any, error) {
	d, err := kept[node.Drops](s, h)
	if err != nil {
		return nil, err
	}
	drops, lost, err := from(d)
	out := dropped{Drops: drops, Lost: lost}
	if err != nil {
		out.Err = err.Error()
	}
	return out, nil
}

func (s *server) prepare(ctx context.Context, a prepareArgs) (any, error) {
	p, err := s.node.Prepare(ctx, a.Netns, a.Probe)
	if err != nil {
		return nil, err
	}
	h, err := s.keep(p, func() { _ = p.Close() })
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return prepared{h, flow(p.Flow())}, nil
}

// maxRun bounds how long one probe may take, and maxProbes how many packets it may send.
const (
	maxRun    = time.Hour
	maxProbes = 1_000_000
)

func (s *server) run(ctx context.Context, a runArgs) (any, error) {
	if a.Count < 0 || a.Count > maxProbes || a.Interval < 0 || a.Timeout < 0 || a.Interval > maxRun || a.Timeout > maxRun {
		return nil, fmt.Errorf("%d probes every %s, waiting for %s: out of bounds", a.Count, a.Interval, a.Timeout)
	}
	p, err := kept[node.Prober](s, a.Handle)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxRun)
	defer cancel()
	return p.Run(ctx, a.Count, a.Interval, a.Timeout), nil
}
