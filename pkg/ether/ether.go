// Package ether holds the value types of the link layer that every stage shares: the 48-bit
// address (IEEE 802 section 8) and the EtherTypes that podtrace reads (IEEE 802 numbers, IANA).
package ether

import (
	"encoding/hex"
	"fmt"
	"net"
)

// EtherTypes, in host byte order.
const (
	TypeIPv4  uint16 = 0x0800
	TypeARP   uint16 = 0x0806
	TypeVLAN  uint16 = 0x8100 // IEEE 802.1Q customer tag
	TypeIPv6  uint16 = 0x86dd
	TypeQinQ  uint16 = 0x88a8 // IEEE 802.1ad service tag
	HeaderLen        = 14     // bytes: destination, source, EtherType
)

// MAC is a 48-bit link-layer address in transmission order. The zero value is the all-zero
// address, which no interface on a path carries; it stands for "none". It is comparable.
type MAC [6]byte

// Broadcast is the all-ones address.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC reads the six-byte forms that net.ParseMAC accepts.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("parse MAC address %q: want six bytes in hex", s)
	}
	return MAC(hw), nil
}

// MustParseMAC is ParseMAC for constants; it panics on an error.
func MustParseMAC(s string) MAC {
	m, err := ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// FromHardwareAddr converts an address of the standard library; anything but six bytes (an
// InfiniBand address, none at all) gives the zero MAC.
func FromHardwareAddr(hw net.HardwareAddr) MAC {
	if len(hw) != 6 {
		return MAC{}
	}
	return MAC(hw)
}

// HardwareAddr converts to the standard library's type, for the edges.
func (m MAC) HardwareAddr() net.HardwareAddr { return net.HardwareAddr(m[:]) }

// IsZero reports whether m is the zero value.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsMulticast reports whether the group bit is set (broadcast included).
func (m MAC) IsMulticast() bool { return m[0]&1 == 1 }

// String gives the colon form of iproute2, "ce:b8:fc:a6:06:d2".
func (m MAC) String() string {
	var b [17]byte
	for i, v := range m {
		if i > 0 {
			b[i*3-1] = ':'
		}
		hex.Encode(b[i*3:i*3+2], []byte{v})
	}
	return string(b[:])
}

// MarshalText and UnmarshalText give JSON and YAML the colon form; the zero MAC is "".
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = MAC{}
		return nil
	}
	v, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}
