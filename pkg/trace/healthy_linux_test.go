package trace_test

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/lab"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// oddities are harmless: no path may be accused for them. NODE and UPLINK are put in; what a lab can't have fails
// and is left out.
var oddities = []string{
	"bridge fdb add 02:00:00:00:77:01 dev flannel.1 dst 10.1.11.177 self permanent",
	"ip neigh replace 10.1.11.178 lladdr 02:00:00:00:77:02 dev UPLINK nud stale",
	"iptables-legacy -A FORWARD -j ACCEPT",
	"ip link add odd9 type vxlan id 9 dstport 4790 dev UPLINK && ip link set odd9 up",
	"sysctl -qw net.ipv4.conf.all.rp_filter=2",
	"ip link add oddbr type bridge && ip addr add 172.30.0.1/16 dev oddbr && ip link set oddbr up",
	"nft add table inet odd && nft add chain inet odd f '{ type filter hook forward priority 20; }' && nft add rule inet odd f udp dport 9999 drop",
	"ip rule add pref 300 fwmark 0x77 lookup 177",
}

// TestHealthyRuns traces healthy paths of every datapath with every probe, half of them under load (TCP in bulk with
// segmentation offload, and UDP), all with oddities put in: no finding above a note, no exit status but 0.
// HEALTHY_RUNS says how many; "make healthy" makes it 1000.
func TestHealthyRuns(t *testing.T) {
	runs, err := strconv.Atoi(os.Getenv("HEALTHY_RUNS"))
	if err != nil {
		runs = 54
	}
	r := rand.New(rand.NewPCG(1, 7))
	ds := lab.Datapaths()
	done, bad := 0, 0
	for i, d := range ds {
		n := runs / len(ds)
		if i < runs%len(ds) {
			n++
		}
		t.Run(d.Name, func(t *testing.T) {
			a, b := healthyRuns(t, d.Name, r, n)
			done, bad = done+a, bad+b
		})
	}
	t.Logf("%d healthy runs, %d of them with a finding", done, bad)
}

func healthyRuns(t *testing.T, datapath string, r *rand.Rand, n int) (done, bad int) {
	spec := lab.Spec{Datapath: datapath}
	inv := upSpec(t, spec)
	put := 0
	for _, node := range inv.Nodes {
		for _, o := range oddities {
			c := exec.Command("nsenter", "--net="+node.Netns, "sh", "-c", strings.ReplaceAll(o, "UPLINK", uplinkOf(node.Netns)))
			if c.Run() == nil {
				put++
			}
		}
	}
	t.Logf("%d oddities", put)
	for i := range n {
		src, dst := inv.Pods[r.IntN(len(inv.Pods))], inv.Pods[r.IntN(len(inv.Pods))]
		if src.Name == dst.Name {
			dst = inv.Pods[(r.IntN(len(inv.Pods)-1)+1+index(inv, src.Name))%len(inv.Pods)]
		}
		how := []string{"icmp", "tcp:8080", "udp:7"}[r.IntN(3)]
		stop := func() {}
		if i%2 == 1 {
			stop = load(t, src, dst, datapath == lab.FlannelUDP)
		}
		o := options(inv, src.Name, dst.Name, how)
		o.Count, o.Timeout, o.Contrast = 1+r.IntN(6), 2*time.Second, trace.ContrastAuto
		rep, err := trace.Path(t.Context(), o)
		stop()
		if err != nil {
			t.Fatalf("%s to %s by %s: %v", src.Name, dst.Name, how, err)
		}
		done++
		if rep.Verdict.Status != report.Healthy || aboveNote(rep) {
			bad++
			t.Errorf("run %d, load %v: %s to %s by %s:\n%s", i, i%2 == 1, src.Name, dst.Name, how, text(rep))
		}
	}
	return done, bad
}

func index(inv *inventory.Inventory, name string) int {
	for i, p := range inv.Pods {
		if p.Name == name {
			return i
		}
	}
	return 0
}

func aboveNote(r *report.Report) bool {
	for _, f := range r.Findings {
		if f.Severity != report.SeverityNote {
			return true
		}
	}
	return false
}

// uplinkOf is the device of the node's default route, or of any route.
func uplinkOf(ns string) string {
	out, _ := exec.Command("nsenter", "--net="+ns, "sh", "-c", "ip route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/' | head -1").Output()
	return strings.TrimSpace(string(out))
}

// load sends TCP in bulk and UDP from one pod to the other until it is stopped. Gently: so that a proxy in user space
// keeps up, which drops packets in earnest when it does not.
func load(t *testing.T, src, dst inventory.Pod, gently bool) (stop func()) {
	t.Helper()
	a, err := netns.Open(src.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := netns.Open(dst.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var l net.Listener
	var tcp, udp net.Conn
	ip := dst.IPs[0].String()
	err = b.Do(func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(ip, "5201")); return err })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	err = a.Do(func() (err error) {
		if tcp, err = net.DialTimeout("tcp", net.JoinHostPort(ip, "5201"), 2*time.Second); err != nil {
			return err
		}
		udp, err = net.Dial("udp", net.JoinHostPort(ip, "5202"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		buf := make([]byte, 1<<16)
		if gently {
			buf = buf[:1<<13]
		}
		for {
			if gently {
				time.Sleep(5 * time.Millisecond)
			}
			if _, err := tcp.Write(buf); err != nil {
				close(over)
				return
			}
			_, _ = udp.Write(buf[:1200])
		}
	}()
	return func() {
		_ = tcp.Close()
		<-over
		_ = udp.Close()
		_ = l.Close()
	}
}
