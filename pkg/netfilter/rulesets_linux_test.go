package netfilter

import (
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// makeIPSets are the sets that the Calico rules refer to.
func (w *router) makeIPSets() {
	w.t.Helper()
	ip := func(s string) []byte { a := netip.MustParseAddr(s).As4(); return a[:] }
	tcp, udp, p80, p53 := uint8(protoTCP), uint8(protoUDP), uint16(80), uint16(53)
	w.must(w.ns.Do(func() error {
		h, err := vnl.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		for name, typ := range map[string]string{"cali40masq": "hash:net", "cali40all": "hash:net", "cali40peers": "hash:net", "cali40ports": "hash:ip,port"} {
			if err := h.IpsetCreate(name, typ, vnl.IpsetCreateOptions{}); err != nil {
				return err
			}
		}
		for _, m := range []struct {
			set string
			e   vnl.IPSetEntry
		}{
			{"cali40masq", vnl.IPSetEntry{IP: ip("10.1.0.0"), CIDR: 24}}, {"cali40all", vnl.IPSetEntry{IP: ip("10.1.0.0"), CIDR: 24}}, {"cali40all", vnl.IPSetEntry{IP: ip("10.2.0.2"), CIDR: 31}},
			{"cali40peers", vnl.IPSetEntry{IP: ip("10.1.0.2"), CIDR: 32}}, {"cali40ports", vnl.IPSetEntry{IP: ip("10.2.0.2"), Protocol: &udp, Port: &p53}},
			{"cali40ports", vnl.IPSetEntry{IP: ip("10.2.0.3"), Protocol: &tcp, Port: &p80}},
		} {
			if err := h.IpsetAdd(m.set, &m.e); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestRealRules loads rules as Kubernetes' components and firewalls write them, into each backend that takes
// them, and compares with the kernel. None of it may be unknown.
func TestRealRules(t *testing.T) {
	w := newRouter(t)
	w.makeIPSets()
	files, err := fs.Glob(os.DirFS("testdata/rules"), "*")
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	for _, name := range files {
		commands := []string{"nft"}
		if strings.HasSuffix(name, ".iptables") {
			commands = []string{"iptables-legacy-restore", "iptables-nft-restore"}
		}
		for _, c := range commands {
			t.Run(name+"/"+c, func(t *testing.T) {
				w.t = t
				w.realRules(filepath.Join("testdata/rules", name), c)
			})
			if t.Failed() {
				return
			}
		}
	}
}

// aim sends the probe to something that the rules know.
func (g *generator) aim(q *probe) {
	targets := []struct {
		proto uint8
		dst   string
		port  uint16
	}{
		{protoTCP, "10.96.0.1", 80}, {protoTCP, "10.96.0.1", 443}, {protoTCP, "10.96.0.2", 80}, {protoUDP, "10.96.0.2", 53}, {protoTCP, "10.1.0.1", 30080}, {protoTCP, "10.1.0.1", 30081},
		{protoTCP, "10.1.0.1", 8080}, {protoUDP, "10.1.0.1", 53}, {protoTCP, "10.2.0.2", 80}, {protoUDP, "10.2.0.2", 53}, {protoUDP, "10.2.0.4", 443}, {protoTCP, "10.2.0.3", 8080},
	}
	t := targets[g.r.IntN(len(targets))]
	p := &q.p
	src := map[string][]string{"client": {"10.1.0.2", "10.1.0.3"}, "router": {"10.1.0.1", "10.2.0.1"}, "server": {"10.2.0.2", "10.2.0.3"}}[q.from]
	*p = Packet{Family: FamilyIPv4, EtherType: etherIPv4, Src: addr(g.one(src...)), Dst: addr(t.dst), Proto: t.proto, SrcPort: 20000 + g.port, DstPort: t.port, TTL: 64, Length: 60}
	if t.proto == protoTCP {
		p.TCPFlags = tcpSYN
	}
	q.ethernet()
}

func (w *router) realRules(file, command string) {
	b, err := os.ReadFile(file)
	w.must(err)
	w.must(w.load([]script{{command, string(b)}}))
	g := &generator{r: rand.New(rand.NewPCG(envNumber(w.t, "NETFILTER_SEED", 1), 9))}
	var n tally
	for range int(36 * envNumber(w.t, "CHAOS", 1)) {
		q := g.probe()
		if g.chance(60) {
			g.aim(&q)
		}
		got, ok := w.compare(NewState(w.read()), q, &n, func() string { return "" }, true)
		if !ok {
			return
		}
		if len(got) > 0 && g.chance(40) {
			if back, ok := q.reply(g, atEnd(got)); ok {
				w.compare(NewState(w.read()), back, &n, func() string { return "" }, true)
			}
		}
	}
	w.t.Logf("%+v", n)
	if n.unknown > 0 || n.delivered == 0 || n.stopped+n.translated == 0 {
		w.t.Errorf("the comparison says too little: %+v", n)
	}
}

// TestEstablishedKeepsNAT: a connection keeps its translation when the rules that made it are gone, and its
// packets do not meet the rules that came instead.
func TestEstablishedKeepsNAT(t *testing.T) {
	w := newRouter(t)
	const base = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n%\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"
	rules := func(to string) script {
		return script{"iptables-legacy-restore", strings.Replace(base, "%", "-A PREROUTING -d 10.96.0.1 -p udp --dport 80 -j DNAT --to-destination "+to+"\n-A POSTROUTING -o rs -s 10.1.0.0/24 -j SNAT --to-source 10.2.0.1", 1)}
	}
	w.must(w.load([]script{rules("10.2.0.2:8080")}))
	var n tally
	none := func() string { return "" }
	q := probe{from: "client", cookie: 1, p: Packet{Family: FamilyIPv4, EtherType: etherIPv4, Src: addr("10.1.0.2"), Dst: addr("10.96.0.1"), Proto: protoUDP, SrcPort: 4001, DstPort: 80, TTL: 64, Length: 60}}
	q.ethernet()
	g := &generator{r: rand.New(rand.NewPCG(1, 1))}
	got, _ := w.compare(NewState(w.read()), q, &n, none, false)
	back, ok := q.reply(g, atEnd(got))
	if !ok {
		t.Fatalf("the request did not arrive: %v", got)
	}
	w.compare(NewState(w.read()), back, &n, none, false)
	for _, s := range []script{rules("10.2.0.3:9090"), {"iptables-legacy-restore", strings.Replace(base, "%", "", 1)}} {
		w.must(w.loadOne(&s))
		plays := w.predict(NewState(w.read()), q)
		if len(plays) != 1 || plays[0].seen[len(plays[0].seen)-1].dst != addr("10.2.0.2") {
			t.Errorf("after the change the flow goes %v", plays)
		}
		w.compare(NewState(w.read()), q, &n, none, false)
		w.compare(NewState(w.read()), back, &n, none, false)
		fresh := q
		fresh.p.SrcPort++
		w.compare(NewState(w.read()), fresh, &n, none, false)
	}
	// without any rule that asks for it conntrack has no hooks, and the flow loses its translation
	w.must(runIn(w.ns, "*nat\nCOMMIT\n*filter\nCOMMIT\n", "iptables-legacy-restore"))
	w.compare(NewState(w.read()), q, &n, none, false)
	if n.unknown > 0 || n.translated < 4 {
		t.Errorf("%+v", n)
	}
}
