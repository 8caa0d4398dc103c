package flows

import (
	"bufio"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/podtrace/podtrace/pkg/pcapfile"
)

const (
	runLen     = 1 << 16 // sightings that are sorted in memory at once: 4 MiB
	sightBytes = 48      // of a sighting in a temporary file
	mergeBuf   = 1 << 12 // bytes read at once from each sorted run
)

// sorted hands over the sightings of a file that is not in order of time: sorted in runs of bounded
// size, the runs in a temporary file, and merged from there.
func (s *source) sorted(ctx context.Context) error {
	f, err := os.CreateTemp(s.tempDir, "podtrace-sort-*")
	if err != nil {
		return fmt.Errorf("sort capture file %q: %w", s.cfg.Path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // of the system's temporary files
	defer f.Close()
	tuples, lens, err := s.spill(ctx, f)
	if err != nil {
		return fmt.Errorf("sort capture file %q: %w", s.cfg.Path, err)
	}
	return s.unspill(ctx, f, tuples, lens)
}

// spill writes sorted runs and gives all tuples and the number of sightings of each run.
func (s *source) spill(ctx context.Context, f *os.File) (map[uint64]raw, []int, error) {
	tuples := map[uint64]raw{}
	var lens []int
	out := bufio.NewWriterSize(f, 1<<16)
	run := make([]sighting, 0, runLen)
	flush := func() error {
		slices.SortStableFunc(run, func(a, b sighting) int { return cmp.Compare(a.time, b.time) })
		var b [sightBytes]byte
		for i := range run {
			run[i].encode(&b)
			if _, err := out.Write(b[:]); err != nil {
				return err
			}
		}
		lens = append(lens, len(run))
		run = run[:0]
		return ctx.Err()
	}
	var rec pcapfile.Record
	for s.next(&rec) {
		run = run[:len(run)+1]
		x := &run[len(run)-1]
		if !s.parser.parse(&rec, x) {
			run = run[:len(run)-1]
			continue
		}
		s.saw(rec.Time)
		if len(tuples) < defaultFlows { // more are counted together
			tuples[x.tuple] = s.parser.tuple
		}
		if len(run) == runLen {
			if err := flush(); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := flush(); err != nil {
		return nil, nil, err
	}
	return tuples, lens, out.Flush()
}

// unspill merges the runs.
func (s *source) unspill(ctx context.Context, f *os.File, tuples map[uint64]raw, lens []int) error {
	b, err := s.take(ctx)
	if err != nil {
		return err
	}
	for hash, r := range tuples {
		b.tuples = append(b.tuples, named{hash, r})
	}
	slices.SortFunc(b.tuples, func(x, y named) int { return cmp.Compare(x.hash, y.hash) })
	var runs runHeap
	at := int64(0)
	for _, n := range lens {
		size := int64(n) * sightBytes
		r := &sortedRun{in: bufio.NewReaderSize(io.NewSectionReader(f, at, size), mergeBuf), order: len(runs)}
		at += size
		if ok, err := r.next(); err != nil {
			return err
		} else if ok {
			runs = append(runs, r)
		}
	}
	heap.Init(&runs)
	for len(runs) > 0 {
		b.sightings = append(b.sightings, runs[0].head)
		if ok, err := runs[0].next(); err != nil {
			return err
		} else if ok {
			heap.Fix(&runs, 0)
		} else {
			heap.Pop(&runs)
		}
		if len(b.sightings) == batchLen {
			if b, err = s.give(ctx, b); err != nil {
				return err
			}
		}
	}
	_, err = s.give(ctx, b)
	return err
}

// sortedRun is a run that is being read.
type sortedRun struct {
	in    *bufio.Reader
	head  sighting
	order int
}

// next reads the next sighting; false at the end.
func (r *sortedRun) next() (bool, error) {
	var b [sightBytes]byte
	if _, err := io.ReadFull(r.in, b[:]); err == io.EOF {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read sorted packets: %w", err)
	}
	r.head.decode(&b)
	return true, nil
}

// runHeap has the run with the earliest sighting first.
type runHeap []*sortedRun

func (h runHeap) Len() int { return len(h) }
func (h runHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].head.time, h[j].head.time), cmp.Compare(h[i].order, h[j].order)) < 0
}
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for heap.Interface.
func (h *runHeap) Push(x any) { *h = append(*h, x.(*sortedRun)) }

// Pop is for heap.Interface.
func (h *runHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (s *sighting) encode(b *[sightBytes]byte) {
	o := binary.LittleEndian
	o.PutUint64(b[0:], uint64(s.time))
	o.PutUint64(b[8:], s.tuple)
	o.PutUint64(b[16:], s.id)
	o.PutUint32(b[24:], s.seq)
	o.PutUint32(b[28:], s.length)
	o.PutUint32(b[32:], s.vni)
	o.PutUint16(b[36:], s.flags)
	o.PutUint16(b[38:], s.sum)
	b[40] = s.ttl
}

func (s *sighting) decode(b *[sightBytes]byte) {
	o := binary.LittleEndian
	*s = sighting{
		time: int64(o.Uint64(b[0:])), tuple: o.Uint64(b[8:]), id: o.Uint64(b[16:]),
		seq: o.Uint32(b[24:]), length: o.Uint32(b[28:]), vni: o.Uint32(b[32:]),
		flags: o.Uint16(b[36:]), sum: o.Uint16(b[38:]), ttl: b[40],
	}
}
