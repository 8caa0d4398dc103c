package tables

import "testing"

func TestLacks(t *testing.T) {
	n := &Netns{Incomplete: []string{"routes: dump interrupted", NotListed("fdb", "cni0", "not listed")}}
	for _, c := range []struct {
		table, dev string
		want       bool
	}{
		{"routes", "", true}, {"routes", "eth0", true}, {"fdb", "cni0", true}, {"fdb", "flannel.1", false}, {"fdb", "", false},
		{"fdb", "cni", false}, {"neighbours", "cni0", false}, {"rout", "", false},
	} {
		if got := n.Lacks(c.table, c.dev); got != c.want {
			t.Errorf("Lacks(%q, %q) = %v, want %v", c.table, c.dev, got, c.want)
		}
	}
}
