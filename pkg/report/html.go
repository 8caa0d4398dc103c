package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"sync"
)

//go:embed report.html
var htmlSource string

// htmlPage is the page. The template escapes every value for its place, clean makes what no reader can see visible
// first. It has no scripts, and its policy allows none.
var htmlPage = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"clean": Clean, "name": func(e Endpoint) string { return Clean(endpointName(e)) },
		"scene": func(leg, node, iface string) string { return Clean(scene(leg, node, iface)) },
		"cells": htmlCells, "mark": htmlMark, "time": func(ns int64) string { return (&printer{glyphs: unicodeGlyphs}).duration(ns) },
		"failed": func(h Hop) (out []Check) {
			for _, c := range h.Checks {
				if !c.OK {
					out = append(out, c)
				}
			}
			return out
		},
		"class": func(status string) string { // of the style sheet: never a value from outside
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
		},
		"upper": strings.ToUpper,
	}).Parse(htmlSource))
})

// htmlCells are the addresses of a hop: Ethernet, IP, hop limit, and the outer ones of a tunnel.
func htmlCells(h Hop) []string {
	f := h.frame()
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
		if h.Observed == nil && s != "" {
			s = "(" + s + ")"
		}
		out[i] = Clean(s)
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

// writeHTML prints the report as one page that needs nothing else.
func writeHTML(w io.Writer, r *Report) error {
	if err := htmlPage().Execute(w, r); err != nil {
		return fmt.Errorf("write report as HTML: %w", err)
	}
	return nil
}
