package offline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/podtrace/podtrace/pkg/yamlfile"
)

// PlanName is the file that says what the other files of its folder are.
const PlanName = "analyze.yaml"

// Plan is analyze.yaml: what the names of files do not say. All of it may be left out but the files.
type Plan struct {
	From      string        `yaml:"from"` // the endpoints
	To        string        `yaml:"to"`
	Namespace string        `yaml:"namespace"` // of pods named without one
	Probe     string        `yaml:"probe"`     // as --probe
	Objects   string        `yaml:"objects"`   // file with the cluster's objects, as --filename
	Points    []PlanPoint   `yaml:"points"`
	Listings  []PlanListing `yaml:"listings"`
}

// PlanPoint is a capture and its place.
type PlanPoint struct {
	File string `yaml:"file"`
	At   string `yaml:"at"` // NODE/[NAMESPACE/]POD/INTERFACE or NODE/INTERFACE; any name where there are no listings
}

// PlanListing is a file with the outputs of commands.
type PlanListing struct {
	File    string `yaml:"file"`
	Node    string `yaml:"node"`    // "": its prompts say
	Pod     string `yaml:"pod"`     // NAMESPACE/POD; "": the node's own, or what its prompts say
	Command string `yaml:"command"` // "": its prompts say, or the shape of its lines
}

// ReadPlan reads a folder's analyze.yaml; nil: it has none. The names of files in it become paths.
func ReadPlan(dir string) (*Plan, error) {
	path := filepath.Join(dir, PlanName)
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return nil, nil //nolint:nilerr,nilnil // no plan: the names of the files say what they are
	}
	p := new(Plan)
	if err := yamlfile.Read(path, p); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, &yamlfile.Error{File: path, Err: err}
	}
	if err := p.locate(dir, path); err != nil {
		return nil, err
	}
	return p, nil
}

// check finds what is missing.
func (p *Plan) check() error {
	if (p.From == "") != (p.To == "") {
		return errors.New("from and to belong together")
	}
	if len(p.Points)+len(p.Listings) == 0 {
		return errors.New("it names no file: points or listings are missing")
	}
	for i, x := range p.Points {
		if x.File == "" {
			return fmt.Errorf("point %d has no file", i+1)
		}
	}
	for i, x := range p.Listings {
		switch {
		case x.File == "":
			return fmt.Errorf("listing %d has no file", i+1)
		case x.Pod != "" && x.Node == "":
			return fmt.Errorf("listing %d (%q) is of a pod: its node is missing", i+1, x.File)
		}
	}
	return nil
}

// locate turns names into paths. None may lead out of the folder: a folder comes from somebody else.
func (p *Plan) locate(dir, path string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only looked at
	inside := func(name *string) error {
		if *name == "" {
			return nil
		}
		fi, err := root.Stat(*name)
		switch {
		case err != nil:
			return &yamlfile.Error{File: path, Err: fmt.Errorf("file %q: %w", *name, err)}
		case !fi.Mode().IsRegular():
			return &yamlfile.Error{File: path, Err: fmt.Errorf("file %q is no regular file", *name)}
		}
		*name = filepath.Join(dir, *name)
		return nil
	}
	names := []*string{&p.Objects}
	for i := range p.Points {
		names = append(names, &p.Points[i].File)
	}
	for i := range p.Listings {
		names = append(names, &p.Listings[i].File)
	}
	for _, n := range names {
		if err := inside(n); err != nil {
			return err
		}
	}
	return nil
}
