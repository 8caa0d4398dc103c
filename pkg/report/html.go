package report

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"
)

//go:embed report.css
var htmlStyle string

// writeHTML prints the report as one page that needs nothing else. It is built from elements and no template: a program
// with text/template, which calls methods by name, keeps all exported methods of all its types, 4 MB here.
func writeHTML(w io.Writer, r *Report) error {
	if err := htmlPage(r).Render(w); err != nil {
		return fmt.Errorf("write report as HTML: %w", err)
	}
	return nil
}

// htmlPage is the page. Elements escape what is in them, htmlText makes what no reader can see visible first. It has no
// scripts, and its policy allows none.
func htmlPage(r *Report) g.Node {
	title := endpointName(r.Source) + " → " + endpointName(r.Destination)
	return h.Doctype(h.HTML(h.Lang("en"),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.Meta(g.Attr("http-equiv", "Content-Security-Policy"), h.Content("default-src 'none'; style-src 'unsafe-inline'")),
			h.Meta(h.Name("viewport"), h.Content("width=device-width, initial-scale=1")),
			h.TitleEl(htmlText("podtrace: "+title+": "+r.Verdict.Status)),
			h.StyleEl(g.Raw("\n"+htmlStyle)),
		),
		h.Body(
			h.H1(htmlText(title)),
			h.P(h.Class("dim"), htmlText(htmlAbout(r))),
			htmlVerdict(r.Verdict),
			g.Iff(r.Expectation != nil, func() g.Node { return htmlExpectation(r.Expectation) }),
			g.Map(r.Legs, htmlLeg),
			g.If(len(r.Findings) > 0, h.H2(g.Text("findings"))),
			g.Map(r.Findings, htmlFinding),
			g.Iff(r.Kernel != nil && len(r.Kernel.Differs) > 0, func() g.Node { return htmlKernel(r.Kernel) }),
			g.Iff(r.Capture != nil, func() g.Node { return htmlCapture(r.Capture) }),
			g.If(len(r.Incomplete) > 0, g.Group{h.H2(g.Text("not judged")), h.Ul(g.Map(r.Incomplete, htmlItem))}),
		),
	))
}

func htmlText(s string) g.Node { return g.Text(Clean(s)) }

func htmlItem(s string) g.Node { return g.Group{h.Li(htmlText(s)), g.Text("\n")} }

func htmlHead(names ...string) g.Node {
	return htmlRow(g.Map(names, func(s string) g.Node { return h.Th(g.Text(s)) }))
}

func htmlRow(cells ...g.Node) g.Node { return g.Group{h.Tr(cells...), g.Text("\n")} }

func htmlTexts(values ...string) g.Node {
	return g.Map(values, func(s string) g.Node { return h.Td(htmlText(s)) })
}

func htmlNumber(n int) g.Node { return h.Td(h.Class("n"), g.Text(strconv.Itoa(n))) }

// htmlAbout is the line below the title.
func htmlAbout(r *Report) string {
	at := func(e Endpoint) string {
		if e.Node == "" {
			return e.IP
		}
		return e.IP + " on " + e.Node
	}
	s := at(r.Source) + " → " + at(r.Destination) + " · " + r.Datapath
	if p := r.Probe; p != nil {
		s += fmt.Sprintf(" · %s: %d sent, %d answered", p.Protocol, p.Sent, p.Answered)
	}
	return s + " · podtrace " + r.Version + ", " + r.Generated.Format("2006-01-02 15:04:05 MST")
}

func htmlVerdict(v Verdict) g.Node {
	cause := scene(v.Leg, v.Node, v.Interface)
	if v.Cause != "" {
		cause = " " + v.Cause + cause
	}
	return h.Div(h.Class("verdict "+htmlClass(v.Status)),
		h.Strong(g.Text(strings.ToUpper(Clean(v.Status)))), htmlText(cause),
		h.Div(h.Class("text"), htmlText(v.Summary)),
		g.If(v.Remedy != "", h.Pre(h.Class("text"), htmlText("mend: "+v.Remedy))),
	)
}

func htmlExpectation(e *Expectation) g.Node {
	return h.Div(h.Class("verdict "+htmlClass(e.Status)),
		h.Strong(g.Text("EXPECTATION "+strings.ToUpper(Clean(e.Status)))), htmlText(" "+e.Policy),
		h.Div(h.Class("text"), h.Ul(
			g.Map(e.Unmet, htmlItem), g.Map(e.Accepted, func(a Accepted) g.Node { return htmlItem(a.String()) }), g.Map(e.Notes, htmlItem),
		)),
	)
}

func htmlLeg(l Leg) g.Node {
	return g.Group{
		h.H2(htmlText(l.Name)),
		h.Table(
			htmlHead("", "#", "node", "interface", "", "packets", "latency", "eth", "ip", "ttl", "tunnel"),
			g.Map(l.Hops, htmlHop),
		),
		h.Details(h.Summary(g.Text("every check")), h.Table(
			htmlHead("", "hop", "check", "expected", "observed", "by", "entry"),
			g.Map(l.Hops, func(hop Hop) g.Node {
				return g.Map(hop.Checks, func(c Check) g.Node { return htmlCheck(hop, c) })
			}),
		)),
	}
}

