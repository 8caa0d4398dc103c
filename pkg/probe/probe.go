// Package probe sends the packets that a path is traced by, from inside the network namespace of a
// pod, as a process of the pod would: ICMP echo, a TCP connection, UDP datagrams.
//
// Prepare opens and binds the socket and says what will be sent (addresses, ports, echo identifier,
// marker), so that capture filters can be made and armed before Run sends the first packet. No
// goroutine runs in this package; all waiting is in the caller of Run and ends with its context.
package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Protocols of Spec.Proto.
const (
	ICMP = "icmp" // echo requests (RFC 792, RFC 4443)
	TCP  = "tcp"  // one connection, opened and closed
	UDP  = "udp"  // datagrams with a marker
	None = "none" // nothing is sent
)

// Spec is what to send, as on the command line.
type Spec struct {
	Proto string // ICMP, TCP, UDP or None
	Port  uint16 // destination port of TCP and UDP, host byte order; 0: for the caller to fill in
}

// ParseSpec reads "icmp", "tcp", "tcp:8080", "udp", "udp:53" or "none".
func ParseSpec(s string) (Spec, error) {
	proto, port, hasPort := strings.Cut(s, ":")
	switch proto {
	case ICMP, None:
		if hasPort {
			return Spec{}, fmt.Errorf("parse probe %q: %s has no port", s, proto)
		}
		return Spec{Proto: proto}, nil
	case TCP, UDP:
		if !hasPort {
			return Spec{Proto: proto}, nil
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port[0] == '+' {
			return Spec{}, fmt.Errorf("parse probe %q: port %q is not a number from 1 to 65535", s, port)
		}
		return Spec{Proto: proto, Port: uint16(n)}, nil
	}
	return Spec{}, fmt.Errorf("parse probe %q: want icmp, tcp[:PORT], udp[:PORT] or none", s)
}

// String gives the form that ParseSpec reads.
func (s Spec) String() string {
	if s.Port == 0 {
		return s.Proto
	}
	return fmt.Sprintf("%s:%d", s.Proto, s.Port)
}

// Options say how the packets look. The zero value is the kernel's default for each.
type Options struct {
	// Size is the payload in bytes behind the ICMP or UDP header (0: 56, as ping(8) has it). It is
	// at least 12, for marker and number. TCP sends no payload.
	Size int
	TTL  int // of IPv4, hop limit of IPv6 (0: the namespace's default)
	// SrcPort is the port to send from (TCP and UDP), 0: the kernel chooses.
	SrcPort uint16
	DF      bool // forbid fragmentation, and send past a path MTU that the kernel remembers
	// Mark is the firewall mark of the socket (SO_MARK, needs CAP_NET_ADMIN); 0: none.
	Mark uint32
}

// Sizes of a probe's payload, in bytes.
const (
	DefaultSize = 56
	minSize     = markerLen + 4
	markerLen   = 8
	maxSize     = 65507 // what fits an IPv4 packet with a UDP header
)

// Flow is what a Prober sends: the request, in host byte order.
type Flow struct {
	Proto uint8 // IP protocol number: 1 or 58, 6, 17; 0 with None
	// Src is the address that the socket is bound to or that the kernel chooses by its routes;
	// invalid if none was given and there is no route.
	Src, Dst netip.Addr
	SrcPort  uint16 // with ICMP the echo identifier
	DstPort  uint16 // 0 with ICMP
	// Marker is the start of the payload of every ICMP and UDP probe of this Prober; zero with TCP.
	Marker [8]byte
}

// Reply is the answer to one probe.
type Reply struct {
	Seq  int        // number of the probe, from 1
	From netip.Addr // who answered
	// TTL is what was left of the TTL or hop limit when the answer arrived; 0: not known (TCP).
	TTL int
	RTT time.Duration // from the send to the read of the answer, by this process's clock
}

// Result is what became of the probes.
type Result struct {
	Sent     int // probes that the kernel took
	Answered int // probes that the destination itself answered, a refusal included
	Replies  []Reply
	// Errors says what else came back or why nothing was sent, each thing once, in order: "connect:
	// no route to host", "connection refused", "host unreachable from 10.1.11.91".
	Errors []string
	// PMTU is the path MTU in bytes that the last such ICMP error told the sender, 0: none did.
	PMTU int
}

// addError adds a text that is not there yet.
func (r *Result) addError(text string) {
	if !slices.Contains(r.Errors, text) {
		r.Errors = append(r.Errors, text)
	}
}

// fillPayload writes marker, number and a pattern that shows cut or shifted bytes.
func fillPayload(b []byte, marker [markerLen]byte, seq int) {
	copy(b, marker[:])
	binary.BigEndian.PutUint32(b[markerLen:], uint32(seq))
	for i := minSize; i < len(b); i++ {
		b[i] = byte(i)
	}
}

// payloadSeq reads the number back; 0 if the payload is not one of the marker's.
func payloadSeq(b []byte, marker [markerLen]byte) int {
	if len(b) < minSize || [markerLen]byte(b) != marker {
		return 0
	}
	return int(binary.BigEndian.Uint32(b[markerLen:]))
}

// checksum is the Internet checksum (RFC 1071) of b.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
