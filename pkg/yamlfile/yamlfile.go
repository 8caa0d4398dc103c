// Package yamlfile reads the YAML files that people write for podtrace: small ones, in which a word that is not known
// is a mistake and not an extension. It does not read Kubernetes objects; those are inventory's.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the largest file that is read, in bytes.
const MaxSize = 1 << 20

// Error says what is wrong with a file, and where.
type Error struct {
	File string
	Line int // from 1; 0: not known
	Err  error
}

// Error gives FILE:LINE: reason.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// Read reads the file at path into v, see Parse.
func Read(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	return Parse(path, b, v)
}

// Parse reads one YAML document into v. A field that v does not have is an error, and so are a value of another type,
// a second document and an empty file. file is the name in messages.
func Parse(file string, b []byte, v any) error {
	if len(b) > MaxSize {
		return &Error{File: file, Err: fmt.Errorf("more than %d bytes", MaxSize)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(v); errors.Is(err, io.EOF) {
		return &Error{File: file, Err: errors.New("is empty")}
	} else if err != nil {
		return located(file, err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		return &Error{File: file, Line: more.Line, Err: errors.New("a second document")}
	} else if !errors.Is(err, io.EOF) {
		return located(file, err)
	}
	return nil
}

// located turns an error of the YAML package into one of ours: the first mistake of several, without Go's types.
func located(file string, err error) error {
	var (
		lineOf   = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
		unknown  = regexp.MustCompile(`^field (.*) not found in type .*$`)
		mistyped = regexp.MustCompile(`^cannot unmarshal !!(\w+) (.*)into .*$`)
	)
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	var te *yaml.TypeError
	if errors.As(err, &te) && len(te.Errors) > 0 {
		msg = te.Errors[0]
	}
	out := &Error{File: file}
	if m := lineOf.FindStringSubmatch(msg); m != nil {
		_, _ = fmt.Sscan(m[1], &out.Line) // digits; too many of them leave 0
		msg = m[2]
	}
	if m := unknown.FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("field %q is not known", m[1])
	} else if m := mistyped.FindStringSubmatch(msg); m != nil {
		msg = strings.TrimSpace(fmt.Sprintf("unexpected %s %s", kinds[m[1]], m[2]))
	}
	out.Err = errors.New(msg)
	return out
}

// kinds are the YAML tags in words.
var kinds = map[string]string{
	"map": "mapping", "seq": "list", "str": "text", "int": "number", "float": "number", "bool": "true or false",
	"null": "null", "timestamp": "date",
}
