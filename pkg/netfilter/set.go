package netfilter

import "bytes"

// find looks a key up. In an interval set the rows are starts and ends, or carry their own end.
func (s *Set) find(key func(n int) []byte) *Element {
	var open, catchAll *Element
	for i := range s.Elements {
		el := &s.Elements[i]
		if el.Any {
			catchAll = el
			continue
		}
		k := key(len(el.Key))
		switch {
		case len(k) != len(el.Key):
			continue
		case len(el.KeyEnd) == len(el.Key) && len(el.Key) > 0:
			if s.between(k, el.Key, el.KeyEnd) {
				return el
			}
		case s.Interval && len(s.Fields) < 2:
			if bytes.Compare(k, el.Key) >= 0 {
				if open == nil || bytes.Compare(el.Key, open.Key) > 0 || bytes.Equal(el.Key, open.Key) && open.End {
					open = el
				}
			}
		case bytes.Equal(k, el.Key):
			return el
		}
	}
	if open != nil && !open.End {
		return open
	}
	return catchAll
}

// between compares field by field, as concatenated ranges are (nft_set_pipapo): each part lies within its
// own bounds, and is followed by padding to a multiple of four.
func (s *Set) between(k, lo, hi []byte) bool {
	fields := s.Fields
	if len(fields) == 0 {
		fields = []uint32{uint32(len(k))} //nolint:gosec // at most 64
	}
	at := 0
	for _, f := range fields {
		end := at + int(f)
		if f == 0 || end > len(k) {
			return false
		}
		if bytes.Compare(k[at:end], lo[at:end]) < 0 || bytes.Compare(k[at:end], hi[at:end]) > 0 {
			return false
		}
		at = (end + 3) &^ 3
	}
	return true
}
