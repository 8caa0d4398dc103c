package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// queuedError is a message of a socket's error queue (IP_RECVERR in ip(7), IPV6_RECVERR).
type queuedError struct {
	errno    unix.Errno
	origin   uint8 // SO_EE_ORIGIN_*
	typ      uint8 // of the ICMP message
	code     uint8
	mtu      uint32     // with EMSGSIZE
	offender netip.Addr // who sent the ICMP message
	payload  []byte     // of the packet that it is about, from behind its UDP header or from its ICMP header on
}

// readError takes the oldest message.
func readError(fd int) (queuedError, bool) {
	buf, oob := make([]byte, 2048), make([]byte, 512)
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return queuedError{}, false
		}
		e := parseExtended(oob[:oobn])
		e.payload = buf[:n]
		return e, true
	}
}

// parseExtended finds struct sock_extended_err (linux/errqueue.h, native byte order) and the
// offender's address behind it.
func parseExtended(oob []byte) queuedError {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		const extended = 16 // bytes of the struct
		if !v4 && !v6 || len(m.Data) < extended {
			continue
		}
		e := queuedError{
			errno:  unix.Errno(binary.NativeEndian.Uint32(m.Data)),
			origin: m.Data[4], typ: m.Data[5], code: m.Data[6],
			mtu: binary.NativeEndian.Uint32(m.Data[8:]),
		}
		e.offender = offender(m.Data[extended:])
		return e
	}
	return queuedError{}
}

// offender reads a struct sockaddr_in or sockaddr_in6; the family is AF_UNSPEC if there is none.
func offender(b []byte) netip.Addr {
	if len(b) < 8 {
		return netip.Addr{}
	}
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[4:8]))
	case unix.AF_INET6:
		if len(b) >= 24 {
			return netip.AddrFrom16([16]byte(b[8:24])).Unmap()
		}
	}
	return netip.Addr{}
}

// fromNetwork reports whether the error is an ICMP message, not one of this kernel's own.
func (e queuedError) fromNetwork() bool {
	return e.origin == unix.SO_EE_ORIGIN_ICMP || e.origin == unix.SO_EE_ORIGIN_ICMP6
}

func (e queuedError) portUnreachable() bool {
	return e.origin == unix.SO_EE_ORIGIN_ICMP && e.typ == 3 && e.code == 3 ||
		e.origin == unix.SO_EE_ORIGIN_ICMP6 && e.typ == 1 && e.code == 4
}

// String gives "host unreachable from 10.1.11.91".
func (e queuedError) String() string {
	text := e.errno.Error()
	if e.fromNetwork() {
		text = e.message()
	}
	if e.errno == unix.EMSGSIZE {
		text += fmt.Sprintf(" (mtu %d)", e.mtu)
	}
	if e.offender.IsValid() {
		text += " from " + e.offender.String()
	}
	return text
}

// icmpNames has the messages that the kernel reports, by type and code (IANA ICMP parameters).
var icmpNames = map[[3]uint8]string{
	{unix.SO_EE_ORIGIN_ICMP, 3, 0}:  "network unreachable",
	{unix.SO_EE_ORIGIN_ICMP, 3, 1}:  "host unreachable",
	{unix.SO_EE_ORIGIN_ICMP, 3, 2}:  "protocol unreachable",
	{unix.SO_EE_ORIGIN_ICMP, 3, 3}:  "port unreachable",
	{unix.SO_EE_ORIGIN_ICMP, 3, 4}:  "fragmentation needed",
	{unix.SO_EE_ORIGIN_ICMP, 3, 9}:  "network administratively prohibited",
	{unix.SO_EE_ORIGIN_ICMP, 3, 10}: "host administratively prohibited",
	{unix.SO_EE_ORIGIN_ICMP, 3, 13}: "communication administratively prohibited",
	{unix.SO_EE_ORIGIN_ICMP, 11, 0}: "ttl exceeded in transit",
	{unix.SO_EE_ORIGIN_ICMP, 11, 1}: "fragment reassembly time exceeded",
	{unix.SO_EE_ORIGIN_ICMP6, 1, 0}: "no route to destination",
	{unix.SO_EE_ORIGIN_ICMP6, 1, 1}: "communication administratively prohibited",
	{unix.SO_EE_ORIGIN_ICMP6, 1, 3}: "address unreachable",
	{unix.SO_EE_ORIGIN_ICMP6, 1, 4}: "port unreachable",
	{unix.SO_EE_ORIGIN_ICMP6, 1, 5}: "source address failed policy",
	{unix.SO_EE_ORIGIN_ICMP6, 1, 6}: "route rejected",
	{unix.SO_EE_ORIGIN_ICMP6, 2, 0}: "packet too big",
	{unix.SO_EE_ORIGIN_ICMP6, 3, 0}: "hop limit exceeded in transit",
	{unix.SO_EE_ORIGIN_ICMP6, 3, 1}: "fragment reassembly time exceeded",
}

func (e queuedError) message() string {
	if name, ok := icmpNames[[3]uint8{e.origin, e.typ, e.code}]; ok {
		return name
	}
	return fmt.Sprintf("icmp type %d code %d", e.typ, e.code)
}

// hopLimit finds the TTL or hop limit that a packet arrived with; 0 if it is not there.
func hopLimit(oob []byte) int {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_TTL
		v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT
		if (v4 || v6) && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}
