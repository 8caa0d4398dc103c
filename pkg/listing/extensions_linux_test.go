package listing

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/netns/nstest"
)

// loadExtensions adds the rules of a file one by one, and says how many the kernel has taken: it may not have
// the module.
func loadExtensions(t *testing.T, h *netns.Handle) int {
	t.Helper()
	b, err := os.ReadFile("testdata/extensions.rules")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	script := "ipset create ips hash:ip,port; ipset create nets hash:net; iptables-legacy -N X; ip6tables-legacy -N X\n"
	for rule := range strings.Lines(string(b)) {
		script += rule
	}
	for range strings.Lines(run(t, h, strings.ReplaceAll(script, "\n", " >/dev/null 2>&1 && echo taken\n")+"true")) {
		n++
	}
	return n
}

// TestExtensionsAgainstKernel: so do the rules of all extensions, as iptables-save and as iptables -L prints them.
// What the latter does not say may not be known, but nothing may be another than it is.
func TestExtensionsAgainstKernel(t *testing.T) {
	need(t, "iptables-legacy", "iptables-legacy-save", "ipset")
	h := nstest.New(t)
	if n := loadExtensions(t, h); n < 60 {
		t.Fatalf("the kernel took only %d rules", n)
	}
	want, err := netfilter.Read(h, netfilter.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sets := Input{File: "ipset", Command: "ipset save", Text: []byte(run(t, h, "ipset save"))}
	l := Parse([]Input{
		{File: "save", Command: "iptables-legacy-save -c", Text: []byte(run(t, h, "iptables-legacy-save -c"))},
		{File: "save6", Command: "ip6tables-legacy-save", Text: []byte(run(t, h, "ip6tables-legacy-save -c"))}, sets,
	})
	if len(l.NotUnderstood) > 0 {
		t.Errorf("not understood: %+v", l.NotUnderstood)
	}
	compareRules(t, want, l.Snapshot.Netns[0].Netfilter)
	in := []Input{sets}
	for _, v := range []string{"iptables", "ip6tables"} {
		for _, tab := range []string{"raw", "mangle", "nat", "filter"} {
			cmd := v + "-legacy -t " + tab + " -nvL"
			in = append(in, Input{File: v + tab, Command: cmd, Text: []byte(run(t, h, cmd))})
		}
	}
	l = Parse(in)
	if len(l.NotUnderstood) > 0 {
		t.Errorf("not understood: %+v", l.NotUnderstood)
	}
	compareLists(t, want, l.Snapshot.Netns[0].Netfilter)
}

// compareLists compares what iptables -L says.
func compareLists(t *testing.T, want, got *netfilter.Ruleset) {
	t.Helper()
	key := func(t *netfilter.Table) string { return t.Backend + " " + t.Family.String() + " " + t.Name }
	same, doubtful := 0, 0
	for i := range want.Tables {
		for _, c := range want.Tables[i].Chains {
			name := key(&want.Tables[i]) + " " + c.Name
			theirs, mine := withoutEnd(c), chainOf(got, key, name).Rules
			if len(theirs) != len(mine) {
				t.Errorf("%s has %d rules, %d are listed", name, len(theirs), len(mine))
				continue
			}
			for k := range theirs {
				w, g := comparable(theirs[k]), comparable(mine[k])
				unknown := slices.ContainsFunc(mine[k].Exprs, func(e netfilter.Expr) bool { return e.Op == netfilter.OpUnknown || e.Op == netfilter.OpOpaque })
				switch {
				case w == g:
					same++
				case unknown:
					doubtful++
				default:
					t.Errorf("%s: %s\n kernel  %s\n listing %s", name, theirs[k].Text(), w, g)
				}
			}
		}
	}
	t.Logf("%d rules are the same, %d are in doubt", same, doubtful)
	if same < 50 || doubtful > same/4 {
		t.Errorf("%d rules are the same, %d are in doubt", same, doubtful)
	}
}

// comparable is a rule without its text and without what iptables -L says in another way: every rule has
// addresses, a comment is left out, and what no packet has is not asked for.
func comparable(r netfilter.Rule) string {
	var out []netfilter.Expr
	for _, e := range r.Exprs {
		e.Text = ""
		if e.Op == netfilter.OpPass {
			continue
		}
		if e.Op == netfilter.OpTuple {
			m := *e.Tuple
			if m.Src.Bits() == 0 && !m.NotSrc {
				m.Src = netip.Prefix{}
			}
			if m.Dst.Bits() == 0 && !m.NotDst {
				m.Dst = netip.Prefix{}
			}
			if jsonOf(m) == jsonOf(netfilter.Match{}) {
				continue
			}
			e.Tuple = &m
		}
		out = append(out, e)
	}
	return jsonOf(out)
}
