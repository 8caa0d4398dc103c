//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// paced is what capturing 100,000 packets a second at ten points costs.
func (b *bench) paced(ctx context.Context) error {
	const rate = 100_000
	u, err := b.under(func() (*taps, error) { return b.lab.engine(ctx, unix.IPPROTO_UDP, loadPort) }, func() error {
		return b.lab.send(ctx, loadPort, rate, b.load)
	})
	if err != nil {
		return err
	}
	t, err := b.under(func() (*taps, error) { return b.lab.tcpdump(ctx, "udp", loadPort, "-s", "256") }, func() error {
		return b.lab.send(ctx, loadPort, rate, b.load)
	})
	if err != nil {
		return err
	}
	want := 0.9 * rate * b.load.Seconds() * float64(len(b.lab.points))
	b.add(fmt.Sprintf("drops, %d points × 100,000 packets/s UDP, %s", len(b.lab.points), b.load), "0",
		fmt.Sprintf("%d of %d (tcpdump: %d of %d)", u.Drops, u.Packets, t.Drops, t.Packets), u.Drops == 0 && float64(u.Packets) > want && u.Read == u.Packets)
	b.add("CPU per million matching sightings, of the processes", "≤ 0.08 s",
		fmt.Sprintf("%.3f s (tcpdump: %.3f s)", u.perMillion(), t.perMillion()), u.perMillion() <= 0.08)
	return nil
}

// under measures processes while a load is on.
func (b *bench) under(start func() (*taps, error), load func() error) (usage, error) {
	t, err := start()
	if err != nil {
		return usage{}, err
	}
	lerr := load()
	u, err := t.stop()
	if lerr != nil {
		return u, lerr
	}
	return u, err
}

// flood is the same at what the lab can push.
func (b *bench) flood(ctx context.Context) error {
	var rate float64
	u, err := b.under(func() (*taps, error) { return b.lab.engine(ctx, unix.IPPROTO_UDP, loadPort) }, func() (err error) {
		rate, err = b.lab.flooded(ctx, b.load)
		return err
	})
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("drops at what the lab can push, %s", b.load), "0",
		fmt.Sprintf("%d of %d (%.2f million/s, %.0fk arrive)", u.Drops, u.Packets, float64(u.Packets)/b.load.Seconds()/1e6, rate/1e3), u.Drops == 0 && u.Packets > 0)
	return nil
}

// smallPackets compares the throughput of small packets under both, in turn.
func (b *bench) smallPackets(ctx context.Context) error {
	d := max(b.load/3, time.Second)
	var ours, theirs, none, ratios []float64
	for range b.rounds {
		var rates [3]float64
		for i, start := range []func() (*taps, error){
			func() (*taps, error) { return b.lab.engine(ctx, unix.IPPROTO_UDP, loadPort) },
			func() (*taps, error) { return b.lab.tcpdump(ctx, "udp", loadPort) },
			func() (*taps, error) { return &taps{}, nil },
		} {
			if _, err := b.under(start, func() (err error) {
				rates[i], err = b.lab.flooded(ctx, d)
				return err
			}); err != nil {
				return err
			}
		}
		ours, theirs, none = append(ours, rates[0]), append(theirs, rates[1]), append(none, rates[2])
		ratios = append(ratios, rates[0]/rates[1])
	}
	r := median(ratios)
	b.add("small packets: throughput under 10 taps ÷ under 10 × tcpdump", "≥ 1.05",
		fmt.Sprintf("%.2f (%.0fk, %.0fk, untapped %.0fk packets/s)", r, median(ours)/1e3, median(theirs)/1e3, median(none)/1e3), r >= 1.05)
	return nil
}

// bulk compares the throughput of one TCP connection with and without taps, in turn.
func (b *bench) bulk(ctx context.Context) error {
	d := max(b.load/3, 2*time.Second)
	const otherPort = 7
	var traced, other, refused, dumped []float64
	for range b.rounds {
		var rates [5]float64
		for i, start := range []func() (*taps, error){
			func() (*taps, error) { return &taps{}, nil },
			func() (*taps, error) { return b.lab.engine(ctx, unix.IPPROTO_TCP, iperfPort) },
			func() (*taps, error) { return b.lab.engine(ctx, unix.IPPROTO_TCP, otherPort) },
			func() (*taps, error) { return b.lab.refusing(ctx) },
			func() (*taps, error) { return b.lab.tcpdump(ctx, "tcp", iperfPort) },
		} {
			if _, err := b.under(start, func() (err error) {
				rates[i], err = b.lab.iperf(ctx, d)
				return err
			}); err != nil {
				return err
			}
		}
		traced, other, dumped = append(traced, rates[1]/rates[0]), append(other, rates[2]/rates[0]), append(dumped, rates[4]/rates[0])
		refused = append(refused, rates[3]/rates[0])
	}
	b.add("iperf3 TCP with GSO, the traced flow: 10 taps ÷ untraced", "≥ 0.80",
		fmt.Sprintf("%.2f (10 × tcpdump: %.2f)", median(traced), median(dumped)), median(traced) >= 0.80)
	b.add("the same where the filter does not match", "≥ 0.97",
		fmt.Sprintf("%.3f (sockets that refuse everything: %.3f)", median(other), median(refused)), median(other) >= 0.97)
	return nil
}

// watching are the arguments of podtrace that watch real traffic.
var watching = []string{"watch", source, destination, "--for", "10m"}

