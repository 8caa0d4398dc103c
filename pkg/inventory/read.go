package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// MaxSize is the most that Parse reads, in bytes: the objects of some 50,000 pods, and an end to a
// file that was named by mistake.
const MaxSize = 256 << 20

// maxDepth bounds lists in lists.
const maxDepth = 4

// ObjectError says which field of which object is wrong.
type ObjectError struct {
	File   string // "" when read from elsewhere
	Object string // "Pod shop/cart", or where it stands in the file
	Field  string // "status.podIP"; "" for the object as a whole
	Err    error
}

// Error gives file, object, field and cause on one line.
func (e *ObjectError) Error() string {
	var parts []string
	if e.File != "" {
		parts = append(parts, fmt.Sprintf("%q", e.File))
	}
	parts = append(parts, e.Object)
	if e.Field != "" {
		parts = append(parts, e.Field)
	}
	return strings.Join(append(parts, e.Err.Error()), ": ")
}

// Unwrap gives the cause.
func (e *ObjectError) Unwrap() error { return e.Err }

// ReadFile reads the objects of a file; see Parse.
func ReadFile(path string) (*Inventory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read cluster objects: %w", err)
	}
	defer f.Close()
	inv, err := Parse(f)
	var o *ObjectError
	switch {
	case errors.As(err, &o):
		o.File = path
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("read cluster objects of %q: %w", path, err)
	}
	return inv, nil
}

// Parse reads Kubernetes objects in YAML or JSON: a List, single objects, several documents.
// Objects of other kinds are left out with a note. A field that podtrace uses and cannot understand
// is an *ObjectError; unknown fields are nobody's concern.
func Parse(r io.Reader) (*Inventory, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("more than %d MiB", MaxSize>>20)
	}
	p := parser{inv: &Inventory{}, seen: make(map[string]bool), skipped: make(map[string]int)}
	docs, err := documents(b)
	if err != nil {
		return nil, err
	}
	for i, d := range docs {
		if err := p.object(d, "", fmt.Sprintf("document %d", i+1), 0); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.inv, nil
}

// ErrNoObjects is returned for a file without a single object.
var ErrNoObjects = errors.New("no Kubernetes objects in it")

// documents splits the input and turns each part into JSON.
func documents(b []byte) ([]json.RawMessage, error) {
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '{' {
		if docs, err := jsonDocuments(t); err == nil {
			return docs, nil
		} // YAML's own {…} form may still be it
	}
	var out []json.RawMessage
	for i, part := range splitYAML(b) {
		j, err := yaml.YAMLToJSON(part)
		if err != nil {
			return nil, &ObjectError{Object: fmt.Sprintf("document %d", i+1), Err: plain(err)}
		}
		if s := string(bytes.TrimSpace(j)); s != "null" {
			out = append(out, j)
		}
	}
	return out, nil
}

