package report

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("pathreport.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("pathreport.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSchemaAcceptsReports(t *testing.T) {
	reports := fixtures(t)
	reports["zero"] = &Report{
		Source: Endpoint{Kind: "Pod"}, Destination: Endpoint{Kind: "Pod"},
		Legs:     []Leg{{Name: Request, Hops: []Hop{{Index: 1, State: StateOK, Direction: "in"}}}, {Name: Reply}},
		Findings: []Finding{{Severity: SeverityNote}},
		Capture:  &Capture{}, Verdict: Verdict{Status: Inconclusive},
	}
	schema := compileSchema(t)
	for name, r := range reports {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := Write(&b, r, FormatJSON, Options{}); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(b.String(), "null") {
				t.Errorf("null in:\n%s", b.String())
			}
			doc, err := jsonschema.UnmarshalJSON(&b)
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(doc); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSchemaRefuses(t *testing.T) {
	tests := []struct{ name, old, new string }{
		{"state", `"state": "ok"`, `"state": "fine"`},
		{"status", `"status": "healthy"`, `"status": "ok"`},
		{"null list", `"findings": []`, `"findings": null`},
		{"port", `"dstPort": 8472`, `"dstPort": 84720`},
		{"version", `podtrace.dev/v1`, `podtrace.dev/v2`},
	}
	schema := compileSchema(t)
	var b bytes.Buffer
	if err := Write(&b, fixtures(t)["healthy"], FormatJSON, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(b.String(), tt.old, tt.new, 1)
			if text == b.String() {
				t.Fatalf("%q is not in the report", tt.old)
			}
			doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if schema.Validate(doc) == nil {
				t.Errorf("accepted %s", tt.new)
			}
		})
	}
}

// TestSchemaKnowsEveryField holds the Go types and the schema together, both ways.
func TestSchemaKnowsEveryField(t *testing.T) {
	type object struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
		Defs       map[string]object          `json:"$defs"`
	}
	var top object
	if err := json.Unmarshal(Schema, &top); err != nil {
		t.Fatal(err)
	}
	types := map[string]reflect.Type{"report": reflect.TypeFor[Report]()}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[Endpoint](), reflect.TypeFor[Probe](), reflect.TypeFor[Leg](), reflect.TypeFor[Hop](),
		reflect.TypeFor[Headers](), reflect.TypeFor[Outer](), reflect.TypeFor[Check](), reflect.TypeFor[Finding](),
		reflect.TypeFor[Verdict](), reflect.TypeFor[Capture](), reflect.TypeFor[Point](),
	} {
		types[strings.ToLower(typ.Name())] = typ
	}
	for name, typ := range types {
		def := top.Defs[name]
		if name == "report" {
			def = top
		}
		var all, required, described []string
		for f := range typ.Fields() {
			tag, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			all = append(all, tag)
			if opts == "" {
				required = append(required, tag)
			}
		}
		for p := range def.Properties {
			described = append(described, p)
		}
		for _, s := range [][]string{all, required, described, def.Required} {
			slices.Sort(s)
		}
		if diff := cmp.Diff(all, described); diff != "" {
			t.Errorf("%s: properties (-Go +schema):\n%s", name, diff)
		}
		if diff := cmp.Diff(required, def.Required, cmp.Transformer("len", func(s []string) string { return strings.Join(s, " ") })); diff != "" {
			t.Errorf("%s: required (-Go +schema):\n%s", name, diff)
		}
	}
}

// TestRoundTrip: JSON and YAML give the same value back.
func TestRoundTrip(t *testing.T) {
	for name, r := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			want := filled(r)
			got := new(Report)
			if err := json.Unmarshal(write(t, r, FormatJSON), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
			var any any
			if err := yaml.Unmarshal(write(t, r, FormatYAML), &any); err != nil {
				t.Fatal(err)
			}
			body, err := json.Marshal(any)
			if err != nil {
				t.Fatal(err)
			}
			got = new(Report)
			if err := json.Unmarshal(body, got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("YAML (-want +got):\n%s", diff)
			}
		})
	}
}

