package kdrop

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

const defaultBuffer = 1 << 20

// Watcher collects drops from Open to Stop. The kernel keeps them in a ring, nothing runs meanwhile.
// Its methods are not for concurrent use.
type Watcher struct {
	lost    uint64 // that the last Take counted
	reasons *reasons
	coll    *ebpf.Collection
	link    link.Link
	ring    *ringbuf.Reader
}

// Open starts to watch; drops from its return on are seen. Where the kernel cannot (no BTF, no reasons,
// no permission, locked down) the error is an *UnsupportedError.
func Open(cfg Config) (*Watcher, error) {
	t, err := newTable(cfg)
	if err != nil {
		return nil, err
	}
	if bits.UintSize < 64 {
		return nil, &UnsupportedError{Why: "a 32-bit kernel keeps packets in another form"}
	}
	types, err := kernelTypes()
	if err != nil {
		return nil, err
	}
	r, err := readReasons(types)
	if err != nil {
		return nil, err
	}
	coll, err := load(cfg, t, r, types)
	if err != nil {
		return nil, refused("load the BPF program", err)
	}
	w := &Watcher{reasons: r, coll: coll}
	if err := w.attach(t); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func load(cfg Config, t *table, r *reasons, types *btf.Spec) (*ebpf.Collection, error) {
	spec, err := loadKfree()
	if err != nil {
		return nil, err
	}
	spec.Maps[kfreeMapFlows].MaxEntries = uint32(max(len(t.keys), 1))
	spec.Maps[kfreeMapEvents].MaxEntries = ringSize(cfg.Buffer)
	var rxSk uint32
	if r.rxSk {
		rxSk = 1
	}
	for name, v := range map[string]uint32{
		kfreeVarWild: t.wild, kfreeVarConsumed: r.consumed, kfreeVarTapped: r.tapped, kfreeVarHasRxSk: rxSk,
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, err
		}
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{KernelTypes: types},
	})
}

// ringSize gives a power of two that is a multiple of the page size, as the kernel wants it.
func ringSize(n int) uint32 {
	if n <= 0 {
		n = defaultBuffer
	}
	n = min(max(n, os.Getpagesize()), 1<<30)
	return 1 << bits.Len(uint(n-1))
}

// attach opens the reader and fills the map before the tracepoint can fire.
func (w *Watcher) attach(t *table) (err error) {
	for k, v := range t.keys {
		if err := w.coll.Maps[kfreeMapFlows].Put(k, v); err != nil {
			return fmt.Errorf("watch kernel drops: add flow: %w", err)
		}
	}
	if w.ring, err = ringbuf.NewReader(w.coll.Maps[kfreeMapEvents]); err != nil {
		return fmt.Errorf("watch kernel drops: open ring: %w", err)
	}
	w.link, err = link.AttachRawTracepoint(link.RawTracepointOptions{
		Name: "kfree_skb", Program: w.coll.Programs[kfreeProgKfreeSkb],
	})
	if err != nil {
		return refused("attach to tracepoint skb:kfree_skb", err)
	}
	return nil
}

// refused finds out why the kernel did not take the program.
func refused(what string, err error) error {
	if b, readErr := os.ReadFile("/sys/kernel/security/lockdown"); readErr == nil &&
		strings.Contains(string(b), "[confidentiality]") {
		return &UnsupportedError{Why: "the kernel is locked down (confidentiality): no program may read its memory", Err: err}
	}
	if errors.Is(err, unix.EPERM) { // EACCES is the verifier's no
		return &UnsupportedError{
			Why:        "no permission to " + what + " (needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, outside of any user namespace)",
			Capability: "CAP_BPF and CAP_PERFMON", Err: short(err),
		}
	}
	return &UnsupportedError{Why: "this kernel refuses to " + what, Err: short(err)}
}

// short cuts the verifier's log off: an error is one line.
func short(err error) error {
	if ve, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		return ve.Cause
	}
	return err
}

// Stop ends the watch and gives what was dropped since Open, oldest first, and how many drops found no room in
// the ring. Where the result is incomplete for another reason, the error says so and the drops stand.
func (w *Watcher) Stop() (drops []Drop, lost int, err error) {
	if w.link == nil {
		return nil, 0, errors.New("stop watching kernel drops: was stopped before")
	}
	err = w.link.Close()
	w.link = nil
	if err != nil {
		return nil, 0, fmt.Errorf("detach from tracepoint: %w", err)
	}
	return w.Take()
}

// Take gives what was dropped since Open or the last Take, as Stop does, and goes on.
func (w *Watcher) Take() (drops []Drop, lost int, err error) {
	events, err := w.drain()
	if err != nil {
		return nil, 0, fmt.Errorf("read kernel drops: %w", err)
	}
	var n uint64
	if err := w.coll.Variables[kfreeVarLost].Get(&n); err != nil {
		return nil, 0, fmt.Errorf("read lost kernel drops: %w", err)
	}
	boot, err := bootTime()
	if err != nil {
		return nil, 0, err
	}
	for _, e := range events {
		drops = append(drops, e.drop(w.reasons, boot))
	}
	err = locate(drops, events)
	slices.SortStableFunc(drops, func(a, b Drop) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })
	lost, w.lost = int(n-w.lost), n
	return drops, lost, err
}

func (w *Watcher) drain() ([]*kfreeEvent, error) {
	if err := w.ring.Flush(); err != nil {
		return nil, err
	}
	var events []*kfreeEvent
	for {
		rec, err := w.ring.Read()
		if errors.Is(err, ringbuf.ErrFlushed) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		e, err := parseEvent(rec.RawSample)
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
}

// bootTime gives the wall clock's time at which CLOCK_BOOTTIME was 0: unlike CLOCK_MONOTONIC that clock goes
// on while the machine sleeps.
func bootTime() (time.Time, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Time{}, os.NewSyscallError("clock_gettime", err)
	}
	return time.Now().Round(0).Add(-time.Duration(ts.Nano())), nil // Round: without the monotonic reading
}

// locate names the functions of the events. Without a right to see addresses they stay unknown.
func locate(drops []Drop, events []*kfreeEvent) error {
	var addrs []uint64
	for _, e := range events {
		addrs = append(addrs, e.Location)
	}
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	if len(addrs) == 0 {
		return nil
	}
	f, err := os.Open("/proc/kallsyms")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("name kernel functions: %w", err)
	}
	defer f.Close()
	names, err := symbols(f, addrs)
	for i, e := range events {
		drops[i].Location = names[e.Location]
	}
	if err != nil {
		return fmt.Errorf("name kernel functions: %w", err)
	}
	return nil
}

// Close ends the watch if it is on, and releases everything.
func (w *Watcher) Close() error {
	var errs []error
	if w.link != nil {
		errs = append(errs, w.link.Close())
		w.link = nil
	}
	if w.ring != nil {
		errs = append(errs, w.ring.Close())
		w.ring = nil
	}
	w.coll.Close()
	return errors.Join(errs...)
}
