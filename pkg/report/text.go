package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// defaultWidth is what a report is laid out for when nobody says: it fits a log and a wide window.
const defaultWidth = 120

// glyphs are the characters of podtrace's own that ASCII has another form of.
type glyphs struct {
	ok, bad, unseen, unsure string
	arrow, ditto, branch    string
	dot, micro              string
}

var (
	unicodeGlyphs = glyphs{"✓", "✗", "·", "?", "→", "″", "└", "·", "µs"}
	asciiGlyphs   = glyphs{"+", "x", ".", "?", "->", "\"", "`-", "-", "us"}
)

// printer collects the lines of a text report.
type printer struct {
	glyphs
	out   bytes.Buffer
	color bool
	width int
	wide  bool
}

// writeText prints the report in the order in which it is read in an incident: who and how, leg
// by leg what was seen, then the findings; the verdict comes last because that is the line that
// stays on the screen.
func writeText(w io.Writer, r *Report, o Options, wide bool) error {
	p := newPrinter(o)
	p.wide = wide
	p.head(r)
	for _, leg := range r.Legs {
		p.leg(r, leg)
	}
	p.findings(r)
	p.kernel(r.Kernel)
	p.incomplete(r)
	p.verdict(r.Verdict)
	p.expectation(r.Expectation)
	_, err := w.Write(p.out.Bytes())
	return err
}

func newPrinter(o Options) *printer {
	p := &printer{glyphs: unicodeGlyphs, color: o.Color, width: o.Width}
	if o.ASCII {
		p.glyphs = asciiGlyphs
	}
	if p.width <= 0 {
		p.width = defaultWidth
	}
	return p
}

// line prints one line, with attributes where colour is on.
func (p *printer) line(c cell) {
	for _, s := range c {
		if p.color && s.style != plain && strings.TrimSpace(s.text) != "" {
			fmt.Fprintf(&p.out, "\x1b[%sm%s\x1b[0m", s.style, s.text)
			continue
		}
		p.out.WriteString(s.text)
	}
	p.out.WriteByte('\n')
}

// prose prints a text of any length behind a head: the first line begins with it, those that
// follow are indented to the same column.
func (p *printer) prose(head cell, s string, as style) {
	indent := head.width()
	for i, part := range wrap(Clean(s), max(p.width-indent, 40)) {
		if i > 0 {
			head = text(strings.Repeat(" ", indent))
		}
		p.line(append(slices.Clip(head), span{part, as}))
	}
}

// head says who talks to whom, over what, and how the wire was watched.
func (p *printer) head(r *Report) {
	p.line(styled(endpointName(r.Source), bold).add(place(r.Source)+" "+p.arrow+" ", plain).
		add(endpointName(r.Destination), bold).add(place(r.Destination), plain))
	facts := []string{Clean(r.Datapath)}
	if r.Datapath == "" {
		facts[0] = "unknown datapath"
	}
	facts = append(facts, p.probe(r.Probe), p.capture(r.Capture))
	if s := r.Size; s != nil && s.Answered > 0 {
		facts = append(facts, fmt.Sprintf("full size (%d bytes) passes", s.Bytes))
	}
	p.line(text(strings.Join(facts, " "+p.dot+" ")))
	if r.Capture == nil {
		return
	}
	for _, pt := range r.Capture.Points {
		if pt.Error != "" {
			p.prose(styled("tap ", yellow), pt.Node+" "+pt.Interface+": "+pt.Error, plain)
		}
		if _, concluded, _ := strings.Cut(pt.Source, ": "); p.wide && pt.Source != "" || concluded != "" {
			p.prose(text("tap "), pt.Node+" "+pt.Interface+": "+pt.Source, plain)
		}
	}
}

func endpointName(e Endpoint) string {
	name := e.Name
	switch {
	case name == "":
		name = e.IP
	case e.Namespace != "":
		name = e.Namespace + "/" + name
	}
	return Clean(name)
}

// place gives " (IP on NODE)", without what the name has said already.
func place(e Endpoint) string {
	var parts []string
	if e.IP != "" && e.Name != "" {
		parts = append(parts, Clean(e.IP))
	}
	if e.Node != "" && e.Node != e.Name {
		parts = append(parts, "on "+Clean(e.Node))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, " ") + ")"
}

