// Package captures judges capture files of one path without tables: which packets of which flow got through, where
// others were lost or rewritten wrongly (pkg/flows), and what the frames say of where each file was taken.
package captures

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/pcapfile"
	"github.com/podtrace/podtrace/pkg/report"
)

// Kind heads the report of captures.
const Kind = "FlowsReport"

// Source is one file.
type Source struct {
	Path string
	Name string // what its holder calls the place; "": the file's name
}

// Report is what the captures come to.
type Report struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Version    string  `json:"version"` // of podtrace
	Verdict    Verdict `json:"verdict"`
	// Path is the flow that Conclusions are about, Points[i] is the point of Conclusions[i].
	Path        string       `json:"path,omitempty"`
	Conclusions []Conclusion `json:"conclusions"`
	*flows.Result
	Damage      []string            `json:"damage,omitempty"` // where files could not be read to their end
	Incomplete  []string            `json:"incomplete,omitempty"`
	Expectation *report.Expectation `json:"expectation,omitempty"`
}

// Verdict counts packets of all flows.
type Verdict struct {
	Status    string `json:"status"`
	Summary   string `json:"summary"`
	Complete  uint64 `json:"complete"`
	Lost      uint64 `json:"lost"`
	Rewritten uint64 `json:"rewritten"` // wrongly
	Ambiguous uint64 `json:"ambiguous"`
	Faulty    int    `json:"faultyFlows"`
}

// fewError says that there is nothing to compare.
type fewError struct{ path string }

func (e *fewError) Error() string {
	return fmt.Sprintf("%q is one capture point: there is nothing to compare it with", e.path)
}

// Hint says what to do.
func (e *fewError) Hint() string {
	return "name the captures of two points or more of one path, or a capture beside its listings: podtrace analyze --help"
}

// manyError says that there is too much to compare.
type manyError struct{ points int }

func (e *manyError) Error() string {
	return fmt.Sprintf("%d capture points, of files and their interfaces: at most %d can be compared", e.points, flows.MaxPoints)
}

// Hint says what to do.
func (e *manyError) Hint() string { return "name the captures of fewer points of one path" }

// Judge compares the files, in whatever order they come.
func Judge(ctx context.Context, sources []Source, version string) (*Report, error) {
	points, notes, err := pointsOf(sources)
	if err != nil {
		return nil, err
	}
	if len(points) < 2 {
		return nil, &fewError{sources[0].Path}
	}
	if len(points) > 4*flows.MaxPoints {
		return nil, &manyError{len(points)}
	}
	points, others := apart(points)
	if len(points) > flows.MaxPoints {
		return nil, &manyError{len(points)}
	}
	res, err := flows.Run(ctx, flows.Config{Points: points, FindOrder: true})
	if err != nil {
		return nil, err
	}
	r := &Report{APIVersion: report.APIVersion, Kind: Kind, Version: version, Verdict: judge(res), Result: res, Incomplete: notes}
	r.conclude(points)
	r.setAside(others)
	for i := range res.Points {
		p := &res.Points[i]
		if p.Damage != nil && !slices.Contains(r.Damage, p.Damage.Error()) {
			r.Damage = append(r.Damage, p.Damage.Error())
		}
		if p.Drops > 0 {
			r.Incomplete = append(r.Incomplete, fmt.Sprintf("the kernel dropped %d packets for the capture %s: as many that it does not show may have passed there", p.Drops, p.Name))
		}
	}
	if res.WindowShort {
		r.Incomplete = append(r.Incomplete, "more packets were under way than are remembered: a slow packet may have been taken for a lost one")
	}
	return r, nil
}

// pointsOf makes a point of each file, and of each interface of a file that has several.
func pointsOf(sources []Source) (out []flows.Point, notes []string, err error) {
	for _, s := range sources {
		if s.Name == "" {
			s.Name = filepath.Base(s.Path)
		}
		c, err := contents(s.Path)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case len(c.interfaces) == 0:
			out = append(out, flows.Point{Name: s.Name, Path: s.Path}) // empty, or damaged from the start: it says so
		case len(c.interfaces) == 1 && len(c.indexes) > 1:
			for _, i := range c.indexes {
				out = append(out, flows.Point{Name: fmt.Sprintf("%s interface %d", s.Name, i), Path: s.Path, Ifindex: i})
			}
		case len(c.interfaces) == 1:
			out = append(out, flows.Point{Name: s.Name, Path: s.Path})
		default:
			before := len(out)
			for i, f := range c.interfaces {
				if c.packets[i] == 0 && f.Drops() == 0 {
					continue // described, and never heard of again
				}
				name := f.Name
				if name == "" {
					name = fmt.Sprint("interface ", i+1)
				}
				out = append(out, flows.Point{Name: s.Name + " " + name, Path: s.Path, Interface: i + 1})
			}
			if len(out) == before { // no packet at all
				out = append(out, flows.Point{Name: s.Name, Path: s.Path})
			}
		}
		if c.cooked {
			notes = append(notes, fmt.Sprintf("%s: a cooked capture of version 1 (-i any): which interface a packet passed is not recorded, all are one point", s.Name))
		}
	}
	unique(out)
	return out, notes, nil
}

