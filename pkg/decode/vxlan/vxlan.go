// Package vxlan reads and writes the eight-byte VXLAN header of RFC 7348 section 5 with the group
// policy extension of draft-smith-vxlan-group-policy section 2. It knows neither UDP ports (they are
// a setting of each device) nor the generic protocol extension (VXLAN-GPE), whose P bit stays a
// reserved bit here.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	|G|R|R|R|I|R|R|R|R|D|R|R|A|R|R|R|        Group Policy ID        |
//	|          VXLAN Network Identifier (VNI)       |   Reserved    |
package vxlan

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderLen is the length of the header in bytes.
const HeaderLen = 8

// UDP ports that a device has where nothing says another: that of RFC 7348 section 5, and what Linux takes by itself
// (drivers/net/vxlan/vxlan_core.c), as it did before there was an RFC.
const (
	PortIANA  = 4789
	PortLinux = 8472
)

// Bits of the first two bytes.
const (
	flagI byte = 0x08 // byte 0, RFC 7348 section 5: the VNI is valid
	flagG byte = 0x80 // byte 0, group policy section 2: the group policy id is valid
	flagD byte = 0x40 // byte 1, group policy section 2: do not learn the source
	flagA byte = 0x08 // byte 1, group policy section 2: the policy was applied already
)

// What an Error wraps: the header is cut short, or it is whole and wrong.
var (
	ErrTruncated = errors.New("truncated")
	ErrMalformed = errors.New("malformed")
)

// Error says where in the header parsing stopped, and why.
type Error struct {
	Offset int    // bytes from the start of the VXLAN header
	Reason string // what was expected there
	Err    error  // ErrTruncated or ErrMalformed
}

// Error names the layer and the offset.
func (e *Error) Error() string {
	return fmt.Sprintf("vxlan header, byte %d: %s: %v", e.Offset, e.Reason, e.Err)
}

// Unwrap gives ErrTruncated or ErrMalformed.
func (e *Error) Unwrap() error { return e.Err }

// A single value, so that refusing a packet allocates nothing.
var errNoVNI = &Error{Offset: 0, Reason: "the I flag is not set", Err: ErrMalformed}

// Header is one VXLAN header. It is comparable, and holds every bit of the wire but the I flag,
// which a valid header always has.
type Header struct {
	VNI         uint32 // network identifier, 0 to 1<<24-1
	Group       uint16 // group policy id; a meaningless reserved field unless GroupPolicy is set
	GroupPolicy bool   // G: Group is valid
	DontLearn   bool   // D: the receiver must not learn the source; valid with G
	Applied     bool   // A: the policy was applied on the way; valid with G
	// Reserved holds what is left of bytes 0, 1 and 7. A sender sets it to zero, a receiver ignores
	// it (RFC 7348 section 5).
	Reserved [3]byte
}

// Parse reads the header at the start of b and returns the rest of b, the inner Ethernet frame. The
// I flag is required: the receiver drops a packet without it.
func Parse(b []byte) (Header, []byte, error) {
	if len(b) < HeaderLen {
		return Header{}, nil, &Error{Offset: len(b), Reason: "the header has 8 bytes", Err: ErrTruncated}
	}
	if b[0]&flagI == 0 {
		return Header{}, nil, errNoVNI
	}
	return Header{
		VNI:         binary.BigEndian.Uint32(b[4:8]) >> 8,
		Group:       binary.BigEndian.Uint16(b[2:4]),
		GroupPolicy: b[0]&flagG != 0,
		DontLearn:   b[1]&flagD != 0,
		Applied:     b[1]&flagA != 0,
		Reserved:    [3]byte{b[0] &^ (flagG | flagI), b[1] &^ (flagD | flagA), b[7]},
	}, b[HeaderLen:], nil
}

// AppendTo appends the eight bytes of the header to b, reserved bits included: what Parse read comes
// out unchanged. Bits of VNI above the 24th are lost.
func (h Header) AppendTo(b []byte) []byte {
	b0 := h.Reserved[0]&^flagG | flagI
	if h.GroupPolicy {
		b0 |= flagG
	}
	b1 := h.Reserved[1] &^ (flagD | flagA)
	if h.DontLearn {
		b1 |= flagD
	}
	if h.Applied {
		b1 |= flagA
	}
	b = append(b, b0, b1)
	b = binary.BigEndian.AppendUint16(b, h.Group)
	return binary.BigEndian.AppendUint32(b, h.VNI<<8|uint32(h.Reserved[2]))
}

// Flags gives the first 16 bits as they are on the wire, in host byte order: 0x0800 for a plain
// header.
func (h Header) Flags() uint16 {
	var b [HeaderLen]byte
	return binary.BigEndian.Uint16(h.AppendTo(b[:0]))
}
