//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/net/ipv4"
)

// batch is how many datagrams one sendmmsg(2) sends.
const batch = 64

// send sends small datagrams for a while, so many a second (0: as many as go), and gives how many went out a
// second.
func (l *lab) send(ctx context.Context, port, rate int, d time.Duration) (float64, error) {
	conn, err := l.dial(port)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	msgs := make([]ipv4.Message, batch)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{fmt.Appendf(nil, "benchlive %08d", i)}
	}
	pc := ipv4.NewPacketConn(conn)
	begin := time.Now()
	sent := 0
	for ctx.Err() == nil && time.Since(begin) < d {
		if rate > 0 {
			due := int(time.Since(begin).Seconds()*float64(rate)) - sent
			if due < batch {
				time.Sleep(time.Duration(batch-due) * time.Second / time.Duration(rate))
				continue
			}
		}
		n, err := pc.WriteBatch(msgs, 0)
		if err != nil && n <= 0 {
			return 0, err
		}
		sent += n
	}
	return float64(sent) / time.Since(begin).Seconds(), nil
}

// flooded is the rate of frames that reach the destination while as many are sent as go.
func (l *lab) flooded(ctx context.Context, d time.Duration) (float64, error) {
	before, err := l.delivered()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := l.send(ctx, loadPort, 0, d); err != nil {
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
