package tables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// This file is the transport: dumps over one rtnetlink(7) socket, and the attributes in their
// answers. It is raw because the snapshot has to hold what the kernel said: the readers of
// github.com/vishvananda/netlink leave out attributes, and github.com/mdlayher/netlink drops the
// NLMSG_DONE message, which may be the one that carries NLM_F_DUMP_INTR.

// errInterrupted means that the table changed while the kernel was dumping it, in every attempt.
var errInterrupted = errors.New("dump interrupted")

const (
	dumpAttempts = 5
	recvBuffer   = 64 << 10 // bytes; the kernel fills at most 32 KiB a read
	recvTimeout  = 5        // seconds; an answer is ready when the request returns
)

// rtnl is a rtnetlink socket. It stays in the namespace that it was opened in.
type rtnl struct {
	fd  int
	seq uint32
	buf []byte
}

// openRTNL opens a socket in the namespace of the calling thread.
func openRTNL() (*rtnl, error) { return openNetlink(unix.NETLINK_ROUTE) }

// openNetlink opens a socket of a netlink family whose dumps are like rtnetlink's.
func openNetlink(family int) (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	tv := unix.Timeval{Sec: recvTimeout}
	if err := errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
	); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return &rtnl{fd: fd, buf: make([]byte, recvBuffer)}, nil
}

func (c *rtnl) Close() error { return unix.Close(c.fd) }

// message is one answer: its type and what follows the netlink header. data is valid in the
// callback only.
type message struct {
	typ  uint16
	data []byte
}

// dump asks for a whole table and calls each for every entry. An interrupted dump is repeated, with
// begin called before every attempt; after the last one its entries stay and errInterrupted is
// returned.
func (c *rtnl) dump(ctx context.Context, typ uint16, req []byte, begin func(), each func(message)) error {
	for range dumpAttempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		begin()
		err := c.roundTrip(typ, unix.NLM_F_DUMP, req, each)
		if !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return errInterrupted
}

// get asks for one entry.
func (c *rtnl) get(typ uint16, req []byte, each func(message)) error {
	return c.roundTrip(typ, unix.NLM_F_ACK, req, each)
}

func (c *rtnl) roundTrip(typ uint16, flags int, req []byte, each func(message)) error {
	c.seq++
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(req))
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(req)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], uint16(unix.NLM_F_REQUEST|flags))
	binary.NativeEndian.PutUint32(b[8:], c.seq)
	if err := unix.Sendto(c.fd, append(b, req...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	interrupted := false
	for {
		n, err := c.recv()
		if err != nil {
			return err
		}
		done, intr, err := c.messages(c.buf[:n], each)
		interrupted = interrupted || intr
		if err != nil {
			return err
		}
		if done && interrupted {
			return errInterrupted
		}
		if done {
			return nil
		}
	}
}

func (c *rtnl) recv() (int, error) {
	for {
		n, _, flags, _, err := unix.Recvmsg(c.fd, c.buf, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("recvmsg", err)
		case flags&unix.MSG_TRUNC != 0:
			return 0, fmt.Errorf("netlink message longer than %d bytes", recvBuffer)
		default:
			return n, nil
		}
	}
}

// messages walks one datagram. done: the answer is complete.
func (c *rtnl) messages(b []byte, each func(message)) (done, interrupted bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return false, false, fmt.Errorf("malformed netlink message: length %d of %d bytes", length, len(b))
		}
		typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		data := b[unix.NLMSG_HDRLEN:length]
		mine := binary.NativeEndian.Uint32(b[8:]) == c.seq
		b = b[min(align4(length), len(b)):]
		if !mine { // the rest of an answer that was given up
			continue
		}
		interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
		switch typ {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if e := errnoOf(data); e != 0 {
				return true, interrupted, e
			}
			done = true
		case unix.NLMSG_NOOP:
		default:
			each(message{typ, data})
		}
	}
	return done, interrupted, nil
}

// errnoOf reads the negative errno of NLMSG_ERROR and NLMSG_DONE.
func errnoOf(data []byte) unix.Errno {
	if e := int32(u32(data)); e < 0 {
		return unix.Errno(-e)
	}
	return 0
}

// nlaTypeMask clears NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const nlaTypeMask = 0x3fff

func align4(n int) int { return (n + 3) &^ 3 }

// attrs walks the attributes (struct nlattr) in b: type without its flag bits, and value. It stops
// at one that does not fit.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofNlAttr || length > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
			if !yield(typ, b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min(align4(length), len(b)):]
		}
	}
}

// attrU32 encodes one attribute.
func attrU32(typ uint16, v uint32) []byte {
	b := make([]byte, 8)
	binary.NativeEndian.PutUint16(b, 8)
	binary.NativeEndian.PutUint16(b[2:], typ)
	binary.NativeEndian.PutUint32(b[4:], v)
	return b
}

// after gives what follows a fixed header of n bytes.
func after(b []byte, n int) []byte { return b[min(n, len(b)):] }

// The values of attributes; one that is too short reads as 0.

func u8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func flag(b []byte) bool { return u8(b) != 0 }

func u16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

func be16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func u64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.NativeEndian.Uint64(b)
}

func index(b []byte) Ifindex { return Ifindex(int32(u32(b))) }

// text reads a NUL-terminated string.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
