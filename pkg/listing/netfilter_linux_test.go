package listing

import (
	"path/filepath"
	"strings"
	"testing"

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
