package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// Proxy is the proxy of flannel's UDP backend (its pkg/backend/udp/proxy_amd64.c): whatever IPv4 packet
// a node routes into the TUN device goes, as the payload of a UDP datagram, to the node that has the
// destination, and the other way about.
type Proxy struct {
	// Open attaches to the TUN device; each read and write is one packet. It is called again when the
	// device went away, until it succeeds.
	Open func() (io.ReadWriteCloser, error)
	UDP  net.PacketConn
	// Route gives the proxy of the node that an address belongs to.
	Route func(netip.Addr) (netip.AddrPort, bool)
}

// Close closes the socket.
func (p Proxy) Close() error { return p.UDP.Close() }

// reopen is how long to wait before the TUN device is looked for again.
const reopen = 20 * time.Millisecond

// run forwards until ctx is done.
func (p Proxy) run(ctx context.Context) error {
	for ctx.Err() == nil {
		tun, err := p.Open()
		if err == nil {
			p.forward(ctx, tun)
			_ = tun.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(reopen):
		}
	}
	return net.ErrClosed
}

// forward runs both directions until one ends: the socket or the device is gone.
func (p Proxy) forward(ctx context.Context, tun io.ReadWriteCloser) {
	_ = p.UDP.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = tun.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.fromUDP(tun)
	}()
	p.fromTUN(tun)
	_ = p.UDP.SetReadDeadline(time.Now()) // wakes the other direction up
	<-done
}

// maxPacket is the longest IPv4 packet, in bytes.
const maxPacket = 1<<16 - 1

func (p Proxy) fromTUN(tun io.Reader) {
	buf := make([]byte, maxPacket)
	for {
		n, err := tun.Read(buf)
		if err != nil {
			return
		}
		dst, ok := hop(buf[:n])
		if !ok {
			continue
		}
		if to, ok := p.Route(dst); ok {
			_, _ = p.UDP.WriteTo(buf[:n], net.UDPAddrFromAddrPort(to))
		}
	}
}

func (p Proxy) fromUDP(tun io.Writer) {
	buf := make([]byte, maxPacket)
	for {
		n, _, err := p.UDP.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) || isTimeout(err) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier datagram
		}
		if _, ok := hop(buf[:n]); ok {
			_, _ = tun.Write(buf[:n])
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// hop takes one off the TTL of an IPv4 packet, mends the checksum (RFC 1624) and gives the
// destination. It refuses what is no IPv4 packet, and one at the end of its TTL.
func hop(packet []byte) (netip.Addr, bool) {
	const header, ttl, sum, dst = 20, 8, 10, 16 // RFC 791 section 3.1, in bytes
	if len(packet) < header || packet[0]>>4 != 4 || packet[ttl] <= 1 {
		return netip.Addr{}, false
	}
	packet[ttl]--
	// Less by 0x0100 in the word of TTL and protocol is more by as much in the complement.
	check := uint32(binary.BigEndian.Uint16(packet[sum:])) + 0x0100
	binary.BigEndian.PutUint16(packet[sum:], uint16(check+check>>16)) //nolint:gosec // the carry is added
	return netip.AddrFrom4([4]byte(packet[dst : dst+4])), true
}
