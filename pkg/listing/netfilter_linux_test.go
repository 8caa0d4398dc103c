package listing

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// TestLegacyAgainstKernel: the rules that iptables-save prints are those that the kernel holds.
func TestLegacyAgainstKernel(t *testing.T) {
	need(t, "iptables-legacy-restore", "iptables-legacy-save", "ip6tables-legacy-restore")
	h := nstest.New(t)
	for _, c := range []struct {
		file, tool string
	}{{"legacy.save", "iptables-legacy"}, {"legacy6.save", "ip6tables-legacy"}} {
		path, err := filepath.Abs(filepath.Join("testdata", c.file))
		if err != nil {
			t.Fatal(err)
		}
		run(t, h, c.tool+"-restore < "+path)
	}
	want, err := netfilter.Read(h, netfilter.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := Parse([]Input{
		{File: "save", Command: "iptables-legacy-save -c", Text: []byte(run(t, h, "iptables-legacy-save -c"))},
		{File: "save6", Command: "ip6tables-legacy-save", Text: []byte(run(t, h, "ip6tables-legacy-save -c"))},
	})
	if len(l.NotUnderstood) > 0 {
		t.Errorf("not understood: %+v", l.NotUnderstood)
	}
	compareRules(t, want, l.Snapshot.Netns[0].Netfilter)
}

// compareRules compares by table and chain, rule by rule; the texts are the tools' own.
func compareRules(t *testing.T, want, got *netfilter.Ruleset) {
	t.Helper()
	key := func(t *netfilter.Table) string { return t.Backend + " " + t.Family.String() + " " + t.Name }
	chains := make(map[string]netfilter.Chain)
	for i := range got.Tables {
		for _, c := range got.Tables[i].Chains {
			chains[key(&got.Tables[i])+" "+c.Name] = c
		}
	}
	n := 0
	for i := range want.Tables {
		for _, c := range want.Tables[i].Chains {
			name := key(&want.Tables[i]) + " " + c.Name
			g, ok := chains[name]
			if !ok {
				t.Errorf("%s is not in the listing", name)
				continue
			}
			delete(chains, name)
			w := c
			w.Rules, g.Rules = nil, nil
			if jsonOf(w) != jsonOf(g) {
				t.Errorf("%s:\n kernel  %s\n listing %s", name, jsonOf(w), jsonOf(g))
			}
			mine := chainOf(got, key, name).Rules
			theirs := withoutEnd(c)
			for k := range max(len(theirs), len(mine)) {
				n++
				compareRule(t, name, ruleAt(theirs, k), ruleAt(mine, k))
			}
		}
	}
	for name := range chains {
		t.Errorf("%s is not in the kernel", name)
	}
	if n < 10 {
		t.Errorf("only %d rules compared", n)
	}
}

// withoutEnd leaves out the RETURN that the kernel keeps at the end of a chain of legacy iptables.
func withoutEnd(c netfilter.Chain) []netfilter.Rule {
	if n := len(c.Rules); n > 0 && !c.Base && c.Rules[n-1].Text() == "-j RETURN" {
		return c.Rules[:n-1]
	}
	return c.Rules
}

func chainOf(rs *netfilter.Ruleset, key func(*netfilter.Table) string, name string) netfilter.Chain {
	for i := range rs.Tables {
		for _, c := range rs.Tables[i].Chains {
			if key(&rs.Tables[i])+" "+c.Name == name {
				return c
			}
		}
	}
	return netfilter.Chain{}
}

func ruleAt(rs []netfilter.Rule, i int) netfilter.Rule {
	if i >= len(rs) {
		return netfilter.Rule{Comment: "none"}
	}
	return rs[i]
}

func compareRule(t *testing.T, name string, want, got netfilter.Rule) {
	t.Helper()
	text := got.Text()
	for i, e := range want.Exprs { // a revision of an extension that the kernel's reader does not know
		if e.Op == netfilter.OpUnknown && i < len(got.Exprs) && e.Text != got.Exprs[i].Text {
			got.Exprs[i] = e
		}
	}
	strip := func(r netfilter.Rule) string {
		r.Exprs = mapAll(r.Exprs, func(e netfilter.Expr) netfilter.Expr {
			e.Text = ""
			if e.Tuple != nil { // iptables writes the + of a prefix into the name, beyond its mask
				m := *e.Tuple
				m.In, m.Out = strings.Replace(m.In, "++", "+", 1), strings.Replace(m.Out, "++", "+", 1)
				e.Tuple = &m
			}
			return e
		})
		return jsonOf(r)
	}
	if w, g := strip(want), strip(got); w != g {
		t.Errorf("%s: %s\n kernel  %s\n listing %s", name, text, w, g)
	}
}

// TestNFTAgainstKernel: packets meet the same fate by nft's listings, as JSON and as text, as by the rules
// that the kernel hands out.
func TestNFTAgainstKernel(t *testing.T) {
	need(t, "nft")
	h := nstest.New(t)
	path, err := filepath.Abs("testdata/ruleset.nft")
	if err != nil {
		t.Fatal(err)
	}
	run(t, h, "nft -f "+path)
	want, err := netfilter.Read(h, netfilter.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"nft -j list ruleset", "nft -a list ruleset", "nft list ruleset"} {
		t.Run(command, func(t *testing.T) {
			l := Parse([]Input{{File: "nft", Command: command, Text: []byte(run(t, h, command))}})
			if len(l.NotUnderstood) > 0 || len(l.Snapshot.Netns) != 1 {
				t.Fatalf("not understood: %+v", l.NotUnderstood)
			}
			got := l.Snapshot.Netns[0].Netfilter
			for i := range got.Tables {
				for _, c := range got.Tables[i].Chains {
					for _, r := range c.Rules {
						for _, e := range r.Exprs {
							if e.Op == netfilter.OpUnknown {
								t.Errorf("chain %s rule %d is not known: %s", c.Name, r.Number, r.Text())
							}
						}
					}
				}
			}
			compareFates(t, want, got, strings.Contains(command, "-a") || strings.Contains(command, "-j"), 25)
		})
	}
}

// TestIPTablesNFTAgainstKernel: the same for the rules that iptables-nft keeps in nf_tables, where the kernel
// hands out a mixture of nft's expressions and iptables' own.
func TestIPTablesNFTAgainstKernel(t *testing.T) {
	need(t, "iptables-nft-restore", "iptables-nft-save")
	h := nstest.New(t)
	path, err := filepath.Abs("testdata/legacy.save")
	if err != nil {
		t.Fatal(err)
	}
	run(t, h, "grep -v CONNMARK "+path+" | iptables-nft-restore") // of which the kernel's reader does not know the revision
	want, err := netfilter.Read(h, netfilter.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := Parse([]Input{{File: "save", Command: "iptables-save", Text: []byte(run(t, h, "iptables-nft-save"))}})
	if len(l.NotUnderstood) > 0 || len(l.Snapshot.Netns) != 1 {
		t.Fatalf("not understood: %+v", l.NotUnderstood)
	}
	got := l.Snapshot.Netns[0].Netfilter
	for _, tab := range got.Tables {
		if tab.Backend != netfilter.BackendNFT {
			t.Errorf("table %s is of %s", tab.Name, tab.Backend)
		}
	}
	compareFates(t, want, got, false, 10)
}

// compareFates plays packets through the hooks by both rulesets; so many rules must have had a say.
func compareFates(t *testing.T, want, got *netfilter.Ruleset, handles bool, atLeast int) {
	t.Helper()
	decided := make(map[string]bool)
	ways := [][]netfilter.Hook{{netfilter.HookPrerouting, netfilter.HookForward, netfilter.HookPostrouting}, {netfilter.HookPrerouting, netfilter.HookInput}}
	for _, fam := range []netfilter.Family{netfilter.FamilyIPv4, netfilter.FamilyIPv6, netfilter.FamilyBridge} {
		for _, way := range ways {
			for _, p := range packets(fam) {
				a := fate(want, fam, way, p, handles, decided)
				b := fate(got, fam, way, p, handles, make(map[string]bool))
				if a != b {
					t.Fatalf("%s %v %s:%d > %s:%d proto %d mark %#x:\n kernel  %s\n listing %s", fam, way, p.Src, p.SrcPort, p.Dst, p.DstPort, p.Proto, p.Mark, a, b)
				}
			}
		}
	}
	if len(decided) < atLeast {
		t.Errorf("only %d rules decided anything: %v", len(decided), decided)
	}
}

// fate plays a packet through the hooks of its way, each as the one before left it.
func fate(rs *netfilter.Ruleset, fam netfilter.Family, way []netfilter.Hook, p netfilter.Packet, handles bool, decided map[string]bool) string {
	o := netfilter.Outcome{Verdict: netfilter.Accept, Packet: p, State: netfilter.NewState(rs)}
	var out []string
	for _, hook := range way {
		os := o.State.Run(fam, hook, o.Packet, o.Conn, flatEnv{})
		for _, o := range os {
			s := fmt.Sprintf("%s %s:%d>%s:%d mark %d %s", o.Verdict, o.Packet.Src, o.Packet.SrcPort, o.Packet.Dst, o.Packet.DstPort, o.Packet.Mark, o.Conn.Entry)
			for _, r := range o.Trail {
				decided[r.Chain+" "+jsonOf(r.Rule)] = true
				s += " " + r.What + "@" + r.Chain
				if handles {
					s += "#" + jsonOf(r.Handle)
				}
			}
			out = append(out, s)
		}
		if o = os[0]; o.Verdict != netfilter.Accept {
			break
		}
	}
	return strings.Join(out, " | ")
}

// packets cover every rule of the ruleset from both sides.
func packets(fam netfilter.Family) (out []netfilter.Packet) {
	v4 := []string{"10.1.2.3", "10.3.0.4", "10.3.0.5", "10.3.0.9", "10.3.0.10", "10.9.1.1", "10.9.1.2", "10.96.0.10", "10.96.0.11", "10.20.3.4", "192.0.2.9", "10.0.0.1"}
	v6 := []string{"fd00::1", "fd00::5", "fd01::1"}
	addrs, etherType := v4, uint16(0x0800)
	if fam == netfilter.FamilyIPv6 {
		addrs, etherType = v6, 0x86dd
	}
	for _, src := range sources(addrs) {
		for _, dst := range addrs {
			for _, proto := range []uint8{1, 6, 17, 58} {
				for _, port := range []uint16{22, 23, 24, 53, 77, 78, 79, 80, 99, 600, 700, 1000, 1100, 1101, 1999, 2001, 9000, 9001, 9002, 60000} {
					marks := []uint32{0}
					if port == 600 {
						marks = []uint32{0, 5, 0x4000}
					}
					for _, mark := range marks {
						p := netfilter.Packet{
							Family: fam, EtherType: etherType, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: proto,
							SrcPort: 4000, DstPort: port, In: "cni0", Out: "eth0", InIndex: 3, OutIndex: 2, Mark: mark, TTL: 64, Length: 84,
							EthSrc: ether.MAC{2, 0, 0, 0, 0, byte(port)}, TCPFlags: 2,
						}
						if fam == netfilter.FamilyBridge {
							p.Family = netfilter.FamilyIPv4
						}
						if proto == 1 || proto == 58 {
							p.SrcPort, p.DstPort, p.ICMPID, p.ICMPType = 0, 0, 7, uint8(port%140)
						}
						if src == "10.0.0.1" {
							p.In, p.Out, p.TTL = "eth9", "eth1", 1
						}
						out = append(out, p)
					}
				}
			}
		}
	}
	return out
}

// sources are a few of the addresses: those that a rule tells apart.
func sources(addrs []string) []string {
	if len(addrs) < 5 {
		return addrs
	}
	return []string{addrs[0], addrs[1], addrs[2], addrs[len(addrs)-1]}
}

// flatEnv answers for a host with one address.
type flatEnv struct{}

func (flatEnv) AddrType(a netip.Addr, _ string) (string, bool) {
	if a == netip.MustParseAddr("10.0.0.1") || a == netip.MustParseAddr("fd01::1") {
		return "local", true
	}
	return "unicast", true
}

func (flatEnv) MasqueradeAddr(string, netip.Addr) (netip.Addr, bool) {
	return netip.MustParseAddr("10.0.0.1"), true
}

func (flatEnv) PrimaryAddr(string, bool) (netip.Addr, bool) {
	return netip.MustParseAddr("10.0.0.1"), true
}

func (flatEnv) ReverseDevice(netip.Addr, uint32) string { return "eth0" }
