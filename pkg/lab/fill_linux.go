package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Bounds of fillConns.
const (
	fillTimeout = 86400   // seconds that a connection lives
	fillBatch   = 256     // connections in one message to the kernel
	fillMost    = 1 << 20 // of a larger limit it would take long, and 300 bytes a connection
)

// fillConns enters connections until the table has as many as the machine allows. They are assured, which the kernel
// does not evict for new ones; of UDP, from 198.18.0.0/15 to 198.51.100.1, which nobody has (RFC 2544, RFC 5737).
func (s *space) fillConns() error {
	var conn *netlink.Conn
	limit := 0
	err := s.netns.Do(func() (err error) {
		if limit, err = connLimit(); err != nil {
			return err
		}
		conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing is pending
	batch := make([]netlink.Message, fillBatch)
	for n := 0; n < limit; n += fillBatch {
		for i := range batch {
			if batch[i], err = newConn(n + i); err != nil {
				return err
			}
		}
		batch[fillBatch-1].Header.Flags |= netlink.Acknowledge // the kernel takes them in order, and tells of errors anyway
		if _, err := conn.SendMessages(batch); err != nil {
			return fmt.Errorf("add connections: %w", err)
		}
		if _, err := conn.Receive(); errors.Is(err, unix.ENOMEM) {
			return nil // full: a few were there already
		} else if err != nil {
			return fmt.Errorf("add connections: %w", err)
		}
	}
	return nil
}

// connLimit is the machine's limit, nf_conntrack_max.
func connLimit() (int, error) {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil && n > fillMost {
		err = fmt.Errorf("nf_conntrack_max is %d, more than the %d connections that a lab fills in: %w", n, fillMost, ErrUnfit)
	}
	return n, err
}

// newConn is the message IPCTNL_MSG_CT_NEW for the i-th connection (linux/netfilter/nfnetlink_conntrack.h).
func newConn(i int) (netlink.Message, error) {
	const (
		typeNew                     = unix.NFNL_SUBSYS_CTNETLINK << 8 // IPCTNL_MSG_CT_NEW is 0
		ctaOrig, ctaReply           = 1, 2
		ctaStatus, ctaTimeout       = 3, 7
		seenReply, assured, confirm = 1 << 1, 1 << 2, 1 << 3 // IPS_*
	)
	inside, outside := []byte{198, 18, byte(i >> 16), byte(i >> 8)}, []byte{198, 51, 100, 1}
	port := uint16(1024 + i&0xff) //nolint:gosec // below 1280
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctaOrig, encodeTuple(inside, outside, port, 53))
	ae.Nested(ctaReply, encodeTuple(outside, inside, 53, port))
	ae.Uint32(ctaStatus, seenReply|assured|confirm)
	ae.Uint32(ctaTimeout, fillTimeout)
	attrs, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, fmt.Errorf("encode a connection: %w", err)
	}
	return netlink.Message{
		Header: netlink.Header{Type: typeNew, Flags: netlink.Request | netlink.Create | netlink.Excl},
		Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}, nil
}

// encodeTuple is one direction of a connection of UDP.
func encodeTuple(src, dst []byte, sport, dport uint16) func(*netlink.AttributeEncoder) error {
	const (
		tupleIP, tupleProto          = 1, 2
		ipSrc, ipDst                 = 1, 2
		protoNum, protoSrc, protoDst = 1, 2, 3
	)
	return func(ae *netlink.AttributeEncoder) error {
		ae.Nested(tupleIP, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(ipSrc, src)
			ae.Bytes(ipDst, dst)
			return nil
		})
		ae.Nested(tupleProto, func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			ae.Uint8(protoNum, unix.IPPROTO_UDP)
			ae.Uint16(protoSrc, sport)
			ae.Uint16(protoDst, dport)
			return nil
		})
		return nil
	}
}
