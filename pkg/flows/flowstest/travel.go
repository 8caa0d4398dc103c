package flowstest

import (
	"cmp"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/flows"
)

// fault is what goes wrong with a packet. Steps count in the direction that it goes.
type fault struct {
	kind  faultKind
	step  int // the last one that sees it, or the first one that sees it wrong
	point int // that sees it twice
}

type faultKind uint8

const (
	faultNone faultKind = iota
	faultLoss
	faultDuplicate
	faultVNI
	faultAddress
	faultCorrupt
)

// fault draws a fault that the packet can have.
func (g *generator) fault(p *packet) fault {
	c := &g.cfg
	switch {
	case g.chance(c.Loss):
		return fault{kind: faultLoss, step: g.rand.IntN(Points - 1)}
	case p.flow.frag:
		return fault{}
	case g.chance(c.Duplicates):
		step := g.rand.IntN(Points)
		if p.anonymous() {
			// Seen twice where it begins, it could be two packets, one of them lost.
			step = max(step, 1)
		}
		return fault{kind: faultDuplicate, point: pointAt(step, p.backward)}
	case g.chance(c.WrongVNI):
		return fault{kind: faultVNI, step: wirePoint}
	case p.flow.before == p.flow.after && p.flow.before.Proto != protoICMP && g.chance(c.WrongAddress):
		return fault{kind: faultAddress, step: 1 + g.rand.IntN(Points-1)}
	case p.flow.before.Proto != protoICMP && len(p.payload) > 0 && (!p.anonymous() || len(p.payload) > 64) && g.chance(c.Corrupt):
		return fault{kind: faultCorrupt, step: 1 + g.rand.IntN(Points-1)}
	}
	return fault{}
}

// anonymous reports whether the packet has no identification on the wire.
func (p *packet) anonymous() bool { return p.flow.noID || p.flow.before.Src.Is6() }

// pointAt gives the point at a step of a direction.
func pointAt(step int, backward bool) int {
	if backward {
		return Points - 1 - step
	}
	return step
}

// lastStep is the last step that sees a packet.
func (p *packet) lastStep() int {
	switch p.fault.kind {
	case faultLoss:
		return p.fault.step
	case faultVNI:
		return wirePoint // the receiver has no such network
	default:
		return Points - 1
	}
}

// account enters a packet into the truth.
func (g *generator) account(p *packet) {
	t := p.flow.side(p.backward)
	if last := p.lastStep(); last < Points-1 {
		lose(t, pointAt(last, p.backward), pointAt(last+1, p.backward))
	} else {
		t.Complete++
	}
	switch p.fault.kind {
	case faultDuplicate:
		count(&t.Duplicates, p.fault.point)
	case faultVNI:
		rewrite(t, flows.Rewrite{Point: wirePoint, VNI: wrongVNI})
	case faultAddress:
		point := pointAt(p.fault.step, p.backward)
		wrong := wrongTuple(p.flow.tuple(point, p.backward))
		rewrite(t, flows.Rewrite{Point: point, Tuple: &wrong})
	case faultCorrupt:
		for step := p.fault.step; step < Points; step++ {
			count(&t.Corrupt, pointAt(step, p.backward))
		}
	default:
	}
}

// wrongTuple is where packets go that are translated wrongly.
func wrongTuple(t flows.Tuple) flows.Tuple {
	if t.Dst.Is6() {
		t.Dst = netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x99, 15: 9})
	} else {
		t.Dst = netip.AddrFrom4([4]byte{10, 9, 9, 9})
	}
	return t
}

// send sends a packet along the path.
func (g *generator) send(p *packet) {
	g.sent++
	g.account(p)
	for step := range p.lastStep() + 1 {
		g.appear(p, step, step)
	}
}

// delays are the times in ns from one step to the next.
var delays = [Points]int64{0, 15_000, 40_000, 120_000, 30_000}

func delay(step int) int64 {
	d := int64(0)
	for _, v := range delays[:step+1] {
		d += v
	}
	return d
}

