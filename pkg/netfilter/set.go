package netfilter

import "bytes"

// find looks a key up; key gives its first n bytes. known is false where the answer depends on bits of the
// key that are not known. In an interval set the rows are starts and ends, or carry their own end.
func (s *Set) find(key func(n int) value) (el *Element, known bool) {
	var open, catchAll *Element
	known = true
	for i := range s.Elements {
		el := &s.Elements[i]
		if el.Any {
			catchAll = el
			continue
		}
		k := key(len(el.Key))
		if len(k.b) != len(el.Key) || len(k.b) == 0 {
			continue
		}
		var in, sure bool
		switch {
		case len(el.KeyEnd) == len(el.Key):
			in, sure = s.between(k, el.Key, el.KeyEnd)
		case s.Interval && len(s.Fields) < 2:
			if sure = k.sure(); bytes.Compare(k.b, el.Key) >= 0 && after(el, open) {
				open = el
			}
		default:
			in, sure = !k.differs(el.Key), k.sure() || k.differs(el.Key)
		}
		if in && sure {
			return el, true
		}
		known = known && sure
	}
	switch {
	case open != nil && !open.End:
		return open, known
	case catchAll != nil:
		return catchAll, known
	}
	return nil, known
}

// after: of two rows of an interval set the one with the greater key is nearer, and a start that has the key
// of an end begins the next interval.
func after(el, open *Element) bool {
	if open == nil {
		return true
	}
	c := bytes.Compare(el.Key, open.Key)
	return c > 0 || c == 0 && open.End
}

// between compares field by field, as concatenated ranges are (nft_set_pipapo): each part lies within its
// own bounds, and is followed by padding to a multiple of four.
func (s *Set) between(k value, lo, hi []byte) (in, sure bool) {
	fields := s.Fields
	if len(fields) == 0 {
		fields = []uint32{uint32(len(k.b))} //nolint:gosec // at most 64
	}
	at, sure := 0, true
	for _, f := range fields {
		end := at + int(f)
		if f == 0 || end > len(k.b) {
			return false, true
		}
		part := value{k.b[at:end], k.known[at:end]}
		switch {
		case !part.sure():
			sure = false
		case bytes.Compare(part.b, lo[at:end]) < 0 || bytes.Compare(part.b, hi[at:end]) > 0:
			return false, true
		}
		at = (end + 3) &^ 3
	}
	return true, sure
}