func (p *printer) probe(pr *Probe) string {
	if pr == nil {
		return "no probe"
	}
	if pr.Protocol == "none" {
		return "no probe sent, watching only"
	}
	s := Clean(pr.Protocol)
	if pr.DstPort != 0 {
		s += fmt.Sprintf(" port %d", pr.DstPort)
	}
	s += fmt.Sprintf(": %d sent, %d answered", pr.Sent, pr.Answered)
	if pr.RTTNanos > 0 {
		s += ", rtt " + p.duration(pr.RTTNanos)
	}
	if pr.Error != "" {
		s += " (" + Clean(pr.Error) + ")"
	}
	return s
}

func (p *printer) capture(c *Capture) string {
	if c == nil {
		return "tables only, no packet was looked for"
	}
	s := fmt.Sprintf("%d taps", len(c.Points))
	if c.ArmNanos > 0 {
		s += " armed in " + p.duration(c.ArmNanos)
	}
	if c.KernelDrops > 0 {
		s += fmt.Sprintf(", %d frames lost by the capture", c.KernelDrops)
	}
	return s
}

// duration prints three significant digits: 870ns, 12.4µs, 3.02ms.
func (p *printer) duration(nanos int64) string {
	d := time.Duration(nanos)
	switch {
	case d < 0:
		return "-" + p.duration(-nanos)
	case d < time.Microsecond:
		return fmt.Sprintf("%dns", nanos)
	case d < time.Millisecond:
		return significant(d, time.Microsecond) + p.micro
	case d < time.Second:
		return significant(d, time.Millisecond) + "ms"
	default:
		return significant(d, time.Second) + "s"
	}
}

func significant(d, unit time.Duration) string {
	v := float64(d) / float64(unit)
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// findings prints each with its evidence. What the verdict is about to say is not said twice.
func (p *printer) findings(r *Report) {
	if len(r.Findings) == 0 {
		return
	}
	p.line(nil)
	p.line(styled("findings", bold))
	for _, f := range r.Findings {
		p.finding(f, r.Verdict)
	}
}

func (p *printer) finding(f Finding, v Verdict) {
	mark, as := p.bad, red
	switch f.Severity {
	case SeverityWarning:
		mark, as = "!", yellow
	case SeverityNote:
		mark, as = p.dot, plain
	}
	p.line(styled(mark+" "+Clean(f.Cause), as).add(scene(f.Leg, f.Node, f.Interface), plain))
	if f.Summary != v.Summary {
		p.prose(text("    "), f.Summary, plain)
	}
	for _, e := range f.Evidence {
		p.line(text("    " + Clean(e)))
	}
	if f.Remedy != "" && f.Remedy != v.Remedy {
		p.line(text("    mend: ").add(Clean(f.Remedy), bold))
	}
}

// scene says where: " on node1 flannel.1, request leg".
func scene(leg, node, iface string) string {
	s := ""
	if at := strings.TrimSpace(Clean(node) + " " + Clean(iface)); at != "" {
		s = " on " + at
	}
	if leg != "" {
		s += ", " + Clean(leg) + " leg"
	}
	return s
}

// kernel says where a kernel contradicts its tables, and nothing where it does not.
func (p *printer) kernel(k *Kernel) {
	if k == nil || len(k.Differs) == 0 {
		return
	}
	p.line(nil)
	p.line(styled("the kernel says otherwise", bold).add(" (a table changed meanwhile, or podtrace reads it wrongly)", plain))
	for _, d := range k.Differs {
		p.prose(styled("! ", yellow), fmt.Sprintf("%s %s: tables: %s; kernel: %s", d.Node, d.Netns, d.Tables, d.Kernel), plain)
		p.line(text("    see: " + Clean(d.Command)))
	}
}

func (p *printer) incomplete(r *Report) {
	if len(r.Incomplete) == 0 {
		return
	}
	p.line(nil)
	p.line(styled("not judged", bold))
	for _, s := range r.Incomplete {
		p.prose(styled(p.unsure, yellow).add(" ", plain), s, plain)
	}
}

// verdict is the last word: status, cause and place, then what it means, then what mends it.
func (p *printer) verdict(v Verdict) {
	as := yellow
	switch v.Status {
	case Healthy:
		as = green
	case Broken:
		as = red
	}
	p.line(nil)
	head := styled(strings.ToUpper(Clean(v.Status)), as)
	if v.Cause == "" {
		p.prose(head.add("  ", plain), v.Summary, plain)
	} else {
		p.line(head.add("  "+Clean(v.Cause), bold).add(scene(v.Leg, v.Node, v.Interface), plain))
		p.prose(text("  "), v.Summary, plain)
	}
	if v.Remedy != "" {
		p.line(text("  mend: ").add(Clean(v.Remedy), bold)) // never wrapped: it is there to be copied
	}
}