// appear shows a packet at a step.
func (g *generator) appear(p *packet, step, late int) {
	l := g.look(p, step)
	at := g.now + delay(step) + int64(late)
	if p.flow.frag && step > 0 {
		l.more = true
		g.write(p, l, at)
		l.more, l.fragOff = false, fragmentLen
		g.write(p, l, at+1000)
		return
	}
	g.write(p, l, at)
	if p.fault.kind == faultDuplicate && l.point == p.fault.point {
		g.write(p, l, at+2000)
	}
}

func (g *generator) look(p *packet, step int) look {
	point := pointAt(step, p.backward)
	l := look{point: point, tuple: p.flow.tuple(point, p.backward), ttl: uint8(64 - step/2)}
	l.partial = g.cfg.Partial && step < 2
	if point == wirePoint {
		l.vni, l.port = VNI, cmp.Or(g.cfg.VXLANPort, vxlanPort)
		if p.fault.kind == faultVNI {
			l.vni = wrongVNI
		}
	}
	switch {
	case p.fault.kind == faultAddress && step >= p.fault.step:
		l.tuple = wrongTuple(l.tuple)
	case p.fault.kind == faultCorrupt && step >= p.fault.step:
		l.corrupt, l.partial = true, false
	}
	return l
}

// write writes a frame to the file of its point, by the clock of the node.
func (g *generator) write(p *packet, l look, at int64) {
	if at < g.begin || g.end != 0 && at > g.end {
		return
	}
	f := g.files[l.point]
	b := p.frame(f.buffer(), l)
	g.counts[l.point].Packets++
	if l.partial && l.tuple.Proto != protoICMP && !l.more && l.fragOff == 0 && !p.same {
		g.counts[l.point].Partial++
	}
	if l.corrupt {
		g.counts[l.point].Corrupt++
	}
	if l.point >= secondNode {
		at += int64(g.cfg.Skew) + int64(float64(at-1_700_000_000_000_000_000)*g.cfg.Drift/1e9)
	}
	f.add(at, b)
}

// burst sends up to 16 segments at once. At the first two steps they are one frame, then single ones,
// and at the last step the receiver puts up to three together.
func (g *generator) burst(p *packet) {
	n := 2 + g.rand.IntN(15)
	last := g.rand.IntN(mss) + 1
	w := way(p.backward)
	super := *p
	super.seq, super.ack = p.flow.seq[w], p.flow.seq[1-w]
	super.payload = g.bytes((n-1)*mss + last)
	p.flow.seq[w] += uint32(len(super.payload))
	t := p.flow.side(p.backward)
	var segments []packet
	for i := range n {
		s := super
		s.seq += uint32(i * mss)
		s.payload = super.payload[i*mss : min((i+1)*mss, len(super.payload))]
		s.id = p.flow.nextID(p.backward)
		if i == 0 {
			super.id = s.id
		}
		segments = append(segments, s)
	}
	g.sent++                                // as most points see far more, they count little towards the size of files
	if g.faults && g.chance(g.cfg.Loss*4) { // all of it is lost as one frame
		lose(t, pointAt(0, p.backward), pointAt(1, p.backward))
		t.Lost[index(t.Lost, pointAt(0, p.backward))].Packets += uint64(n - 1)
		g.appear(&super, 0, 0)
		return
	}
	g.appear(&super, 0, 0)
	g.appear(&super, 1, 0)
	var merged []packet
	for i := range segments {
		s := &segments[i]
		if g.faults && g.chance(g.cfg.Loss*4) {
			s.fault = fault{kind: faultLoss, step: 1 + g.rand.IntN(Points-2)}
		}
		g.account(s)
		for step := 2; step <= min(s.lastStep(), Points-2); step++ {
			g.appear(s, step, i*1200)
		}
		if s.lastStep() < Points-1 {
			continue
		}
		if m := len(merged) - 1; m >= 0 && merged[m].seq+uint32(len(merged[m].payload)) == s.seq && len(merged[m].payload) < 3*mss {
			at := int(merged[m].seq - super.seq)
			merged[m].payload = super.payload[at : at+len(merged[m].payload)+len(s.payload)]
			continue
		}
		merged = append(merged, *s)
	}
	for i := range merged {
		g.appear(&merged[i], Points-1, (n+i)*1200)
	}
}
