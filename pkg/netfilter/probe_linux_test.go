package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probe is one packet that is sent: by a client or a server through the router, or by the router itself.
type probe struct {
	from   string // "client", "server", "router"
	p      Packet
	cookie uint32
	ack    uint32 // of TCP: the acknowledgement
}

func (q probe) v6() bool { return q.p.Dst.Is6() }

// seen is a packet at one of the router's hooks, or where it arrived.
type seen struct {
	at               string // "0" to "4": the hook; "client", "server": arrived there
	src, dst         netip.Addr
	sport, dport     uint16
	ttl, tos         uint8
	mark             uint32
	anyPort          bool
	errType, errCode uint8 // at the client: an ICMP error about the probe
	reset            bool
}

func (s seen) String() string {
	switch {
	case s.reset:
		return s.at + ": reset"
	case s.errType != 0:
		return fmt.Sprintf("%s: icmp error %d/%d", s.at, s.errType, s.errCode)
	}
	port := fmt.Sprint(s.sport)
	if s.anyPort {
		port = "any"
	}
	return fmt.Sprintf("%s: %s:%s > %s:%d ttl %d tos %#x mark %#x", s.at, s.src, port, s.dst, s.dport, s.ttl, s.tos, s.mark)
}

func (w *router) send(q probe) {
	w.t.Helper()
	b := q.bytes()
	switch q.from {
	case "router":
		w.sendLocal(q, b)
	default:
		fd, src, dst := w.client, clientMAC, routerMACc
		if q.from == "server" {
			fd, src, dst = w.server, serverMAC, routerMACs
		}
		frame := append(append(append([]byte{}, dst[:]...), src[:]...), byte(q.p.EtherType>>8), byte(q.p.EtherType))
		_, err := unix.Write(fd, append(frame, b...))
		w.must(err)
	}
}

// sendLocal sends by a raw socket; a rule that drops shows as EPERM.
func (w *router) sendLocal(q probe, b []byte) {
	w.t.Helper()
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: q.p.Dst.As16()}
	fd := w.raw6
	if !q.v6() {
		sa, fd = &unix.SockaddrInet4{Addr: q.p.Dst.As4()}, w.raw4
	}
	w.must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(q.p.Mark)))
	var errno syscall.Errno
	if err := unix.Sendto(fd, b, 0, sa); err != nil && !errors.As(err, &errno) {
		w.t.Fatal(err)
	}
}

// observe collects what the hooks logged and what arrived, until nothing more comes.
func (w *router) observe(q probe, wait time.Duration) (out []seen) {
	w.t.Helper()
	for end := time.Now().Add(wait); time.Now().Before(end); {
		n := len(out)
		out = append(out, w.logged(q)...)
		out = append(out, w.arrived(q, w.client, "client")...)
		out = append(out, w.arrived(q, w.server, "server")...)
		if len(out) == n {
			time.Sleep(time.Millisecond)
		}
	}
	return out
}

func (w *router) logged(q probe) (out []seen) {
	for {
		_ = w.log.SetReadDeadline(time.Now().Add(200 * time.Microsecond))
		msgs, err := w.log.Receive()
		if err != nil {
			return out
		}
		for _, m := range msgs {
			if len(m.Data) < 4 || m.Header.Type != unix.NFNL_SUBSYS_ULOG<<8 {
				continue
			}
			a, err := readAttrs(m.Data[4:])
			w.must(err)
			if s, ok := q.parse(a[9]); ok && !s.reset && s.errType == 0 { // NFULA_PAYLOAD, PREFIX, MARK
				s.at, s.mark = a.str(10), a.u32(2)
				out = append(out, s)
			}
		}
	}
}

func (w *router) arrived(q probe, fd int, at string) (out []seen) {
	b := make([]byte, 2048)
	for {
		n, err := unix.Read(fd, b)
		if err != nil {
			return out
		}
		if n > 14 {
			if s, ok := q.parse(b[14:n]); ok {
				s.at = at
				out = append(out, s)
			}
		}
	}
}

