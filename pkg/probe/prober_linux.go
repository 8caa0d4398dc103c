package probe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Prober holds a socket inside a namespace, ready to send. It is for one goroutine at a time.
type Prober struct {
	spec Spec
	opts Options
	flow Flow
	fd   int // -1: none (the probe None, or used up)
	wake int // eventfd that ends a wait when the context ends; -1: closed
}

// Prepare opens and binds the probe's socket inside the namespace (nil: the program's own). src may
// be invalid: the kernel chooses. That there is no route to dst is no error here but one of Result:
// it is what a trace is there to explain.
func Prepare(h *netns.Handle, spec Spec, src, dst netip.Addr, opts Options) (*Prober, error) {
	p := &Prober{spec: spec, opts: opts, fd: -1, wake: -1}
	p.flow = Flow{Src: src.Unmap(), Dst: dst.Unmap(), DstPort: spec.Port}
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("prepare probe %s to %s: %w", spec, dst, err)
	}
	err := p.open(h)
	if err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("prepare probe %s to %s: %w", spec, dst, err)
	}
	return p, nil
}

func (p *Prober) validate() error {
	f := p.flow
	switch {
	case !f.Dst.IsValid():
		return errors.New("no destination address")
	case f.Src.IsValid() && f.Src.Is4() != f.Dst.Is4():
		return fmt.Errorf("source %s is of the other IP version", f.Src)
	case p.opts.Size < 0 || p.opts.Size > maxSize:
		return fmt.Errorf("payload of %d bytes: want at most %d", p.opts.Size, maxSize)
	case p.opts.TTL < 0 || p.opts.TTL > 255:
		return fmt.Errorf("TTL %d: want at most 255", p.opts.TTL)
	}
	switch p.spec.Proto {
	case ICMP, None:
		p.flow.DstPort = 0
	case TCP, UDP:
		if p.spec.Port == 0 {
			return errors.New("no destination port")
		}
	default:
		return fmt.Errorf("unknown protocol %q", p.spec.Proto)
	}
	if p.opts.Size == 0 {
		p.opts.Size = DefaultSize
	}
	p.opts.Size = max(p.opts.Size, minSize)
	return nil
}

// open makes the sockets in the namespace; no more than that happens inside.
func (p *Prober) open(h *netns.Handle) (err error) {
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, crypto/rand
	if p.spec.Proto == ICMP || p.spec.Proto == UDP {
		copy(p.flow.Marker[:], "podt")
		copy(p.flow.Marker[4:], random[:4])
	}
	inside := func() error {
		p.chooseSource()
		switch p.spec.Proto {
		case ICMP:
			return p.openICMP(max(1, binary.BigEndian.Uint16(random[4:])))
		case TCP:
			return p.openPorted(unix.SOCK_STREAM, unix.IPPROTO_TCP)
		case UDP:
			return p.openPorted(unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		}
		return nil
	}
	if h == nil {
		return inside()
	}
	return h.Do(inside)
}

// chooseSource asks the kernel which address it would send from: connecting a UDP socket looks the
// route up and sends nothing. Without a route the address stays as it is.
func (p *Prober) chooseSource() {
	if p.flow.Src.IsValid() {
		return
	}
	fd, err := unix.Socket(p.family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if p.opts.Mark != 0 { // rules may choose by it
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(p.opts.Mark))
	}
	const discard = 9 // any port: nothing is sent
	if unix.Connect(fd, sockaddr(p.flow.Dst, discard)) != nil {
		return
	}
	if ap, err := localAddr(fd); err == nil {
		p.flow.Src = ap.Addr()
	}
}

// openPorted opens a TCP or UDP socket; binding it to port 0 makes the kernel choose the port now.
func (p *Prober) openPorted(typ, proto int) error {
	if err := p.socket(typ, proto); err != nil {
		return err
	}
	p.flow.Proto = uint8(proto)
	if err := p.bind(); err != nil {
		return err
	}
	ap, err := localAddr(p.fd)
	if err != nil {
		return fmt.Errorf("read local port: %w", err)
	}
	p.flow.SrcPort = ap.Port()
	if typ == unix.SOCK_DGRAM {
		_ = unix.Connect(p.fd, sockaddr(p.flow.Dst, p.flow.DstPort)) // if it is refused, Run says so
	}
	return nil
}

// socket opens the socket with the options that all probes have.
func (p *Prober) socket(typ, proto int) (err error) {
	p.fd, err = unix.Socket(p.family(), typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if errors.Is(err, fs.ErrPermission) {
		return &netns.PermissionError{Op: "open socket", Capability: "CAP_NET_RAW", Err: err}
	}
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	if p.opts.Mark != 0 {
		err := unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_MARK, int(p.opts.Mark))
		if errors.Is(err, fs.ErrPermission) {
			return &netns.PermissionError{Op: "set mark", Capability: "CAP_NET_ADMIN", Err: err}
		}
		if err != nil {
			return fmt.Errorf("set mark: %w", err)
		}
	}
	for _, o := range p.ipOptions() {
		if err := unix.SetsockoptInt(p.fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.text, err)
		}
	}
	return nil
}

