// Package pcapfile reads and writes capture files: pcap (draft-ietf-opsawg-pcap) with microseconds
// or nanoseconds, in either byte order, with the record header of Kuznetzov's patch too, and pcapng
// (draft-ietf-opsawg-pcapng) with any number of sections and interfaces. A Reader knows gzip and zstd
// by their first bytes.
//
// Files come from an incident as they are: still being written, cut short, corrupt. A Reader uses
// everything up to the damage and then names the place; no length in a file is believed before the
// bytes are there. Of a packet it reads no more than which protocol its link header announces.
package pcapfile

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// MaxPacket is the largest captured length in bytes that a record may have: libpcap's
// MAXIMUM_SNAPLEN. More is taken for damage.
const MaxPacket = 262144

// Record is one captured packet.
type Record struct {
	Time      int64  // ns since the epoch; 0 where the format has no time (simple packet blocks)
	Interface int    // index in Interfaces
	OrigLen   int    // bytes on the wire, as the file says; may be less than len(Data) in odd files
	Flags     uint32 // epb_flags of pcapng; bits 0 and 1: 1 inbound, 2 outbound, 0 unknown
	LinkType  LinkType
	Data      []byte // what was captured, valid until the next call of Next
	Comment   string // of the packet (pcapng), the first where there are several
	Local     []byte // an option of the writing program's own, valid as long as Data (pcapng code 34896, for local use)
	Offset    int64  // of the record in the file, of the decompressed bytes if it is compressed
}

// Stats are the counts that a capturing program leaves at the end of a pcapng file.
type Stats struct {
	Start, End int64  // first and last moment of the capture, ns since the epoch; 0: not said
	Received   uint64 // packets that the interface received
	Dropped    uint64 // lost for want of room: by the interface and by the operating system
}

// Interface is one interface of a capture file. A pcap file has one without a name.
type Interface struct {
	Section           int // index of the section of a pcapng file that describes it
	ID                int // its number in that section
	Name, Description string
	LinkType          LinkType
	SnapLen           uint32 // bytes; 0: no limit
	Stats             Stats
	HasStats          bool
	// LostBefore sums what packets say was lost between them and the ones before (epb_dropcount).
	LostBefore uint64

	units  uint64 // ticks of the clock per second; 0: a power of two, shift
	shift  uint   // ticks per second as an exponent of two, valid with units == 0
	offset int64  // seconds to add to times
}

// Drops gives the number of packets that the capture itself lost, as far as the file says.
func (i *Interface) Drops() uint64 { return max(i.Stats.Dropped, i.LostBefore) }

// Damage says where and why reading ended before the end of a file.
type Damage struct {
	File string
	// Offset is that of the record or block that could not be read, in bytes; of the decompressed
	// bytes where Compressed is set.
	Offset     int64
	Compressed bool
	// CutShort: the file ends inside the record, as one does that is still being written.
	CutShort bool
	Err      error
}

// Error names the file, the offset and the reason.
func (d *Damage) Error() string {
	unit := "byte"
	if d.Compressed {
		unit = "decompressed byte"
	}
	return fmt.Sprintf("capture file %q: %s %d: %v", d.File, unit, d.Offset, d.Err)
}

// Unwrap gives the reason.
func (d *Damage) Unwrap() error { return d.Err }

// ErrFormat is what Open wraps where a file is no capture file at all.
var ErrFormat = fmt.Errorf("neither pcap nor pcapng")

// Reader reads the packets of one file. It allocates nothing per packet without a comment.
type Reader struct {
	src        source
	file       io.Closer
	format     format
	interfaces []Interface
	damage     *Damage
	name       string
}

// format is what differs between pcap and pcapng. Its error is io.EOF or *Damage.
type format interface {
	next(r *Reader, rec *Record) error
}

// Open opens a file and reads its header. A file that ends inside its header is no error: it has no
// packets and a Damage.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open capture file: %w", err)
	}
	r, err := NewReader(f, path)
	if err != nil {
		f.Close()
		return nil, err
	}
	r.file = f
	return r, nil
}

// NewReader reads from in, which has the name in messages. Close does not close in.
func NewReader(in io.Reader, name string) (*Reader, error) {
	r := &Reader{name: name}
	if err := r.src.open(in); err != nil {
		return nil, fmt.Errorf("read capture file %q: %w", name, err)
	}
	if err := r.start(); err != nil {
		r.src.close()
		return nil, fmt.Errorf("read capture file %q: %w", name, err)
	}
	return r, nil
}

// start chooses the format by the first four bytes.
func (r *Reader) start() error {
	magic, err := r.src.peek(4)
	if err != nil {
		_ = r.cut(4) // which is kept as the damage that Next finds
		return nil
	}
	if isSection(magic) {
		r.format = &ng{}
		return nil
	}
	p, ok := newPcap(magic)
	if !ok {
		return fmt.Errorf("%w: it starts with %x", ErrFormat, magic[:4])
	}
	r.format = p
	if p.open(r) != nil {
		r.format = nil // the damage is noted
	}
	return nil
}

// Next reads the next packet into rec and sets all its fields. It gives io.EOF at the end of the file
// and where the file is damaged; Damage tells the two apart.
func (r *Reader) Next(rec *Record) error {
	if r.damage != nil || r.format == nil {
		return io.EOF
	}
	if r.format.next(r, rec) != nil {
		return io.EOF
	}
	return nil
}

// Interfaces gives the interfaces that were described so far; their counts are complete after Next
// gave io.EOF.
func (r *Reader) Interfaces() []Interface {
	return append([]Interface(nil), r.interfaces...)
}

// Several reports whether the file's format lets it describe further interfaces at any time.
func (r *Reader) Several() bool { _, ok := r.format.(*ng); return ok }

// Damage says why Next ended before the end of the file, nil if it did not.
func (r *Reader) Damage() *Damage { return r.damage }

// Offset is how many bytes of the file, after decompression, were used so far.
func (r *Reader) Offset() int64 { return r.src.off }

// Close gives buffers and the file back.
func (r *Reader) Close() error {
	r.src.close()
	if r.file != nil {
		return r.file.Close()
	}
	return nil
}

// broken notes damage at the current record.
func (r *Reader) broken(format string, args ...any) error {
	r.damage = &Damage{File: r.name, Offset: r.src.off, Compressed: r.src.compressed(), Err: fmt.Errorf(format, args...)}
	return r.damage
}

// cut notes that fewer than want bytes were left, or why they could not be read. Without any left it
// is the regular end, unless the file has not begun.
func (r *Reader) cut(want int) error {
	have := r.src.buffered()
	if err := r.src.err; err != nil && !errors.Is(err, io.EOF) {
		return r.broken("read: %w", err)
	}
	if have == 0 && r.src.off > 0 {
		return io.EOF
	}
	err := r.broken("cut short: %d of %d bytes are there", have, want)
	r.damage.CutShort = true
	return err
}
