package report

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// The part of SARIF 2.1.0 (OASIS Standard, 27 March 2020) that code scanning reads: a rule for each cause and a
// result for each finding. A place on a path is no file; it stands as NODE/INTERFACE where a file would, for readers
// that want one, and as a logical location.
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool        sarifTool         `json:"tool"`
	Automation  *sarifAutomation  `json:"automationDetails,omitempty"`
	Invocations []sarifInvocation `json:"invocations"`
	Results     []sarifResult     `json:"results"`
	Properties  map[string]string `json:"properties"`
}

type sarifAutomation struct {
	ID string `json:"id"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	URI     string      `json:"informationUri"`
	Rules   []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID    string    `json:"id"`
	Short sarifText `json:"shortDescription"`
}

type sarifInvocation struct {
	Successful bool `json:"executionSuccessful"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	Rule         string             `json:"ruleId"`
	Index        int                `json:"ruleIndex"`
	Kind         string             `json:"kind"`
	Level        string             `json:"level"`
	Message      sarifText          `json:"message"`
	Locations    []sarifLocation    `json:"locations"`
	Fingerprints map[string]string  `json:"partialFingerprints"`
	Suppressions []sarifSuppression `json:"suppressions,omitempty"`
}

// sarifSuppression: the policy knows the fault (section 3.35).
type sarifSuppression struct {
	Kind          string `json:"kind"`
	Status        string `json:"status"`
	Justification string `json:"justification"`
}

type sarifLocation struct {
	Physical sarifPhysical  `json:"physicalLocation"`
	Logical  []sarifLogical `json:"logicalLocations"`
}

type sarifPhysical struct {
	Artifact struct {
		URI string `json:"uri"`
	} `json:"artifactLocation"`
	Region struct {
		StartLine int `json:"startLine"`
	} `json:"region"`
}

type sarifLogical struct {
	Name string `json:"fullyQualifiedName"`
	Kind string `json:"kind"`
}

const (
	sarifSchema = "https://json.schemastore.org/sarif-2.1.0.json"
	projectURI  = "https://github.com/podtrace/podtrace"
)

// writeSARIF prints a SARIF log, a run a report.
func writeSARIF(w io.Writer, rs []*Report) error {
	log := sarifLog{sarifSchema, "2.1.0", []sarifRun{}}
	for _, r := range rs {
		log.Runs = append(log.Runs, sarifOf(r, len(rs) > 1))
	}
	return log.write(w)
}

// sarifOf gives the findings of a report as a run. A verdict without a finding is a result of its own, so that nothing
// but a healthy path has none.
func sarifOf(r *Report, several bool) sarifRun {
	run := newSARIFRun(r.Version, map[string]string{
		"source": Clean(endpointName(r.Source)), "destination": Clean(endpointName(r.Destination)),
		"status": Clean(r.Verdict.Status), "summary": Clean(r.Verdict.Summary),
	})
	if several { // runs of one tool are told apart by it (section 3.17.3)
		run.Automation = &sarifAutomation{ID: Clean("podtrace/" + endpointName(r.Source) + "/" + endpointName(r.Destination) + "/")}
	}
	if r.Expectation != nil {
		run.Properties["expectation"] = Clean(r.Expectation.Status + ": " + r.Expectation.Summary)
	}
	told := false
	for _, f := range r.Findings {
		run.add(r, f, "fail")
		told = told || f.Cause == r.Verdict.Cause
	}
	if v := r.Verdict; v.Status != Healthy && !told {
		f := Finding{Cause: v.Cause, Leg: v.Leg, Node: v.Node, Interface: v.Interface, Severity: SeverityError, Summary: v.Summary, Remedy: v.Remedy}
		kind := "fail"
		if v.Status == Inconclusive {
			kind = "open" // SARIF 2.1.0 section 3.27.9: not enough is known
		}
		if f.Cause == "" {
			f.Cause = v.Status
		}
		run.add(r, f, kind)
	}
	return run
}

func newSARIFRun(version string, properties map[string]string) sarifRun {
	return sarifRun{
		Tool:        sarifTool{sarifDriver{Name: "podtrace", Version: Clean(version), URI: projectURI, Rules: []sarifRule{}}},
		Invocations: []sarifInvocation{{true}}, Results: []sarifResult{}, Properties: properties,
	}
}

func (l sarifLog) write(w io.Writer) error {
	body, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report as SARIF: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", escapeRunes(body, jsonEscape))
	return err
}

// add appends a finding.
func (s *sarifRun) add(r *Report, f Finding, kind string) {
	out := sarifResult{
		Kind: kind, Level: sarifLevel(f.Severity, kind), Message: sarifText{sarifMessage(f)},
		Locations: []sarifLocation{sarifPlace(r, f)},
		Fingerprints: map[string]string{"podtrace/v1": fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join([]string{
			f.Cause, f.Leg, f.Node, f.Interface, endpointName(r.Source), endpointName(r.Destination),
		}, "\x00"))))},
	}
	if a := r.Expectation.accepts(f); a != nil {
		out.Suppressions = []sarifSuppression{{Kind: "external", Status: "accepted", Justification: Clean(a.String())}}
	}
	s.result(Clean(f.Cause), out)
}

// result appends a result, and its rule where it is the first of its cause.
func (s *sarifRun) result(cause string, out sarifResult) {
	out.Rule, out.Index = cause, -1
	for i, rule := range s.Tool.Driver.Rules {
		if rule.ID == cause {
			out.Index = i
		}
	}
	if out.Index < 0 {
		out.Index = len(s.Tool.Driver.Rules)
		s.Tool.Driver.Rules = append(s.Tool.Driver.Rules, sarifRule{ID: cause, Short: sarifText{strings.ReplaceAll(cause, "-", " ")}})
	}
	s.Results = append(s.Results, out)
}

// sarifLevel: a kind other than fail has no level (section 3.27.10).
func sarifLevel(severity, kind string) string {
	if kind != "fail" {
		return "none"
	}
	switch severity {
	case SeverityError, SeverityWarning:
		return severity
	default:
		return SeverityNote
	}
}

func sarifMessage(f Finding) string {
	lines := []string{Clean(f.Summary)}
	for _, e := range f.Evidence {
		lines = append(lines, Clean(e))
	}
	if f.Remedy != "" {
		lines = append(lines, "mend: "+Clean(f.Remedy))
	}
	return strings.Join(lines, "\n")
}

func sarifPlace(r *Report, f Finding) (l sarifLocation) {
	parts := []string{}
	for _, s := range []string{f.Node, f.Interface} {
		if s != "" {
			parts = append(parts, Clean(s))
		}
	}
	name := strings.Join(parts, "/")
	if name == "" {
		name = Clean(endpointName(r.Source)) + "/" + Clean(endpointName(r.Destination))
	}
	l.Physical.Artifact.URI, l.Physical.Region.StartLine = uriPath(name), 1
	l.Logical = []sarifLogical{{Name: name, Kind: "resource"}}
	return l
}

// uriPath writes a name as a relative URI reference (RFC 3986 section 4.2) without dot segments.
func uriPath(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_~/", c) >= 0,
			c == '.' && i > 0 && name[i-1] != '/' && name[i-1] != '.':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return strings.TrimLeft(b.String(), "/")
}
