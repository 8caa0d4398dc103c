package report

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// detail is how much of a hop fits into one row.
type detail struct {
	latency bool // the column is shown
	stacked bool // IP addresses stand below the Ethernet addresses, not beside them
}

// leg prints one direction: one row a hop, and below a row what does not hold there.
func (p *printer) leg(r *Report, leg Leg) {
	from, to := r.Source, r.Destination
	if leg.Name == Reply {
		from, to = to, from
	}
	p.line(nil)
	p.line(styled(Clean(leg.Name), bold).
		add("  "+shortName(from)+" "+p.arrow+" "+shortName(to)+protocol(leg)+legend(leg, p.wide), plain))
	if len(leg.Hops) == 0 {
		p.line(styled(p.unsure, yellow).add(" no hop is known", plain))
		return
	}
	nodes := shortNodes(leg)
	var t *table
	for _, d := range []detail{{latency: true}, {}, {latency: true, stacked: true}, {stacked: true}} {
		t = p.table(leg, nodes, d)
		if p.wide || t.width() <= p.width {
			break
		}
	}
	t.print(p)
}

func shortName(e Endpoint) string {
	if e.Name == "" {
		return Clean(e.IP)
	}
	return Clean(e.Name)
}

// protocol says what the packets of the leg are, once: it is the same at each hop.
func protocol(leg Leg) string {
	for _, h := range leg.Hops {
		if f := h.frame(); f != nil && f.Proto != "" {
			return ", " + Clean(f.Proto)
		}
	}
	return ""
}

// legend explains the parentheses where the leg has any.
func legend(leg Leg, wide bool) string {
	for _, h := range leg.Hops {
		if h.Observed == nil && h.Expected != nil && (wide || h.State != StateMissing) {
			return " (in parentheses: expected, not seen)"
		}
	}
	return ""
}

// shortNodes maps node names to what stands before their first dot, as long as that still tells
// them apart: cloud nodes have names of forty characters.
func shortNodes(leg Leg) map[string]string {
	short, owner := map[string]string{}, map[string]string{}
	unique := true
	for _, h := range leg.Hops {
		name, _, _ := strings.Cut(h.Node, ".")
		if net.ParseIP(h.Node) != nil {
			name = h.Node
		}
		if other, taken := owner[name]; taken && other != h.Node {
			unique = false
		}
		owner[name], short[h.Node] = h.Node, name
	}
	for _, h := range leg.Hops {
		if !unique {
			short[h.Node] = h.Node
		}
	}
	return short
}

// frame is what the row shows: what was seen, else what was expected there.
func (h *Hop) frame() *Headers {
	if h.Observed != nil {
		return h.Observed
	}
	return h.Expected
}

// Columns of the hop table, in order.
const (
	colMark = iota
	colIndex
	colNode
	colIface
	colNetns // wide
	colDir
	colPackets
	colLatency
	colEth
	colIP
	colTTL
	columns
)

func (p *printer) table(leg Leg, nodes map[string]string, d detail) *table {
	t := &table{
		right:  map[int]bool{colIndex: true, colPackets: true, colLatency: true, colTTL: true},
		noteAt: colIface,
	}
	d.latency = d.latency && slices.ContainsFunc(leg.Hops, func(h Hop) bool { return h.LatencyNanos != nil })
	t.rows = append(t.rows, p.heading(d))
	var above *Headers // those of the last row that showed any
	for i := range leg.Hops {
		h := &leg.Hops[i]
		shown := *h
		if i > 0 && h.Note == leg.Hops[i-1].Note {
			shown.Note = "" // said once for a run of hops
		}
		if i > 0 && h.LatencyNote == leg.Hops[i-1].LatencyNote {
			shown.LatencyNote = ""
		}
		t.rows = append(t.rows, p.hop(&shown, above, nodes[h.Node], d)...)
		if f := h.frame(); f != nil && (h.State != StateMissing || p.wide) {
			above = f
		}
	}
	return t
}

func (p *printer) heading(d detail) row {
	c := make([]cell, columns)
	for col, s := range map[int]string{
		colIndex: "#", colNode: "node", colIface: "interface", colPackets: "pkts",
		colEth: "eth src " + p.arrow + " dst", colTTL: "ttl",
	} {
		c[col] = styled(s, dim)
	}
	if !d.stacked {
		c[colIP] = styled("ip src "+p.arrow+" dst", dim)
	}
	if d.latency {
		c[colLatency] = styled("latency", dim)
	}
	if p.wide {
		c[colNetns] = styled("netns", dim)
	}
	return row{cells: c}
}

