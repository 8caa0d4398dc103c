package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The startup thread cannot exit and /proc/self describes it: keep it away from helper goroutines.
func init() { runtime.LockOSThread() }

// envUp and envDown make the test binary run Up or Down and nothing else.
const (
	envUp   = "LAB_TEST_UP"
	envDown = "LAB_TEST_DOWN"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envServer) != "":
		exitOn(Serve(context.Background(), Options{}))
	case os.Getenv(envUp) != "":
		exitOn(Up(context.Background(), Options{Server: []string{os.Args[0]}}))
	case os.Getenv(envDown) != "":
		exitOn(Down(context.Background(), Options{}))
	case os.Getenv(envCommand) != "":
		os.Exit(command())
	}
	os.Exit(m.Run())
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// testOptions gives a lab of the test's own, which is taken down when the test ends.
func testOptions(t testing.TB) Options {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("kernel tests must run in CI: not root")
		}
		t.Skip("needs root")
	}
	o := Options{
		Prefix:   fmt.Sprintf("podtrace-t%08x-", rand.Uint32()),
		StateDir: filepath.Join(t.TempDir(), "lab"),
		Server:   []string{os.Args[0]},
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), o); err != nil {
			t.Error(err)
		}
		checkNothingLeft(t, o)
	})
	return o
}

// up brings up a lab of the test's own.
func up(t testing.TB) Options {
	t.Helper()
	o := testOptions(t)
	if err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func checkNothingLeft(t testing.TB, o Options) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(netnsDir, o.Prefix+"*")); len(left) > 0 {
		t.Errorf("namespaces left: %q", left)
	}
	if _, err := os.Stat(o.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state directory is left: %v", err)
	}
	for _, pid := range serversOf(o) {
		t.Errorf("process %s is left", pid)
	}
}

// serversOf finds servers of a lab by their environment.
func serversOf(o Options) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && bytes.Contains(text, []byte(EnvPrefix+"="+o.Prefix)) && bytes.Contains(text, []byte(envServer+"=")) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// run runs a command in a namespace and gives its standard output without the trailing newline.
func run(t testing.TB, o Options, name string, argv ...string) string {
	t.Helper()
	out, status, err := try(t, o, name, argv...)
	if err != nil || status != 0 {
		t.Fatalf("%s: %q: status %d, %v\n%s", name, argv, status, err, out)
	}
	return out
}

func try(t testing.TB, o Options, name string, argv ...string) (string, int, error) {
	t.Helper()
	var out bytes.Buffer
	status, err := Exec(t.Context(), o, name, argv, Stdio{Out: &out, Err: &out})
	return strings.TrimRight(out.String(), "\n"), status, err
}

func TestUpTwiceAndDownTwice(t *testing.T) {
	host, fds := hostState(t), openFiles(t)
	o := testOptions(t)
	start := time.Now()
	if err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Logf("up in %v", time.Since(start))
	first, err := Status(t.Context(), o)
	if err != nil || !first.Up || first.ServerPID == 0 || len(first.Problems) > 0 {
		t.Fatalf("Status = %+v, %v", first, err)
	}
	if err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if again, _ := Status(t.Context(), o); again.ServerPID != first.ServerPID {
		t.Errorf("second Up made a new lab: server %d, then %d", first.ServerPID, again.ServerPID)
	}
	if _, status, err := try(t, o, "coffee-1", "ping", "-c1", "-W2", "10.244.2.40"); status != 0 || err != nil {
		t.Errorf("ping: status %d, %v", status, err)
	}
	if got := hostState(t); got != host {
		t.Errorf("the host's own network changed:\n%s\nwas\n%s", got, host)
	}
	for range 2 {
		start = time.Now()
		if err := Down(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Logf("down in %v", time.Since(start))
		checkNothingLeft(t, o)
	}
	if got := openFiles(t); got > fds {
		t.Errorf("%d open files, want %d as before", got, fds)
	}
	if got := hostState(t); got != host {
		t.Errorf("the host's own network changed:\n%s\nwas\n%s", got, host)
	}
}

// openFiles counts them, but for the runtime's own, of which the first use of a network makes some.
func openFiles(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			n++
		}
	}
	return n
}

// hostState is all that the lab must not touch.
func hostState(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, c := range []string{
		"ip -d link", "ip addr", "ip route show table all", "ip rule", "ip neigh show nud permanent",
		"nft list ruleset", "iptables-legacy-save", "sysctl net.ipv4.ip_forward net.ipv4.conf.all net.ipv4.conf.default net.bridge",
	} {
		argv := strings.Fields(c)
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		fmt.Fprintf(&all, "# %s\n%s", c, dropCounters(string(out)))
	}
	return all.String()
}

// dropCounters removes what moves by itself: counters and lifetimes.
func dropCounters(s string) string {
	var keep []string
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "valid_lft") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

