package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// exchange sends something from a namespace and waits for the answer: proto is "icmp", "tcp" or "udp"
// (echo on the port), or "http". It is the kernel that says whether a path works.
func exchange(o Options, from, proto string, to netip.AddrPort, patience time.Duration) error {
	return exchangeFrom(o, from, 0, proto, to, 0, patience)
}

// exchangeFrom does so from a source port, 0 being any, and with an ICMP message of so many bytes.
func exchangeFrom(o Options, from string, port int, proto string, to netip.AddrPort, size int, patience time.Duration) error {
	h, err := netns.Open(o.netnsPath(from))
	if err != nil {
		return err
	}
	defer h.Close()
	family := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte(to.Addr().AsSlice()[:4])}
	if to.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	typ, number := unix.SOCK_STREAM, 0
	switch proto {
	case "udp":
		typ = unix.SOCK_DGRAM
	case "icmp":
		typ, number = unix.SOCK_RAW, unix.IPPROTO_ICMP
		if to.Addr().Is6() {
			number = unix.IPPROTO_ICMPV6
		}
	}
	fd := -1
	err = h.Do(func() (err error) {
		fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC, number)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
	if err != nil {
		return err
	}
	if port != 0 {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
			return err
		}
	}
	if err := retried(func() error { return unix.Connect(fd, sa) }); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	message := []byte("hello")
	switch proto {
	case "icmp":
		message = echoRequest(to.Addr().Is6())
		message = append(message, make([]byte, max(size-len(message), 0))...)
	case "http":
		message = []byte("GET / HTTP/1.0\r\n\r\n")
	}
	if err := retried(func() error { _, err := unix.Write(fd, message); return err }); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return answered(fd, proto, to.Addr().Is6(), message)
}

// retried makes a call again that a signal of the Go runtime interrupted.
func retried(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// echoRequest is ICMP's, RFC 792 and RFC 4443 section 4.1; the kernel fills the latter's checksum in.
func echoRequest(is6 bool) []byte {
	m := []byte{8, 0, 0, 0, 0, 0, 0, 1}
	binary.BigEndian.PutUint16(m[4:], uint16(os.Getpid()))
	if is6 {
		m[0] = 128
		return m
	}
	sum := uint32(0x0801) + uint32(binary.BigEndian.Uint16(m[4:]))
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	return m
}

func answered(fd int, proto string, is6 bool, message []byte) error {
	buf := make([]byte, 1500)
	for range 100 { // a raw socket sees other people's as well
		var n int
		err := retried(func() (err error) { n, err = unix.Read(fd, buf); return err })
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		got := buf[:n]
		if proto == "http" && bytes.HasPrefix(got, []byte("HTTP/1.0 200")) {
			return nil
		}
		if proto != "icmp" {
			if !bytes.Equal(got, message) {
				return fmt.Errorf("answer %q", got)
			}
			return nil
		}
		reply := byte(129)
		if !is6 {
			reply, got = 0, got[20:]
		}
		if got[0] == reply && bytes.Equal(got[4:8], message[4:8]) {
			return nil
		}
	}
	return errors.New("no answer among 100 messages")
}

// requestsAt is how many echo requests have reached a namespace.
func requestsAt(t testing.TB, o Options, name string) (n int) {
	t.Helper()
	h, err := netns.Open(o.netnsPath(name))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var snmp, snmp6 []byte
	err = h.Do(func() (err error) {
		if snmp, err = os.ReadFile("/proc/thread-self/net/snmp"); err == nil {
			snmp6, err = os.ReadFile("/proc/thread-self/net/snmp6")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(snmp)) {
		f := strings.Fields(line)
		if f[0] != "Icmp:" {
			continue
		}
		for i := range f {
			if len(names) > i && names[i] == "InEchos" {
				n, _ = strconv.Atoi(f[i])
			}
		}
		names = f
	}
	for line := range strings.Lines(string(snmp6)) {
		if f := strings.Fields(line); f[0] == "Icmp6InEchos" {
			more, _ := strconv.Atoi(f[1])
			n += more
		}
	}
	return n
}
