package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fixtures are the reports under testdata, by name.
func fixtures(t *testing.T) map[string]*Report {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	reports := map[string]*Report{}
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r := new(Report)
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(r); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		reports[strings.TrimSuffix(filepath.Base(f), ".json")] = r
	}
	return reports
}

func TestGolden(t *testing.T) {
	outputs := []struct {
		suffix, format string
		options        Options
	}{
		{"text", FormatText, Options{}},
		{"ascii", FormatText, Options{ASCII: true}},
		{"color", FormatText, Options{Color: true}},
		{"narrow", FormatText, Options{Width: 80}},
		{"wide", FormatWide, Options{}},
		{"yaml", FormatYAML, Options{}},
		{"junit", FormatJUnit, Options{}},
		{"md", FormatMarkdown, Options{}},
		{"html", FormatHTML, Options{}},
		{"sarif", FormatSARIF, Options{}},
	}
	for name, r := range fixtures(t) {
		for _, o := range outputs {
			t.Run(name+"."+o.suffix, func(t *testing.T) {
				var b bytes.Buffer
				if err := Write(&b, r, o.format, o.options); err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", name+"."+o.suffix), b.Bytes())
			})
		}
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", file, diff)
	}
}
