// Package capture sees frames at many interfaces at once: one AF_PACKET socket with a TPACKET_V3
// ring a point (packet(7), Documentation/networking/packet_mmap.rst), each with a classic BPF filter
// that is in place before the socket is bound, so that nothing foreign is ever counted.
//
// When Open returns every tap is armed. A frame carries the kernel's timestamp, its direction and
// its length on the wire; a point carries the kernel's own drop count, without which "not seen"
// proves nothing. The package does not decode: bytes go to pkg/decode. It never makes an interface
// promiscuous, for that would change what is being measured.
package capture

import (
	"fmt"
	"time"

	"golang.org/x/net/bpf"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Defaults of Config.
const (
	DefaultSnapLen       = 256
	DefaultRingBytes     = 4_000_000
	DefaultRetireTimeout = 10 * time.Millisecond
	DefaultMaxFrames     = 65536
)

// Point is one interface in one network namespace.
type Point struct {
	ID      int           // the caller's number for it; Frame.Point and PointStats.ID carry it back
	Netns   *netns.Handle // nil: the namespace that the program runs in; must stay open until Open returns
	Ifindex int
	// Interface is the name that the index is expected to have; Open refuses if it has another by
	// now (the index was reused). Empty: not compared.
	Interface string
	Filter    []bpf.RawInstruction // nil: every frame
}

// Config says what to capture. The zero value of every field but Points is its default.
type Config struct {
	Points []Point
	// SnapLen is how many bytes of a frame are kept, from the link-layer header on (0: 256, which
	// holds the headers of a VXLAN frame with IPv6 inside and out).
	SnapLen int
	// RingBytes is the size of a point's ring in kernel memory (0: 4 MB, at 350,000 small frames a
	// second a reserve of 60 ms; ten points take 40 MB). It is rounded up to whole blocks.
	RingBytes int
	// RetireTimeout is when the kernel hands over a block that is not full (0: 10 ms): the greatest
	// delay between a frame and OnFrame, and the time that Stop waits at most in ordinary cases.
	RetireTimeout time.Duration
	MaxFrames     int // bound of the frames kept a point (0: 65536); those beyond count as dropped
	// MaxTotal bounds the frames kept of all points together (0: no bound). Once there are as many,
	// the capture is over for every point at the same moment, Result.Cut: what came later is left
	// out at all of them and is no loss.
	MaxTotal int
	// OnFrame, if set, is called for each frame as it arrives, always from the one goroutine that
	// reads. It must not block, change Data, or call the Session. The frame is the callee's to read
	// during the call alone.
	OnFrame func(*Frame)
	// Reserve has rings that were made ahead; nil: all are made by Open.
	Reserve *Reserve
	// Engine takes the frames; "" is EngineRing.
	Engine Engine
	// Stream keeps no frame: OnFrame has them, and Result.Frames is empty.
	Stream bool
	// OnRound, if set, is called after each round over the rings, from the same goroutine: no frame that a tap
	// handed over before is left unread. It gives the time after which to call it again even if
	// no frame came; 0: no need to.
	OnRound func() time.Duration
}

// withDefaults fills in the zero fields.
func (c Config) withDefaults() Config {
	if c.SnapLen <= 0 {
		c.SnapLen = DefaultSnapLen
	}
	if c.RingBytes <= 0 {
		c.RingBytes = DefaultRingBytes
	}
	if c.RetireTimeout <= 0 {
		c.RetireTimeout = DefaultRetireTimeout
	}
	c.RetireTimeout = max(c.RetireTimeout, time.Millisecond) // the kernel's unit; 0 would let it choose
	if c.MaxFrames <= 0 {
		c.MaxFrames = DefaultMaxFrames
	}
	return c
}

// Direction is the way of a frame through the interface, as its own namespace sees it.
type Direction uint8

// Directions. On a loopback device each frame is seen twice, first Out and then In.
const (
	In  Direction = iota // received by the interface
	Out                  // sent by this kernel (PACKET_OUTGOING)
)

// String gives "in" or "out".
func (d Direction) String() string {
	if d == Out {
		return "out"
	}
	return "in"
}

// HWCooked is a Frame.HWType of files alone: Data starts with an Ethernet header that was made of a cooked one (-i any).
// Its destination address was not captured, and is zero.
const HWCooked uint16 = 0xff00 // no ARPHRD_* number

// Frame is one frame at one point.
type Frame struct {
	Point int       // Point.ID
	Time  time.Time // of the kernel, in UTC with nanoseconds; comparable between points of one machine only
	Dir   Direction
	// OtherHost says that the frame was received and is addressed to another MAC address
	// (PACKET_OTHERHOST): IP above this interface ignores it, a bridge does not.
	OtherHost bool
	// HWType is the ARPHRD_* number of the interface: 1 Ethernet, 772 loopback; with 65534 (none,
	// as on TUN devices) Data starts at the IP header.
	HWType uint16
	// Data is the frame from its link-layer header on, at most SnapLen bytes. A VLAN tag that the
	// kernel had taken out is back in its place.
	Data    []byte
	WireLen int // bytes of the whole frame; with GSO more than ever crosses a wire at once
	// CsumNotReady says that a checksum has still to be filled in (by the device, or never where
	// the frame does not leave the machine): it must not be judged.
	CsumNotReady bool
	CsumValid    bool // the kernel or the device has verified the transport checksum
	GSO          bool // a TCP super-packet that is cut into segments later
	// GSOSize is the payload in bytes of each segment that a super-packet of TCP or UDP becomes; 0: none, or
	// a kernel before 6.2, which does not say it of all of them.
	GSOSize uint16
	Stamp   Stamp // who took Time
}

// Stamp says where the time of a frame was taken. Times of different stamps do not compare: the stack takes its
// own before the frame waits for the CPU that will handle it, a tap when it sees the frame.
type Stamp uint8

// Stamps. The stack begins to take times for the whole machine as soon as any process asks for SO_TIMESTAMP
// (ping does).
const (
	StampTap Stamp = iota
	StampStack
	StampDevice // by the network device, with a clock of its own
)

// Truncated reports whether Data is not the whole frame.
func (f Frame) Truncated() bool { return len(f.Data) < f.WireLen }

// PointStats is what became of one point.
type PointStats struct {
	ID      int
	Packets uint64 // frames that passed the filter, dropped ones included
	// Drops counts frames that passed the filter and are not in Result.Frames: the ring was full,
	// or MaxFrames was reached. Unless it is 0, "not seen" means "unknown".
	Drops       uint64
	Overflow    uint64 // the part of Drops that MaxFrames is the reason for
	After       uint64 // frames beyond Result.Cut; no part of Drops
	FreezeQueue uint64 // how often the ring was full (tp_freeze_q_cnt)
	Truncated   int    // frames kept with fewer bytes than they had
	// Err says why the point did not see all the time: the interface was or went down or vanished
	// (ENETDOWN). nil: it was armed throughout.
	Err error
	// Flapped says that the interface went down and is up again: the tap saw what passed before and after.
	Flapped bool
}

// Result is the whole capture.
type Result struct {
	Frames []Frame      // in order of time; frames of one point stay in the order of its ring
	Cut    time.Time    // of the newest frame that MaxTotal let in; zero: all were
	Points []PointStats // one for each of Config.Points, in that order
}

// PointError says which point could not be armed. It unwraps to the cause: an errno (ENODEV: the
// interface does not exist), or a *netns.PermissionError that names the capability.
type PointError struct {
	ID        int // Point.ID
	Ifindex   int
	Interface string
	Op        string // what was being done: "open packet socket", "bind"
	Err       error
}

// Error gives the point, the operation and the cause.
func (e *PointError) Error() string {
	return fmt.Sprintf("capture at %q (ifindex %d): %s: %v", e.Interface, e.Ifindex, e.Op, e.Err)
}

// Unwrap gives the cause.
func (e *PointError) Unwrap() error { return e.Err }
