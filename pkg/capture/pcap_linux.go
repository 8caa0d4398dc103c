//go:build libpcap

package capture

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcap"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const hasPcap = true

// compile translates a pcap-filter(7) expression for frames of Ethernet, or of IP without a link layer.
func compile(expr string, noLink bool) ([]bpf.RawInstruction, error) {
	link := layers.LinkTypeEthernet
	if noLink {
		link = layers.LinkTypeRaw
	}
	prog, err := pcap.CompileBPFFilter(link, keepAll, expr)
	if err != nil {
		return nil, fmt.Errorf("filter expression %q: %w", expr, err)
	}
	out := make([]bpf.RawInstruction, len(prog))
	for i, in := range prog {
		out[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return out, nil
}

// pcapEngine captures with libpcap. It says no direction of a frame on Ethernet, so a point has two handles, one
// for each.
type pcapEngine struct {
	cfg     Config
	handles []*pcapHandle
	ending  atomic.Int64 // when to stop, in ns since the epoch; 0: not yet
	mu      sync.Mutex   // held by who handles a frame
	wg      sync.WaitGroup
	arm     time.Duration
	round   chan struct{} // closed to end the rounds
}

type pcapHandle struct {
	*pcap.Handle
	point Point
	dir   Direction
	store store
	stats PointStats
	raw   bool
}

// openPcap arms every point. As with the rings all filters are in place before the first frame counts: libpcap
// throws away what came before one was set.
func openPcap(_ context.Context, cfg Config) (engine, error) {
	e := &pcapEngine{cfg: cfg, round: make(chan struct{})}
	begin := time.Now()
	for _, p := range cfg.Points {
		for _, dir := range []Direction{In, Out} {
			h := &pcapHandle{point: p, dir: dir, stats: PointStats{ID: p.ID}}
			if err := h.open(cfg); err != nil {
				e.close()
				return nil, &PointError{ID: p.ID, Ifindex: p.Ifindex, Interface: p.Interface, Op: "open by libpcap", Err: err}
			}
			e.handles = append(e.handles, h)
		}
	}
	e.arm = time.Since(begin)
	return e, nil
}

func (h *pcapHandle) open(cfg Config) error {
	if h.point.Interface == "" {
		return errors.New("libpcap wants the interface's name")
	}
	activate := func() error {
		in, err := pcap.NewInactiveHandle(h.point.Interface)
		if err != nil {
			return err
		}
		defer in.CleanUp()
		if err := errors.Join(in.SetSnapLen(cfg.SnapLen), in.SetPromisc(false), in.SetTimeout(cfg.RetireTimeout), in.SetBufferSize(cfg.RingBytes)); err != nil {
			return err
		}
		h.Handle, err = in.Activate()
		return err
	}
	err := error(nil)
	if h.point.Netns == nil {
		err = activate()
	} else {
		err = h.point.Netns.Do(activate)
	}
	if err != nil {
		return err
	}
	h.raw = h.LinkType() != layers.LinkTypeEthernet
	if h.point.Filter != nil {
		prog := make([]pcap.BPFInstruction, len(h.point.Filter))
		for i, in := range h.point.Filter {
			prog[i] = pcap.BPFInstruction{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
		}
		if err := h.SetBPFInstructionFilter(prog); err != nil {
			return errors.Join(err, unix.EINVAL)
		}
	}
	return h.SetDirection(map[Direction]pcap.Direction{In: pcap.DirectionIn, Out: pcap.DirectionOut}[h.dir])
}

func (e *pcapEngine) start() {
	for _, h := range e.handles {
		e.wg.Go(func() { e.read(h) })
	}
	if e.cfg.OnRound != nil {
		go e.rounds()
	}
}

// rounds calls OnRound as often as the handles hand frames over.
func (e *pcapEngine) rounds() {
	tick := time.NewTicker(2 * e.cfg.RetireTimeout)
	defer tick.Stop()
	for {
		select {
		case <-e.round:
			return
		case <-tick.C:
			e.between(func() { e.cfg.OnRound() })
		}
	}
}

// read takes frames until the capture has ended and nothing of its time is left.
func (e *pcapEngine) read(h *pcapHandle) {
	// A frame is handed over when the timeout is up; only a wait that began after this has seen all.
	slack := 4 * e.cfg.RetireTimeout
	for {
		end := e.ending.Load()
		data, ci, err := h.ReadPacketData()
		switch {
		case err == nil && (end == 0 || ci.Timestamp.UnixNano() <= end):
			e.between(func() { e.take(h, data, ci) })
		case err == nil, errors.Is(err, pcap.NextErrorTimeoutExpired):
			if end != 0 && time.Now().UnixNano() > end+slack.Nanoseconds() {
				return
			}
			runtime.Gosched()
		default:
			h.stats.Err = fmt.Errorf("interface %q went down during the capture: %w", h.point.Interface, err)
			return
		}
	}
}

func (e *pcapEngine) take(h *pcapHandle, data []byte, ci gopacket.CaptureInfo) {
	f := Frame{Point: h.point.ID, Time: ci.Timestamp.UTC(), Dir: h.dir, HWType: unix.ARPHRD_ETHER, Data: data, WireLen: ci.Length}
	if h.raw {
		f.HWType = unix.ARPHRD_NONE
	}
	if f.Truncated() {
		h.stats.Truncated++
	}
	h.stats.Packets++
	if e.cfg.OnFrame != nil {
		e.cfg.OnFrame(&f)
	}
	switch {
	case e.cfg.Stream:
	case h.store.len() >= e.cfg.MaxFrames:
		h.stats.Overflow++
		h.stats.Drops++
	default:
		h.store.add(&f)
	}
}

func (e *pcapEngine) stop() Result {
	e.ending.Store(time.Now().UnixNano())
	e.wg.Wait()
	close(e.round)
	r := Result{Points: e.stats()}
	for _, h := range e.handles {
		r.Frames = h.store.appendTo(r.Frames)
	}
	slices.SortStableFunc(r.Frames, func(a, b Frame) int { return a.Time.Compare(b.Time) })
	e.close()
	return r
}

func (e *pcapEngine) close() {
	for _, h := range e.handles {
		if h.Handle != nil {
			h.Close()
		}
	}
}

// stats sums up both handles of each point.
func (e *pcapEngine) stats() []PointStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []PointStats
	for i := 0; i < len(e.handles); i += 2 {
		in, other := e.handles[i], e.handles[i+1]
		sum := PointStats{
			ID: in.stats.ID, Packets: in.stats.Packets + other.stats.Packets, Overflow: in.stats.Overflow + other.stats.Overflow,
			Truncated: in.stats.Truncated + other.stats.Truncated, Err: errors.Join(in.stats.Err, other.stats.Err),
		}
		sum.Drops = sum.Overflow
		for _, h := range []*pcapHandle{in, other} {
			if st, err := h.Stats(); err == nil {
				sum.Drops += uint64(st.PacketsDropped)
				sum.Packets += uint64(st.PacketsDropped)
			}
		}
		out = append(out, sum)
	}
	return out
}

func (e *pcapEngine) between(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *pcapEngine) span() time.Duration { return e.arm }
