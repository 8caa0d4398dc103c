package report

import (
	"fmt"
	"io"
	"strings"
)

// markdownSpecial are the characters that CommonMark would read as markup inside a table cell.
var markdownSpecial = strings.NewReplacer(
	`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "|", `\|`, "<", "&lt;", ">", "&gt;", "[", `\[`, "]", `\]`,
	"#", `\#`, "~", `\~`, "@", "&#64;")

func markdown(s string) string { return markdownSpecial.Replace(Clean(s)) }

// writeMarkdown puts the verdict first: it is what the reader of an issue looks for.
func writeMarkdown(w io.Writer, r *Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## podtrace: %s → %s\n\n", markdown(endpointName(r.Source)), markdown(endpointName(r.Destination)))
	v := r.Verdict
	fmt.Fprintf(&b, "**%s**", markdown(v.Status))
	if v.Cause != "" {
		fmt.Fprintf(&b, " %s%s", markdown(v.Cause), markdown(scene(v.Leg, v.Node, v.Interface)))
	}
	fmt.Fprintf(&b, ": %s\n", markdown(v.Summary))
	if v.Remedy != "" {
		fence(&b, v.Remedy)
	}
	markdownExpectation(&b, r.Expectation)
	for _, leg := range r.Legs {
		markdownLeg(&b, leg)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n**%s** (%s)%s: %s\n", markdown(f.Cause), markdown(f.Severity),
			markdown(scene(f.Leg, f.Node, f.Interface)), markdown(f.Summary))
		if len(f.Evidence) > 0 {
			fence(&b, f.Evidence...)
		}
	}
	for _, s := range r.Incomplete {
		fmt.Fprintf(&b, "\nNot judged: %s\n", markdown(s))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeMarkdowns(w io.Writer, rs []*Report, whole *Expectation) error {
	for _, r := range rs {
		if err := writeMarkdown(w, r); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	var b strings.Builder
	markdownExpectation(&b, whole)
	_, err := io.WriteString(w, strings.TrimPrefix(b.String(), "\n"))
	return err
}

// fence writes lines as an indented code block, which needs no closing mark that they could hold.
func fence(b *strings.Builder, lines ...string) {
	b.WriteByte('\n')
	for _, l := range lines {
		fmt.Fprintf(b, "    %s\n", Clean(l))
	}
}

func markdownLeg(b *strings.Builder, leg Leg) {
	fmt.Fprintf(b, "\n### %s\n\n", markdown(leg.Name))
	b.WriteString("| # | state | node | interface | packets | eth | ip | ttl | vxlan |\n")
	b.WriteString("|--:|---|---|---|--:|---|---|--:|---|\n")
	for i := range leg.Hops {
		h := &leg.Hops[i]
		fmt.Fprintf(b, "| %d | %s | %s | %s %s | %d |", h.Index, markdown(h.State),
			markdown(h.Node), markdown(h.Interface), markdown(h.Direction), h.Packets)
		for _, c := range markdownHeaders(h) {
			fmt.Fprintf(b, " %s |", c)
		}
		b.WriteByte('\n')
	}
}

// markdownHeaders gives the address cells, in parentheses where they are only expected.
func markdownHeaders(h *Hop) []string {
	cells := make([]string, 4)
	f := h.frame()
	if f == nil {
		return cells
	}
	cells[0] = f.EthSrc + " → " + f.EthDst
	cells[1] = addrPort(f.IPSrc, f.SrcPort) + " → " + addrPort(f.IPDst, f.DstPort)
	cells[2] = hopLimit(f.TTL)
	if o := f.Outer; o != nil {
		name := fmt.Sprintf("vni %d", o.VNI)
		if o.Kind != "" {
			name = o.Kind
		}
		cells[3] = fmt.Sprintf("%s, %s → %s", name, o.IPSrc, addrPort(o.IPDst, o.DstPort))
	}
	for i, c := range cells {
		if h.Observed == nil && c != "" {
			c = "(" + c + ")"
		}
		cells[i] = markdown(c)
	}
	return cells
}
