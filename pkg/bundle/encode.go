package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// file is one file of a bundle.
type file struct {
	name string // with slashes
	data []byte
}

// encode makes the files of a bundle, the manifest first, and the time that all of them carry.
func encode(b *Bundle) ([]file, time.Time, error) {
	c := b.Case
	if c == nil || c.Snapshot == nil || c.Inventory == nil {
		return nil, time.Time{}, fmt.Errorf("the case has no tables or no objects")
	}
	m := &manifest{
		Format: Format, Podtrace: c.Version, Taken: taken(c.Snapshot), Interrupted: b.Interrupted, Incomplete: c.Incomplete, Lost: c.Lost,
		Request: request{
			Source: fromEndpoint(c.Source), Destination: fromEndpoint(c.Destination), From: c.From, To: c.To,
			Targets: c.Targets, Flow: flow(c.Flow), Marker: c.Marker[:], Sent: sent(c.Sent), Probe: c.Probe,
		},
	}
	e := &encoder{files: make([]file, 1)} // the manifest comes first, when it is complete
	e.cluster(c.Inventory)
	e.tables(m, c.Snapshot)
	e.captures(m, b)
	w := witnesses{Witness: c.Witness, Opinion: c.Opinion}
	if c.Sized != nil {
		w.Sized = c.Sized.Witness
	}
	e.json(witnessName, w)
	e.report(b.Report)
	e.json(manifestName, m)
	if e.err != nil {
		return nil, time.Time{}, e.err
	}
	last := len(e.files) - 1
	e.files[0] = e.files[last]
	return e.files[:last], m.Taken, nil
}

// taken is when the first namespace was read.
func taken(s *tables.Snapshot) (t time.Time) {
	for _, n := range s.Netns {
		if t.IsZero() || n.Taken.Before(t) {
			t = n.Taken
		}
	}
	return t.UTC()
}

// encoder collects files. It keeps the first error.
type encoder struct {
	files []file
	err   error
}

func (e *encoder) fail(name string, err error) {
	if e.err == nil && err != nil {
		e.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (e *encoder) json(name string, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	e.fail(name, enc.Encode(v))
	e.files = append(e.files, file{name, b.Bytes()})
}

func (e *encoder) cluster(inv *inventory.Inventory) {
	b, err := inventory.Marshal(inv)
	e.fail(clusterName, err)
	e.files = append(e.files, file{clusterName, b})
}

func (e *encoder) tables(m *manifest, s *tables.Snapshot) {
	m.Netns = []netnsFile{}
	taken := make(map[string]bool)
	for _, n := range s.Netns {
		f := netnsFile{ID: n.ID, Node: n.Node, Name: n.Name, File: tableName(n.Node, n.Name, taken)}
		m.Netns = append(m.Netns, f)
		e.json(f.File, n)
	}
}

func (e *encoder) captures(m *manifest, b *Bundle) {
	c := b.Case
	var comments []string
	if b.Report != nil {
		comments = trace.Comments(c)
	}
	m.Capture = e.capture(captureName, c, c.Observed, comments)
	if c.Sized != nil {
		m.Sized = &sized{Flow: flow(c.Sized.Flow), Size: c.Sized.Size, Capture: e.capture(sizeCaptureName, c, c.Sized.Observed, nil)}
	}
}

func (e *encoder) capture(name string, c *trace.Case, o *trace.Observed, comments []string) *recording {
	if o == nil {
		return nil
	}
	r, data, err := encodeCapture(c, o, comments)
	e.fail(name, err)
	r.File = name
	e.files = append(e.files, file{name, data})
	return r
}

func (e *encoder) report(r *report.Report) {
	if r == nil {
		return
	}
	var b bytes.Buffer
	e.fail(reportName, report.Write(&b, r, report.FormatJSON, report.Options{}))
	e.files = append(e.files, file{reportName, b.Bytes()})
}
