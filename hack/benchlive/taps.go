//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/netns"
)

// plan is what the child is to arm.
type plan struct {
	Points []tapPoint
	A, B   netip.Addr
	Proto  uint8
	Port   uint16 // of the destination
	Refuse bool   // every frame: what any sockets at the points cost
}

// counts is what the child prints.
type counts struct {
	Packets, Drops, Read, Foreign uint64
	SpanMicros                    float64 // from the first bind to the last
}

// tapsChild arms the points with podtrace's engine and filters, and reads every frame until it is interrupted.
func tapsChild(ctx context.Context, path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	var c counts
	cfg := capture.Config{Stream: true, OnFrame: func(f *capture.Frame) {
		c.Read++
		if f.WireLen == 0 || len(f.Data) < 14 {
			c.Foreign++
		}
	}}
	flow := capture.Flow{Proto: p.Proto, A: []netip.Addr{p.A}, B: []netip.Addr{p.B}, BPort: p.Port}
	for i, pt := range p.Points {
		h, err := netns.Open("/run/netns/" + pt.Netns)
		if err != nil {
			return err
		}
		defer h.Close() // read only
		var encap []capture.Encap
		if pt.Underlay {
			encap = []capture.Encap{{UDPPort: vxlanPort}}
		}
		filter, err := capture.Filter(flow, encap, capture.FilterOptions{})
		if p.Refuse {
			filter, err = bpf.Assemble([]bpf.Instruction{bpf.RetConstant{}})
		}
		if err != nil {
			return err
		}
		cfg.Points = append(cfg.Points, capture.Point{ID: i, Netns: h, Ifindex: pt.Ifindex, Interface: pt.Interface, Filter: filter})
	}
	s, err := capture.Open(ctx, cfg)
	if err != nil {
		return err
	}
	s.Start()
	<-ctx.Done()
	for _, st := range s.Stop().Points {
		c.Packets += st.Packets
		c.Drops += st.Drops
	}
	c.SpanMicros = float64(s.BindSpan().Nanoseconds()) / 1000
	return json.NewEncoder(os.Stdout).Encode(c)
}

// taps are processes that watch the lab's points.
type taps struct {
	cmds []*exec.Cmd
	outs []*bytes.Buffer
}

// usage is what the processes used and counted.
type usage struct {
	cpu time.Duration
	counts
}

// perMillion is the CPU time in seconds for a million sightings.
func (u usage) perMillion() float64 { return u.cpu.Seconds() / (float64(u.Packets) / 1e6) }

func (l *lab) start(ctx context.Context, cmds ...*exec.Cmd) (*taps, error) {
	t := &taps{}
	for _, c := range cmds {
		out := new(bytes.Buffer)
		c.Stdout, c.Stderr = out, out
		if err := c.Start(); err != nil {
			return nil, err
		}
		t.cmds, t.outs = append(t.cmds, c), append(t.outs, out)
	}
	_, err := l.until(ctx, len(l.points))
	time.Sleep(200 * time.Millisecond) // until everybody reads
	return t, err
}

// engine starts podtrace's engine on a flow.
func (l *lab) engine(ctx context.Context, proto uint8, port uint16) (*taps, error) {
	return l.child(ctx, plan{Proto: proto, Port: port})
}

// refusing starts sockets that take nothing.
func (l *lab) refusing(ctx context.Context) (*taps, error) {
	return l.child(ctx, plan{Proto: unix.IPPROTO_TCP, Refuse: true})
}

func (l *lab) child(ctx context.Context, p plan) (*taps, error) {
	p.Points, p.A, p.B = l.points, l.ends[0], l.ends[1]
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(l.dir, "plan.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return l.start(ctx, exec.Command(self, "-taps", path))
}

// tcpdump starts a tcpdump a point, with the same filter and what else is asked for.
func (l *lab) tcpdump(ctx context.Context, proto string, port int, args ...string) (*taps, error) {
	var cmds []*exec.Cmd
	for _, p := range l.points {
		a := append([]string{"netns", "exec", p.Netns, "tcpdump", "-p", "-n", "-i", p.Interface, "-w", os.DevNull}, args...)
		cmds = append(cmds, exec.Command("ip", append(a, l.expression(p, proto, port))...))
	}
	return l.start(ctx, cmds...)
}

// expression is the filter of a point in the language of pcap-filter(7): behind VXLAN by offsets into the UDP
// header (8 bytes, VXLAN's 8, Ethernet's 14).
func (l *lab) expression(p tapPoint, proto string, port int) string {
	if !p.Underlay {
		return fmt.Sprintf("%s and host %s and host %s and port %d", proto, l.ends[0], l.ends[1], port)
	}
	number := map[string]int{"udp": unix.IPPROTO_UDP, "tcp": unix.IPPROTO_TCP}[proto]
	word := func(a netip.Addr) string { b := a.As4(); return fmt.Sprintf("0x%x", b[:]) }
	a, b := word(l.ends[0]), word(l.ends[1])
	return fmt.Sprintf("udp dst port %d and udp[39] == %d and ((udp[42:4] == %s and udp[46:4] == %s) or (udp[42:4] == %s and udp[46:4] == %s)) and (udp[50:2] == %d or udp[52:2] == %d)",
		vxlanPort, number, a, b, b, a, port, port)
}

// stop interrupts the processes and takes what they used and printed.
func (t *taps) stop() (u usage, err error) {
	for _, c := range t.cmds {
		_ = c.Process.Signal(os.Interrupt)
	}
	for i, c := range t.cmds {
		if err := c.Wait(); err != nil {
			return u, fmt.Errorf("%s: %w: %s", c, err, t.outs[i])
		}
		u.cpu += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		if err := u.read(t.outs[i].String()); err != nil {
			return u, err
		}
	}
	return u, nil
}

// ofTcpdump are tcpdump's counts: what the filter let through, and what found no room.
var ofTcpdump = regexp.MustCompile(`(\d+) packets? (received by filter|dropped by kernel)`)

func (u *usage) read(out string) error {
	if strings.HasPrefix(out, "{") {
		return json.Unmarshal([]byte(out), &u.counts)
	}
	for _, m := range ofTcpdump.FindAllStringSubmatch(out, -1) {
		n, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil {
			return err
		}
		if m[2] == "dropped by kernel" {
			u.Drops += n
		} else {
			u.Packets += n
		}
	}
	return nil
}

// cpuOf is the CPU time that a running process has used.
func cpuOf(pid int) (time.Duration, error) {
	var sum time.Duration
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	for _, t := range tasks {
		raw, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		ns, _, _ := strings.Cut(string(raw), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// interrupt is what Ctrl-C sends.
func interrupt(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGINT) }
