package capture

// store keeps frames. Their bytes lie in a few large pieces of memory, not in one each: a frame costs a copy and
// no allocation, and the garbage collector has little to look at.
type store struct {
	full  [][]Frame // chunks that have no room left
	last  []Frame
	arena []byte // its free part is where the next frame's bytes go
	n     int
}

const (
	firstChunk  = 1 << 5
	chunkFrames = 1 << 10
	perFrame    = 128 // bytes, where frames are headers
)

func (s *store) len() int { return s.n }

// add copies a frame.
func (s *store) add(f *Frame) {
	if len(s.last) == cap(s.last) {
		if s.last != nil {
			s.full = append(s.full, s.last)
		}
		s.last = make([]Frame, 0, min(max(s.n, firstChunk), chunkFrames))
	}
	if cap(s.arena)-len(s.arena) < len(f.Data) {
		s.arena = make([]byte, 0, max(cap(s.last)*perFrame, len(f.Data)))
	}
	at := len(s.arena)
	s.arena = append(s.arena, f.Data...)
	s.last = append(s.last, *f)
	s.last[len(s.last)-1].Data = s.arena[at:len(s.arena):len(s.arena)]
	s.n++
}

// appendTo appends all frames in the order in which they came.
func (s *store) appendTo(out []Frame) []Frame {
	for _, c := range s.full {
		out = append(out, c...)
	}
	return append(out, s.last...)
}
