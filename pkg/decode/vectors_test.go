package decode

import "slices"

// Pieces of frames, one field a line. Lengths that depend on what follows are set by the tests.

var ethIPv4 = []byte{
	0x02, 0x00, 0x00, 0x00, 0x00, 0x02, // destination
	0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // source
	0x08, 0x00, // IPv4
}

var ethIPv6 = []byte{
	0x02, 0x00, 0x00, 0x00, 0x00, 0x02, // destination
	0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // source
	0x86, 0xdd, // IPv6
}

// ipv4Header gives a header for a packet of n bytes in all, from 10.244.1.32 to 10.244.2.40.
func ipv4Header(n int, proto byte) []byte {
	return []byte{
		0x45,                  // version, header length in words
		0x10,                  // TOS
		byte(n >> 8), byte(n), // total length
		0x12, 0x34, // identification
		0x40, 0x00, // DF
		0x3f,       // TTL 63
		proto,      // protocol
		0x00, 0x00, // checksum, not read
		10, 244, 1, 32, // source
		10, 244, 2, 40, // destination
	}
}

// ipv6Header gives a header for n bytes behind it, from fd00:1::20 to fd00:2::28.
func ipv6Header(n int, next byte) []byte {
	return []byte{
		0x61, 0x00, 0x00, 0x00, // version, traffic class 0x10, flow label
		byte(n >> 8), byte(n), // payload length
		next, // next header
		0x3f, // hop limit 63
		0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20,
		0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x28,
	}
}

var tcpHeader = []byte{
	0x9c, 0x40, // source port 40000
	0x1f, 0x90, // destination port 8080
	0x00, 0x00, 0x00, 0x0a, // sequence number 10
	0x00, 0x00, 0x00, 0x14, // acknowledgement 20
	0x50,       // data offset 5 words
	0x18,       // PSH, ACK
	0xff, 0xff, // window
	0x00, 0x00, // checksum
	0x00, 0x00, // urgent pointer
}

// udpHeader gives a header for n bytes in all to the destination port.
func udpHeader(n int, port uint16) []byte {
	return []byte{
		0xc3, 0x50, // source port 50000
		byte(port >> 8), byte(port), // destination port
		byte(n >> 8), byte(n), // length
		0x00, 0x00, // checksum
	}
}

var echoRequest = []byte{
	0x08,       // echo request
	0x00,       // code
	0x00, 0x00, // checksum
	0x00, 0x07, // identifier 7
	0x00, 0x02, // sequence number 2
}

var vxlanHeader = []byte{
	0x08,       // I
	0x00,       //
	0x00, 0x00, //
	0x00, 0x00, 0x01, // VNI 1
	0x00, //
}

var (
	payload   = []byte("payload!")
	tcpFrame  = cat(ethIPv4, ipv4Header(48, 6), tcpHeader, payload)
	pingFrame = cat(ethIPv4, ipv4Header(36, 1), echoRequest, payload)
)

// cat joins pieces into one slice without spare capacity.
func cat(parts ...[]byte) []byte { return slices.Clip(slices.Concat(parts...)) }

// vxlanFrame puts a frame behind VXLAN over IPv4, to a UDP port.
func vxlanFrame(inner []byte, port uint16) []byte {
	n := len(inner) + 16
	return cat(ethIPv4, ipv4Header(n+20, 17), udpHeader(n, port), vxlanHeader, inner)
}