func TestExec(t *testing.T) {
	o := up(t)
	for _, tt := range []struct {
		argv   []string
		status int
		want   string
	}{
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"cat"}, 0, "hello"},
		{[]string{"ls", "/sys/class/net"}, 0, "cni0\ndocker0\neno16780032\nflannel.1\nlo\nvethb81f02da\n"},
		{[]string{"no-such-command"}, 127, ""},
	} {
		var out bytes.Buffer
		status, err := Exec(t.Context(), o, "node2", tt.argv, Stdio{In: strings.NewReader("hello"), Out: &out})
		if status != tt.status || (err != nil) != (status == 127) || !strings.HasSuffix(out.String(), tt.want) {
			t.Errorf("%q: status %d, %v, %q, want %d, %q", tt.argv, status, err, out.String(), tt.status, tt.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if status, err := Exec(ctx, o, "tea-1", []string{"sleep", "20"}, Stdio{}); err != nil || status != 128+15 {
		t.Errorf("cancelled: status %d, %v", status, err)
	}
}

func BenchmarkUpDown(b *testing.B) {
	o := testOptions(b)
	for b.Loop() {
		if err := errors.Join(Up(b.Context(), o), Down(b.Context(), o)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDocument000 compares the lab with the listings of the seed document.
func TestDocument000(t *testing.T) {
	o := up(t)
	sorted := func(s string) []string {
		lines := strings.Split(s, "\n")
		for i := range lines {
			lines[i] = strings.Join(strings.Fields(lines[i]), " ")
		}
		slices.Sort(lines)
		return lines
	}
	for _, tt := range []struct{ netns, command, want string }{
		{"node1", "ip neigh show dev flannel.1", `10.244.0.0 lladdr 5a:1c:17:98:e6:eb PERMANENT
10.244.2.0 lladdr ce:b8:fc:a6:06:d2 PERMANENT
10.244.3.0 lladdr 00:50:56:ab:9e:f8 PERMANENT`},
		{"node1", "bridge fdb show dev flannel.1", `ce:b8:fc:a6:06:d2 dst 10.1.11.92 self permanent
00:50:56:ab:9e:f8 dst 10.1.11.89 self permanent
5a:1c:17:98:e6:eb dst 10.1.11.90 self permanent
06:ee:53:fd:1a:a9 dst 10.1.11.92 self permanent
36:36:40:76:1c:9f dst 10.1.11.90 self permanent`},
		{"node1", "ip route | sed s/.linkdown//", `default via 10.1.11.1 dev ens192 proto static metric 100
10.1.11.0/24 dev ens192 proto kernel scope link src 10.1.11.91 metric 100
10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink
10.244.1.0/24 dev cni0 proto kernel scope link src 10.244.1.1
10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink
172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1`},
		{"node1", "ip -o addr | sed 's/ valid_lft.*//' | tr -d \\\\\\\\", `1: lo inet 127.0.0.1/8 scope host lo
2: ens192 inet 10.1.11.91/24 brd 10.1.11.255 scope global noprefixroute ens192
3: docker0 inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0
4: flannel.1 inet 10.244.1.0/32 brd 10.244.1.0 scope global flannel.1
5: cni0 inet 10.244.1.1/24 brd 10.244.1.255 scope global cni0`},
		{"node1", "ip -o link show type veth | sed 's/.*: \\(veth[^:]*\\):.*mtu \\([0-9]*\\).*master \\([^ ]*\\).*ether \\([^ ]*\\).*/\\1 \\2 \\3 \\4/' | grep ^veth3", "veth33136931@if3 1450 cni0 4a:28:d3:7d:dd:3f"},
		{"coffee-1", "ip -o link show eth0 | sed 's/:.*mtu/ mtu/; s/qdisc.*ether //; s/brd.*//'; ip -o link show eth0 | cut -d: -f2", "3 mtu 1450 4a:9e:70:55:74:ac\neth0@if33"},
		{"coffee-1", "ip route", `default via 10.244.1.1 dev eth0
10.244.0.0/16 via 10.244.1.1 dev eth0
10.244.1.0/24 dev eth0 proto kernel scope link src 10.244.1.32`},
		{"node2", "ip -d link show flannel.1 | grep -o 'vxlan id.*ageing'", "vxlan id 1 local 10.1.11.92 dev eno16780032 srcport 0 0 dstport 8472 nolearning ttl auto ageing"},
		{"node2", "cat /sys/class/net/flannel.1/address /sys/class/net/cni0/address", "ce:b8:fc:a6:06:d2\n4a:ab:da:9d:27:34"},
	} {
		got := run(t, o, tt.netns, "sh", "-c", tt.command)
		if diff := cmp.Diff(sorted(tt.want), sorted(got)); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", tt.netns, tt.command, diff)
		}
	}
	page := run(t, o, "coffee-1", "curl", "-s", "-m2", "http://10.244.2.40:8080/coffee")
	want := regexp.MustCompile(`^Server address: 10\.244\.2\.40:8080
Server name: coffee-2
Date: \d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000
URI: /coffee
Request ID: [0-9a-f]{32}$`)
	if !want.MatchString(page) {
		t.Errorf("page:\n%s", page)
	}
}

// TestIptables shows that iptables-nft takes the rules for its own, and can add to them.
func TestIptables(t *testing.T) {
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		t.Skip(err)
	}
	o := up(t)
	got := run(t, o, "node1", "iptables-nft", "-t", "nat", "-S", "FLANNEL-POSTRTG")
	want := `-N FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nat (-want +got):\n%s", diff)
	}
	run(t, o, "node1", "iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT")
	run(t, o, "node1", "iptables-nft", "-P", "FORWARD", "DROP")
}
