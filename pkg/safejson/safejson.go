// Package safejson reads JSON that somebody else wrote into Go values without giving away more memory than its text
// is worth: an element of two bytes may become a struct of a kilobyte.
package safejson

import (
	"encoding/json"
	"fmt"
)

// MaxElements bounds the elements of all lists of a text.
const MaxElements = 2 << 20

// Unmarshal is json.Unmarshal of a text whose lists have a bounded number of elements. what names it in errors.
func Unmarshal(what string, raw []byte, to any) error {
	if n := elements(raw); n > MaxElements {
		return fmt.Errorf("%s: lists of %d elements, at most %d are read", what, n, MaxElements)
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// elements counts what stands in the lists of a JSON text.
func elements(b []byte) (n int) {
	var open []byte
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '[':
			n++
			open = append(open, '[')
		case '{':
			open = append(open, '{')
		case ']', '}':
			open = open[:max(len(open)-1, 0)]
		case ',':
			if len(open) > 0 && open[len(open)-1] == '[' {
				n++
			}
		}
	}
	return n
}
