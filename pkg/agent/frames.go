package agent

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
)

// A captured frame on its way: point (u32), time in ns since the epoch (i64), bits (u8), ARPHRD (u16), bytes on the
// wire (u32), bytes that were kept (u32), payload of a segment (u16), who took the time (u8), and the bytes. All in
// network byte order.
const frameHead = 4 + 8 + 1 + 2 + 4 + 4 + 2 + 1

// Bits of a frame.
const (
	bitOut = 1 << iota
	bitOtherHost
	bitCsumNotReady
	bitCsumValid
	bitGSO
)

const (
	partSize  = 256 << 10 // bytes of frames that travel together
	maxSnap   = 262144    // bytes of a frame that are kept at most
	maxOnWire = 16 << 20  // bytes that a frame may claim to have had
)

// appendFrame encodes a frame.
func appendFrame(b []byte, f *capture.Frame) []byte {
	var bits byte
	for _, s := range []struct {
		on  bool
		bit byte
	}{{f.Dir == capture.Out, bitOut}, {f.OtherHost, bitOtherHost}, {f.CsumNotReady, bitCsumNotReady}, {f.CsumValid, bitCsumValid}, {f.GSO, bitGSO}} {
		if s.on {
			bits |= s.bit
		}
	}
	b = binary.BigEndian.AppendUint32(b, uint32(f.Point))
	b = binary.BigEndian.AppendUint64(b, uint64(f.Time.UnixNano()))
	b = binary.BigEndian.AppendUint16(append(b, bits), f.HWType)
	b = binary.BigEndian.AppendUint32(b, uint32(f.WireLen))
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.Data)))
	b = append(binary.BigEndian.AppendUint16(b, f.GSOSize), byte(f.Stamp))
	return append(b, f.Data...)
}

var errFrames = errors.New("malformed frames")

// decodeFrames reads a part. At most most frames are taken.
func decodeFrames(b []byte, most int) (out []capture.Frame, err error) {
	for len(b) > 0 {
		if len(b) < frameHead || len(out) == most {
			return nil, errFrames
		}
		f := capture.Frame{
			Point:  int(int32(binary.BigEndian.Uint32(b))),
			Time:   time.Unix(0, int64(binary.BigEndian.Uint64(b[4:]))).UTC(),
			HWType: binary.BigEndian.Uint16(b[13:]), WireLen: int(binary.BigEndian.Uint32(b[15:])),
			GSOSize: binary.BigEndian.Uint16(b[23:]), Stamp: capture.Stamp(b[25]),
		}
		bits, n := b[12], int(binary.BigEndian.Uint32(b[19:]))
		if n > maxSnap || n > len(b)-frameHead || f.WireLen < n || f.WireLen > maxOnWire || bits >= bitGSO<<1 || f.Stamp > capture.StampDevice {
			return nil, errFrames
		}
		if bits&bitOut != 0 {
			f.Dir = capture.Out
		}
		f.OtherHost, f.CsumNotReady = bits&bitOtherHost != 0, bits&bitCsumNotReady != 0
		f.CsumValid, f.GSO = bits&bitCsumValid != 0, bits&bitGSO != 0
		f.Data = b[frameHead : frameHead+n : frameHead+n]
		out, b = append(out, f), b[frameHead+n:]
	}
	return out, nil
}
