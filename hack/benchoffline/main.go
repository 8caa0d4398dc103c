// Command benchoffline measures podtrace analyze against tcpdump on the same files, and fails if the answer is
// not the truth or a figure is above its bound.
//
// Files are made, and captures compared, in processes of their own: what the kernel counts for a child
// is its user and system time and its peak memory.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/flows/flowstest"
)

func main() {
	packets := flag.Int("packets", 3_000_000, "packets of each file")
	gencap := flag.String("gencap", "bin/gencap", "the generator")
	podtrace := flag.String("podtrace", "bin/podtrace", "the command that is measured")
	child := flag.String("compare", "", "compare the files in this folder and count allocations (what the child does)")
	flag.Parse()
	var err error
	if *child != "" {
		err = compare(*child)
	} else {
		err = bench(*gencap, *podtrace, *packets)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchoffline:", err)
		os.Exit(1)
	}
}

// answer is what the child prints.
type answer struct {
	Mallocs uint64 `json:"mallocs"`
	Packets uint64 `json:"packets"`
}

// compare is the child: it prints its answer.
func compare(dir string) error {
	cfg := flows.Config{TempDir: dir}
	for i := range flowstest.Points {
		cfg.Points = append(cfg.Points, flows.Point{Path: filepath.Join(dir, flowstest.FileName(i))})
	}
	res, err := flows.Run(context.Background(), cfg)
	if err != nil {
		return err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	a := answer{Mallocs: m.Mallocs}
	for i := range res.Points {
		a.Packets += res.Points[i].Packets
	}
	return json.NewEncoder(os.Stdout).Encode(a)
}

// usage is what a command used.
type usage struct {
	wall, cpu time.Duration
	rss       int64 // KiB
}

func (u usage) String() string {
	return fmt.Sprintf("%7.3f s wall %7.3f s cpu %6.1f MiB", u.wall.Seconds(), u.cpu.Seconds(), float64(u.rss)/1024)
}

// run runs a command and gives its output.
func run(name string, args ...string) ([]byte, usage, error) {
	cmd := exec.Command(name, args...)
	var said strings.Builder // tcpdump names each file
	cmd.Stderr = &said
	start := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return nil, usage{}, fmt.Errorf("%s: %w: %s", name, err, said.String())
	}
	state := cmd.ProcessState
	u := usage{wall: time.Since(start), cpu: state.UserTime() + state.SystemTime()}
	if r, ok := state.SysUsage().(*syscall.Rusage); ok {
		u.rss = r.Maxrss
	}
	return out, u, nil
}

// measure makes files, has the command compare them some times and holds its answers against the truth. It gives the
// fastest run, with the peak memory of all.
func measure(gencap, podtrace, dir string, packets, times int) (usage, error) {
	if _, _, err := run(gencap, "-dir", dir, "-packets", strconv.Itoa(packets)); err != nil {
		return usage{}, err
	}
	truth, err := flowstest.Read(filepath.Join(dir, "truth.json"))
	if err != nil {
		return usage{}, err
	}
	return fastest(times, func() (usage, error) { return command(podtrace, dir, truth) })
}

// fastest is the run that was, with the peak memory of all: that of a single one is off by a garbage collection.
func fastest(times int, run func() (usage, error)) (best usage, err error) {
	for i := range times {
		u, err := run()
		if err != nil {
			return usage{}, err
		}
		rss := max(best.rss, u.rss)
		if i == 0 || u.wall < best.wall {
			best = u
		}
		best.rss = rss
	}
	return best, nil
}

// command has the whole command compare the files, without a word about their order, and holds its answer against the
// truth.
func command(podtrace, dir string, truth *flowstest.Truth) (usage, error) {
	args := []string{"analyze", "-o", "json", "--exit-zero"}
	for i := flowstest.Points - 1; i >= 0; i-- {
		args = append(args, filepath.Join(dir, flowstest.FileName(i)))
	}
	out, u, err := run(podtrace, args...)
	if err != nil {
		return u, err
	}
	res := new(flows.Result)
	if err := json.Unmarshal(out, res); err != nil {
		return u, err
	}
	if d := truth.Diff(res); d != "" {
		return u, fmt.Errorf("the answer is not the truth: %s", d)
	}
	return u, nil
}

// allocations is how many the comparison makes for a packet, in a process of its own.
func allocations(dir string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, _, err := run(self, "-compare", dir)
	if err != nil {
		return 0, err
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		return 0, err
	}
	return float64(a.Mallocs) / float64(a.Packets), nil
}

// tcpdump reads the files one after the other.
func tcpdump(dir string) (usage, error) {
	var sum usage
	for i := range flowstest.Points {
		_, u, err := run("tcpdump", "-r", filepath.Join(dir, flowstest.FileName(i)), "-w", os.DevNull)
		if err != nil {
			return sum, err
		}
		sum.wall += u.wall
		sum.cpu += u.cpu
		sum.rss = max(sum.rss, u.rss)
	}
	return sum, nil
}

// bound is a figure and the most that it may be.
type bound struct {
	name      string
	got, most float64
}

func bench(gencap, podtrace string, packets int) error {
	dir, err := os.MkdirTemp("", "podtrace-bench-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()     // of the system's temporary files
	if err := os.Chmod(dir, 0o755); err != nil { // tcpdump gives up root
		return err
	}
	if err := room(dir, packets); err != nil {
		return err
	}
	const times = 3
	short, err := measure(gencap, podtrace, dir, 50_000, 5)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", "5 x 50000 packets", short)
	tenth, err := measure(gencap, podtrace, dir, packets/10, times)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", fmt.Sprintf("5 x %d packets", packets/10), tenth)
	full, err := measure(gencap, podtrace, dir, packets, times)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", fmt.Sprintf("5 x %d packets", packets), full)
	dump, err := fastest(times, func() (usage, error) { return tcpdump(dir) })
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", "tcpdump -w /dev/null, each", dump)
	allocs, err := allocations(dir)
	if err != nil {
		return err
	}
	bounds := []bound{
		{"cpu, of tcpdump's", full.cpu.Seconds() / dump.cpu.Seconds(), 1.25},
		{"wall, of tcpdump's", full.wall.Seconds() / dump.wall.Seconds(), 0.65},
		{"peak memory, MiB", float64(full.rss) / 1024, 48},
		{"peak memory, of a tenth's", float64(full.rss) / float64(tenth.rss), 1.05},
		{"allocations a packet", allocs, 0.001},
		{"short run, s", short.wall.Seconds(), 0.08},
	}
	var errs []error
	for _, b := range bounds {
		fmt.Fprintf(os.Stdout, "%-28s %8.4f (at most %v)\n", b.name, b.got, b.most)
		if b.got > b.most {
			errs = append(errs, fmt.Errorf("%s: %.4f, at most %v", b.name, b.got, b.most))
		}
	}
	return errors.Join(errs...)
}

// room fails if the files would not fit.
func room(dir string, packets int) error {
	const perPacket = 400 // bytes, in one file
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return fmt.Errorf("free space of %q: %w", dir, err)
	}
	need, free := uint64(packets)*perPacket*flowstest.Points, s.Bavail*uint64(s.Bsize)
	if free < need+need/4 {
		return fmt.Errorf("%q has %d MB free, the files need %d MB (set TMPDIR)", dir, free/1e6, need/1e6)
	}
	return nil
}
