package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// run is one call of Run with ICMP or UDP.
type run struct {
	*Prober
	Result
	count int
	sent  []probeState // by number, from 0
}

type probeState struct {
	at   time.Time
	open bool // sent, and neither answered nor refused
}

func (r *run) loop(ctx context.Context, interval, timeout time.Duration) {
	next := time.Now()
	deadline := next
	for ctx.Err() == nil {
		now := time.Now()
		if len(r.sent) < r.count && !now.Before(next) {
			r.sendNext()
			next = next.Add(interval)
			deadline = time.Now().Add(timeout)
			continue
		}
		until := deadline
		if len(r.sent) < r.count {
			until = next
		} else if !r.anyOpen() {
			return
		}
		ready, ended := r.wait(unix.POLLIN, until)
		if ended || !ready && len(r.sent) == r.count {
			return
		}
		if ready {
			r.receive()
		}
	}
}

func (r *run) anyOpen() bool {
	for _, s := range r.sent {
		if s.open {
			return true
		}
	}
	return false
}

// sendNext sends one probe. An error of an earlier probe may be waiting on the socket and be
// returned instead: it is taken off, and the send is tried once more.
func (r *run) sendNext() {
	r.sent = append(r.sent, probeState{at: time.Now()})
	seq := len(r.sent)
	err := r.transmit(seq)
	if err != nil && r.takeErrors() {
		err = r.transmit(seq)
	}
	if err != nil {
		r.addError(err.Error())
		return
	}
	r.Sent++
	r.sent[seq-1].open = true
}

// transmit hands one probe to the kernel.
func (r *run) transmit(seq int) error {
	b := make([]byte, r.opts.Size)
	fillPayload(b, r.flow.Marker, seq)
	if r.spec.Proto == ICMP {
		b = r.echo(seq, b)
		return named("send", unix.Sendto(r.fd, b, 0, sockaddr(r.flow.Dst, 0)))
	}
	_, err := unix.Write(r.fd, b)
	if errors.Is(err, unix.EDESTADDRREQ) { // Prepare could not connect it
		if err := unix.Connect(r.fd, sockaddr(r.flow.Dst, r.flow.DstPort)); err != nil {
			return named("connect", err)
		}
		_, err = unix.Write(r.fd, b)
	}
	return named("send", err)
}

func named(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}

// receive takes all answers and errors that wait on the socket.
func (r *run) receive() {
	r.takeErrors()
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, oobn, _, from, err := unix.Recvmsg(r.fd, buf, oob, unix.MSG_DONTWAIT)
		now := time.Now()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			if !r.takeErrors() {
				r.addError(named("receive", err).Error())
			}
			return // reading took the error off the socket; what is behind it makes poll return again
		}
		r.answer(buf[:n], oob[:oobn], addrPort(from).Addr(), now)
	}
}

// answer books one packet.
func (r *run) answer(b, oob []byte, from netip.Addr, now time.Time) {
	reply := Reply{From: from.Unmap(), TTL: hopLimit(oob)}
	if r.spec.Proto == ICMP {
		reply.Seq = r.parseEcho(b)
	} else if reply.Seq = payloadSeq(b, r.flow.Marker); reply.Seq == 0 {
		reply.Seq = r.oldestOpen() // a server that answers with something else
	}
	if s := r.close(reply.Seq); s != nil {
		reply.RTT = now.Sub(s.at)
		r.Replies = append(r.Replies, reply)
		r.Answered++
	}
}

// close marks a probe as done; nil if it was not open (a duplicate, or nothing of ours).
func (r *run) close(seq int) *probeState {
	if seq < 1 || seq > len(r.sent) || !r.sent[seq-1].open {
		return nil
	}
	r.sent[seq-1].open = false
	return &r.sent[seq-1]
}

func (r *run) oldestOpen() int {
	for i, s := range r.sent {
		if s.open {
			return i + 1
		}
	}
	return 0
}

// takeErrors reads the socket's error queue and reports whether there was anything.
func (r *run) takeErrors() bool {
	found := false
	for {
		e, ok := readError(r.fd)
		if !ok {
			break
		}
		found = true
		r.book(e, time.Now())
	}
	// An error that has no message stays in SO_ERROR; left there, poll would return at once for ever.
	if errno, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 && !found {
		found = true
		r.addError(unix.Errno(errno).Error())
	}
	return found
}

// book notes an error of the error queue. The destination's own "port unreachable" is an answer.
func (r *run) book(e queuedError, now time.Time) {
	seq := payloadSeq(e.payload, r.flow.Marker)
	if r.spec.Proto == ICMP {
		if seq = r.quotedEcho(e.payload); seq == 0 {
			return // about an echo of somebody else: raw sockets get them all
		}
	}
	r.addError(e.String())
	if e.errno == unix.EMSGSIZE {
		r.PMTU = int(e.mtu)
	}
	if seq == 0 && e.fromNetwork() {
		seq = r.oldestOpen() // a router that quotes no more than it has to
	}
	s := r.close(seq)
	if s == nil || !e.portUnreachable() || e.offender != r.flow.Dst {
		return
	}
	r.Answered++
	r.Replies = append(r.Replies, Reply{Seq: seq, From: e.offender, RTT: now.Sub(s.at)})
}

// connect is Run for TCP.
func (p *Prober) connect(timeout time.Duration) Result {
	var r Result
	begin := time.Now()
	err := unix.Connect(p.fd, sockaddr(p.flow.Dst, p.flow.DstPort))
	if errors.Is(err, unix.EINPROGRESS) {
		r.Sent = 1
		err = p.connected(begin.Add(timeout))
	} else if err == nil || errors.Is(err, unix.ECONNREFUSED) {
		r.Sent = 1
	}
	rtt := time.Since(begin)
	e, queued := readError(p.fd)
	switch {
	case queued && e.fromNetwork():
		r.addError(e.String())
		if e.portUnreachable() && e.offender == p.flow.Dst {
			r.answered(p.flow.Dst, rtt)
		}
	case errors.Is(err, unix.ECONNREFUSED): // a reset: nothing else has this errno and no ICMP error
		r.addError("connection refused")
		r.answered(p.flow.Dst, rtt)
	case err != nil:
		r.addError(named("connect", err).Error())
	default:
		r.answered(p.flow.Dst, rtt)
		_ = unix.Shutdown(p.fd, unix.SHUT_WR) // the FIN goes first, whatever the server has sent
	}
	_ = unix.Close(p.fd)
	p.fd = -1
	return r
}

func (r *Result) answered(from netip.Addr, rtt time.Duration) {
	r.Answered++
	r.Replies = append(r.Replies, Reply{Seq: 1, From: from, RTT: rtt})
}

// connected waits for the end of the handshake.
func (p *Prober) connected(deadline time.Time) error {
	ready, ended := p.wait(unix.POLLOUT, deadline)
	if ended {
		return context.Canceled
	}
	if !ready {
		return errors.New("no answer in time")
	}
	errno, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

func parseZone(zone string) (uint32, error) {
	n, err := strconv.ParseUint(zone, 10, 32)
	return uint32(n), err
}
