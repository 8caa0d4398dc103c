package kdrop

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// clangVersion made the committed objects. Another one makes others, as good as these.
const clangVersion = "14.0.6"

// TestGenerated holds the committed objects to the source, where the compiler that made them is at hand.
func TestGenerated(t *testing.T) {
	if _, err := exec.LookPath("llvm-strip"); err != nil {
		t.Skip("no llvm-strip: that go generate gives the committed objects is not checked")
	}
	out, err := exec.Command("clang", "--version").Output()
	if err != nil {
		t.Skip("no clang: that go generate gives the committed objects is not checked")
	}
	if m := regexp.MustCompile(`version (\d+\.\d+\.\d+)`).FindSubmatch(out); m == nil || string(m[1]) != clangVersion {
		t.Skipf("clang is %q, the committed objects are of %s: not checked", bytes.SplitN(out, []byte("\n"), 2)[0], clangVersion)
	}
	dir := t.TempDir()
	cmd := exec.Command("go", generateArgs(t, dir)...)
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOPACKAGE=kdrop", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	for _, name := range []string{"kfree_bpfel_linux.o", "kfree_bpfeb_linux.o", "kfree_bpfel_linux.go", "kfree_bpfeb_linux.go"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the source gives (%v): run go generate ./pkg/kdrop", name, err)
		}
	}
}

// generateArgs are those of the go:generate line, with another place to write to.
func generateArgs(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, ok := strings.Cut(string(b), "//go:generate go run github.com/cilium/ebpf/cmd/bpf2go ")
	if !ok {
		t.Fatal("doc.go has no go:generate line")
	}
	line, _, _ = strings.Cut(line, "\n")
	return append([]string{"run", "github.com/cilium/ebpf/cmd/bpf2go", "-output-dir", dir}, strings.Fields(line)...)
}