func jsonDocuments(b []byte) ([]json.RawMessage, error) {
	var out []json.RawMessage
	for dec := json.NewDecoder(bytes.NewReader(b)); ; {
		var m json.RawMessage
		err := dec.Decode(&m)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
}

// splitYAML cuts at the lines that begin with "---", as kubectl does.
func splitYAML(b []byte) [][]byte {
	var out [][]byte
	start := 0
	for at := 0; at < len(b); {
		end := bytes.IndexByte(b[at:], '\n')
		next := len(b)
		if end >= 0 {
			next = at + end + 1
		}
		l := bytes.TrimRight(b[at:next], "\r\n \t")
		if bytes.Equal(l, []byte("---")) || bytes.HasPrefix(l, []byte("--- ")) {
			out = append(out, b[start:at])
			start = next
		}
		at = next
	}
	return append(out, b[start:])
}

// plain makes one line of a parser's message.
func plain(err error) error {
	sc := bufio.NewScanner(strings.NewReader(err.Error()))
	var words []string
	for sc.Scan() {
		words = append(words, strings.TrimSpace(sc.Text()))
	}
	return errors.New(strings.Join(words, " "))
}

// parser collects objects.
type parser struct {
	inv     *Inventory
	seen    map[string]bool
	skipped map[string]int
	objects int
}

// head is what every object has, and the items of a list.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// object reads one; kind is what the list around it says its items are.
func (p *parser) object(raw json.RawMessage, kind, where string, depth int) error {
	var h head
	if err := json.Unmarshal(raw, &h); err != nil {
		return &ObjectError{Object: where, Err: fmt.Errorf("no Kubernetes object: %w", plain(err))}
	}
	if h.Kind == "" {
		h.Kind = kind
	}
	if h.Kind == "" {
		return &ObjectError{Object: where, Field: "kind", Err: errors.New("is missing")}
	}
	if of, ok := strings.CutSuffix(h.Kind, "List"); ok {
		return p.list(h, of, where, depth)
	}
	p.objects++
	name := fmt.Sprintf("%s %q", h.Kind, objectName(h))
	if !known(h) {
		p.skipped[h.Kind]++
		return nil
	}
	if h.Metadata.Name == "" {
		return &ObjectError{Object: where + " (" + h.Kind + ")", Field: "metadata.name", Err: errors.New("is missing")}
	}
	if p.seen[name] {
		return &ObjectError{Object: name, Err: errors.New("is there twice")}
	}
	p.seen[name] = true
	if err := p.convert(h.Kind, raw); err != nil {
		if o, ok := errors.AsType[*ObjectError](err); ok {
			o.Object = name
			return err
		}
		return &ObjectError{Object: name, Err: plain(err)}
	}
	return nil
}

func (p *parser) list(h head, of, where string, depth int) error {
	if depth >= maxDepth {
		return &ObjectError{Object: where, Err: errors.New("lists in lists too deep")}
	}
	for i, item := range h.Items {
		if err := p.object(item, of, fmt.Sprintf("%s, item %d", where, i+1), depth+1); err != nil {
			return err
		}
	}
	p.objects++ // an empty list is a file that was meant
	return nil
}

func objectName(h head) string {
	switch {
	case h.Kind == "Node", h.Kind == "Host":
		return h.Metadata.Name
	case h.Metadata.Namespace == "":
		return defaultNamespace + "/" + h.Metadata.Name
	default:
		return h.Metadata.Namespace + "/" + h.Metadata.Name
	}
}

// known tells the kinds that podtrace reads from others of the same name (a Service of Knative).
func known(h head) bool {
	switch h.Kind {
	case "Node", "Pod", "Service":
		return h.APIVersion == "v1" || h.APIVersion == ""
	case "EndpointSlice":
		return h.APIVersion == "discovery.k8s.io/v1" || h.APIVersion == ""
	case "Host":
		return h.APIVersion == "podtrace.dev/v1"
	default:
		return false
	}
}

func (p *parser) convert(kind string, raw json.RawMessage) error {
	switch kind {
	case "Node":
		return add(raw, &p.inv.Nodes, func(o *corev1.Node) (Node, error) { return node(o) })
	case "Host":
		return add(raw, &p.inv.Hosts, func(o *corev1.Node) (Host, error) { return host(o) })
	case "Pod":
		return add(raw, &p.inv.Pods, func(o *corev1.Pod) (Pod, error) { return pod(o) })
	case "Service":
		return add(raw, &p.inv.Services, func(o *corev1.Service) (Service, error) { return service(o) })
	default:
		return add(raw, &p.inv.EndpointSlices, func(o *discoveryv1.EndpointSlice) (EndpointSlice, error) { return slice(o) })
	}
}

func add[O, V any](raw json.RawMessage, to *[]V, convert func(*O) (V, error)) error {
	var o O
	if err := json.Unmarshal(raw, &o); err != nil {
		if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return &ObjectError{Field: t.Field, Err: fmt.Errorf("is a %s", t.Value)}
		}
		return err
	}
	v, err := convert(&o)
	if err != nil {
		return err
	}
	*to = append(*to, v)
	return nil
}

func (p *parser) finish() error {
	if p.objects == 0 {
		return ErrNoObjects
	}
	for kind, n := range p.skipped {
		p.inv.Notes = append(p.inv.Notes, fmt.Sprintf("%d of kind %q not read", n, kind))
	}
	slices.Sort(p.inv.Notes)
	return nil
}