// arming measures the program from its start to its armed taps, and from Ctrl-C to their end.
func (b *bench) arming(ctx context.Context) error {
	var armed, gone, spans []float64
	for range max(b.rounds, 3) {
		c := b.lab.command(ctx, watching...)
		c.Dir = b.lab.dir
		c.Stderr = os.Stderr
		begin := time.Now()
		if err := c.Start(); err != nil {
			return err
		}
		at, err := b.lab.until(ctx, len(b.lab.points))
		if err != nil {
			return err
		}
		armed = append(armed, at.Sub(begin).Seconds()*1000)
		time.Sleep(300 * time.Millisecond)
		begin = time.Now()
		if err := interrupt(c); err != nil {
			return err
		}
		if at, err = b.lab.until(ctx, 0); err != nil {
			return err
		}
		gone = append(gone, at.Sub(begin).Seconds()*1000)
		_ = c.Wait() // its status is the verdict's
		t, err := b.lab.engine(ctx, unix.IPPROTO_UDP, loadPort)
		if err != nil {
			return err
		}
		u, err := t.stop()
		if err != nil {
			return err
		}
		spans = append(spans, u.SpanMicros/1000)
	}
	b.add("exec → all 10 armed", "≤ 60 ms", fmt.Sprintf("%.0f ms (%.0f to %.0f)", median(armed), slices.Min(armed), slices.Max(armed)), median(armed) <= 60)
	b.add("first bind to last", "≤ 0.1 ms", fmt.Sprintf("%.3f ms (%.3f to %.3f)", median(spans), slices.Min(spans), slices.Max(spans)), median(spans) <= 0.1)
	b.add("Ctrl-C → all taps gone", "≤ 80 ms", fmt.Sprintf("%.0f ms (%.0f to %.0f)", median(gone), slices.Min(gone), slices.Max(gone)), median(gone) <= 80)
	return nil
}

// foreign arms the taps for another flow while one is under way, again and again: nothing of that may count.
func (b *bench) foreign(ctx context.Context) error {
	const otherPort, times = 7, 10
	loading, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.lab.send(loading, loadPort, 0, time.Hour) }()
	var accepted uint64
	var err error
	for range times {
		var t *taps
		if t, err = b.lab.engine(ctx, unix.IPPROTO_UDP, otherPort); err != nil {
			break
		}
		var u usage
		if u, err = t.stop(); err != nil {
			break
		}
		accepted += u.Packets
	}
	stop()
	if lerr := <-done; err == nil {
		err = lerr
	}
	b.add(fmt.Sprintf("foreign packets accepted, %d × 10 taps armed under full load", times), "0", strconv.FormatUint(accepted, 10), accepted == 0)
	return err
}

// memory is the most that the program ever held while it watched 100,000 packets a second.
func (b *bench) memory(ctx context.Context) error {
	c := b.lab.command(ctx, watching...)
	c.Dir = b.lab.dir
	c.Stderr = io.Discard
	if err := c.Start(); err != nil {
		return err
	}
	if _, err := b.lab.until(ctx, len(b.lab.points)); err != nil {
		return err
	}
	before, err := cpuOf(c.Process.Pid)
	if err != nil {
		return err
	}
	ctxLoad, stop := context.WithCancel(ctx)
	most := make(chan int, 1)
	go func() { most <- sampleRSS(ctxLoad, c.Process.Pid) }()
	if err := b.lab.send(ctx, loadPort, 100_000, b.load); err != nil {
		stop()
		return err
	}
	stop()
	kib := <-most
	after, err := cpuOf(c.Process.Pid)
	if err != nil {
		return err
	}
	peak, err := status(c.Process.Pid, "VmHWM")
	if err != nil {
		return err
	}
	if err := interrupt(c); err != nil {
		return err
	}
	_ = c.Wait() // its status is the verdict's
	mb := float64(kib) * 1024 / 1e6
	b.add(fmt.Sprintf("RSS at 10 points, 100,000 packets/s, %s (podtrace watch)", b.load), "≤ 64 MB",
		fmt.Sprintf("%.0f MB (peak of its life %.0f MB); %.3f s CPU/million", mb, float64(peak)*1024/1e6, (after-before).Seconds()/b.load.Seconds()), mb <= 64)
	return nil
}

// sampleRSS is the most memory in KiB that a process has until ctx ends, looked at ten times a second.
func sampleRSS(ctx context.Context, pid int) (most int) {
	for ctx.Err() == nil {
		if n, err := status(pid, "VmRSS"); err == nil {
			most = max(most, n)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return most
}

// status is a number of KiB from /proc/PID/status.
func status(pid int, field string) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(raw), field+":")
	if f := strings.Fields(rest); ok && len(f) > 0 {
		return strconv.Atoi(f[0])
	}
	return 0, fmt.Errorf("process %d has no %s", pid, field)
}

// idle is what the program uses while nothing passes.
func (b *bench) idle(ctx context.Context) error {
	c := b.lab.command(ctx, watching...)
	c.Dir = b.lab.dir
	if err := c.Start(); err != nil {
		return err
	}
	if _, err := b.lab.until(ctx, len(b.lab.points)); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	before, err := cpuOf(c.Process.Pid)
	if err != nil {
		return err
	}
	time.Sleep(b.load)
	after, err := cpuOf(c.Process.Pid)
	if err != nil {
		return err
	}
	if err := interrupt(c); err != nil {
		return err
	}
	_ = c.Wait() // its status is the verdict's
	share := 100 * (after - before).Seconds() / b.load.Seconds()
	b.add("armed and idle (podtrace watch)", "≤ 0.3 % CPU", fmt.Sprintf("%.2f %%", share), share <= 0.3)
	return nil
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
