// Package correlate groups the frames seen at the points of a path into journeys: the sightings of
// one packet. It is pure, takes nothing from addresses but the leg, and identifies a packet by what
// no rewrite on a path changes:
//
//   - ICMP and ICMPv6 echo: type, id and sequence number, and IPv4 identification and payload hash
//     where both sightings have them.
//   - TCP: the range of sequence numbers (SYN and FIN count one each) and the acknowledgement. A
//     super-packet (GSO, GRO) and its segments meet by range, modulo 2^32.
//   - UDP and every other protocol: IPv4 identification, payload length and payload hash.
//   - Later fragments: protocol and identification.
//
// Translation may change addresses and ports: an address of either end decides the leg, and frames
// whose ports are not the flow's only join a journey that others began, unless their payload is the flow's own. What a super-packet of UDP
// (UDP_SEGMENT) is cut into is not joined again, and IPv6 packets without a distinctive payload are
// told apart by time alone.
package correlate

import (
	"net/netip"

	"github.com/podtrace/podtrace/pkg/decode"
)

// Direction is the way that a frame passes the interface of a point.
type Direction uint8

// Directions. Unknown is for captures that do not record it.
const (
	Unknown Direction = iota
	In                // received by the interface
	Out               // sent by the interface
)

var directionNames = [...]string{"unknown", "in", "out"}

// String gives "in", "out" or "unknown".
func (d Direction) String() string {
	if int(d) < len(directionNames) {
		return directionNames[d]
	}
	return directionNames[Unknown]
}

// Stamp is who took the time of a sighting.
type Stamp uint8

// Stamps.
const (
	ByTap Stamp = iota
	// ByStack: a process of the machine has turned on the stack's own timestamps. A frame that was received keeps
	// one time on its way through the devices of a node.
	ByStack
	ByDevice
)

// Sighting is one frame seen at one point.
type Sighting struct {
	Point int // index of the capture point, the caller's
	Dir   Direction
	Time  int64 // ns since the epoch, by the clock of the point's node
	Wire  int   // length of the frame in bytes before the capture cut it
	GSO   bool  // a super-packet of the segmentation offload
	// Stamp says who took Time: the tap (0), the stack, a device. Times of different stamps do not compare.
	Stamp Stamp
	Frame decode.Frame
	Hash  uint64 // decode.PayloadHash of the frame, with one limit at all points; 0: unknown
	// Own: the payload says that the packet is the flow's, whatever ports (echo id) a translation gave it
	Own bool
}

// Flow is the traffic that is looked for. The request leg goes from A to B.
type Flow struct {
	Proto uint8 // IP protocol, 0: any
	// A and B are the addresses that either end is known by, those before and after translation.
	A, B []netip.Addr
	// APort and BPort are in host byte order; 0 is any. For ICMP APort is the echo id.
	APort, BPort uint16
}

// Journey is the sightings of one packet, or of a super-packet and its segments.
type Journey struct {
	Key Key
	// Sightings are ordered by time, then by point.
	Sightings []Sighting
	// Retransmission counts the journeys before this one that carried the same bytes: 0 is the first
	// transmission.
	Retransmission int
	// Repeats counts the sightings of a frame at a point and in a direction where it was seen before.
	Repeats int
	// Looped says that such a repeat had a lower TTL than before: the packet goes in circles.
	Looped bool
}

// Result is what Journeys finds. Journeys are in the order of their first sightings.
type Result struct {
	Request, Reply []Journey
	// Errors are ICMP and ICMPv6 errors that quote the flow, of either leg.
	Errors []Sighting
	// Neighbours are ARP frames and neighbour solicitations and advertisements, of whatever address.
	Neighbours []Sighting
	Other      int // sightings that belong to none of these
}
