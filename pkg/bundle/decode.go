package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/safejson"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// decode reads the files of a bundle.
func decode(src source) (*Bundle, error) {
	m, err := readManifest(src)
	if err != nil {
		return nil, err
	}
	q := &m.Request
	c := &trace.Case{
		From: q.From, To: q.To, Flow: forward.Flow(q.Flow), Sent: diagnose.Sent(q.Sent), Probe: q.Probe,
		Version: m.Podtrace, Incomplete: m.Incomplete, Lost: m.Lost,
	}
	c.Targets = q.Targets
	copy(c.Marker[:], q.Marker)
	if c.Inventory, err = readCluster(src); err != nil {
		return nil, err
	}
	c.Source, c.Destination = q.Source.endpoint(c.Inventory), q.Destination.endpoint(c.Inventory)
	if c.Snapshot, err = readTables(src, m.Netns); err != nil {
		return nil, err
	}
	if c.Observed, err = readCapture(src, m.Capture); err != nil {
		return nil, err
	}
	if err := readWitnesses(src, m, c); err != nil {
		return nil, err
	}
	b := &Bundle{Case: c, Interrupted: m.Interrupted}
	raw, err := src.read(reportName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b, nil
	case err != nil:
		return nil, err
	}
	b.Report, err = decodeReport(raw)
	return b, err
}

// readManifest reads the manifest: first its format, which says whether the rest can be understood.
func readManifest(src source) (*manifest, error) {
	raw, err := src.read(manifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s in it", ErrNotBundle, manifestName)
	}
	if err != nil {
		return nil, err
	}
	var head struct {
		Format   int    `json:"format"`
		Podtrace string `json:"podtrace"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotBundle, manifestName, err)
	}
	switch {
	case head.Format > Format:
		return nil, &VersionError{Format: head.Format, Podtrace: head.Podtrace}
	case head.Format < 1:
		return nil, fmt.Errorf("%w: %s names no format", ErrNotBundle, manifestName)
	}
	m := new(manifest)
	return m, safejson.Unmarshal(manifestName, raw, m)
}

func readCluster(src source) (*inventory.Inventory, error) {
	raw, err := src.read(clusterName)
	if err != nil {
		return nil, err
	}
	inv, err := inventory.Parse(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clusterName, err)
	}
	return inv, nil
}

func readTables(src source, files []netnsFile) (*tables.Snapshot, error) {
	if len(files) > maxFiles {
		return nil, fmt.Errorf("%s: more than %d namespaces", manifestName, maxFiles)
	}
	s := &tables.Snapshot{}
	for _, f := range files {
		n := new(tables.Netns)
		if err := readJSON(src, f.File, n); err != nil {
			return nil, err
		}
		if n.ID != f.ID || n.Node != f.Node || n.Name != f.Name {
			return nil, fmt.Errorf("%s is of %q of node %q, and the manifest says %q of %q", f.File, n.Name, n.Node, f.Name, f.Node)
		}
		if s.ByID(n.ID) != nil {
			return nil, fmt.Errorf("%s: namespace %s is there twice", f.File, n.ID)
		}
		s.Netns = append(s.Netns, n)
	}
	return s, nil
}

func readCapture(src source, r *recording) (*trace.Observed, error) {
	if r == nil {
		return nil, nil
	}
	raw, err := src.read(r.File)
	if err != nil {
		return nil, err
	}
	return decodeCapture(raw, r)
}

func readWitnesses(src source, m *manifest, c *trace.Case) error {
	var w witnesses
	if err := readJSON(src, witnessName, &w); err != nil {
		return err
	}
	c.Witness, c.Opinion = w.Witness, w.Opinion
	if m.Sized == nil {
		return nil
	}
	o, err := readCapture(src, m.Sized.Capture)
	c.Sized = &trace.Sized{Flow: forward.Flow(m.Sized.Flow), Observed: o, Size: m.Sized.Size, Witness: w.Sized}
	return err
}

func readJSON(src source, name string, to any) error {
	raw, err := src.read(name)
	if err != nil {
		return err
	}
	return safejson.Unmarshal(name, raw, to)
}
