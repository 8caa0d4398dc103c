package serve

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// checksum is that of RFC 1071 over an IPv4 header: 0 of one that is right.
func checksum(header []byte) uint16 {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// header makes an IPv4 header without options.
func header(ttl byte, id uint16, dst netip.Addr) []byte {
	h := []byte{0x45, 0, 0, 20, byte(id >> 8), byte(id), 0x40, 0, ttl, 17, 0, 0, 10, 244, 1, 32}
	h = append(h, dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return h
}

func TestHop(t *testing.T) {
	dst := netip.MustParseAddr("10.244.2.40")
	for id := range 1 << 16 { // among them are those where the carry wraps around
		h := header(64, uint16(id), dst)
		got, ok := hop(h)
		if !ok || got != dst || h[8] != 63 || checksum(h) != 0 {
			t.Fatalf("id %d: %v, %v, TTL %d, checksum %#x", id, got, ok, h[8], checksum(h))
		}
	}
	for name, packet := range map[string][]byte{
		"empty": nil, "short": header(9, 1, dst)[:19], "IPv6": append([]byte{0x60}, header(9, 1, dst)[1:]...),
		"TTL 1": header(1, 1, dst), "TTL 0": header(0, 1, dst),
	} {
		if _, ok := hop(packet); ok {
			t.Errorf("%s was taken", name)
		}
	}
}

// pipeTUN is a TUN device of the test's.
type pipeTUN struct {
	io.Reader
	io.Writer
	close func() error
}

func (p pipeTUN) Close() error { return p.close() }

// TestProxy sends a packet through two proxies, and through the first again after its device was made
// anew.
func TestProxy(t *testing.T) {
	type end struct {
		in  *io.PipeWriter
		out *io.PipeReader
	}
	opened := [2]chan end{make(chan end), make(chan end)}
	var socks [2]net.PacketConn
	for i := range socks {
		var err error
		if socks[i], err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var proxies []Proxy
	for i := range socks {
		other := socks[1-i].LocalAddr().(*net.UDPAddr).AddrPort()
		proxies = append(proxies, Proxy{
			UDP: socks[i],
			Open: func() (io.ReadWriteCloser, error) {
				inR, inW := io.Pipe()
				outR, outW := io.Pipe()
				select {
				case opened[i] <- end{inW, outR}:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				return pipeTUN{inR, outW, func() error { return inR.Close() }}, nil
			},
			Route: func(a netip.Addr) (netip.AddrPort, bool) { return other, a.As4()[2] == 2 },
		})
	}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, nil, proxies) }()
	a, b := <-opened[0], <-opened[1]
	for range 2 {
		for _, dst := range []string{"10.244.9.9", "10.244.2.40"} { // the first is nobody's
			if _, err := a.in.Write(header(64, 7, netip.MustParseAddr(dst))); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, 20)
		if _, err := io.ReadFull(b.out, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, header(62, 7, netip.MustParseAddr("10.244.2.40"))) {
			t.Errorf("got % x", got)
		}
		_ = a.in.Close() // as if the device were gone
		a = <-opened[0]
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("does not end")
	}
}
