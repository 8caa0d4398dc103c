package bundle

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/podtrace/podtrace/pkg/trace"
)

// tree lists the values of a JSON document, each as a function that replaces it.
func tree(v any, set func(any), out *[]func(any)) {
	*out = append(*out, set)
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			tree(v[k], func(to any) { v[k] = to }, out)
		}
	case []any:
		for i := range v {
			tree(v[i], func(to any) { v[i] = to }, out)
		}
	}
}

// strange are values that a document of the right types may hold and no kernel ever says.
var strange = []any{
	nil, map[string]any{}, []any{}, "", "x", 0, -1, 1, 2, 4294967295, true, false, "0.0.0.0", "::", "10.244.2.40", "255.255.255.255",
	"0.0.0.0/0", "10.244.2.0/32", "vxlan", "bridge", []any{nil}, []any{map[string]any{}}, "////",
}

// mutate replaces one value of a document.
func mutate(raw []byte, at uint32, with uint8) []byte {
	var doc any
	if json.Unmarshal(raw, &doc) != nil {
		return raw
	}
	var values []func(any)
	tree(doc, func(to any) { doc = to }, &values)
	values[int(at)%len(values)](strange[int(with)%len(strange)])
	b, _ := json.Marshal(doc)
	return b
}

// changes are the files of a recorded trace that are changed, a value at a time.
var changes = []string{
	manifestName, witnessName, "tables/node1/host.json", "tables/node1/default%2Fcoffee-1.json", "tables/node2/host.json", "tables/node2/default%2Fcoffee-2.json",
}

// FuzzJudge changes values of a recorded trace: it is refused, or judged without a panic, and written again.
func FuzzJudge(f *testing.F) {
	src, err := open(filepath.Join("testdata", "mtu-path-blackhole.tar.gz"))
	if err != nil {
		f.Fatal(err)
	}
	files := src.(archive)
	for i := range uint32(600) { // all over the documents, a different strange value each time
		f.Add(uint8(i), i*37, uint8(i*5+i/23), i*53+11, uint8(i*7))
	}
	f.Fuzz(func(t *testing.T, file uint8, at uint32, with uint8, at2 uint32, with2 uint8) {
		a := maps.Clone(files)
		name := changes[int(file)%len(changes)]
		a[name] = mutate(mutate(a[name], at, with), at2, with2)
		b, err := decode(a)
		if err != nil {
			if b != nil {
				t.Error("a bundle beside an error")
			}
			return
		}
		r := trace.Judge(b.Case)
		if _, _, err := encode(&Bundle{Case: b.Case, Report: r}); err != nil {
			t.Errorf("what was read can't be written: %v", err)
		}
	})
}