type sockopt struct {
	level, name, value int
	text               string
}

// ipOptions are of ip(7) or ipv6(7): ICMP errors with their sender, the TTL of answers, and what
// Options ask for.
func (p *Prober) ipOptions() []sockopt {
	if p.flow.Dst.Is4() {
		opts := []sockopt{
			{unix.SOL_IP, unix.IP_RECVERR, 1, "IP_RECVERR"},
			{unix.SOL_IP, unix.IP_RECVTTL, 1, "IP_RECVTTL"},
		}
		if p.opts.TTL > 0 {
			opts = append(opts, sockopt{unix.SOL_IP, unix.IP_TTL, p.opts.TTL, "IP_TTL"})
		}
		if p.opts.DF {
			opts = append(opts, sockopt{unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, "IP_MTU_DISCOVER"})
		}
		return opts
	}
	opts := []sockopt{
		{unix.SOL_IPV6, unix.IPV6_RECVERR, 1, "IPV6_RECVERR"},
		{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT"},
	}
	if p.opts.TTL > 0 {
		opts = append(opts, sockopt{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, p.opts.TTL, "IPV6_UNICAST_HOPS"})
	}
	if p.opts.DF {
		opts = append(opts, sockopt{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, "IPV6_MTU_DISCOVER"})
	}
	return opts
}

// bind binds to the source, or to any address where there is none.
func (p *Prober) bind() error {
	src := p.flow.Src
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
		if p.flow.Dst.Is6() {
			src = netip.IPv6Unspecified()
		}
	}
	if err := unix.Bind(p.fd, sockaddr(src, p.opts.SrcPort)); err != nil {
		return fmt.Errorf("bind to %s: %w", netip.AddrPortFrom(src, p.opts.SrcPort), err)
	}
	return nil
}

func (p *Prober) family() int {
	if p.flow.Dst.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Flow says what Run will send. It is fixed by Prepare.
func (p *Prober) Flow() Flow { return p.flow }

// Run sends count probes (at least one, at most 65535), interval apart, and returns as soon as each
// is answered or refused, at the latest timeout after the last one, or when ctx ends.
//
// TCP is one connection whatever count is, because one local port cannot connect again at once: it
// is opened and closed, Sent is 1, and a second Run reports that the socket is used up. A refused
// connection is an answer: the reset came from the destination. So is an ICMP port unreachable whose
// sender is the destination itself.
func (p *Prober) Run(ctx context.Context, count int, interval, timeout time.Duration) Result {
	if p.spec.Proto == None {
		return Result{}
	}
	if p.fd < 0 {
		return Result{Errors: []string{"probe socket is closed"}}
	}
	done := make(chan struct{})
	detach := context.AfterFunc(ctx, func() {
		defer close(done)
		_, _ = unix.Write(p.wake, binary.NativeEndian.AppendUint64(nil, 1))
	})
	defer func() {
		if !detach() {
			<-done
			_, _ = unix.Read(p.wake, make([]byte, 8)) // so that the next Run can wait
		}
	}()
	if p.spec.Proto == TCP {
		return p.connect(timeout)
	}
	r := &run{Prober: p, count: min(max(count, 1), 65535)}
	r.loop(ctx, interval, timeout)
	return r.Result
}

// Close frees the socket. Closing twice is harmless.
func (p *Prober) Close() error {
	var err error
	for _, fd := range []*int{&p.fd, &p.wake} {
		if *fd >= 0 {
			err = errors.Join(err, unix.Close(*fd))
			*fd = -1
		}
	}
	return err
}

// wait waits for events on the socket until the deadline. ended says that the context is over.
func (p *Prober) wait(events int16, deadline time.Time) (ready, ended bool) {
	for {
		left := time.Until(deadline)
		if left < 0 {
			return false, false
		}
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: events}, {Fd: int32(p.wake), Events: unix.POLLIN}}
		ms := (left + time.Millisecond - 1) / time.Millisecond // rounded up, else the last one spins
		_, err := unix.Poll(fds, int(min(ms, 1<<30)))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, true
		}
		if err == nil && fds[1].Revents != 0 {
			return false, true
		}
		if err == nil && fds[0].Revents != 0 {
			return true, false
		}
	}
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
	if n, err := parseZone(a.Zone()); err == nil {
		sa.ZoneId = n
	}
	return sa
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrPort(sa), nil
}
