package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// WriteValue prints another value than a Report as JSON or YAML, escaped as reports are.
func WriteValue(w io.Writer, v any, format string) error {
	if format == FormatYAML {
		return writeYAML(w, v)
	}
	return writeJSON(w, v)
}

// writeJSON writes the fields in the order of their declaration, indented by two spaces.
func writeJSON(w io.Writer, r any) error {
	text, err := encodeJSON(r)
	if err != nil {
		return err
	}
	_, err = w.Write(escapeRunes(text, jsonEscape))
	return err
}

func encodeJSON(r any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	return b.Bytes(), nil
}

// writeYAML turns the JSON into YAML node by node, which keeps the order of the fields and needs
// no second set of struct tags: JSON is YAML in flow style.
func writeYAML(w io.Writer, r any) error {
	text, err := encodeJSON(r)
	if err != nil {
		return err
	}
	var doc yaml.Node
	// Escaped first: the YAML reader refuses raw DEL and C1 controls, which JSON allows.
	if err := yaml.Unmarshal(escapeRunes(text, yamlEscape), &doc); err != nil {
		return fmt.Errorf("convert report to YAML: %w", err)
	}
	blockStyle(&doc)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return fmt.Errorf("encode report as YAML: %w", err)
	}
	_, err = w.Write(escapeRunes(b.Bytes(), yamlEscape))
	return err
}

// blockStyle drops the flow style and the quotes that came from JSON where YAML needs none; the
// encoder still quotes what would read as another type.
func blockStyle(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		if len(n.Content) > 0 {
			n.Style = 0
		}
		for _, c := range n.Content {
			blockStyle(c)
		}
		return
	}
	n.Style = 0
	if strings.ContainsFunc(n.Value, hidden) {
		n.Style = yaml.DoubleQuotedStyle // so that escapeRunes may write \u
	}
}
