package listing

import (
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/netfilter"
)

// iptablesList reads iptables -L -n -v. It is meant for people: what stands behind the addresses has no
// grammar, and what is not known of it is an unknown expression that prints itself. Without -v it shows
// no devices, so that every rule is in doubt.
type iptablesList struct {
	*block
	table *netfilter.Table
	cols  []string
}

var (
	chainRow   = lazy(`^Chain (\S+) \((?:policy (\w+)(?: (\S+) packets, (\S+) bytes)?|\d+ references)\)$`)
	commentRow = lazy(`/\* (.*?) \*/`)
)

func (p *iptablesList) line(l line) bool {
	text := strings.TrimSpace(l.text)
	if m := chainRow().FindStringSubmatch(text); m != nil {
		if p.table == nil {
			p.begin()
		}
		policy := m[2]
		if policy == "" {
			policy = "-"
		}
		p.table.Chains = append(p.table.Chains, baseChain(p.table, m[1], policy, m[3], m[4]))
		return true
	}
	w := wordsOf(text)
	if slices.Contains(w, "target") && slices.Contains(w, "source") {
		p.cols = w
		return true
	}
	if p.table == nil || len(p.table.Chains) == 0 || strings.HasPrefix(text, "#") {
		return strings.HasPrefix(text, "#")
	}
	return p.row(text)
}

func (p *iptablesList) begin() {
	t := netfilter.Table{Backend: netfilter.BackendLegacy, Family: netfilter.FamilyIPv4, Name: "filter"}
	if p.opts.v6 {
		t.Family = netfilter.FamilyIPv6
	}
	if strings.Contains(p.cmd.text, "-nft") {
		t.Backend = netfilter.BackendNFT
	}
	if p.opts.table != "" {
		t.Name = p.opts.table
	}
	p.tables = append(p.tables, t)
	p.table = &p.tables[len(p.tables)-1]
}

// countOf reads counters, which -v shortens: 12K, 3M.
func countOf(s string) uint64 {
	units := map[string]uint64{"K": 1000, "M": 1000_000, "G": 1000_000_000, "T": 1000_000_000_000}
	for u, n := range units {
		if v, ok := strings.CutSuffix(s, u); ok {
			return number[uint64](v) * n
		}
	}
	return number[uint64](s)
}

// row reads one rule by the columns of the heading. The target's column is empty where there is none.
func (p *iptablesList) row(text string) bool {
	c := &p.table.Chains[len(p.table.Chains)-1]
	w := wordsOf(commentRow().ReplaceAllString(text, ""))
	r := netfilter.Rule{Number: len(c.Rules) + 1}
	m := &netfilter.Match{}
	target, at := "", 0
	verbose, known := slices.Contains(p.cols, "in"), true
	for _, col := range p.cols {
		if at >= len(w) {
			return false
		}
		v := w[at]
		switch col {
		case "num":
		case "bytes":
			r.Bytes = countOf(v)
		case "pkts":
			r.Packets, r.Counted = countOf(v), true
		case "target":
			if len(w) > at+1 && (w[at+1] == "--" || w[at+1] == "-f" || w[at+1] == "!f") { // no target: this is prot
				continue
			}
			target = v
		case "prot":
			name := strings.TrimPrefix(v, "!")
			m.Proto, m.NotProto = ipProto(name), name != v
			known = m.Proto != 0 || name == "all" || name == "0"
		case "opt":
			if p.opts.v6 && v != "--" { // ip6tables prints an empty column
				continue
			}
		case "in":
			m.In, m.NotIn = devicePattern(v)
		case "out":
			m.Out, m.NotOut = devicePattern(v)
		case "source":
			m.Src, m.NotSrc = iptPrefix(strings.TrimPrefix(v, "!")), strings.HasPrefix(v, "!")
		case "destination":
			m.Dst, m.NotDst = iptPrefix(strings.TrimPrefix(v, "!")), strings.HasPrefix(v, "!")
		}
		at++
	}
	e := netfilter.Expr{Op: netfilter.OpTuple, Tuple: m, Text: strings.Join(w[min(1, len(w)):at], " ")}
	if !m.Src.IsValid() || !m.Dst.IsValid() || !known { // names instead of numbers, a mask with holes
		e.Op = netfilter.OpUnknown
	}
	r.Exprs = append(r.Exprs, e)
	if !verbose {
		r.Exprs = append(r.Exprs, netfilter.Expr{Op: netfilter.OpUnknown, Text: "devices are not listed (iptables -L without -v)"})
	}
	r.Exprs = append(r.Exprs, p.extras(w[at:], target)...)
	c.Rules = append(c.Rules, r)
	return true
}

func devicePattern(v string) (string, bool) {
	not := strings.HasPrefix(v, "!")
	v = strings.TrimPrefix(v, "!")
	if v == "*" || v == "any" {
		return "", not
	}
	return v, not
}

func (p *iptablesList) end() {
	if p.table != nil && !p.opts.limited {
		p.nfSeen = append(p.nfSeen, nfLegacy)
	}
}
