package listing

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadPath(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"page.txt": "x", "node1/ip-route.txt": "a", "node1/shop/cart-1/ip-a.txt": "b", ".hidden": "c",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ins, err := ReadPath(dir)
	if err != nil || len(ins) != 3 {
		t.Fatalf("%d inputs, %v", len(ins), err)
	}
	want := []Input{
		{File: "node1/ip-route.txt", Node: "node1", Text: []byte("a")},
		{File: "node1/shop/cart-1/ip-a.txt", Node: "node1", Netns: "shop/cart-1", Text: []byte("b")},
		{File: "page.txt", Text: []byte("x")},
	}
	if jsonOf(ins) != jsonOf(want) {
		t.Errorf("%s, want %s", jsonOf(ins), jsonOf(want))
	}
	one, err := ReadPath(filepath.Join(dir, "page.txt"))
	if err != nil || len(one) != 1 || one[0].File != "page.txt" {
		t.Errorf("%+v %v", one, err)
	}
	if _, err := ReadPath(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing path is no error")
	}
}

// TestBounds: a large page of hostile lines ends soon.
func TestBounds(t *testing.T) {
	for _, unit := range []string{"[{\n", "$ ip route\n1.2.3.4 dev a\n", "10.0.0.0/8 dev a\n", "1: a: <UP> mtu 1\n", "port no mac addr\n", "table ip a {\n chain b {\n"} {
		b := make([]byte, 0, 1<<20)
		for len(b) < 1<<20 {
			b = append(b, unit...)
		}
		l := Parse([]Input{{File: "x", Text: b}})
		if len(l.NotUnderstood) > maxUnread {
			t.Errorf("%q: %d lines reported", unit, len(l.NotUnderstood))
		}
	}
}
