package pcapfile

import (
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
)

func TestPayload(t *testing.T) {
	sll := make([]byte, 16)
	sll[14], sll[15] = 0x08, 0x06
	for _, tt := range []struct {
		name      string
		link      LinkType
		data      []byte
		etherType uint16
		off       int
		ok        bool
	}{
		{"raw IPv4", LinkRaw, []byte{0x45}, ether.TypeIPv4, 0, true},
		{"raw IPv6", LinkIPv6, []byte{0x60}, ether.TypeIPv6, 0, true},
		{"raw neither", LinkRaw, []byte{0x10}, 0, 0, false},
		{"raw empty", LinkRaw, nil, 0, 0, false},
		{"null little-endian", LinkNull, []byte{2, 0, 0, 0}, ether.TypeIPv4, 4, true},
		{"null big-endian", LinkNull, []byte{0, 0, 0, 30}, ether.TypeIPv6, 4, true},
		{"loop", LinkLoop, []byte{0, 0, 0, 24}, ether.TypeIPv6, 4, true},
		{"loop cut", LinkLoop, []byte{0, 0, 0}, 0, 0, false},
		{"loop other", LinkLoop, []byte{0, 0, 0, 7}, 0, 4, false},
		{"SLL", LinkSLL, sll, ether.TypeARP, 16, true},
		{"SLL cut", LinkSLL, sll[:15], 0, 0, false},
		{"SLL2", LinkSLL2, append([]byte{0x86, 0xdd}, make([]byte, 18)...), ether.TypeIPv6, 20, true},
		{"Ethernet", LinkEthernet, make([]byte, 14), 0, 0, false},
	} {
		etherType, off, ok := tt.link.Payload(tt.data)
		if etherType != tt.etherType || off != tt.off || ok != tt.ok {
			t.Errorf("%s: %#x, %d, %t", tt.name, etherType, off, ok)
		}
	}
}
