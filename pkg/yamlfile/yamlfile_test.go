package yamlfile

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

type doc struct {
	Name  string   `yaml:"name"`
	Parts []string `yaml:"parts"`
	Sub   struct {
		N int `yaml:"n"`
	} `yaml:"sub"`
}

func TestParse(t *testing.T) {
	var d doc
	if err := Parse("f", []byte("name: a\nparts: [b, c]\nsub: {n: 3}\n"), &d); err != nil || d.Name != "a" || len(d.Parts) != 2 || d.Sub.N != 3 {
		t.Errorf("%+v %v", d, err)
	}
	bomb := "name: a\nparts:\n  - &a [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 8 {
		l := string(rune('a' + i))
		bomb += "  - &" + string(rune('b'+i)) + " [" + strings.TrimSuffix(strings.Repeat("*"+l+", ", 10), ", ") + "]\n"
	}
	for _, c := range []struct{ text, want string }{
		{"name: a\ntitle: b\n", `f:2: field "title" is not known`},
		{"sub:\n  m: 1\n", `f:2: field "m" is not known`},
		{"name: a\nname: b\n", "f:2: "},
		{"parts: {a: b}\n", "f:1: unexpected mapping"},
		{"sub: {n: many}\n", "f:1: unexpected text `many`"},
		{"", "f: is empty"},
		{"# nothing\n", "f: is empty"},
		{"name: a\n---\nname: b\n", "f:2: a second document"},
		{"name: [", "f:"},
		{"\x00", "f:"},
		{bomb, "f:"},
		{strings.Repeat("#", MaxSize+1), "more than"},
	} {
		var d doc
		err := Parse("f", []byte(c.text), &d)
		if err == nil || !strings.HasPrefix(err.Error(), "f:") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %s", c.text, err, c.want)
		}
		var e *Error
		if !errors.As(err, &e) || e.Unwrap() == nil {
			t.Errorf("%.40q: %T", c.text, err)
		}
	}
	if err := Read(filepath.Join(t.TempDir(), "none"), &d); err == nil {
		t.Error("a file that is not there")
	}
}

// FuzzParse: any text is read or refused with the file's name, in bounded time.
func FuzzParse(f *testing.F) {
	f.Add([]byte("name: a\nparts: [b]\nsub: {n: 1}\n"))
	f.Add([]byte("a: &x [*x]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d doc
		if err := Parse("f", b, &d); err != nil && !bytes.HasPrefix([]byte(err.Error()), []byte("f:")) {
			t.Error(err)
		}
	})
}
