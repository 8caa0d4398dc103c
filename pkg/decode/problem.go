package decode

import (
	"errors"
	"fmt"
)

// What a Problem wraps.
var (
	// ErrTruncated: the snap length of the capture, or a fragment's end, cut what was to be read.
	ErrTruncated = errors.New("truncated")
	// ErrMalformed: the bytes contradict the protocol; a receiver would drop the packet.
	ErrMalformed = errors.New("malformed")
)

// Kind tells the two kinds of problem apart.
type Kind uint8

// Kinds of problem. Truncated frames are sound as far as they were seen.
const (
	OK Kind = iota
	Truncated
	Malformed
)

// Layer names the header that a problem is in.
type Layer uint8

// Layers, in the order of nesting.
const (
	LayerNone Layer = iota
	LayerEthernet
	LayerVLAN
	LayerARP
	LayerIPv4
	LayerIPv6
	LayerICMP
	LayerICMPv6
	LayerTCP
	LayerUDP
	LayerVXLAN
)

var layerNames = [...]string{
	"none", "ethernet", "vlan", "arp", "ipv4", "ipv6", "icmp", "icmp6", "tcp", "udp", "vxlan",
}

// String gives the lower-case name, "ipv4".
func (l Layer) String() string {
	if int(l) < len(layerNames) {
		return layerNames[l]
	}
	return fmt.Sprintf("layer %d", uint8(l))
}

// Problem says what could not be read. The zero value is no problem.
type Problem struct {
	Kind   Kind
	Layer  Layer
	Offset int // of the header that could not be read, in bytes from the start of the data
}

// Err gives p as an error, nil for the zero value.
func (p Problem) Err() error {
	if p.Kind == OK {
		return nil
	}
	return p
}

// Error names the layer and the offset.
func (p Problem) Error() string {
	return fmt.Sprintf("%s header at byte %d: %v", p.Layer, p.Offset, p.Unwrap())
}

// Unwrap gives ErrTruncated or ErrMalformed.
func (p Problem) Unwrap() error {
	switch p.Kind {
	case Truncated:
		return ErrTruncated
	case Malformed:
		return ErrMalformed
	default:
		return nil
	}
}