func htmlHop(hop Hop) g.Node {
	latency := ""
	if hop.LatencyNanos != nil {
		latency = (&printer{glyphs: unicodeGlyphs}).duration(*hop.LatencyNanos)
	}
	failed := g.Map(hop.Checks, func(c Check) g.Node { return g.If(!c.OK, htmlFailed(c)) })
	return g.Group{
		htmlRow(
			h.Td(h.Class(htmlClass(hop.State)), h.Title(Clean(hop.State)), g.Text(htmlMark(hop.State))),
			htmlNumber(hop.Index), htmlTexts(hop.Node), h.Td(h.Title(Clean(hop.Netns)), htmlText(hop.Interface)),
			htmlTexts(hop.Direction), htmlNumber(hop.Packets), h.Td(h.Class("n"), g.Text(latency)),
			htmlTexts(htmlCells(hop)...),
		),
		g.If(hop.Note != "" || slices.ContainsFunc(hop.Checks, func(c Check) bool { return !c.OK }), htmlRow(
			h.Td(), h.Td(), h.Td(h.ColSpan("9"), g.If(hop.Note != "", h.Div(h.Class("dim"), htmlText(hop.Note))), failed),
		)),
	}
}

func htmlFailed(c Check) g.Node {
	s := fmt.Sprintf("✗ %s: %s, expected %s (%s)", Clean(c.Name), Clean(c.Observed), Clean(c.Expected), Clean(c.Source))
	if c.Entry != "" {
		s += "\n  " + Clean(c.Entry)
	}
	if c.Command != "" {
		s += "\n  $ " + Clean(c.Command)
	}
	return h.Pre(h.Class("bad"), g.Text(s)) // cleaned before: the line ends are its own
}

func htmlCheck(hop Hop, c Check) g.Node {
	mark, class := "✓", "good"
	if !c.OK {
		mark, class = "✗", "bad"
	}
	return htmlRow(
		h.Td(h.Class(class), g.Text(mark)), htmlTexts(fmt.Sprintf("%d %s %s", hop.Index, hop.Node, hop.Interface)),
		htmlTexts(c.Name, c.Expected, c.Observed, c.Source, c.Entry),
	)
}

func htmlFinding(f Finding) g.Node {
	return h.Div(h.Class("finding "+htmlClass(f.Severity)),
		h.Strong(htmlText(f.Cause)), htmlText(" ("+f.Severity+")"+scene(f.Leg, f.Node, f.Interface)),
		h.Div(h.Class("text"), htmlText(f.Summary),
			g.Map(f.Evidence, func(s string) g.Node { return h.Pre(htmlText(s)) }), g.If(f.Remedy != "", h.Pre(htmlText("mend: "+f.Remedy)))),
	)
}

func htmlKernel(k *Kernel) g.Node {
	return g.Group{
		h.H2(g.Text("the kernel says otherwise")),
		h.P(h.Class("dim"), g.Text("a table changed meanwhile, or podtrace reads it wrongly")),
		h.Table(
			htmlHead("node", "namespace", "command", "tables", "kernel"),
			g.Map(k.Differs, func(d Difference) g.Node { return htmlRow(htmlTexts(d.Node, d.Netns, d.Command, d.Tables, d.Kernel)) }),
		),
	}
}

func htmlCapture(c *Capture) g.Node {
	return h.Details(
		h.Summary(g.Textf("capture: %d packets at %d points, %d dropped by the kernel", c.Packets, len(c.Points), c.KernelDrops)),
		h.Table(
			htmlHead("node", "namespace", "interface", "packets", "dropped", "error"),
			g.Map(c.Points, func(p Point) g.Node {
				return htmlRow(htmlTexts(p.Node, p.Netns, p.Interface), htmlNumber(p.Packets), htmlNumber(p.KernelDrops), htmlTexts(p.Error))
			}),
		),
	)
}

// htmlClass is a status as a class of the style sheet: never a value from outside.
func htmlClass(status string) string {
	switch status {
	case Healthy, StateOK, Met:
		return "good"
	case Broken, StateMismatch, StateMissing, SeverityError, Unmet:
		return "bad"
	case Degraded, SeverityWarning, Undecided:
		return "warn"
	default:
		return "dim"
	}
}

// htmlCells are the addresses of a hop: Ethernet, IP, hop limit, and the outer ones of a tunnel.
func htmlCells(hop Hop) []string {
	f := hop.frame()
	if f == nil {
		return make([]string, 4)
	}
	out := []string{
		arrow(f.EthSrc, f.EthDst), arrow(addrPort(f.IPSrc, f.SrcPort), addrPort(f.IPDst, f.DstPort)), hopLimit(f.TTL), "",
	}
	if o := f.Outer; o != nil {
		out[3] = fmt.Sprintf("vni %d, %s", o.VNI, arrow(o.IPSrc, addrPort(o.IPDst, o.DstPort)))
	}
	for i, s := range out {
		if hop.Observed == nil && s != "" {
			s = "(" + s + ")"
		}
		out[i] = s
	}
	return out
}

func arrow(src, dst string) string {
	if src == "" && dst == "" {
		return ""
	}
	return orAny(src) + " → " + orAny(dst)
}

func htmlMark(state string) string {
	switch state {
	case StateOK:
		return "✓"
	case StateMismatch, StateMissing:
		return "✗"
	case StateOpaque:
		return "?"
	default:
		return "·"
	}
}
