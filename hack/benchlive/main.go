//go:build linux

// Command benchlive measures podtrace's capture against tcpdump: on one lab, in one run, with load and taps on
// the same CPUs. It prints a table of what was to be reached and what was, and fails if something was not.
//
// What a process uses is what the kernel counts for it as a child. When taps are armed and gone is read from
// /proc/net/packet of the lab's namespaces, not from what podtrace says.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"
)

// The startup thread must not run code inside a namespace; see pkg/netns.
func init() { runtime.LockOSThread() }

func main() {
	podtrace := flag.String("podtrace", "bin/podtrace", "the program")
	seconds := flag.Int("seconds", 10, "how long a load lasts")
	rounds := flag.Int("rounds", 5, "how often what is compared is measured, in turn")
	only := flag.String("only", "", "rows whose name begins so")
	taps := flag.String("taps", "", "arm the points of this file and read until interrupted (what the child does)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *taps != "" {
		err = tapsChild(ctx, *taps)
	} else {
		err = run(ctx, &bench{podtrace: *podtrace, load: time.Duration(*seconds) * time.Second, rounds: *rounds, only: *only})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchlive:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	podtrace string
	load     time.Duration
	rounds   int
	only     string
	lab      *lab
	rows     []row
}

// row is one line of the table.
type row struct {
	name, reach string
	value       string
	holds       bool
}

func (b *bench) add(name, reach, value string, holds bool) {
	r := row{name, reach, value, holds}
	b.rows = append(b.rows, r)
	fmt.Fprintf(os.Stderr, "%s\n", r)
}

func (r row) String() string {
	mark := "ok"
	if !r.holds {
		mark = "NOT REACHED"
	}
	return fmt.Sprintf("| %-62s | %-16s | %-46s | %-11s |", r.name, r.reach, r.value, mark)
}

// measures are the rows in the order of the table, by name.
var measures = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"paced", (*bench).paced},
	{"flood", (*bench).flood},
	{"small", (*bench).smallPackets},
	{"bulk", (*bench).bulk},
	{"arm", (*bench).arming},
	{"foreign", (*bench).foreign},
	{"memory", (*bench).memory},
	{"idle", (*bench).idle},
}

func run(ctx context.Context, b *bench) (err error) {
	if b.lab, err = newLab(ctx, b.podtrace); err != nil {
		return err
	}
	defer b.lab.down()
	for _, m := range measures {
		if !strings.HasPrefix(m.name, b.only) {
			continue
		}
		if err := m.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return b.print()
}

func (b *bench) print() error {
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(os.Stdout, "%d CPUs, %s, load average after it %s", runtime.NumCPU(), release(), load)
	fmt.Fprintf(os.Stdout, "| %-62s | %-16s | %-46s | %-11s |\n| --- | --- | --- | --- |\n", "figure", "reach", "measured", "")
	missed := 0
	for _, r := range b.rows {
		fmt.Fprintln(os.Stdout, r)
		if !r.holds {
			missed++
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d figures not reached", missed, len(b.rows))
	}
	return nil
}