func write(t *testing.T, r *Report, format string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r, format, Options{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWriteRefusesFormat(t *testing.T) {
	if err := Write(new(bytes.Buffer), &Report{}, "xml", Options{}); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Errorf("error %v", err)
	}
}

func TestExitCode(t *testing.T) {
	for status, want := range map[string]int{Healthy: 0, Broken: 1, Degraded: 1, Inconclusive: 3, "": 3, "other": 3} {
		if got := ExitCode(status); got != want {
			t.Errorf("ExitCode(%q) = %d, want %d", status, got, want)
		}
	}
}

// TestColorChangesNothing: without its attributes the coloured text has the same lines, but for
// the ditto marks, which it does not need.
func TestColorSaysNothingMore(t *testing.T) {
	for name, r := range fixtures(t) {
		var colored, plain bytes.Buffer
		if err := Write(&colored, r, FormatWide, Options{Color: true}); err != nil {
			t.Fatal(err)
		}
		if err := Write(&plain, r, FormatWide, Options{}); err != nil {
			t.Fatal(err)
		}
		var stripped strings.Builder
		for part := range strings.SplitSeq(colored.String(), "\x1b[") {
			if _, rest, ok := strings.Cut(part, "m"); ok && stripped.Len() > 0 {
				part = rest
			}
			stripped.WriteString(part)
		}
		got := strings.TrimPrefix(stripped.String(), "1m")
		if diff := cmp.Diff(plain.String(), got); diff != "" {
			t.Errorf("%s (-plain +coloured):\n%s", name, diff)
		}
	}
}

// FuzzClean: nothing that a terminal obeys gets through, and what is clean stays as it is.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"node1", "\x1b[2J", "a\nb", "\u202e", "\xff\xfe", "\u009b", "é\U000e0001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if strings.ContainsFunc(got, hidden) || !utf8.ValidString(got) {
			t.Errorf("Clean(%q) = %q", s, got)
		}
		if Clean(got) != got {
			t.Errorf("Clean is not stable on %q", got)
		}
	})
}

// everywhere is a report that has a string wherever one can be.
func everywhere(s string) *Report {
	h := Headers{EthSrc: s, EthDst: s, IPSrc: s, IPDst: s, Proto: s, Outer: &Outer{EthSrc: s, IPDst: s}}
	return &Report{
		Version: s, Datapath: s, Source: Endpoint{Name: s, Namespace: s, IP: s, Node: s}, Destination: Endpoint{IP: s},
		Probe: &Probe{Protocol: s, Error: s}, Incomplete: []string{s},
		Legs: []Leg{{Name: s, Hops: []Hop{{
			Node: s, Netns: s, Interface: s, Direction: s, State: s, Note: s, Expected: &h, Observed: &h,
			Checks: []Check{{Name: s, Expected: s, Observed: s, Source: s, Table: s, Entry: s, Command: s}, {OK: true, Name: s, Entry: s}},
		}}}},
		Findings: []Finding{{Cause: s, Leg: s, Node: s, Severity: s, Summary: s, Evidence: []string{s}, Remedy: s}},
		Verdict:  Verdict{Status: s, Cause: s, Leg: s, Node: s, Summary: s, Remedy: s},
		Capture:  &Capture{Points: []Point{{Node: s, Interface: s, Error: s}}},
	}
}

// FuzzWrite puts the same hostile string everywhere and holds every format to its promise: no
// control character but the line feed reaches the terminal, and no string becomes an element of the page.
func FuzzWrite(f *testing.F) {
	for _, s := range []string{"x", "\x1b]0;owned\a", "a\nb\r", "\u202e\u009b\x7f", "\xff", "|<script>`", `"><b>'`, "\U000e0001", "\x00\b\f", "\u2028\ufeff\u0085"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := everywhere(s)
		for _, format := range Formats() {
			out := string(write(t, r, format))
			if strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && hidden(r) }) {
				t.Errorf("%s of %q prints a control character:\n%q", format, s, out)
			}
		}
		page, plain := string(write(t, r, FormatHTML)), string(write(t, everywhere("x"), FormatHTML))
		if s != "" && (strings.Count(page, "<") != strings.Count(plain, "<") || strings.Count(page, `"`) != strings.Count(plain, `"`)) {
			t.Errorf("%q changes the elements of the page:\n%s", s, page)
		}
	})
}
