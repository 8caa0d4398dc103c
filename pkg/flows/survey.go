package flows

import (
	"cmp"
	"context"
	"slices"

	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// plan is what the beginnings of the files tell before all is read.
type plan struct {
	points   []Point // in the order of the path
	offset   [MaxPoints]int64
	unsorted [MaxPoints]bool
	vni      [MaxPoints]uint32 // that frames carry, or vniOpen
	window   int64
	prefix   int // payload bytes that are captured at all points
}

// vniOpen is no VNI: any may be the right one.
const vniOpen = 1 << 31

const (
	sampleLen  = 1 << 10 // packets at the beginning of each file
	sampleMost = 1 << 22 // packets that are looked through where the beginnings do not meet
	enough     = 32      // packets in common of two points
	maxPrefix  = 16      // bytes
)

// seen is one packet of a sample.
type seen struct {
	id, tuple uint64
	time      int64
	ttl       uint8
}

// sample is a part of the packets of one file, by id.
type sample struct {
	seen     []seen
	whole    bool // the file has no more
	vnis     map[uint32]int
	port     uint16
	shortest int
}

// survey reads the beginning of each file, and more where two files have nothing in common there, and
// finds out the order of the points, how far their clocks are apart and how long packets take.
func survey(ctx context.Context, cfg Config) (*plan, error) {
	s := surveyor{tuples: map[uint64]raw{}}
	for limit, keep := sampleLen, uint64(0); ; limit, keep = limit*16, keep<<4|15 {
		s.samples = s.samples[:0]
		for _, p := range cfg.Points {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := s.sample(p, limit, keep); err != nil {
				return nil, err
			}
		}
		if s.meet() || limit >= sampleMost {
			return s.plan(cfg), nil
		}
	}
}

// surveyor holds the samples.
type surveyor struct {
	samples []sample
	tuples  map[uint64]raw
}

// sample reads up to limit packets of a point and keeps those whose id has none of the bits of keep.
func (s *surveyor) sample(p Point, limit int, keep uint64) error {
	r, err := pcapfile.Open(p.Path)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	out := sample{vnis: map[uint32]int{}, seen: make([]seen, 0, sampleLen)}
	parser := parser{port: p.VXLANPort, shortest: maxPrefix}
	var rec pcapfile.Record
	var x sighting
	for range limit {
		if r.Next(&rec) != nil {
			out.whole = true
			break
		}
		if !p.Takes(&rec) || !parser.parse(&rec, &x) {
			continue
		}
		if x.flags&sightVXLAN != 0 {
			out.vnis[x.vni]++
		}
		if x.id&keep == 0 && x.flags&(sightThin|sightFrag) == 0 && len(out.seen) < 16*sampleLen {
			out.seen = append(out.seen, seen{x.id, x.tuple, x.time, x.ttl})
			s.tuples[x.tuple] = parser.tuple
		}
	}
	out.port, out.shortest = parser.port, parser.shortest
	slices.SortFunc(out.seen, func(a, b seen) int { return cmp.Compare(a.id, b.id) })
	out.seen = unique(out.seen)
	s.samples = append(s.samples, out)
	return nil
}

// Tuples calls each with the flow of every IP packet among the first ones of the point: that of the packet inside, where
// it is encapsulated, on whatever port.
func (p *Point) Tuples(packets int, each func(Tuple)) error {
	r, err := pcapfile.Open(p.Path)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	parser := parser{port: p.VXLANPort}
	var rec pcapfile.Record
	var x sighting
	for packets > 0 && r.Next(&rec) == nil {
		if !p.Takes(&rec) {
			continue
		}
		packets--
		if parser.parse(&rec, &x) {
			each(parser.tuple.tuple())
		}
	}
	return nil
}

// unique leaves out all packets that look like another.
func unique(in []seen) []seen {
	out := in[:0]
	for i, x := range in {
		if (i == 0 || in[i-1].id != x.id) && (i+1 == len(in) || in[i+1].id != x.id) {
			out = append(out, x)
		}
	}
	return out
}

// meet reports whether each file has packets in common with the one before it, or no more to offer.
func (s *surveyor) meet() bool {
	for i := 1; i < len(s.samples); i++ {
		a, b := &s.samples[i-1], &s.samples[i]
		if !(a.whole && b.whole) && common(a.seen, b.seen, nil) < enough {
			return false
		}
	}
	return true
}

// match is one packet at two points.
type match struct {
	tuple uint64 // at the first of them
	later int64  // ns that the second point saw it later, by their clocks
}

// matches gives the packets that two points have in common, by tuple and difference.
func (s *surveyor) matches(a, b int) []match {
	out := make([]match, 0, min(len(s.samples[a].seen), len(s.samples[b].seen)))
	common(s.samples[a].seen, s.samples[b].seen, func(x, y *seen) {
		out = append(out, match{x.tuple, y.time - x.time})
	})
	slices.SortFunc(out, func(a, b match) int { return cmp.Or(cmp.Compare(a.tuple, b.tuple), cmp.Compare(a.later, b.later)) })
	return out
}

// common counts the packets that are in both samples, and calls fn with each, unless it is nil.
func common(x, y []seen, fn func(x, y *seen)) int {
	n := 0
	for len(x) > 0 && len(y) > 0 {
		switch {
		case x[0].id < y[0].id:
			x = x[1:]
		case x[0].id > y[0].id:
			y = y[1:]
		default:
			if n++; fn != nil {
				fn(&x[0], &y[0])
			}
			x, y = x[1:], y[1:]
		}
	}
	return n
}

// medians gives the median difference of each tuple.
func medians(m []match) map[uint64]int64 {
	out := map[uint64]int64{}
	for from := 0; from < len(m); {
		to := from + 1
		for to < len(m) && m[to].tuple == m[from].tuple {
			to++
		}
		out[m[from].tuple] = m[(from+to)/2].later
		from = to
	}
	return out
}

// ahead gives by how much the clock of the second point is ahead of the first's: half the sum of the
// differences of both directions of a flow, the median of all flows. ok is false where no flow has
// both directions; then the median difference is given, which has the time on the way in it.
func (s *surveyor) ahead(m []match) (ns int64, ok bool) {
	by := medians(m)
	var both, all []int64
	for tuple, there := range by {
		all = append(all, there)
		r := s.tuples[tuple]
		r.src, r.dst, r.srcPort, r.dstPort = r.dst, r.src, r.dstPort, r.srcPort
		if back, ok := by[r.hash()]; ok {
			both = append(both, there/2+back/2)
		}
	}
	if len(both) > 0 {
		return median(both), true
	}
	return median(all), false
}

func median(v []int64) int64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// plan draws the conclusions.
func (s *surveyor) plan(cfg Config) *plan {
	order := make([]int, len(cfg.Points))
	for i := range order {
		order[i] = i
	}
	if cfg.FindOrder {
		order = s.order(order)
	}
	p := &plan{prefix: maxPrefix}
	samples := s.samples
	s.samples = nil
	for _, i := range order {
		point, x := cfg.Points[i], samples[i]
		s.samples = append(s.samples, x)
		p.vni[len(p.points)] = expected(point, x.vnis)
		if point.VXLANPort == 0 {
			point.VXLANPort = x.port
		}
		p.points = append(p.points, point)
		p.prefix = min(p.prefix, x.shortest)
	}
	s.clocks(p)
	p.window = int64(cfg.Window)
	if p.window <= 0 {
		p.window = s.window(p)
	}
	return p
}

// expected gives the VNI of a point: the given one, or that of four fifths of its frames.
func expected(p Point, vnis map[uint32]int) uint32 {
	if p.VNI != 0 {
		return p.VNI
	}
	total := 0
	for _, n := range vnis {
		total += n
	}
	for vni, n := range vnis {
		if n*5 > total*4 {
			return vni
		}
	}
	return vniOpen
}

// clocks sets the offsets of all points to the clock of the first. Where a pair of points has traffic
// in one direction only, the time on the way cannot be told from the error of the clocks: they are
// taken to be right unless that would have packets arrive before they left, or after the window.
func (s *surveyor) clocks(p *plan) {
	var way, shift [MaxPoints]int64
	forward := 0
	for i := 1; i < len(s.samples); i++ {
		m := s.matches(i-1, i)
		ahead, ok := s.ahead(m)
		switch {
		case len(m) == 0:
		case ok:
			shift[i] = ahead
		default:
			way[i] = ahead
			if plausible(ahead) {
				forward += cmp.Compare(ahead, 0)
			}
		}
	}
	for i := 1; i < len(s.samples); i++ {
		if d := way[i]; !plausible(d) || cmp.Compare(d, 0)*forward < 0 {
			shift[i] = d
		}
		p.offset[i] = p.offset[i-1] - shift[i]
	}
}

// plausible reports whether d may be the time that a packet takes from one point to the next.
func plausible(d int64) bool { return max(d, -d) < int64(MaxWindow)/windowPerTransit }

// window gives what the samples say of the time that packets take from end to end.
func (s *surveyor) window(p *plan) int64 {
	last := len(s.samples) - 1
	longest := int64(0)
	m := s.matches(0, last)
	for _, x := range m {
		d := x.later + p.offset[last]
		longest = max(longest, d, -d)
	}
	if len(m) == 0 {
		return int64(MaxWindow) / windowPerTransit
	}
	return clampWindow(min(longest, int64(MaxWindow)) * windowPerTransit)
}

// order puts the points in the order in which one flow passes them: by hop limit, then by time. The
// flow is the one that most points saw; of its two directions the one to the lower port.
func (s *surveyor) order(points []int) []int {
	counts := map[uint64][2]int{} // points and packets by tuple
	for i := range s.samples {
		here := map[uint64]bool{}
		for _, x := range s.samples[i].seen {
			n := counts[x.tuple]
			if !here[x.tuple] {
				here[x.tuple] = true
				n[0]++
			}
			n[1]++
			counts[x.tuple] = n
		}
	}
	var best uint64
	for tuple, n := range counts {
		r, b := s.tuples[tuple], counts[best]
		if r.dstPort > r.srcPort {
			continue
		}
		if cmp.Or(cmp.Compare(n[0], b[0]), cmp.Compare(n[1], b[1]), cmp.Compare(tuple, best)) > 0 {
			best = tuple
		}
	}
	reference := slices.IndexFunc(s.samples, func(x sample) bool {
		return slices.ContainsFunc(x.seen, func(p seen) bool { return p.tuple == best })
	})
	place := make([]placed, len(points))
	for _, i := range points {
		place[i] = s.place(i, reference, best)
	}
	slices.SortStableFunc(points, func(a, b int) int {
		x, y := &place[a], &place[b]
		return cmp.Or(boolCompare(y.ok, x.ok), cmp.Compare(y.ttl, x.ttl), cmp.Compare(x.later, y.later))
	})
	return points
}

// placed is where a point is on the way of one flow.
type placed struct {
	ok    bool // it saw the flow
	ttl   uint8
	later int64 // ns after the reference point
}

// place finds the packets of a flow at a point, by its tuple at the reference point: elsewhere a translation may have
// given them another.
func (s *surveyor) place(point, reference int, tuple uint64) placed {
	var p placed
	if reference < 0 {
		return p
	}
	for _, x := range s.samples[point].seen {
		if x.tuple == tuple {
			p.ok, p.ttl = true, max(p.ttl, x.ttl)
		}
	}
	common(s.samples[reference].seen, s.samples[point].seen, func(x, y *seen) {
		if x.tuple == tuple {
			p.ok, p.ttl = true, max(p.ttl, y.ttl)
		}
	})
	if point == reference || !p.ok {
		return p
	}
	m := s.matches(reference, point)
	if p.later = medians(m)[tuple]; len(m) > 0 {
		if ahead, ok := s.ahead(m); ok {
			p.later -= ahead
		}
	}
	return p
}
