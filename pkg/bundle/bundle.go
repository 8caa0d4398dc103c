// Package bundle keeps a trace: it writes all that a judgement rests on into one .tar.gz, or into a folder of the
// same files, and reads it again. trace.Judge gives the same report for a case and for what is read back of it,
// byte for byte, on another machine, without root.
//
//	manifest.json          format, version, times, the request, what the other files are
//	cluster.yaml           the Kubernetes objects, as the inventory holds them
//	tables/NODE/NETNS.json one tables.Netns a namespace
//	capture.pcapng         an interface block a point, nanoseconds, direction in epb_flags, the hop and any
//	                       failed check as the packet's comment, what was lost in interface statistics blocks
//	capture-size.pcapng    the same of full-size packets, where any were sent
//	witness.json           kernel drops, counters, rules, neighbours, contrast probes, the kernels' opinion
//	report.json            the report, where one was made
//
// What is written depends on the case alone: the same case gives the same bytes. What is read is hostile: every
// size is bounded, every name checked, and what is damaged is refused, never judged in part.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/trace"
)

// Format is the version of the layout that Write writes. Read takes it and those before.
const Format = 1

// Names of the files.
const (
	manifestName    = "manifest.json"
	clusterName     = "cluster.yaml"
	captureName     = "capture.pcapng"
	sizeCaptureName = "capture-size.pcapng"
	witnessName     = "witness.json"
	reportName      = "report.json"
)

// Bundle is a recorded trace.
type Bundle struct {
	Case *trace.Case
	// Report is what was judged when the trace was recorded; nil: nothing was.
	Report *report.Report
	// Interrupted: the trace was ended before its time.
	Interrupted bool
}

// ErrNotBundle is wrapped by Read's error for what is no bundle at all.
var ErrNotBundle = errors.New("no podtrace bundle")

// VersionError says that a bundle is of a later format than this podtrace knows.
type VersionError struct {
	Format   int
	Podtrace string // the version that wrote it
}

// Error names both formats.
func (e *VersionError) Error() string {
	return fmt.Sprintf("bundle format %d, written by podtrace %q, is newer than format %d, the newest that this podtrace reads",
		e.Format, e.Podtrace, Format)
}

// Hint says what to do next.
func (e *VersionError) Hint() string { return "analyze it with a newer podtrace" }

// existsError refuses to write into a folder with other files.
type existsError struct{ path string }

func (e *existsError) Error() string {
	return fmt.Sprintf("write bundle: folder %q is not empty", e.path)
}
func (e *existsError) Hint() string {
	return "name a folder that is empty or not there, or a file: -w trace.tar.gz"
}

// Check reports whether a bundle can be written to path, before there is one: a path that ends in a separator, or
// a folder that is there, stands for a folder; any other is a file.
func Check(path string) error {
	if path == "" {
		return errors.New("write bundle: no file is named")
	}
	if isFolder(path) {
		entries, err := os.ReadDir(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("write bundle: %w", err)
		case len(entries) > 0:
			return &existsError{path}
		}
		return nil
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	} else if !fi.IsDir() {
		return fmt.Errorf("write bundle: %q is no folder", filepath.Dir(path))
	}
	return nil
}

func isFolder(path string) bool {
	if os.IsPathSeparator(path[len(path)-1]) {
		return true
	}
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// Write writes a bundle to path, see Check. A file that is there is replaced once the new one is whole.
func Write(path string, b *Bundle) error {
	if err := Check(path); err != nil {
		return err
	}
	files, when, err := encode(b)
	if err != nil {
		return fmt.Errorf("write bundle %q: %w", path, err)
	}
	if isFolder(path) {
		err = writeFolder(path, files)
	} else {
		err = writeArchive(path, files, when)
	}
	if err != nil {
		return fmt.Errorf("write bundle %q: %w", path, err)
	}
	return nil
}

// Read reads a bundle from a file or a folder.
func Read(path string) (*Bundle, error) {
	src, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("read bundle %q: %w", path, err)
	}
	defer src.close()
	b, err := decode(src)
	if err != nil {
		return nil, fmt.Errorf("read bundle %q: %w", path, err)
	}
	return b, nil
}

// Is reports whether path looks like a bundle: a folder with a manifest, or a compressed archive. It reads no more
// than the beginning.
func Is(path string) bool {
	fi, err := os.Stat(path)
	if err != nil {
		return false
	}
	if fi.IsDir() {
		_, err := os.Stat(filepath.Join(path, manifestName))
		return err == nil
	}
	return isArchive(path)
}

// decodeReport reads report.json.
func decodeReport(raw []byte) (*report.Report, error) {
	r := new(report.Report)
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", reportName, err)
	}
	return r, nil
}
