package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Session is a running capture. Its methods may be called from any goroutine.
type Session struct {
	cfg   Config
	taps  []*tap
	arm   time.Duration
	other engine // does all the work, if it is set

	epoll, event int           // the reader waits on epoll; event wakes it to finish
	done         chan struct{} // closed when the reader has flushed and ended
	start        sync.Once
	stop         sync.Once
	detach       func() bool // takes the context's callback away
	mu           sync.Mutex  // guards event against use after close
	closed       bool
	result       Result

	events  []unix.EpollEvent
	reading sync.Mutex // held while the rings are read: what Stats shows is between two rounds

	kept int       // frames of all taps
	cut  time.Time // see Config.MaxTotal
	span time.Duration
}

// tap is one armed point. Only the reader touches it between Start and Stop.
type tap struct {
	Point
	ring  ring
	store store
	frame Frame  // the one that is being looked at
	taken uint64 // frames taken out of the ring
	stats PointStats
}

// Open arms every point: when it returns, each frame that passes a point from then on is captured.
// All sockets have filter and ring first; then all are bound in one go. The error is a *PointError
// or several joined, and nothing stays open. The end of ctx ends the reading, not the Session: Stop
// has to be called in any case.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	begin := time.Now()
	if cfg.Engine == EnginePcap {
		return openOther(ctx, cfg.withDefaults(), openPcap)
	}
	s := &Session{cfg: cfg.withDefaults(), epoll: -1, event: -1, done: make(chan struct{})}
	for _, p := range cfg.Points {
		s.taps = append(s.taps, &tap{Point: p, ring: ring{fd: -1}, stats: PointStats{ID: p.ID}})
	}
	for _, step := range []func() error{s.openSockets, s.makeRings, s.makePoll, s.bind} {
		if err := step(); err != nil {
			s.release()
			return nil, err
		}
	}
	s.arm = time.Since(begin)
	s.detach = context.AfterFunc(ctx, s.wake)
	return s, nil
}

// openOther is Open by another engine.
func openOther(ctx context.Context, cfg Config, open func(context.Context, Config) (engine, error)) (*Session, error) {
	begin := time.Now()
	e, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Session{cfg: cfg, other: e, arm: time.Since(begin), epoll: -1, event: -1}, nil
}

// ArmDuration is how long Open took until the last tap was armed.
func (s *Session) ArmDuration() time.Duration { return s.arm }

// BindSpan is the time from the first tap's being armed to the last's.
func (s *Session) BindSpan() time.Duration {
	if s.other != nil {
		return s.other.span()
	}
	return s.span
}

