package pcapfile

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// bufSize is how much is read at once, in bytes: large enough that system calls do not count, and
// reused, so that the bytes stay in the cache between the kernel's copy and the decoder.
const bufSize = 1 << 20

// headSize is how much is read first: many files are opened for a look at their beginning.
const headSize = 1 << 16

// maxWindow bounds what a zstd frame may ask for, in bytes: the level that zstd --ultra -22 uses.
const maxWindow = 128 << 20

// source is a buffer over the bytes of a file, decompressed.
type source struct {
	in     io.Reader
	buf    []byte
	lo, hi int   // buf[lo:hi] is read and not used
	off    int64 // offset of buf[lo] in the decompressed file
	err    error // what ended the input
	zstd   *zstd.Decoder
	gzip   *gzip.Reader
}

// open finds out by magic whether in is compressed.
func (s *source) open(in io.Reader) error {
	s.in = in
	s.buf = make([]byte, headSize)
	magic, _ := s.peek(4)
	magic = magic[:min(len(magic), 4)]
	var err error
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		rest := s.rewind()
		if s.gzip, err = gzip.NewReader(rest); err == nil {
			s.in = s.gzip
		}
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		rest := s.rewind()
		s.zstd, err = zstd.NewReader(rest, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow))
		if err == nil {
			s.in = s.zstd
		}
	}
	return err
}

// rewind gives what was read, and the rest of the input behind it, as a reader.
func (s *source) rewind() io.Reader {
	head := bytes.Clone(s.buf[s.lo:s.hi])
	s.lo, s.hi = 0, 0
	if s.err != nil {
		s.err = nil
		return bytes.NewReader(head)
	}
	return io.MultiReader(bytes.NewReader(head), s.in)
}

func (s *source) compressed() bool { return s.gzip != nil || s.zstd != nil }

func (s *source) close() {
	if s.zstd != nil {
		s.zstd.Close()
	}
}

func (s *source) buffered() int { return s.hi - s.lo }

// peek gives at least the next n bytes without using them, valid until the next call. n is at most
// maxBlock.
func (s *source) peek(n int) ([]byte, error) {
	if s.hi-s.lo < n {
		if err := s.fill(n); err != nil {
			return nil, err
		}
	}
	return s.buf[s.lo:s.hi], nil
}

// use goes on by n bytes that were peeked at.
func (s *source) use(n int) {
	s.lo += n
	s.off += int64(n)
}

// fill reads until n bytes are there. The buffer grows only when it is full of bytes that came.
func (s *source) fill(n int) error {
	switch {
	case s.hi > 0 && len(s.buf) < bufSize: // more than the head is wanted
		buf := make([]byte, bufSize)
		s.hi = copy(buf, s.buf[s.lo:s.hi])
		s.buf, s.lo = buf, 0
	case s.lo > 0:
		s.hi = copy(s.buf, s.buf[s.lo:s.hi])
		s.lo = 0
	}
	for s.hi < n {
		if s.err != nil {
			return s.err
		}
		if s.hi == len(s.buf) {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
		s.read()
	}
	return nil
}

// read reads once. A reader that gives neither bytes nor an error a hundred times has none to give.
func (s *source) read() {
	for range 100 {
		k, err := s.in.Read(s.buf[s.hi:])
		s.hi += k
		s.err = err
		if k > 0 || err != nil {
			return
		}
	}
	s.err = io.ErrNoProgress
}

// skip uses n bytes, which may be more than fit the buffer.
func (s *source) skip(n int64) error {
	for n > 0 {
		if s.lo == s.hi {
			if err := s.fill(1); err != nil {
				return err
			}
		}
		k := min(n, int64(s.hi-s.lo))
		s.use(int(k))
		n -= k
	}
	return nil
}
