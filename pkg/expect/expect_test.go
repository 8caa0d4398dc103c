package expect

import (
	"strings"
	"testing"
	"time"

	"github.com/podtrace/podtrace/pkg/report"
)

const head = "apiVersion: podtrace.dev/v1\nkind: Expectations\n"

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse("p.yaml", []byte(head+text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"apiVersion: v2\nkind: Expectations\n", `p.yaml: apiVersion is "v2"`},
		{"apiVersion: podtrace.dev/v1\nkind: Policy\n", `kind is "Policy"`},
		{head + "healty: []\n", `p.yaml:3: field "healty" is not known`},
		{head + "healthy:\n- form: a\n", `p.yaml:4: field "form" is not known`},
		{head + "healthy:\n- {}\n", "healthy 1 names no end"},
		{head + "healthy:\n- from: 'a['\n", `healthy 1: pattern "a["`},
		{head + "accepted:\n- cause: x\n  reason: y\n", "accepted 1 (x) says no day"},
		{head + "accepted:\n- cause: x\n  until: 2027-01-31\n", "accepted 1 (x) gives no reason"},
		{head + "accepted:\n- until: 2027-01-31\n  reason: y\n", "accepted 1 has no cause"},
		{head + "accepted:\n- cause: x\n  reason: y\n  until: next week\n", `p.yaml:6: until "next week" is no day`},
		{head + "accepted:\n- cause: x\n  reason: y\n  until: 2027-02-30\n", `"2027-02-30" is no day`},
		{head + "accepted: fdb-missing\n", "p.yaml:3: unexpected text"},
		{"", "p.yaml: is empty"},
	} {
		if p, err := Parse("p.yaml", []byte(c.text)); err == nil || p != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
}

func TestWeigh(t *testing.T) {
	fault := Fault{"fdb-missing", "node1", "flannel.1", "no row"}
	broken := Subject{From: []string{"shop/cart", "cart", "10.244.1.2"}, To: []string{"shop/db", "db", "10.244.2.3"}, Status: report.Broken, Faults: []Fault{fault}}
	healthy := Subject{From: []string{"shop/web"}, To: []string{"shop/db"}, Status: report.Healthy}
	unknown := Subject{From: []string{"shop/cart"}, To: []string{"shop/db"}, Status: report.Inconclusive, Summary: "nothing seen"}
	two := broken
	two.Faults = append(two.Faults, Fault{"netfilter-drop", "node2", "", "dropped"})
	accept := "accepted:\n- {cause: fdb-missing, node: node1, until: 2027-01-31, reason: known}\n"
	for _, c := range []struct {
		name, policy string
		subjects     []Subject
		status       string
		unmet, notes int // in all
		accepted     int
	}{
		{"healthy", "", []Subject{healthy}, report.Met, 0, 0, 0},
		{"every pair, when none is named", "", []Subject{broken}, report.Unmet, 1, 0, 0},
		{"accepted", accept, []Subject{broken}, report.Met, 0, 0, 1},
		{"of another node", strings.Replace(accept, "node1", "node2", 1), []Subject{broken}, report.Unmet, 1, 1, 0},
		{"by a pattern", "accepted:\n- {cause: 'fdb-*', until: 2027-01-31, reason: known}\n", []Subject{broken}, report.Met, 0, 0, 1},
		{"the last day", strings.Replace(accept, "2027-01-31", "2026-11-21", 1), []Subject{broken}, report.Met, 0, 0, 1},
		{"over", strings.Replace(accept, "2027-01-31", "2026-11-20", 1), []Subject{broken}, report.Unmet, 1, 0, 0},
		{"one of two", accept, []Subject{two}, report.Unmet, 1, 0, 1},
		{"of another pair", "accepted:\n- {cause: fdb-missing, to: shop/web, until: 2027-01-31, reason: known}\n", []Subject{broken}, report.Unmet, 1, 1, 0},
		{"of a range", "accepted:\n- {cause: fdb-missing, to: 10.244.2.0/24, until: 2027-01-31, reason: known}\n", []Subject{broken}, report.Met, 0, 0, 1},
		{"not required", "healthy:\n- {from: shop/web}\n", []Subject{broken, healthy}, report.Met, 0, 1, 0},
		{"missing", "healthy:\n- {from: shop/web, to: shop/mail}\n", []Subject{healthy}, report.Unmet, 1, 0, 0},
		{"undecided alone", "healthy:\n- {from: 'shop/*', to: shop/db}\n", []Subject{unknown, healthy}, report.Undecided, 0, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			each, whole := parse(t, c.policy).Weigh(c.subjects, time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC))
			e := Join(each, whole)
			if e.Status != c.status || len(e.Unmet) != c.unmet || len(e.Notes) != c.notes || len(e.Accepted) != c.accepted || e.Summary == "" {
				t.Errorf("%+v", e)
			}
		})
	}
}

// TestOf: a verdict without a finding is a fault all the same.
func TestOf(t *testing.T) {
	r := &report.Report{
		Source: report.Endpoint{Namespace: "a", Name: "b", IP: "10.0.0.1"}, Destination: report.Endpoint{IP: "10.0.0.2"},
		Findings: []report.Finding{{Cause: "odd", Severity: report.SeverityNote}}, Verdict: report.Verdict{Status: report.Degraded, Cause: "lost-after-x"},
	}
	s := Of(r)
	if len(s.Faults) != 1 || s.Faults[0].Cause != "lost-after-x" || len(s.From) != 3 || len(s.To) != 1 {
		t.Errorf("%+v", s)
	}
}

// FuzzPolicy: a policy is read or refused with its name, and what is read weighs anything without a panic.
func FuzzPolicy(f *testing.F) {
	f.Add(head + "healthy:\n- {from: a, to: b/c}\naccepted:\n- {cause: 'x-*', node: n, until: 2027-01-31, reason: r, to: 10.0.0.0/8}\n")
	f.Add("{}")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse("p.yaml", []byte(text))
		if err != nil {
			if p != nil || !strings.HasPrefix(err.Error(), "p.yaml") {
				t.Errorf("%v %v", p, err)
			}
			return
		}
		s := Subject{From: []string{"a"}, To: []string{"10.0.0.1"}, Status: report.Broken, Faults: []Fault{{Cause: "x-y", Node: "n"}}}
		if _, whole := p.Weigh([]Subject{s}, time.Unix(0, 0)); whole.Status == "" {
			t.Error("no opinion")
		}
	})
}
