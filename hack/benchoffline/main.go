// Command benchoffline measures pkg/flows against tcpdump on the same files, and fails if the answer is
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
	"syscall"
	"time"

	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/flows/flowstest"
)

func main() {
	packets := flag.Int("packets", 3_000_000, "packets of each file")
	gencap := flag.String("gencap", "bin/gencap", "the generator")
	podtrace := flag.String("podtrace", "bin/podtrace", "the whole command, whose figures are shown beside")
	child := flag.String("compare", "", "compare the files in this folder (what the child does)")
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
	Mallocs uint64        `json:"mallocs"`
	Result  *flows.Result `json:"result"`
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
	return json.NewEncoder(os.Stdout).Encode(answer{m.Mallocs, res})
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
	cmd.Stderr = os.Stderr
	start := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return nil, usage{}, fmt.Errorf("%s: %w", name, err)
	}
	state := cmd.ProcessState
	u := usage{wall: time.Since(start), cpu: state.UserTime() + state.SystemTime()}
	if r, ok := state.SysUsage().(*syscall.Rusage); ok {
		u.rss = r.Maxrss
	}
	return out, u, nil
}

// measure makes files, compares them some times and holds the answers against the truth. It gives the
// fastest run, with the peak memory of all.
func measure(gencap, dir string, packets, times int) (usage, float64, error) {
	if _, _, err := run(gencap, "-dir", dir, "-packets", strconv.Itoa(packets)); err != nil {
		return usage{}, 0, err
	}
	truth, err := flowstest.Read(filepath.Join(dir, "truth.json"))
	if err != nil {
		return usage{}, 0, err
	}
	total := uint64(0)
	for _, p := range truth.Points {
		total += p.Packets
	}
	self, err := os.Executable()
	if err != nil {
		return usage{}, 0, err
	}
	var best usage
	var allocs float64
	for i := range times {
		out, u, err := run(self, "-compare", dir)
		if err != nil {
			return usage{}, 0, err
		}
		var a answer
		if err := json.Unmarshal(out, &a); err != nil {
			return usage{}, 0, err
		}
		if d := truth.Diff(a.Result); d != "" {
			return usage{}, 0, fmt.Errorf("the answer is not the truth: %s", d)
		}
		rss := max(best.rss, u.rss) // the peak of all runs: a single one is off by a garbage collection
		if i == 0 || u.wall < best.wall {
			best = u
		}
		best.rss = rss
		allocs = float64(a.Mallocs) / float64(total)
	}
	return best, allocs, nil
}

// command has the whole command compare the files, without a word about their order, and holds its answer against the
// truth.
func command(podtrace, dir string) (usage, error) {
	args := []string{"analyze", "-o", "json", "--exit-zero"}
	for i := flowstest.Points - 1; i >= 0; i-- {
		args = append(args, filepath.Join(dir, flowstest.FileName(i)))
	}
	truth, err := flowstest.Read(filepath.Join(dir, "truth.json"))
	if err != nil {
		return usage{}, err
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
		return u, fmt.Errorf("the command's answer is not the truth: %s", d)
	}
	return u, nil
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
	short, _, err := measure(gencap, dir, 50_000, 5)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", "5 x 50000 packets", short)
	tenth, _, err := measure(gencap, dir, packets/10, 3)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", fmt.Sprintf("5 x %d packets", packets/10), tenth)
	full, allocs, err := measure(gencap, dir, packets, 3)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", fmt.Sprintf("5 x %d packets", packets), full)
	whole, err := command(podtrace, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", "podtrace analyze of these", whole)
	dump, err := tcpdump(dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "%-28s %v\n", "tcpdump -w /dev/null, each", dump)
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
