package correlate

import (
	"fmt"

	"github.com/podtrace/podtrace/pkg/decode"
)

// Key says what the sightings of a journey have in common. It is comparable, and two journeys have
// the same key only if one repeats the other's bytes.
type Key struct {
	Proto uint8
	// Fragment: only later fragments of the packet were seen; ID is all that is known.
	Fragment bool
	ID       uint32 // IPv4 identification, or that of an IPv6 fragment; 0 unless it tells packets apart
	// Seq is the first sequence number of a TCP segment, or the sequence number of an ICMP echo.
	Seq uint32
	Len uint32 // sequence numbers used by TCP, SYN and FIN included; else the payload in bytes
	Ack uint32 // TCP
	// Flags are those of a TCP segment without data, for which they are all there is, else 0.
	Flags    uint8
	ICMPType uint8
	EchoID   uint16
	Hash     uint64 // of the payload of a datagram; 0: unknown
}

// String gives the form for people: "icmp id 7 seq 2", "tcp seq 0x1a2b+1448", "udp id 0x12 len 5".
func (k Key) String() string {
	switch {
	case k.Fragment:
		return fmt.Sprintf("%s fragment id %#x", protoName(k.Proto), k.ID)
	case k.Proto == decode.ProtoICMP || k.Proto == decode.ProtoICMPv6:
		return fmt.Sprintf("%s id %d seq %d", protoName(k.Proto), k.EchoID, k.Seq)
	case k.Proto == decode.ProtoTCP && k.Len == 0:
		return fmt.Sprintf("tcp seq %#x ack %#x", k.Seq, k.Ack)
	case k.Proto == decode.ProtoTCP:
		return fmt.Sprintf("tcp seq %#x+%d", k.Seq, k.Len)
	case k.ID == 0:
		return fmt.Sprintf("%s hash %#x len %d", protoName(k.Proto), k.Hash, k.Len)
	}
	return fmt.Sprintf("%s id %#x len %d", protoName(k.Proto), k.ID, k.Len)
}

func protoName(proto uint8) string {
	switch proto {
	case decode.ProtoICMP:
		return "icmp"
	case decode.ProtoICMPv6:
		return "icmp6"
	case decode.ProtoTCP:
		return "tcp"
	case decode.ProtoUDP:
		return "udp"
	}
	return fmt.Sprintf("proto %d", proto)
}

// keyOf gives the key of one sighting of layer 4.
func keyOf(h *decode.Headers, hash uint64) Key {
	k := Key{Proto: h.Proto, ID: packetID(h), Len: uint32(h.PayloadLen), Hash: hash}
	switch {
	case h.Proto == decode.ProtoTCP:
		k.ID, k.Hash = 0, 0
		k.Seq, k.Ack, k.Len = h.TCPSeq, h.TCPAck, seqLen(h)
		if k.Len == 0 {
			k.Flags = h.TCPFlags
		}
	case h.IsEcho():
		k.ID, k.Hash, k.Len = 0, 0, 0
		k.ICMPType, k.EchoID, k.Seq = h.ICMPType, h.ICMPID, uint32(h.ICMPSeq)
	}
	return k
}

// packetID gives the IPv4 identification. That of an IPv6 fragment header is no identity of the
// packet: conntrack puts fragments together at some points and not at others.
func packetID(h *decode.Headers) uint32 {
	if h.Src.Is4() {
		return h.ID
	}
	return 0
}

// seqLen is the number of sequence numbers that a segment uses (RFC 9293 section 3.4).
func seqLen(h *decode.Headers) uint32 {
	n := uint32(h.PayloadLen)
	if h.TCPFlags&decode.TCPSyn != 0 {
		n++
	}
	if h.TCPFlags&decode.TCPFin != 0 {
		n++
	}
	return n
}
