package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/probe"
)

// Taps are armed taps on all nodes.
type Taps struct {
	edge  *Edge
	taps  []Tap
	begin time.Time
	arm   time.Duration
	parts []part
}

// part is what one node captures.
type part struct {
	m    *member
	run  Capture
	taps []Tap
}

// Capture arms taps on all nodes and waits for the last: when it returns, all of them watch. Of a node that is lost
// meanwhile the taps saw nothing, and their Stats say so.
func (e *Edge) Capture(ctx context.Context, cfg CaptureConfig) (*Taps, error) {
	t := &Taps{edge: e, taps: cfg.Taps, begin: time.Now()}
	var mu sync.Mutex
	err := e.each(func(m *member) error {
		mine := e.share(m, cfg)
		if len(mine.Taps) == 0 {
			return nil
		}
		p := part{m: m, taps: mine.Taps}
		var err error
		if p.run, err = m.Capture(ctx, mine); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		t.parts, t.arm = append(t.parts, p), max(t.arm, p.run.ArmDuration())
		return nil
	})
	if err != nil {
		_, _, _ = t.stop(context.WithoutCancel(ctx))
		return nil, err
	}
	t.begin = time.Now()
	return t, nil
}

// share is a node's part of what is to be captured, with its namespaces as it knows them itself.
func (e *Edge) share(m *member, cfg CaptureConfig) CaptureConfig {
	taps := cfg.Taps
	cfg.Taps = nil
	for _, tap := range taps {
		if e.at(tap.Netns) == m {
			tap.Netns = tap.Netns.On(0)
			cfg.Taps = append(cfg.Taps, tap)
		}
	}
	return cfg
}

// MakeRings begins to make rings on this machine, before it is known for which interfaces.
func (e *Edge) MakeRings(cfg CaptureConfig) {
	for _, m := range e.members {
		if l, ok := m.Node.(*Local); ok {
			l.makeRings(cfg)
		}
	}
}

// ArmDuration is how long the slowest node took.
func (t *Taps) ArmDuration() time.Duration { return t.arm }

// Idle is how long ago the newest frame of all nodes was read, and at most how long the taps have been armed.
func (t *Taps) Idle(ctx context.Context) time.Duration {
	least := int64(math.MaxInt64)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range t.parts {
		wg.Go(func() {
			d, err := p.run.Idle(ctx)
			if t.edge.note(p.m, err) != nil || err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			least = min(least, int64(d))
		})
	}
	wg.Wait()
	return min(time.Duration(least), time.Since(t.begin))
}

// Stop ends the capture on all nodes. The points come in the order of the taps, the frames in the order of time, by
// this machine's clock.
func (t *Taps) Stop(ctx context.Context) capture.Result {
	stats, frames, cut := t.stop(ctx)
	r := capture.Result{Frames: frames, Cut: cut}
	if !cut.IsZero() { // where it was over first, it is over for all
		r.Frames = slices.DeleteFunc(r.Frames, func(f capture.Frame) bool { return f.Time.After(cut) })
	}
	for _, tap := range t.taps {
		s, ok := stats[tap.ID]
		if !ok {
			s = capture.PointStats{ID: tap.ID, Err: errOutOfReach}
		}
		r.Points = append(r.Points, s)
	}
	slices.SortStableFunc(r.Frames, func(a, b capture.Frame) int { return a.Time.Compare(b.Time) })
	return r
}

func (t *Taps) stop(ctx context.Context) (stats map[int]capture.PointStats, frames []capture.Frame, cut time.Time) {
	stats = make(map[int]capture.PointStats)
	results := make([]capture.Result, len(t.parts))
	var wg sync.WaitGroup
	for i, p := range t.parts {
		wg.Go(func() {
			r, err := p.run.Stop(ctx)
			if err != nil {
				_ = t.edge.note(p.m, err)
				return
			}
			results[i] = r
		})
	}
	wg.Wait()
	for i, p := range t.parts {
		ahead := p.m.Machine().Ahead
		if at := results[i].Cut.Add(-ahead); !results[i].Cut.IsZero() && (cut.IsZero() || at.Before(cut)) {
			cut = at
		}
		for _, f := range results[i].Frames {
			if slices.ContainsFunc(p.taps, func(tap Tap) bool { return tap.ID == f.Point }) {
				f.Time = f.Time.Add(-ahead)
				frames = append(frames, f)
			}
		}
		for _, s := range results[i].Points {
			stats[s.ID] = s
		}
	}
	return stats, frames, cut
}

