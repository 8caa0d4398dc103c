package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

var _ node.Node = (*Client)(nil)

// Machine is the far one.
func (c *Client) Machine() node.Machine { return c.machine }

// Open opens namespaces there.
func (c *Client) Open(ctx context.Context, wants []resolve.Want) (ids []netns.ID, err error) {
	return ids, c.call(ctx, opOpen, openArgs{wants}, &ids, nil)
}

// Read takes a snapshot there.
func (c *Client) Read(ctx context.Context, conns netfilter.ReadOptions) (*tables.Snapshot, error) {
	s := new(tables.Snapshot)
	if err := c.call(ctx, opRead, conns, s, nil); err != nil {
		return nil, err
	}
	for _, n := range s.Netns {
		if n == nil {
			return nil, errors.New("the agent sent a namespace without tables")
		}
	}
	return s, nil
}

// Ask puts lookups to the kernel there.
func (c *Client) Ask(ctx context.Context, ns netns.ID, qs []node.Question) (as []node.Answer, err error) {
	return as, c.call(ctx, opAsk, askArgs{ns, qs}, &as, nil)
}

// Counters reads the counters there.
func (c *Client) Counters(ctx context.Context) ([]*counters.Snapshot, error) {
	var out []*counters.Snapshot
	if err := c.call(ctx, opCounters, nil, &out, nil); err != nil {
		return nil, err
	}
	for _, s := range out {
		if s == nil {
			return nil, errors.New("the agent sent a namespace without counters")
		}
	}
	return out, nil
}

// Rules reads the rules' counters there.
func (c *Client) Rules(ctx context.Context, ns netns.ID) (out []netfilter.RuleCounter, err error) {
	return out, c.call(ctx, opRules, netnsArgs{ns}, &out, nil)
}

// Capture arms taps there.
func (c *Client) Capture(ctx context.Context, cfg node.CaptureConfig) (node.Capture, error) {
	var a armed
	if err := c.call(ctx, opCapture, cfg, &a, nil); err != nil {
		return nil, err
	}
	return &remoteCapture{c, a, len(cfg.Taps)}, nil
}

type remoteCapture struct {
	c    *Client
	made armed
	taps int
}

func (r *remoteCapture) ArmDuration() time.Duration { return r.made.Arm }

func (r *remoteCapture) Idle(ctx context.Context) (time.Duration, error) {
	var out idle
	err := r.c.call(ctx, opCaptureIdle, handle{r.made.Handle}, &out, nil)
	return out.Idle, err
}

// Stop may take as long as the frames need on a slow stream.
func (r *remoteCapture) Stop(ctx context.Context) (capture.Result, error) {
	const slow = 5 * time.Minute
	var out capture.Result
	most := r.taps * capture.DefaultMaxFrames
	take := func(b []byte) error {
		fs, err := decodeFrames(b, most-len(out.Frames))
		out.Frames = append(out.Frames, fs...)
		return err
	}
	var res captured
	if err := r.c.callFor(ctx, slow, opCaptureStop, handle{r.made.Handle}, &res, take); err != nil {
		return capture.Result{}, err
	}
	out.Cut = res.Cut
	for _, p := range res.Points {
		out.Points = append(out.Points, p.stats())
	}
	return out, nil
}

// WatchDrops watches the kernel there.
func (c *Client) WatchDrops(ctx context.Context, cfg kdrop.Config) (node.Drops, error) {
	var h handle
	if err := c.call(ctx, opDrops, cfg, &h, nil); err != nil {
		return nil, err
	}
	return &remoteDrops{c, h}, nil
}

type remoteDrops struct {
	c *Client
	h handle
}

func (r *remoteDrops) Take(ctx context.Context) ([]kdrop.Drop, int, error) {
	return r.ask(ctx, opDropsTake)
}

func (r *remoteDrops) Stop(ctx context.Context) ([]kdrop.Drop, int, error) {
	return r.ask(ctx, opDropsStop)
}

func (r *remoteDrops) ask(ctx context.Context, op string) ([]kdrop.Drop, int, error) {
	var out dropped
	if err := r.c.call(ctx, op, r.h, &out, nil); err != nil {
		return nil, 0, err
	}
	if out.Err != "" {
		return out.Drops, out.Lost, &RemoteError{Msg: out.Err}
	}
	return out.Drops, out.Lost, nil
}

func (r *remoteDrops) Close() error {
	return r.c.call(context.Background(), opDropsClose, r.h, &none{}, nil)
}

// Prepare opens a probe's sockets there.
func (c *Client) Prepare(ctx context.Context, ns netns.ID, p node.Probe) (node.Prober, error) {
	var out prepared
	if err := c.call(ctx, opPrepare, prepareArgs{ns, p}, &out, nil); err != nil {
		return nil, err
	}
	return &remoteProber{c, out}, nil
}

type remoteProber struct {
	c    *Client
	made prepared
}

func (r *remoteProber) Flow() probe.Flow { return probe.Flow(r.made.Flow) }

func (r *remoteProber) Run(ctx context.Context, count int, interval, timeout time.Duration) probe.Result {
	var out probe.Result
	most := callTimeout + time.Duration(count)*interval + timeout
	args := runArgs{Handle: r.made.Handle, Count: count, Interval: interval, Timeout: timeout}
	if err := r.c.callFor(ctx, most, opRun, args, &out, nil); err != nil {
		return probe.Result{Errors: []string{fmt.Sprintf("send: %v", err)}}
	}
	return out
}

func (r *remoteProber) Close() error {
	return r.c.call(context.Background(), opProbeClose, handle{r.made.Handle}, &none{}, nil)
}
