package offline

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/decode/vxlan"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// ways are the hops of both legs, by the tables.
type ways struct {
	candidates []candidate // in the order of the request
	d          decode.Decoder
}

// candidate is an interface that the tables lead to, with the passages that packets should make there.
type candidate struct {
	at       string // NODE/…/INTERFACE
	netns    string // its namespace, as NODE/NAME
	ifindex  int
	passages []passage
}

type passage struct {
	expected *report.Headers
	dir      capture.Direction
}

// found is what the frames of a capture say of its place.
type found struct {
	r     *recording
	fits  []int // candidates, in the order of the path, that fit it best
	first int64 // of its first packet of the flow, ns since the epoch
}

// locate finds out from the frames where captures were taken of which nobody said it: each is held against the
// headers that packets should have at every hop. Captures that fit the same interfaces are given to them in the order
// of their first packets.
func (w *ways) locate(c *trace.Case, recordings []*recording) {
	cs := w.candidates
	var fs []found
	for _, r := range recordings {
		if r.at != "" {
			continue
		}
		f := w.match(r)
		if len(f.fits) == 0 {
			c.Incomplete = append(c.Incomplete, fmt.Sprintf("capture %q: nothing says where it was taken, and no packet in it fits a hop: say it with --point", r.path))
			continue
		}
		fs = append(fs, f)
	}
	slices.SortStableFunc(fs, func(a, b found) int {
		return cmp.Or(slices.Compare(a.fits, b.fits), cmp.Compare(a.first, b.first))
	})
	taken := make(map[string]bool)
	for _, r := range recordings {
		taken[r.at] = true
	}
	for from := 0; from < len(fs); {
		to := from
		for to < len(fs) && slices.Equal(fs[to].fits, fs[from].fits) {
			to++
		}
		settle(c, cs, fs[from:to], taken)
		from = to
	}
}

// settle gives captures that look the same to the interfaces where packets look so.
func settle(c *trace.Case, cs []candidate, fs []found, taken map[string]bool) {
	var free []string
	for _, i := range fs[0].fits {
		if !taken[cs[i].at] {
			free = append(free, cs[i].at)
		}
	}
	for i := range fs {
		r := fs[i].r
		if i >= len(free) {
			c.Incomplete = append(c.Incomplete, fmt.Sprintf("capture %q: it shows what another capture of %s shows: not used", r.path, strings.Join(free, " or ")))
			continue
		}
		k := i // the first is the sender's, the last the one furthest on
		if i == len(fs)-1 && i > 0 || len(fs) >= len(free) {
			k = max(i, min(len(free), len(free)-len(fs)+i))
		}
		r.at, r.why = free[k], "by its frames"
		if len(free) > 1 {
			r.why += ", which look the same at " + strings.Join(slices.Concat(free[:k], free[k+1:]), " and ")
		}
		taken[r.at] = true
	}
}

// newWays asks the tables, without a look at the captures.
func newWays(c *trace.Case) *ways {
	blind := *c
	blind.Observed = nil
	w := &ways{d: decode.Decoder{VXLANPorts: vxlanPorts(c.Snapshot)}}
	for _, l := range trace.Judge(&blind).Legs {
		for i := range l.Hops {
			if h := &l.Hops[i]; h.Expected != nil {
				w.add(h)
			}
		}
	}
	return w
}

func (w *ways) add(h *report.Hop) {
	at := h.Node + "/" + h.Interface
	if h.Netns != tables.HostName {
		at = h.Node + "/" + h.Netns + "/" + h.Interface
	}
	k := slices.IndexFunc(w.candidates, func(o candidate) bool { return o.at == at })
	if k < 0 {
		k = len(w.candidates)
		w.candidates = append(w.candidates, candidate{at: at, netns: h.Node + "/" + h.Netns, ifindex: h.Ifindex})
	}
	p := passage{expected: h.Expected, dir: capture.In}
	if h.Direction == capture.Out.String() {
		p.dir = capture.Out
	}
	w.candidates[k].passages = append(w.candidates[k].passages, p)
}

// direction is the one in which a packet of the path passes an interface; false where it passes in both, or not at all.
func (w *ways) direction(at trace.Point, f *capture.Frame) (d capture.Direction, ok bool) {
	var h decode.Frame
	decodeFrame(&w.d, f, &h)
	in := h.Flow()
	for i := range w.candidates {
		c := &w.candidates[i]
		if c.netns != at.Node+"/"+at.Name || c.ifindex != int(at.Ifindex) {
			continue
		}
		for _, p := range c.passages {
			if !same(in.Src, p.expected.IPSrc) || !same(in.Dst, p.expected.IPDst) {
				continue
			}
			if ok && d != p.dir {
				return d, false
			}
			d, ok = p.dir, true
		}
	}
	return d, ok
}

// vxlanPorts are the UDP ports that frames may be encapsulated on: those of the devices that were listed, and what those
// that were not most likely have.
func vxlanPorts(s *tables.Snapshot) []uint16 {
	return append([]uint16{vxlan.PortIANA, vxlan.PortLinux}, s.VXLANPorts()...)
}

// mostMatched is how many packets of a file are held against the hops.
const mostMatched = 2000

// match scores the packets of a file against every candidate, and gives those that fit best.
func (w *ways) match(r *recording) (f found) {
	f.r = r
	cs := w.candidates
	score := make([]int, len(cs))
	var h decode.Frame
	for i := range r.packets {
		if i == mostMatched {
			break
		}
		fr := &r.packets[i].frame
		decodeFrame(&w.d, fr, &h)
		fitted := false
		for k := range cs {
			n := 0
			for _, p := range cs[k].passages {
				n = max(n, likeness(&h, p.expected))
			}
			score[k] += n
			fitted = fitted || n > 0
		}
		if fitted && f.first == 0 {
			f.first = fr.Time.UnixNano()
		}
	}
	best := slices.Max(append(score, 0))
	for k, n := range score {
		if n == best && best > 0 {
			f.fits = append(f.fits, k)
		}
	}
	return f
}

// decodeFrame decodes by the hardware type.
func decodeFrame(d *decode.Decoder, f *capture.Frame, h *decode.Frame) {
	if f.HWType == arphrdNone {
		d.DecodeIP(f.Data, f.WireLen, h)
	} else {
		d.Decode(f.Data, f.WireLen, h)
	}
}

// likeness counts how much of a frame is as expected; 0 for another flow, or another encapsulation. Addresses of the
// link weigh most: they are what tells interfaces apart. A frame that is wrong in one of them still fits.
func likeness(h *decode.Frame, e *report.Headers) int {
	in := h.Flow()
	if h.HasVXLAN != (e.Outer != nil && e.Outer.Kind == "") || !same(in.Src, e.IPSrc) || !same(in.Dst, e.IPDst) {
		return 0
	}
	const link, other = 4, 1
	n := other
	count := func(got, want string, weight int) {
		if want != "" && got == want {
			n += weight
		}
	}
	count(in.EthSrc.String(), e.EthSrc, link)
	count(in.EthDst.String(), e.EthDst, link)
	if e.TTL != 0 && e.TTL == in.TTL {
		n += other
	}
	if o := e.Outer; o != nil {
		count(h.Outer.EthSrc.String(), o.EthSrc, link)
		count(h.Outer.Src.String(), o.IPSrc, other)
		count(h.Outer.Dst.String(), o.IPDst, other)
	}
	return n
}

func same(a netip.Addr, want string) bool { return want == "" || a.IsValid() && a.String() == want }