// Stats gives the counts of all points until now, in the order of Config.Points. Frames that are still in the rings
// are among the packets, and no drops.
func (s *Session) Stats() []PointStats {
	if s.other != nil {
		return s.other.stats()
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	var out []PointStats
	for _, t := range s.taps {
		if t.ring.fd >= 0 {
			t.readStats()
		}
		out = append(out, t.stats)
	}
	return out
}

// Start begins to read. Frames that arrived since Open are in the rings and are not lost.
func (s *Session) Start() {
	s.start.Do(func() {
		if s.other != nil {
			s.other.start()
			return
		}
		go s.read()
	})
}

// Stop ends the capture: from its call on no frame is taken, what the kernel still holds is read,
// and everything is freed. It returns the whole capture; later calls return the same.
func (s *Session) Stop() Result {
	s.stop.Do(func() {
		if s.other != nil {
			s.Start()
			s.result = s.other.stop()
			return
		}
		s.detach()
		s.Start() // a capture that was never started has frames in its rings
		s.wake()
		<-s.done
		s.release()
		s.result = s.collect()
	})
	return s.result
}

func (s *Session) openSockets() error {
	byNetns := map[*netns.Handle][]*tap{}
	var order []*netns.Handle
	for _, t := range s.taps {
		if _, ok := byNetns[t.Netns]; !ok {
			order = append(order, t.Netns)
		}
		byNetns[t.Netns] = append(byNetns[t.Netns], t)
		if r, ok := s.cfg.Reserve.take(t.Netns, s.cfg); ok {
			t.ring = r
		}
	}
	s.cfg.Reserve.drop()
	for _, h := range order {
		if err := openIn(h, byNetns[h]); err != nil {
			return err
		}
	}
	return nil
}

// openIn opens the sockets of taps that share a namespace: one entry for all of them.
func openIn(h *netns.Handle, taps []*tap) error {
	open := func() error {
		for _, t := range taps {
			if t.ring.fd < 0 {
				fd, err := openSocket()
				if err != nil {
					return t.fail("open packet socket", err)
				}
				t.ring.fd = fd
			}
			if err := t.check(); err != nil {
				return err
			}
		}
		return nil
	}
	if h == nil {
		return open()
	}
	err := h.Do(open)
	if pe := (*PointError)(nil); err != nil && !errors.As(err, &pe) {
		return taps[0].fail("enter netns", err)
	}
	return err
}

// check compares the interface's name with the expected one, by the socket's own namespace.
func (t *tap) check() error {
	if t.Ifindex <= 0 { // bind would take 0 as "all interfaces"
		return t.fail("look up interface", unix.ENODEV)
	}
	ifr, err := unix.NewIfreq("") // the kernel fills in the name
	if err != nil {
		return t.fail("look up interface", err)
	}
	ifr.SetUint32(uint32(t.Ifindex))
	if err := unix.IoctlIfreq(t.ring.fd, unix.SIOCGIFNAME, ifr); err != nil {
		return t.fail("look up interface", err)
	}
	if t.Interface != "" && ifr.Name() != t.Interface {
		return t.fail("look up interface", fmt.Errorf("the index belongs to %q by now: %w", ifr.Name(), unix.ENODEV))
	}
	return nil
}

// makeRings runs in parallel because the kernel waits for an RCU grace period in each.
func (s *Session) makeRings() error {
	errs := make([]error, len(s.taps))
	var wg sync.WaitGroup
	for i, t := range s.taps {
		wg.Go(func() {
			filter := snapped(t.Filter, s.cfg.SnapLen)
			if t.ring.mem != nil { // of the reserve
				if err := t.ring.attach(filter); err != nil {
					errs[i] = t.fail("attach filter", err)
				}
				return
			}
			if op, err := t.ring.setup(filter, s.cfg.SnapLen, s.cfg.RingBytes, s.cfg.RetireTimeout); err != nil {
				errs[i] = t.fail(op, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Session) makePoll() (err error) {
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	if s.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	if err := s.watch(s.event, wakeEvent); err != nil {
		return err
	}
	for i, t := range s.taps {
		if err := s.watch(t.ring.fd, int32(i)); err != nil {
			return err
		}
	}
	return nil
}

// wakeEvent marks the eventfd among the taps' positions.
const wakeEvent = -1

func (s *Session) watch(fd int, tag int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLERR, Fd: tag}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

// bind arms all taps; it does nothing else, so that the first and the last are armed at almost the
// same time.
func (s *Session) bind() error {
	var first time.Time
	for i, t := range s.taps {
		if err := t.ring.bind(t.Ifindex); err != nil {
			return t.fail("bind", err)
		}
		if i == 0 {
			first = time.Now()
		}
	}
	s.span = time.Since(first)
	for _, t := range s.taps {
		if err := t.ring.pendingError(); err != nil {
			t.stats.Err = fmt.Errorf("interface %q is down: %w", t.Interface, err)
		}
	}
	return nil
}

// fail names the point, and the capability where one is missing.
func (t *tap) fail(op string, err error) error {
	if pe := (*netns.PermissionError)(nil); errors.Is(err, fs.ErrPermission) && !errors.As(err, &pe) {
		err = &netns.PermissionError{Op: op, Capability: "CAP_NET_RAW", Err: err}
		op = "arm"
	}
	return &PointError{ID: t.ID, Ifindex: t.Ifindex, Interface: t.Interface, Op: op, Err: err}
}

// wake tells the reader to finish.
func (s *Session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		_, _ = unix.Write(s.event, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// read is the reader: it alone touches the taps until done is closed.
func (s *Session) read() {
	defer close(s.done)
	s.events = make([]unix.EpollEvent, len(s.taps)+1)
	wait := -1
	for s.step(wait) {
		// Rings have room for much more than comes in this time, and each waking costs as much as
		// reading a hundred frames: under load it is this that keeps the CPU for the traffic.
		time.Sleep(pace)
		wait = -1
		if s.cfg.OnRound != nil {
			s.reading.Lock()
			if d := s.cfg.OnRound(); d > 0 {
				wait = max(int(d.Milliseconds()), 1)
			}
			s.reading.Unlock()
		}
	}
	s.flush()
}

// pace is the shortest time between two rounds of reading.
const pace = 4 * time.Millisecond

// step waits for frames (milliseconds; -1 without end) and takes them. It reports false when the
// capture is to end.
func (s *Session) step(timeout int) bool {
	n, err := unix.EpollWait(s.epoll, s.events, timeout)
	if err != nil {
		return errors.Is(err, unix.EINTR)
	}
	more := true
	s.reading.Lock()
	defer s.reading.Unlock()
	for _, ev := range s.events[:n] {
		if ev.Fd == wakeEvent {
			more = false
			continue
		}
		t := s.taps[ev.Fd]
		if ev.Events&unix.EPOLLERR != 0 {
			t.noteError()
		}
		s.take(t)
	}
	return more
}

func (t *tap) noteError() {
	if err := t.ring.pendingError(); err != nil && t.stats.Err == nil {
		t.stats.Err = fmt.Errorf("interface %q went down during the capture: %w", t.Interface, err)
	}
}

// take reads the frames that the kernel has handed over.
func (s *Session) take(t *tap) {
	t.ring.drain(func(hdr []byte) {
		t.taken++
		if !s.cfg.Stream && !s.admits(t, hdr) {
			return
		}
		t.ring.frame(hdr, s.cfg.SnapLen, &t.frame)
		t.frame.Point = t.ID
		if t.frame.Truncated() {
			t.stats.Truncated++
		}
		if s.cfg.OnFrame != nil {
			s.cfg.OnFrame(&t.frame)
		}
		if !s.cfg.Stream {
			s.keep(t)
		}
	})
}

// admits reports whether one more frame of t is to be kept.
func (s *Session) admits(t *tap, hdr []byte) bool {
	if !s.cut.IsZero() && timeOf(hdr).After(s.cut) {
		t.stats.After++
		return false
	}
	if t.store.len() >= s.cfg.MaxFrames {
		t.stats.Overflow++
		return false
	}
	return true
}

// keep copies the frame that t looks at. The one that fills the last place sets the moment at which the capture
// ends for all: what other taps saw before it is still in their rings.
func (s *Session) keep(t *tap) {
	t.store.add(&t.frame)
	s.kept++
	if s.cfg.MaxTotal > 0 && s.kept >= s.cfg.MaxTotal && s.cut.IsZero() {
		s.cut = t.frame.Time
	}
}

// flush ends the taking of frames and reads what the kernel still holds. With a filter that rejects
// everything the kernel's count stands still, and says exactly how many frames are to come: no more
// than one retire timeout is waited, and no less than needed.
func (s *Session) flush() {
	s.reading.Lock()
	defer s.reading.Unlock()
	for _, t := range s.taps {
		_ = t.ring.attach(rejectAll) // fails for lack of memory alone; the deadline ends the wait then
	}
	deadline := time.Now().Add(4*s.cfg.RetireTimeout + 50*time.Millisecond)
	for {
		pending := false
		for _, t := range s.taps {
			s.take(t)
			t.readStats()
			pending = pending || t.missing() > 0
		}
		if !pending || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond) // epoll would return at once: the eventfd stays readable
	}
	for _, t := range s.taps {
		t.noteError()
		t.stats.Flapped = errors.Is(t.stats.Err, unix.ENETDOWN) && t.ring.up(t.Interface, t.Ifindex)
		t.stats.Drops += t.stats.Overflow + t.missing()
	}
}

// readStats adds the kernel's counters, which start from 0 again each time that they are read.
func (t *tap) readStats() {
	st, err := unix.GetsockoptTpacketStatsV3(t.ring.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		t.stats.Err = errors.Join(t.stats.Err, fmt.Errorf("read packet statistics: %w", err))
		return
	}
	t.stats.Packets += uint64(st.Packets)
	t.stats.Drops += uint64(st.Drops)
	t.stats.FreezeQueue += uint64(st.Freeze_q_cnt)
}

// missing is how many frames are in the ring and not taken yet.
func (t *tap) missing() uint64 {
	return t.stats.Packets - min(t.stats.Packets, t.stats.Drops+t.taken)
}

// collect puts the frames of all taps in order of time.
func (s *Session) collect() Result {
	r := Result{Cut: s.cut, Frames: make([]Frame, 0, s.kept)}
	for _, t := range s.taps {
		r.Frames = t.store.appendTo(r.Frames)
		r.Points = append(r.Points, t.stats)
	}
	if !s.cut.IsZero() { // taps that were read before the moment was known
		r.Frames = slices.DeleteFunc(r.Frames, func(f Frame) bool { return f.Time.After(s.cut) })
	}
	slices.SortStableFunc(r.Frames, func(a, b Frame) int { return a.Time.Compare(b.Time) })
	return r
}

// release frees rings, sockets and descriptors; in parallel for the same reason as makeRings.
func (s *Session) release() {
	var wg sync.WaitGroup
	s.reading.Lock()
	for _, t := range s.taps {
		if t.ring.fd >= 0 {
			wg.Go(t.ring.close)
		}
	}
	wg.Wait()
	for _, t := range s.taps {
		t.ring.fd = -1
	}
	s.reading.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, fd := range []int{s.event, s.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// rejectAll is the filter that passes nothing.
var rejectAll = []bpf.RawInstruction{{Op: opRet}}
