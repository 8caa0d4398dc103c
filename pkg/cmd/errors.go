package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/podtrace/podtrace/pkg/report"
)

// exitTool is the usage or tool error's exit status; those of a verdict are report.ExitCode's.
const exitTool = 2

// exitPipe is the exit status of a command whose reader is gone, as a shell gives it of one that SIGPIPE ended.
const exitPipe = 128 + int(syscall.SIGPIPE)

// hinter is an error that knows what to do next. Any package's error may be one.
type hinter interface{ Hint() string }

// hinted puts a hint on an error.
type hinted struct {
	error
	hint string
}

func (h hinted) Hint() string  { return h.hint }
func (h hinted) Unwrap() error { return h.error }

// withHint says what to do about err, unless err itself does.
func withHint(err error, hint string) error {
	var h hinter
	if err == nil || errors.As(err, &h) {
		return err
	}
	return hinted{err, hint}
}

func usageErrorf(path, format string, args ...any) error {
	return hinted{fmt.Errorf(format, args...), fmt.Sprintf("%s --help shows the usage", path)}
}

// statusError ends the command with an exit status and no message: the report has said it all, or
// the command that lab exec ran has.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// fail prints an error as one line, and its hints as one line each.
func (s *Streams) fail(err error) int {
	if status, ok := errors.AsType[statusError](err); ok {
		return int(status)
	}
	msg := report.Clean(oneLine(err.Error()))
	switch {
	case errors.Is(err, syscall.EPIPE):
		return exitPipe // who reads no more wants no message either
	case err.Error() == context.Canceled.Error():
		msg = "interrupted"
	case errors.Is(err, context.Canceled):
		msg = "interrupted: " + msg
	}
	fmt.Fprintf(s.Err, "podtrace: error: %s\n", msg)
	var h hinter
	if errors.As(err, &h) {
		for hint := range strings.Lines(h.Hint()) {
			fmt.Fprintf(s.Err, "podtrace: hint: %s\n", report.Clean(strings.TrimSpace(hint)))
		}
	}
	return exitTool
}

// warn says what went wrong beside the command's own business.
func (s *Streams) warn(err error) {
	fmt.Fprintf(s.Err, "podtrace: warning: %s\n", report.Clean(oneLine(err.Error())))
	var h hinter
	if errors.As(err, &h) {
		for hint := range strings.Lines(h.Hint()) {
			fmt.Fprintf(s.Err, "podtrace: hint: %s\n", report.Clean(strings.TrimSpace(hint)))
		}
	}
}

// oneLine keeps a message on its line (errors.Join and cobra's suggestions use several).
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' || r == '\t' }), " ")
}

// verdictStatus gives the status that ends a command that made a report.
func verdictStatus(r *report.Report, exitZero bool) error {
	return exitWith(report.ExitCode(r.Verdict.Status), exitZero)
}
