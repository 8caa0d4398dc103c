// Package agent lets a trace use the kernel of another machine: a small protocol over any two-way stream (a process's
// standard input and output, ssh, an exec into a pod), Serve for the far end and Client, which is a node.Node, for the
// near one.
//
// The far end says a line of its own, which ends whatever a login shell printed before it. Then both sides send
// frames: length, kind, number of the request, payload. The near end greets with versions and the far end answers;
// after that there are requests, side by side, each with one response. Payloads are JSON, but for captured
// frames; those that are worth it are compressed. Each end takes the other for hostile: every length and
// count has a bound, and nothing is allocated before it is checked.
//
// Back-pressure is the stream's own. What is captured stays in the far end until it is asked for, within a budget;
// what finds no room there is counted as dropped.
package agent

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Protocol is the version of the protocol. The two ends have to agree.
const Protocol = 2

// preamble is what the far end says first.
const preamble = "podtrace-agent ready\n"

// maxNoise bounds what may come before the preamble, in bytes.
const maxNoise = 64 << 10

// Bounds of a payload in bytes: of what a far end says, whole tables included, and of what it is told.
const (
	maxResponse = 128 << 20
	maxRequest  = 8 << 20
)

// kind is the sort of a frame.
type kind uint8

const (
	kindHello    kind = iota + 1 // both ways, once
	kindRequest                  // to the far end
	kindCancel                   // to the far end: end this request early
	kindPart                     // of a response that is to come
	kindResponse                 // ends a request
	kindError                    // ends a request
	kindAlive                    // to the far end, which answers with the same

	compressed kind = 0x80 // with the payload as one zstd frame
)

// header is length of what follows it (u32), kind (u8) and request (u32), in network byte order.
const headerLen = 4 + 1 + 4

// frame is one message.
type frame struct {
	kind kind
	id   uint32
	data []byte
}

// codec reads and writes frames. One goroutine reads; any may write.
type codec struct {
	heard *hearing
	r     *bufio.Reader
	most  int // bytes of a payload that is read
	dec   *zstd.Decoder

	mu  sync.Mutex
	w   io.Writer
	enc *zstd.Encoder
}

// worthwhile is from which size on a payload is compressed.
const worthwhile = 2 << 10

func newCodec(r io.Reader, w io.Writer, most int) (*codec, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(most)), zstd.WithDecodeBuffersBelow(0))
	if err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	h := &hearing{r: r}
	return &codec{heard: h, r: bufio.NewReaderSize(h, 64<<10), w: w, most: most, dec: dec, enc: enc}, nil
}

// errTooBig is a length that no honest end sends.
var errTooBig = errors.New("message is too long")

func (c *codec) read() (frame, error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	f := frame{kind: kind(head[4]), id: binary.BigEndian.Uint32(head[5:])}
	if n > uint32(c.most) {
		return frame{}, fmt.Errorf("%w: %d bytes", errTooBig, n)
	}
	var err error
	if f.data, err = readN(c.r, int(n)); err != nil {
		return frame{}, err
	}
	if f.kind&compressed == 0 {
		return f, nil
	}
	f.kind &^= compressed
	if f.data, err = c.dec.DecodeAll(f.data, nil); err != nil {
		return frame{}, fmt.Errorf("message of kind %d: %w", f.kind, err)
	}
	return f, nil
}

// readN reads n bytes and allocates them as they come: a length alone costs nothing.
func readN(r io.Reader, n int) ([]byte, error) {
	const step = 1 << 20
	var out []byte
	for len(out) < n {
		at := len(out)
		out = append(out, make([]byte, min(step, n-at))...)
		if _, err := io.ReadFull(r, out[at:]); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
	}
	return out, nil
}

func (c *codec) write(f frame) error {
	if len(f.data) >= worthwhile {
		f.kind |= compressed
		f.data = c.enc.EncodeAll(f.data, nil)
	}
	b := make([]byte, headerLen, headerLen+len(f.data))
	binary.BigEndian.PutUint32(b, uint32(len(f.data))) //nolint:gosec // far below 4 GiB: frames are made here
	b[4] = byte(f.kind)
	binary.BigEndian.PutUint32(b[5:], f.id)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.w.Write(append(b, f.data...))
	return err
}

// awaitPreamble skips what a login shell says.
func awaitPreamble(r *bufio.Reader) error {
	read := 0
	for {
		line, err := r.ReadSlice('\n')
		read += len(line)
		switch {
		case string(line) == preamble:
			return nil
		case errors.Is(err, bufio.ErrBufferFull), read > maxNoise:
			return errors.New("what answers is no podtrace agent")
		case err != nil:
			return err
		}
	}
}
