package listing

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// TestNFTRulesAgainstKernel: every statement and match of nft, each in a chain of its own, has the effect on
// packets that the kernel's expressions have, or is not known. None has another.
func TestNFTRulesAgainstKernel(t *testing.T) {
	need(t, "nft")
	h := nstest.New(t)
	sets, err := filepath.Abs("testdata/statements.nft")
	if err != nil {
		t.Fatal(err)
	}
	run(t, h, "nft -f "+sets)
	b, err := os.ReadFile("testdata/statements.rules")
	if err != nil {
		t.Fatal(err)
	}
	script, n := "", 0
	for rule := range strings.Lines(string(b)) { // one by one: not every kernel has every module
		n++
		script += fmt.Sprintf("printf '%%s\\n' 'add chain inet m m%d' 'add rule inet m m%d %s' | nft -f - >/dev/null 2>&1 && echo taken\n", n, n, strings.TrimSpace(rule))
	}
	if taken := strings.Count(run(t, h, script+"true"), "taken"); taken < n*9/10 {
		t.Fatalf("the kernel took %d of %d rules", taken, n)
	}
	want, err := netfilter.Read(h, netfilter.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fates := make(map[string][]string)
	for _, command := range []string{"nft -j list ruleset", "nft list ruleset"} {
		t.Run(command, func(t *testing.T) {
			l := Parse([]Input{{File: "nft", Command: command, Text: []byte(run(t, h, command))}})
			if len(l.NotUnderstood) > 0 || len(l.Snapshot.Netns) != 1 {
				t.Fatalf("not understood: %+v", l.NotUnderstood)
			}
			compareRulesApart(t, want, l.Snapshot.Netns[0].Netfilter, fates)
		})
	}
}

// compareRulesApart plays packets through each chain of table m alone.
func compareRulesApart(t *testing.T, want, got *netfilter.Ruleset, fates map[string][]string) {
	t.Helper()
	decided, same, doubtful := 0, 0, 0
	for _, c := range want.Tables[0].Chains {
		if !strings.HasPrefix(c.Name, "m") {
			continue
		}
		if fates[c.Name] == nil {
			fates[c.Name] = fatesOf(alone(want, c.Name))
		}
		mine := alone(got, c.Name)
		theirs, g := fates[c.Name], fatesOf(mine)
		rules := chainOf(mine, func(*netfilter.Table) string { return "" }, " "+c.Name).Rules
		unknown := len(rules) == 1 && slices.ContainsFunc(rules[0].Exprs, func(e netfilter.Expr) bool { return e.Op == netfilter.OpUnknown || e.Op == netfilter.OpOpaque })
		if len(slices.Compact(slices.Clone(theirs))) > 1 {
			decided++
		}
		equal := slices.Equal(theirs, g)
		switch {
		case equal:
			same++
		case unknown:
			doubtful++
			t.Logf("in doubt: %s", rules[0].Text())
		}
		for i := range theirs {
			if theirs[i] != g[i] && !(unknown && strings.Contains(g[i], netfilter.Unknown.String())) {
				t.Errorf("%s, packet %d:\n kernel  %s\n listing %s\n kernel's rule  %s\n listing's rule %s", c.Rules[0].Text(), i, theirs[i], g[i], jsonOf(c.Rules), jsonOf(rules))
				break
			}
		}
	}
	t.Logf("%d rules tell packets apart, %d are the same, %d in doubt", decided, same, doubtful)
	if decided < 90 || doubtful > same/10 {
		t.Errorf("%d rules tell packets apart, %d are the same, %d in doubt", decided, same, doubtful)
	}
}

// alone hangs one chain on the hook where its rule belongs.
func alone(rs *netfilter.Ruleset, name string) *netfilter.Ruleset {
	out := &netfilter.Ruleset{}
	for _, t := range rs.Tables {
		t.Chains = slices.Clone(t.Chains)
		for i := range t.Chains {
			c := &t.Chains[i]
			if c.Name != name {
				continue
			}
			c.Base, c.Type, c.Hook = true, "filter", netfilter.HookPrerouting
			for _, r := range c.Rules {
				for _, e := range r.Exprs {
					if e.Op == netfilter.OpNAT {
						c.Type, c.Priority = "nat", -100
						if e.NAT.Kind == "snat" || e.NAT.Kind == "masquerade" {
							c.Hook, c.Priority = netfilter.HookPostrouting, 100
						}
					}
				}
			}
		}
		out.Tables = append(out.Tables, t)
	}
	return out
}

// fatesOf plays a choice of packets.
func fatesOf(rs *netfilter.Ruleset) (out []string) {
	for _, fam := range []netfilter.Family{netfilter.FamilyIPv4, netfilter.FamilyIPv6} {
		for i, p := range packets(fam) {
			if i%13 != 0 || p.Proto == 58 != (p.Dst.Is6() && p.Proto != 6 && p.Proto != 17) {
				continue // some of them, and no ICMP of the other family
			}
			p.TOS, p.TCPFlags, p.Mark = [...]uint8{0, 0x10, 0x28}[i%3], [...]uint8{2, 16, 18, 4}[i%4], [...]uint32{0, 1, 5, 0x4000}[i%4]
			p.Length += i % 5 * 100
			state := netfilter.NewState(rs)
			s := ""
			var conn netfilter.Conn
			for _, hook := range []netfilter.Hook{netfilter.HookPrerouting, netfilter.HookPostrouting} {
				os := state.Run(fam, hook, p, conn, flatEnv{})
				for _, o := range os {
					s += fmt.Sprintf("%s %+v %s %v; ", o.Verdict, o.Packet, o.Conn.Entry, jsonOf(o.Answer))
				}
				if state, p, conn = os[0].State, os[0].Packet, os[0].Conn; os[0].Verdict != netfilter.Accept {
					break
				}
			}
			out = append(out, s)
		}
	}
	return out
}

// DeviceType and DeviceIndex make flatEnv a netfilter.DeviceEnv.
func (flatEnv) DeviceType(name string) (uint16, bool) {
	if name == "lo" {
		return 772, true
	}
	return 1, true
}

func (flatEnv) DeviceIndex(name string) (int, bool) {
	i, ok := map[string]int{"lo": 1, "eth0": 2, "cni0": 3}[name]
	return i, ok
}
