// Package expect holds verdicts against a policy: which pairs must be healthy, and which faults are known and accepted
// until when. It reads the policy and weighs; it judges no packet and no table.
package expect

import (
	"errors"
	"fmt"
	"path"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/podtrace/podtrace/pkg/yamlfile"
)

// Head of a policy file.
const (
	APIVersion = "podtrace.dev/v1"
	Kind       = "Expectations"
)

// Policy is the file.
type Policy struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	// Healthy are the pairs that must be healthy; none: every pair that is looked at.
	Healthy []Pair `yaml:"healthy"`
	// Accepted are faults that are known.
	Accepted []Acceptance `yaml:"accepted"`

	file string
}

// Pair is a source and a destination: NAMESPACE/NAME or an address each, with the wildcards of path.Match; empty: any.
type Pair struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

// Acceptance is a fault that does not count until a day. All fields but the pair, node and interface are required.
type Acceptance struct {
	Cause     string `yaml:"cause"` // id, with wildcards
	Node      string `yaml:"node"`
	Interface string `yaml:"interface"`
	From      string `yaml:"from"`
	To        string `yaml:"to"`
	Until     Day    `yaml:"until"` // the last day, in UTC
	Reason    string `yaml:"reason"`
}

// Day is a date without a time. The zero value is none.
type Day struct{ time.Time }

// UnmarshalYAML takes YYYY-MM-DD.
func (d *Day) UnmarshalYAML(n *yaml.Node) error {
	t, err := time.Parse(time.DateOnly, n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: until %q is no day YYYY-MM-DD", n.Line, n.Value)
	}
	d.Time = t
	return nil
}

// String gives YYYY-MM-DD.
func (d Day) String() string { return d.Format(time.DateOnly) }

// over reports whether the day has passed, by the clock in UTC.
func (d Day) over(now time.Time) bool { return !now.UTC().Before(d.AddDate(0, 0, 1)) }

// Read reads a policy. Its errors name file and line.
func Read(file string) (*Policy, error) {
	p := &Policy{file: file}
	if err := yamlfile.Read(file, p); err != nil {
		return nil, err
	}
	return p, p.check()
}

// Parse is Read for a text; file is its name in messages.
func Parse(file string, b []byte) (*Policy, error) {
	p := &Policy{file: file}
	if err := yamlfile.Parse(file, b, p); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Policy) check() error {
	fail := func(format string, args ...any) error {
		return &yamlfile.Error{File: p.file, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case p.APIVersion != APIVersion:
		return fail("apiVersion is %q, want %q", p.APIVersion, APIVersion)
	case p.Kind != Kind:
		return fail("kind is %q, want %q", p.Kind, Kind)
	}
	for i, x := range p.Healthy {
		if x.From == "" && x.To == "" {
			return fail("healthy %d names no end: from or to is missing", i+1)
		}
		if err := patterns(x.From, x.To); err != nil {
			return fail("healthy %d: %w", i+1, err)
		}
	}
	for i, x := range p.Accepted {
		switch {
		case x.Cause == "":
			return fail("accepted %d has no cause", i+1)
		case x.Until.IsZero():
			return fail("accepted %d (%s) says no day until when", i+1, x.Cause)
		case x.Reason == "":
			return fail("accepted %d (%s) gives no reason", i+1, x.Cause)
		}
		if err := patterns(x.Cause, x.Node, x.Interface, x.From, x.To); err != nil {
			return fail("accepted %d (%s): %w", i+1, x.Cause, err)
		}
	}
	return nil
}

func patterns(all ...string) error {
	for _, p := range all {
		if _, err := path.Match(p, ""); err != nil {
			return errors.New("pattern " + fmt.Sprintf("%q: %v", p, err))
		}
	}
	return nil
}