// bytes builds the packet, with a cookie by which it is known again: the sequence number of TCP, else the
// payload.
func (q probe) bytes() []byte {
	p := &q.p
	var l4 []byte
	be := binary.BigEndian
	switch p.Proto {
	case protoTCP:
		l4 = be.AppendUint16(be.AppendUint16(nil, p.SrcPort), p.DstPort)
		l4 = append(be.AppendUint32(be.AppendUint32(l4, q.cookie), q.ack), 0x50, p.TCPFlags, 0xff, 0xff, 0, 0, 0, 0)
	case protoUDP:
		l4 = be.AppendUint16(be.AppendUint16(nil, p.SrcPort), p.DstPort)
		l4 = append(be.AppendUint16(l4, uint16(p.payloadLen())), 0, 0)
		l4 = be.AppendUint32(l4, q.cookie)
	default:
		l4 = be.AppendUint16([]byte{p.ICMPType, p.ICMPCode, 0, 0}, p.ICMPID)
		l4 = be.AppendUint32(append(l4, 0, 1), q.cookie)
	}
	l4 = append(l4, make([]byte, p.payloadLen()-len(l4))...)
	at := map[uint8]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMPv6: 2}[p.Proto]
	pseudo := be.AppendUint32(append(p.Src.AsSlice(), p.Dst.AsSlice()...), uint32(len(l4)))
	pseudo = append(pseudo, 0, 0, 0, p.Proto)
	if p.Proto == protoICMP {
		pseudo = nil
	}
	be.PutUint16(l4[at:], checksum(append(pseudo, l4...)))
	ip := p.network().b
	if p.Dst.Is4() {
		be.PutUint16(ip[4:], uint16(q.cookie))
		be.PutUint16(ip[10:], checksum(ip))
	}
	return append(ip, l4...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// parse recognises the probe, an ICMP error about it, or a reset that answers it.
func (q probe) parse(b []byte) (s seen, ok bool) {
	var l4 []byte
	var proto uint8
	switch {
	case len(b) >= ipv4HeaderLen && b[0]>>4 == 4:
		s.src, s.dst, proto, l4 = addrOf(b[12:16]), addrOf(b[16:20]), b[9], b[20:]
		s.ttl, s.tos = b[8], b[1]
	case len(b) >= ipv6HeaderLen && b[0]>>4 == 6:
		s.src, s.dst, proto, l4 = addrOf(b[8:24]), addrOf(b[24:40]), b[6], b[40:]
		s.ttl, s.tos = b[7], b[0]<<4|b[1]>>4
	default:
		return s, false
	}
	be := binary.BigEndian
	if len(l4) < 12 {
		return s, false
	}
	switch {
	case proto == protoTCP && q.p.Proto == protoTCP:
		s.sport, s.dport = be.Uint16(l4), be.Uint16(l4[2:])
		if len(l4) > 13 && l4[13]&tcpRST != 0 && q.p.TCPFlags&tcpRST == 0 {
			s.reset = true
			return s, be.Uint32(l4[8:])-1 == q.cookie || be.Uint32(l4[8:]) == q.cookie || q.p.TCPFlags&tcpACK != 0 && s.dport == q.p.SrcPort
		}
		return s, be.Uint32(l4[4:]) == q.cookie
	case proto == protoUDP && q.p.Proto == protoUDP:
		s.sport, s.dport = be.Uint16(l4), be.Uint16(l4[2:])
		return s, be.Uint32(l4[8:]) == q.cookie
	case isICMP(proto) && (l4[0] == 3 && proto == protoICMP || l4[0] < 128 && proto == protoICMPv6):
		s.errType, s.errCode = l4[0], l4[1]
		_, ok := q.parse(l4[8:])
		return s, ok
	case isICMP(proto) && proto == q.p.Proto:
		s.sport = be.Uint16(l4[4:])
		return s, be.Uint32(l4[8:]) == q.cookie
	}
	return s, false
}