// DropWatch watches the kernels of all machines, each once.
type DropWatch struct {
	edge  *Edge
	parts []dropPart
}

type dropPart struct {
	m   *member
	run Drops
}

// WatchDrops begins to watch. The texts say which kernels can't, and why.
func (e *Edge) WatchDrops(ctx context.Context, cfg kdrop.Config) (*DropWatch, []string) {
	w := &DropWatch{edge: e}
	var mu sync.Mutex
	missed := make(map[uint32]string)
	byMachine := make(map[uint32][]*member)
	for _, m := range e.reached() {
		byMachine[m.machine] = append(byMachine[m.machine], m)
	}
	var wg sync.WaitGroup
	for machine, ms := range byMachine {
		wg.Go(func() {
			var first error
			for _, m := range ms { // one that may will do for all of its machine
				run, err := m.WatchDrops(ctx, cfg)
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					w.parts = append(w.parts, dropPart{m, run})
					return
				}
				first = cmp.Or(first, err)
				_ = e.note(m, err)
			}
			mu.Lock()
			defer mu.Unlock()
			missed[machine] = e.speaker(ms[0], len(byMachine)) + first.Error()
		})
	}
	wg.Wait()
	return w, inOrder(missed)
}

// speaker names a node where there are several machines.
func (e *Edge) speaker(m *member, machines int) string {
	if machines < 2 {
		return ""
	}
	return m.names[0] + ": "
}

func inOrder(by map[uint32]string) (out []string) {
	var keys []uint32
	for k := range by {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		out = append(out, by[k])
	}
	return out
}

// Stop gives what all kernels dropped, oldest first, how many reports were lost, and what went wrong.
func (w *DropWatch) Stop(ctx context.Context) (drops []kdrop.Drop, lost int, errs []error) {
	return w.gather(func(d Drops) ([]kdrop.Drop, int, error) { return d.Stop(ctx) })
}

// Take gives what was dropped since the watch began or the last Take, and goes on.
func (w *DropWatch) Take(ctx context.Context) (drops []kdrop.Drop, lost int, errs []error) {
	return w.gather(func(d Drops) ([]kdrop.Drop, int, error) { return d.Take(ctx) })
}

func (w *DropWatch) gather(from func(Drops) ([]kdrop.Drop, int, error)) (drops []kdrop.Drop, lost int, errs []error) {
	for _, p := range w.parts {
		ds, n, err := from(p.run)
		if err != nil && w.edge.note(p.m, err) != nil {
			errs = append(errs, err)
		}
		ahead := p.m.Machine().Ahead
		for i := range ds {
			ds[i].Machine, ds[i].Time = p.m.machine, ds[i].Time.Add(-ahead)
		}
		drops, lost = append(drops, ds...), lost+n
	}
	slices.SortStableFunc(drops, func(a, b kdrop.Drop) int { return a.Time.Compare(b.Time) })
	return drops, lost, errs
}

// Close ends the watch where it is still on.
func (w *DropWatch) Close() error {
	var errs []error
	for _, p := range w.parts {
		errs = append(errs, p.run.Close())
	}
	return errors.Join(errs...)
}

// Prepare opens a probe's sockets in a namespace.
func (e *Edge) Prepare(ctx context.Context, ns netns.ID, p Probe) (Prober, error) {
	m := e.at(ns)
	if m == nil {
		return nil, fmt.Errorf("prepare probe %s to %s: namespace %s is not in reach", p.Spec, p.Dst, ns)
	}
	pr, err := m.Prepare(ctx, ns.On(0), p)
	if err != nil {
		_ = e.note(m, err)
		return nil, err
	}
	return pr, nil
}

var _ Prober = (*probe.Prober)(nil)