// hop gives the row of one hop, the rows of its outer headers, and the notes below it.
func (p *printer) hop(h *Hop, above *Headers, node string, d detail) []row {
	c := make([]cell, columns)
	c[colMark], c[colIndex] = p.mark(h.State), text(strconv.Itoa(h.Index))
	c[colNode], c[colIface], c[colDir] = text(Clean(node)), p.iface(h), text(Clean(h.Direction))
	if h.Packets > 0 || h.State == StateOK || h.State == StateMismatch || h.State == StateMissing {
		c[colPackets] = text(strconv.Itoa(h.Packets))
	}
	if d.latency && h.LatencyNanos != nil {
		c[colLatency] = text(p.duration(*h.LatencyNanos))
	}
	if p.wide {
		c[colNode], c[colNetns] = text(Clean(h.Node)), text(Clean(h.Netns))
	}
	rows := []row{{cells: c}}
	switch {
	case h.State == StateMissing && !p.wide:
		c[colEth] = styled(unseen, red)
	case h.frame() != nil:
		rows = append(rows, p.headers(c, h, above, d)...)
	}
	if h.Observed == nil {
		parenthesize(rows)
	}
	return append(rows, p.notes(h)...)
}

// unseen stands where the headers of a missing packet would.
const unseen = "not seen"

// parenthesize marks the addresses of a hop as expected and not seen. A ditto mark gets them too:
// it repeats the value above, not that it was seen.
func parenthesize(rows []row) {
	for _, r := range rows {
		for _, col := range []int{colEth, colIP, colTTL} {
			if c := r.cells[col]; len(c) > 0 && c[0].text != unseen {
				r.cells[col] = append(text("("), c.add(")", plain)...)
			}
		}
	}
}

func (p *printer) mark(state string) cell {
	switch state {
	case StateOK:
		return styled(p.ok, green)
	case StateMismatch, StateMissing:
		return styled(p.bad, red)
	case StateUnobserved:
		return styled(p.unseen, yellow)
	default:
		return styled(p.unsure, yellow)
	}
}

// iface names the interface; one inside a pod is marked, because every pod has an eth0.
func (p *printer) iface(h *Hop) cell {
	c := text(Clean(h.Interface))
	if h.Netns != "host" && h.Netns != "" && !p.wide {
		c = c.add(" (pod)", plain)
	}
	return c
}

// notes are the lines below a hop: why nothing can be said, and every check that does not hold
// with the entry that proves it. Wide shows the checks that hold as well.
func (p *printer) notes(h *Hop) []row {
	var rows []row
	note := func(c cell) { rows = append(rows, row{note: c}) }
	if h.LatencyNote != "" {
		note(styled(p.unsure+" ", yellow).add(Clean(h.LatencyNote), plain))
	}
	if h.Note != "" {
		note(styled(p.unsure+" ", yellow).add(Clean(h.Note), plain))
	}
	for _, c := range h.Checks {
		switch {
		case !c.OK:
			note(styled(p.bad+" "+Clean(c.Name), red).add(": ", plain).
				add(orNothing(c.Observed), red).add(", expected ", plain).
				add(orNothing(c.Expected), bold).add(fmt.Sprintf(" (%s)", Clean(c.Source)), plain))
			if c.Entry != "" {
				note(text("  " + Clean(strings.TrimSpace(c.Table+": "+c.Entry))))
			}
			if c.Command != "" {
				note(styled("  $ "+Clean(c.Command), dim))
			}
		case p.wide:
			note(styled(p.ok+" ", green).add(Clean(c.Name)+" "+Clean(c.Observed), plain).add(p.proof(c), dim))
		}
	}
	return rows
}

// proof is the entry behind a check that holds, on the same line.
func (p *printer) proof(c Check) string {
	s := fmt.Sprintf("  (%s)", Clean(c.Source))
	if c.Entry != "" {
		s += " " + Clean(c.Table) + ": " + Clean(c.Entry)
	}
	if c.Command != "" {
		s += "  $ " + Clean(c.Command)
	}
	return s
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return Clean(s)
}
