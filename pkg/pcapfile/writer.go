package pcapfile

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Writer writes a pcapng file of one section, little-endian, with times in nanoseconds. It keeps the
// first error; every later call gives it again.
type Writer struct {
	out        *bufio.Writer
	block      []byte
	interfaces int
	err        error
}

// NewWriter writes the section header. application goes into the header as the program that writes.
func NewWriter(out io.Writer, application string) (*Writer, error) {
	const optApplication = 4
	w := &Writer{out: bufio.NewWriterSize(out, 1<<16)}
	w.begin(blockSection)
	w.u32(byteOrderMagic)
	w.u32(1) // version 1.0
	w.u64(math.MaxUint64)
	w.option(optApplication, []byte(application))
	w.end()
	return w, w.err
}

// AddInterface describes the next interface and gives its index. Name, Description, LinkType and
// SnapLen are used.
func (w *Writer) AddInterface(i Interface) (int, error) {
	if i.LinkType > math.MaxUint16 {
		return 0, fmt.Errorf("write capture file: link type %d has no 16 bits", i.LinkType)
	}
	w.begin(blockInterface)
	w.u32(uint32(i.LinkType))
	w.u32(i.SnapLen)
	w.option(optName, []byte(i.Name))
	w.option(optDesc, []byte(i.Description))
	w.option(optResolution, []byte{9})
	w.end()
	w.interfaces++
	return w.interfaces - 1, w.err
}

// Write writes a packet. Time, Interface, OrigLen, Flags, Data, Comment and Local are used; an OrigLen below
// the length of Data counts as that.
func (w *Writer) Write(rec *Record) error {
	switch {
	case rec.Interface < 0 || rec.Interface >= w.interfaces:
		return fmt.Errorf("write capture file: there is no interface %d", rec.Interface)
	case len(rec.Data) > MaxPacket:
		return fmt.Errorf("write capture file: packet of %d bytes, at most %d fit", len(rec.Data), MaxPacket)
	}
	w.begin(blockEnhanced)
	w.u32(uint32(rec.Interface))
	w.time(rec.Time)
	w.u32(uint32(len(rec.Data)))
	w.u32(uint32(max(rec.OrigLen, len(rec.Data))))
	w.block = append(w.block, rec.Data...)
	w.pad()
	if rec.Flags != 0 {
		w.option(optFlags, binary.LittleEndian.AppendUint32(nil, rec.Flags))
	}
	w.option(optComment, []byte(rec.Comment))
	w.option(optLocal, rec.Local)
	w.end()
	return w.err
}

// WriteStats writes the counts of an interface, after its packets.
func (w *Writer) WriteStats(iface int, s Stats) error {
	if iface < 0 || iface >= w.interfaces {
		return fmt.Errorf("write capture file: there is no interface %d", iface)
	}
	w.begin(blockStats)
	w.u32(uint32(iface))
	w.time(s.End)
	if s.Start != 0 {
		w.timeOption(optStart, s.Start)
	}
	if s.End != 0 {
		w.timeOption(optStop, s.End)
	}
	w.option(optReceived, binary.LittleEndian.AppendUint64(nil, s.Received))
	w.option(optOSDrop, binary.LittleEndian.AppendUint64(nil, s.Dropped))
	w.end()
	return w.err
}

// Flush hands everything to the underlying writer.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.out.Flush()
	}
	return w.err
}

func (w *Writer) u32(v uint32) { w.block = binary.LittleEndian.AppendUint32(w.block, v) }
func (w *Writer) u64(v uint64) { w.block = binary.LittleEndian.AppendUint64(w.block, v) }

// time writes a timestamp: the upper half comes first in either byte order.
func (w *Writer) time(ns int64) {
	w.u32(uint32(uint64(ns) >> 32))
	w.u32(uint32(ns))
}

func (w *Writer) timeOption(code uint16, ns int64) {
	w.u32(uint32(code) | 8<<16)
	w.time(ns)
}

func (w *Writer) begin(kind uint32) {
	w.block = w.block[:0]
	w.u32(kind)
	w.u32(0) // the length, set by end
}

func (w *Writer) pad() {
	for len(w.block)%4 != 0 {
		w.block = append(w.block, 0)
	}
}

// option writes an option unless it is empty, cut to the 16 bits of its length.
func (w *Writer) option(code uint16, v []byte) {
	if len(v) == 0 {
		return
	}
	v = v[:min(len(v), math.MaxUint16-3)]
	w.u32(uint32(code) | uint32(len(v))<<16)
	w.block = append(w.block, v...)
	w.pad()
}

// end closes the block and writes it. Options end with the block (section 3.5 allows that).
func (w *Writer) end() {
	total := uint32(len(w.block) + 4)
	w.u32(total)
	binary.LittleEndian.PutUint32(w.block[4:], total)
	if w.err == nil {
		_, w.err = w.out.Write(w.block)
	}
}
