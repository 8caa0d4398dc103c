package report

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Clean makes an outside string safe to print: everything that is not a graphic character or a
// plain space (control characters, escape sequences, bidirectional overrides, broken UTF-8)
// becomes its Go escape, "\x1b". A clean string is returned unchanged.
func Clean(s string) string {
	if !strings.ContainsFunc(s, hidden) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case hidden(r):
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hidden reports whether a terminal would obey r instead of showing it. unicode.IsPrint is false
// for the C0 and C1 controls and for the format characters that reorder a line.
func hidden(r rune) bool { return !unicode.IsPrint(r) }

// escapeRunes rewrites the hidden runes of a JSON or YAML text by escape. Outside of string
// literals both hold only graphic ASCII, spaces and line feeds, so what it finds is in a literal.
func escapeRunes(text []byte, escape func(rune) string) []byte {
	var b bytes.Buffer
	for _, r := range string(text) {
		if r == '\n' || !hidden(r) {
			b.WriteRune(r)
			continue
		}
		b.WriteString(escape(r))
	}
	return b.Bytes()
}

// jsonEscape gives \uXXXX, a surrogate pair above the basic plane (RFC 8259 section 7).
func jsonEscape(r rune) string {
	if hi, lo := utf16.EncodeRune(r); hi != utf8.RuneError {
		return fmt.Sprintf(`\u%04x\u%04x`, hi, lo)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// yamlEscape gives \uXXXX or \UXXXXXXXX: YAML knows no surrogates (YAML 1.2 section 5.7).
func yamlEscape(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