// unique makes the names of points tell them apart: by the path, where files of several folders have one name.
func unique(ps []flows.Point) {
	count := make(map[string]int)
	for i := range ps {
		count[ps[i].Name]++
	}
	seen := make(map[string]int)
	for i := range ps {
		if count[ps[i].Name] == 1 {
			continue
		}
		if ps[i].Interface > 0 {
			ps[i].Name += fmt.Sprintf(" #%d", ps[i].Interface)
		} else {
			ps[i].Name += " (" + ps[i].Path + ")"
		}
		if seen[ps[i].Name]++; seen[ps[i].Name] > 1 { // one file, named twice
			ps[i].Name += fmt.Sprintf(" %d", seen[ps[i].Name])
		}
	}
}

// content is what a file has of interfaces.
type content struct {
	interfaces []pcapfile.Interface
	packets    map[int]int // by interface, of a file that may have several
	indexes    []uint32    // of cooked headers of version 2
	cooked     bool        // headers of version 1
}

// contents reads a file as far as it has to: of a pcap file, which has one interface, no more than the first packet.
// Any block of a pcapng may describe another interface, and any cooked header name one.
func contents(path string) (*content, error) {
	r, err := pcapfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // only read
	c := &content{packets: make(map[int]int)}
	indexes := make(map[uint32]bool)
	var rec pcapfile.Record
	for {
		if err := r.Next(&rec); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		c.packets[rec.Interface]++
		c.cooked = c.cooked || rec.LinkType == pcapfile.LinkSLL
		if i := rec.Ifindex(); i != 0 && len(indexes) <= flows.MaxPoints {
			indexes[i] = true
		} else if i == 0 && !r.Several() {
			break
		}
	}
	c.interfaces, c.indexes = r.Interfaces(), slices.Sorted(maps.Keys(indexes))
	return c, nil
}

// judge sums up.
func judge(res *flows.Result) Verdict {
	var v Verdict
	for i := range res.Flows {
		f := &res.Flows[i]
		lost, wrong := Losses(f)
		v.Complete += f.Complete
		v.Ambiguous += f.Ambiguous
		v.Lost += lost
		v.Rewritten += wrong
		if lost+wrong > 0 {
			v.Faulty++
		}
	}
	v.Summary = fmt.Sprintf("%d of %d flows have losses or wrong rewrites: %d packets complete, %d lost, %d rewritten wrongly",
		v.Faulty, len(res.Flows), v.Complete, v.Lost, v.Rewritten)
	switch {
	case v.Lost > 0 && v.Complete == 0:
		v.Status = report.Broken
	case v.Faulty > 0:
		v.Status = report.Degraded
	case v.Complete > 0 && v.Ambiguous > 0:
		v.Status = report.Inconclusive
		v.Summary = fmt.Sprintf("no packet is known to be lost: %d of %d flows are complete, of %d more nothing tells whether they were lost",
			v.Complete, len(res.Flows), v.Ambiguous)
	case v.Complete > 0:
		v.Status = report.Healthy
		v.Summary = fmt.Sprintf("%d flows, %d packets: each got from the first point to the last", len(res.Flows), v.Complete)
	default:
		v.Status = report.Inconclusive
		v.Summary = "no packet was seen at both ends: the captures may be of different paths or times"
	}
	return v
}

// setAside names the captures that show nothing of the path: they may be of another, or the packets did not get to
// them. An empty file does not even say when it was there to see.
func (r *Report) setAside(others []flows.Point) {
	if len(others) == 0 {
		return
	}
	var names []string
	for _, p := range others {
		names = append(names, p.Name)
		r.Incomplete = append(r.Incomplete, fmt.Sprintf("%s shows no packet between ends that the other captures know: packets were lost before it, or it is of another path", p.Name))
	}
	if r.Verdict.Status == report.Healthy {
		r.Verdict.Status = report.Inconclusive
		r.Verdict.Summary = fmt.Sprintf("%s that saw them, and none of them is in %s: lost before it, or of another path",
			r.Verdict.Summary, strings.Join(names, ", "))
	}
}

// Losses counts the packets of a flow that were lost, and that were rewritten wrongly.
func Losses(f *flows.FlowResult) (lost, wrong uint64) {
	for _, l := range f.Lost {
		lost += l.Packets
	}
	for _, w := range f.Rewrites {
		wrong += w.Packets
	}
	return lost, wrong
}

// Clock is what has to be added to the times of a point to have the first point's.
func Clock(p *flows.PointResult) time.Duration { return -p.Offset }

// PointName gives the name of a point of the result.
func (r *Report) PointName(i int) string {
	if i < 0 || i >= len(r.Points) {
		return "an end"
	}
	return r.Points[i].Name
}
