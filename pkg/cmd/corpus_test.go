package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCorpusPairs gives pairs of capture files that other projects test with to the command: it judges them, or says
// in a line why not, and never crashes or hangs. PODTRACE_CORPUS_PAIRS=all takes every pair of the 150 (some minutes).
func TestCorpusPairs(t *testing.T) {
	dir := os.Getenv("PODTRACE_CORPUS")
	if dir == "" {
		dir = "../../../shared/corpus"
	}
	files, err := filepath.Glob(filepath.Join(dir, "captures", "*"))
	if err != nil || len(files) == 0 {
		t.Skipf("no capture corpus at %q (set PODTRACE_CORPUS)", dir)
	}
	strides := []int{0, 1, 37}
	if os.Getenv("PODTRACE_CORPUS_PAIRS") == "all" {
		strides = strides[:0]
		for i := range files {
			strides = append(strides, i)
		}
	}
	formats := []string{"text", "wide", "json", "yaml", "junit", "markdown", "html", "sarif"}
	for i, a := range files {
		for k, stride := range strides {
			b := files[(i+stride)%len(files)]
			s, out, errOut := buffers()
			began := time.Now()
			code := Main([]string{"podtrace", "analyze", a, b, "-o", formats[(i+k)%len(formats)]}, s)
			switch {
			case code == exitTool && (out.Len() > 0 || strings.Count(errOut.String(), "podtrace: error: ") != 1):
				t.Errorf("%s %s: %q %q", a, b, out, errOut)
			case code != exitTool && (code < 0 || code > 3 || out.Len() == 0):
				t.Errorf("%s %s: status %d: %q", a, b, code, errOut)
			}
			if strings.ContainsFunc(out.String()+errOut.String(), func(r rune) bool { return r < ' ' && r != '\n' }) {
				t.Errorf("%s %s: control characters in the output", a, b)
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("%s %s: took %s", a, b, d)
			}
		}
	}
}
