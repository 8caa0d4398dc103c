//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/report"
)

// The lab's two ends, and the port that the load goes to.
const (
	source, destination = "coffee-1", "coffee-2"
	loadPort            = 5999
	vxlanPort           = 8472 // of the default lab
)

// lab is a lab of the benchmark's own.
type lab struct {
	podtrace string
	dir      string
	prefix   string
	env      []string
	ends     [2]netip.Addr
	points   []tapPoint
	handles  map[string]*netns.Handle
	packets  []*os.File // /proc/net/packet of each namespace with points
	sink     int
}

// tapPoint is a point as the child and tcpdump need it.
type tapPoint struct {
	Netns     string // name under /run/netns
	Interface string
	Ifindex   int
	Underlay  bool // the flow is inside VXLAN here
}

func newLab(ctx context.Context, podtrace string) (*lab, error) {
	l := &lab{prefix: fmt.Sprintf("podtrace-b%d-", os.Getpid()), handles: map[string]*netns.Handle{}, sink: -1}
	var err error
	if l.podtrace, err = filepath.Abs(podtrace); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp("", "benchlive"); err != nil {
		return nil, err
	}
	l.env = append(os.Environ(), "PODTRACE_LAB_PREFIX="+l.prefix, "PODTRACE_LAB_DIR="+filepath.Join(l.dir, "lab"), "KUBECONFIG=")
	if out, err := l.command(ctx, "lab", "up").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("lab up: %w: %s", err, out)
	}
	if err := errors.Join(l.findPoints(ctx), l.listen()); err != nil {
		l.down()
		return nil, err
	}
	return l, nil
}

// command is podtrace on this lab.
func (l *lab) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, l.podtrace, args...)
	c.Env = l.env
	return c
}

// findPoints takes the points from a report, and the ends from its hops.
func (l *lab) findPoints(ctx context.Context) error {
	out, err := l.command(ctx, "path", source, destination, "-o", "json", "--contrast", "never").Output()
	if err != nil {
		return fmt.Errorf("trace the lab: %w", err)
	}
	var r report.Report
	if err := json.Unmarshal(out, &r); err != nil {
		return err
	}
	for i, text := range []string{r.Source.IP, r.Destination.IP} {
		if l.ends[i], err = netip.ParseAddr(text); err != nil {
			return err
		}
	}
	outer := map[string]bool{}
	for _, leg := range r.Legs {
		for _, h := range leg.Hops {
			if h.Observed != nil && h.Observed.Outer != nil {
				outer[h.Node+h.Interface] = true
			}
		}
	}
	for _, p := range r.Capture.Points {
		name := l.prefix + p.Node
		if _, pod, ok := strings.Cut(p.Netns, "/"); ok {
			name = l.prefix + pod
		}
		if err := l.open(name); err != nil {
			return err
		}
		l.points = append(l.points, tapPoint{Netns: name, Interface: p.Interface, Ifindex: p.Ifindex, Underlay: outer[p.Node+p.Interface]})
	}
	return nil
}

func (l *lab) open(name string) error {
	if l.handles[name] != nil {
		return nil
	}
	h, err := netns.Open("/run/netns/" + name)
	if err != nil {
		return err
	}
	l.handles[name] = h
	return h.Do(func() error {
		f, err := os.Open("/proc/thread-self/net/packet")
		if err == nil {
			l.packets = append(l.packets, f)
		}
		return err
	})
}

// listen binds a socket that the load goes to and that nobody reads: what comes is thrown away when it is full.
func (l *lab) listen() error {
	return l.handles[l.prefix+destination].Do(func() (err error) {
		if l.sink, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(l.sink, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			return err
		}
		return unix.Bind(l.sink, &unix.SockaddrInet4{Port: loadPort})
	})
}

// dial gives a socket of the source that is connected to a port of the destination.
func (l *lab) dial(port int) (fd int, err error) {
	err = l.handles[l.prefix+source].Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: l.ends[1].As4()})
	})
	return fd, err
}

// delivered counts the frames that the destination's interface received.
func (l *lab) delivered() (n uint64, err error) {
	err = l.handles[l.prefix+destination].Do(func() error {
		dev, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		_, line, _ := strings.Cut(string(dev), "eth0:")
		if f := strings.Fields(line); len(f) > 1 {
			n, err = strconv.ParseUint(f[1], 10, 64)
		}
		return err
	})
	return n, err
}

// armed counts the packet sockets of the lab that are bound and running.
func (l *lab) armed() (n int, err error) {
	buf := make([]byte, 1<<16)
	for _, f := range l.packets {
		got, err := f.ReadAt(buf, 0)
		if got == 0 && err != nil {
			return 0, err
		}
		for i, line := range bytes.Split(buf[:got], []byte("\n")) {
			// sk, RefCnt, Type, Proto, Iface, R(unning), Rmem, User, Inode
			if f := bytes.Fields(line); i > 0 && len(f) > 5 && string(f[5]) == "1" && string(f[4]) != "0" {
				n++
			}
		}
	}
	return n, nil
}

// until waits for a number of armed taps and gives the time at which there were as many.
func (l *lab) until(ctx context.Context, taps int) (time.Time, error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(500 * time.Microsecond) {
		n, err := l.armed()
		if err != nil {
			return time.Time{}, err
		}
		if n == taps {
			return time.Now(), nil
		}
	}
	return time.Time{}, fmt.Errorf("waited in vain for %d armed taps", taps)
}

func (l *lab) down() {
	for _, f := range l.packets {
		_ = f.Close()
	}
	for _, h := range l.handles {
		_ = h.Close()
	}
	if l.sink >= 0 {
		_ = unix.Close(l.sink)
	}
	if out, err := l.command(context.Background(), "lab", "down").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "benchlive: lab down: %v: %s", err, out)
	}
	_ = os.RemoveAll(l.dir)
}

func release() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}
