package cmd

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/podtrace/podtrace/pkg/report"
)

// Streams are the standard streams and what the reader at their other end can show.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	Argv   []string // the command line, to run it again inside another user namespace
	Plugin bool     // called as a plugin of kubectl: there is a cluster
	ErrTTY bool     // progress is welcome on Err
	Color  bool     // Out is a terminal that shows ANSI attributes, and NO_COLOR is not set
	ASCII  bool     // the locale is not UTF-8
	Width  int      // columns of the terminal at Out; 0: no terminal
}

// System gives the streams of the process.
func System() *Streams {
	s := &Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Argv: os.Args,
		ErrTTY: term.IsTerminal(int(os.Stderr.Fd())),
		ASCII:  !utf8Locale(os.Getenv),
	}
	if fd := int(os.Stdout.Fd()); term.IsTerminal(fd) {
		s.Color = colorWanted(os.Getenv)
		if width, _, err := term.GetSize(fd); err == nil {
			s.Width = width
		}
	}
	return s
}

// colorWanted follows no-color.org: any value of NO_COLOR but the empty one turns colour off.
func colorWanted(getenv func(string) string) bool {
	return getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// utf8Locale reads the locale as setlocale(3) does, first LC_ALL, then LC_CTYPE, then LANG. None
// set is taken for UTF-8: it is the usual state of a container, not of an old terminal.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return true
}

func (s *Streams) reportOptions() report.Options {
	return report.Options{Color: s.Color, Width: s.Width, ASCII: s.ASCII}
}
