package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestUTF8Locale(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want bool
	}{
		{"nothing set", nil, true},
		{"lang", map[string]string{"LANG": "de_DE.UTF-8"}, true},
		{"short form", map[string]string{"LANG": "C.utf8"}, true},
		{"posix", map[string]string{"LANG": "POSIX"}, false},
		{"LC_ALL wins", map[string]string{"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, false},
		{"empty is not set", map[string]string{"LC_ALL": "", "LC_CTYPE": "en_US.UTF-8"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := utf8Locale(func(k string) string { return tt.env[k] }); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestColorWanted(t *testing.T) {
	for _, tt := range []struct {
		noColor, term string
		want          bool
	}{{"", "xterm", true}, {"1", "xterm", false}, {"0", "xterm", false}, {"", "dumb", false}} {
		env := map[string]string{"NO_COLOR": tt.noColor, "TERM": tt.term}
		if got := colorWanted(func(k string) string { return env[k] }); got != tt.want {
			t.Errorf("NO_COLOR=%q TERM=%q: %t", tt.noColor, tt.term, got)
		}
	}
}

func TestFail(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		status int
		want   string
	}{
		{"plain", errors.New("boom"), 2, "podtrace: error: boom\n"},
		{"hint", withHint(errors.New("boom"), "duck"), 2, "podtrace: error: boom\npodtrace: hint: duck\n"},
		{"wrapped hint", fmt.Errorf("resolve: %w", withHint(errors.New("boom"), "duck\nrun")), 2, "podtrace: error: resolve: boom\npodtrace: hint: duck\npodtrace: hint: run\n"},
		{"the inner hint stays", withHint(withHint(errors.New("boom"), "inner"), "outer"), 2, "podtrace: error: boom\npodtrace: hint: inner\n"},
		{"one line", errors.Join(errors.New("one"), errors.New("two")), 2, "podtrace: error: one two\n"},
		{"status", statusError(3), 3, ""},
		{"interrupted", context.Canceled, 2, "podtrace: error: interrupted\n"},
		{"interrupted in the middle", fmt.Errorf("lab up: %w", context.Canceled), 2, "podtrace: error: interrupted: lab up: context canceled\n"},
		{"nobody reads any more", fmt.Errorf("write report: %w", &fs.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}), 141, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, out, errOut := buffers()
			if got := s.fail(tt.err); got != tt.status || errOut.String() != tt.want || out.Len() != 0 {
				t.Errorf("status %d, stderr %q, stdout %q", got, errOut, out)
			}
		})
	}
}
