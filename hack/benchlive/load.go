//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is how many datagrams one sendmmsg(2) sends.
const batch = 64

// message is struct mmsghdr of recvmmsg(2) on 64-bit systems.
type message struct {
	unix.Msghdr
	n uint32
	_ uint32
}

// send sends small datagrams for a while from as many sockets as there are CPUs, so many a second together (0: as
// many as go).
func (l *lab) send(ctx context.Context, port, rate int, d time.Duration) error {
	n := runtime.NumCPU()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = l.sendOne(ctx, port, rate/n, d) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// sendOne does so from a socket that Go's poller does not know: it would be woken by every datagram that has left.
func (l *lab) sendOne(ctx context.Context, port, rate int, d time.Duration) error {
	fd, err := l.dial(port)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	payload := []byte("benchlive: 18 bytes")[:18]
	vec := unix.Iovec{Base: &payload[0], Len: uint64(len(payload))}
	msgs := make([]message, batch)
	for i := range msgs {
		msgs[i].Iov, msgs[i].Iovlen = &vec, 1
	}
	begin := time.Now()
	for sent := 0; ctx.Err() == nil && time.Since(begin) < d; {
		if rate > 0 {
			if due := int(time.Since(begin).Seconds()*float64(rate)) - sent; due < batch {
				time.Sleep(time.Duration(batch-due) * time.Second / time.Duration(rate))
				continue
			}
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), batch, 0, 0, 0)
		if errno != 0 && errno != unix.ECONNREFUSED && errno != unix.ENOBUFS {
			return errno
		}
		if errno == 0 {
			sent += int(n)
		}
	}
	return nil
}

// flooded is the rate of frames that reach the destination while as many are sent as go.
func (l *lab) flooded(ctx context.Context, d time.Duration) (float64, error) {
	before, err := l.delivered()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := l.send(ctx, loadPort, 0, d); err != nil {
		return 0, err
	}
	after, err := l.delivered()
	return float64(after-before) / time.Since(begin).Seconds(), err
}

// iperfPort is where iperf3 listens.
const iperfPort = 5201

// iperf gives the throughput of one TCP connection in bits a second.
func (l *lab) iperf(ctx context.Context, d time.Duration) (float64, error) {
	server := exec.CommandContext(ctx, "ip", "netns", "exec", l.prefix+destination, "iperf3", "-s", "-1", "-p", strconv.Itoa(iperfPort))
	if err := server.Start(); err != nil {
		return 0, err
	}
	defer server.Wait()                //nolint:errcheck // it ends after one client, and is killed if there was none
	time.Sleep(300 * time.Millisecond) // until it listens
	out, err := exec.CommandContext(ctx, "ip", "netns", "exec", l.prefix+source,
		"iperf3", "-c", l.ends[1].String(), "-p", strconv.Itoa(iperfPort), "-t", strconv.Itoa(int(d.Seconds())), "-J").Output()
	if err != nil {
		return 0, errors.Join(fmt.Errorf("iperf3: %w: %s", err, out), server.Process.Kill())
	}
	var r struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	err = json.Unmarshal(out, &r)
	return r.End.Received.Bits, err
}
