// Package recorder is the memory and the attention of a flight recorder: it keeps the last seconds of what the
// taps of a path see, within a bound, and notices while frames come that something may be wrong with one: it was
// lost between two hops, was sent again, took too long, or has headers that no packet had there before.
//
// It judges nothing: what it notices is a reason to look at what it kept. It is pure; time is that of the frames,
// and of the caller.
package recorder

import (
	"encoding/binary"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
)

// History keeps the newest frames in a fixed piece of memory, in slabs of which the oldest is used anew.
type History struct {
	slabs [][]byte
	next  int // the slab that is written
}

const slabs = 16

// NewHistory gives a history that takes about so many bytes.
func NewHistory(bytes int) *History {
	h := &History{slabs: make([][]byte, slabs)}
	for i := range h.slabs {
		h.slabs[i] = make([]byte, 0, max(bytes/slabs, 4*recordLen))
	}
	return h
}

// A record is this header, in host byte order, and then the frame's bytes.
const (
	recTime   = 0  // ns since the epoch, i64
	recWire   = 8  // u32
	recLen    = 12 // of the bytes that follow, u32
	recPoint  = 16 // u16
	recHWType = 18 // u16
	recGSO    = 20 // segment size, u16
	recFlags  = 22 // u8
	recStamp  = 23 // u8
	recordLen = 24
)

// Bits of recFlags.
const (
	flagOut = 1 << iota
	flagOther
	flagNotReady
	flagValid
	flagGSO
)

// Add copies a frame. One that is larger than a slab is cut.
func (h *History) Add(f *capture.Frame) {
	slab := h.slabs[h.next]
	data := f.Data[:min(len(f.Data), cap(slab)-recordLen)]
	if cap(slab)-len(slab) < recordLen+len(data) {
		h.next = (h.next + 1) % len(h.slabs)
		slab = h.slabs[h.next][:0]
	}
	at := len(slab)
	slab = slab[:at+recordLen]
	rec, ne := slab[at:], binary.NativeEndian
	ne.PutUint64(rec[recTime:], uint64(f.Time.UnixNano()))
	ne.PutUint32(rec[recWire:], uint32(f.WireLen))
	ne.PutUint32(rec[recLen:], uint32(len(data)))
	ne.PutUint16(rec[recPoint:], uint16(f.Point))
	ne.PutUint16(rec[recHWType:], f.HWType)
	ne.PutUint16(rec[recGSO:], f.GSOSize)
	rec[recFlags], rec[recStamp] = flagsOf(f), byte(f.Stamp)
	h.slabs[h.next] = append(slab, data...)
}

func flagsOf(f *capture.Frame) (b byte) {
	if f.Dir == capture.Out {
		b |= flagOut
	}
	if f.OtherHost {
		b |= flagOther
	}
	if f.CsumNotReady {
		b |= flagNotReady
	}
	if f.CsumValid {
		b |= flagValid
	}
	if f.GSO {
		b |= flagGSO
	}
	return b
}

// Frames gives copies of the frames between two times, inclusive, at most so many: the newest. Those of one point
// are in order.
func (h *History) Frames(from, to time.Time, most int) []capture.Frame {
	count, bytes := 0, 0
	h.each(from, to, func(_, data []byte) { count, bytes = count+1, bytes+len(data) })
	skip := max(count-most, 0)
	out := make([]capture.Frame, 0, count-skip)
	arena := make([]byte, 0, bytes)
	h.each(from, to, func(rec, data []byte) {
		if skip > 0 {
			skip--
			return
		}
		at := len(arena)
		arena = append(arena, data...)
		out = append(out, fromRecord(rec, arena[at:len(arena):len(arena)]))
	})
	return out
}

// Oldest is the time of the oldest frame that is still there, zero if there is none.
func (h *History) Oldest() (t time.Time) {
	h.each(time.Unix(0, 0), time.Unix(1<<33, 0), func(rec, _ []byte) {
		if at := timeOf(rec); t.IsZero() || at.Before(t) {
			t = at
		}
	})
	return t
}

// each goes over the frames between two times, in the order in which they came.
func (h *History) each(from, to time.Time, f func(rec, data []byte)) {
	lo, hi := from.UnixNano(), to.UnixNano()
	for i := range h.slabs {
		slab := h.slabs[(h.next+1+i)%len(h.slabs)]
		for len(slab) > 0 {
			n := recordLen + int(binary.NativeEndian.Uint32(slab[recLen:]))
			if t := int64(binary.NativeEndian.Uint64(slab[recTime:])); t >= lo && t <= hi {
				f(slab[:recordLen], slab[recordLen:n])
			}
			slab = slab[n:]
		}
	}
}

func timeOf(rec []byte) time.Time {
	return time.Unix(0, int64(binary.NativeEndian.Uint64(rec[recTime:]))).UTC()
}

func fromRecord(rec, data []byte) capture.Frame {
	ne, flags := binary.NativeEndian, rec[recFlags]
	f := capture.Frame{
		Point: int(ne.Uint16(rec[recPoint:])), Time: timeOf(rec), HWType: ne.Uint16(rec[recHWType:]), Data: data,
		WireLen: int(ne.Uint32(rec[recWire:])), GSOSize: ne.Uint16(rec[recGSO:]), Stamp: capture.Stamp(rec[recStamp]),
		OtherHost: flags&flagOther != 0, CsumNotReady: flags&flagNotReady != 0, CsumValid: flags&flagValid != 0, GSO: flags&flagGSO != 0,
	}
	if flags&flagOut != 0 {
		f.Dir = capture.Out
	}
	return f
}
