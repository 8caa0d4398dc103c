package netfilter

import (
	"bytes"
	"strings"
)

// maxShown bounds the elements of a set that a rule's text lists.
const maxShown = 8

func (s *Set) text(kinds []string) string {
	var parts []string
	for i := range s.Elements {
		el := &s.Elements[i]
		if el.End {
			continue
		}
		if len(parts) == maxShown {
			parts = append(parts, "…")
			break
		}
		p := keyText(el.Key, kinds)
		switch {
		case el.Any:
			p = "*"
		case el.KeyEnd != nil && !bytes.Equal(el.Key, el.KeyEnd):
			p += "-" + keyText(el.KeyEnd, kinds)
		case s.Interval:
			p += s.upTo(el, kinds)
		}
		switch {
		case el.Verdict != nil:
			p += " : " + strings.TrimSpace(string(el.Verdict.Code)+" "+el.Verdict.Chain)
		case s.Map && len(el.Data) == 4 || len(el.Data) == 16:
			p += " : " + valueText(el.Data, "addr")
		case el.Data != nil:
			p += " : " + valueText(el.Data, "num")
		}
		parts = append(parts, p)
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// upTo prints the end of an interval: the row before the next one that ends.
func (s *Set) upTo(start *Element, kinds []string) string {
	var end *Element
	for i := range s.Elements {
		el := &s.Elements[i]
		if el.End && bytes.Compare(el.Key, start.Key) > 0 && (end == nil || bytes.Compare(el.Key, end.Key) < 0) {
			end = el
		}
	}
	if end == nil {
		return "-"
	}
	last := bytes.Clone(end.Key)
	for i := len(last) - 1; i >= 0; i-- {
		if last[i]--; last[i] != 0xff {
			break
		}
	}
	if bytes.Equal(last, start.Key) {
		return ""
	}
	return "-" + keyText(last, kinds)
}

// keyText prints a concatenated key, whose parts are padded to words.
func keyText(key []byte, kinds []string) string {
	if len(kinds) < 2 {
		kind := "num"
		if len(kinds) == 1 {
			kind = kinds[0]
		}
		return valueText(key, kind)
	}
	var parts []string
	for _, k := range kinds {
		n := map[string]int{"addr": 4, "ifname": 16, "mac": 6, "proto": 1, "num": 2, "mark": 4, "host": 4}[k]
		if k == "addr" && len(key) > 16+4*(len(kinds)-2) {
			n = 16
		}
		if n = min(max(n, 1), len(key)); n == 0 {
			break
		}
		parts = append(parts, valueText(key[:n], k))
		key = key[min((n+3)&^3, len(key)):]
	}
	return strings.Join(parts, " . ")
}
