package flowstest

import (
	"net/netip"

	"github.com/podtrace/podtrace/pkg/flows"
)

// flow is a connection: the tuple of its client, what its addresses become on the way, and what was
// sent in both directions.
type flow struct {
	index   int
	before  flows.Tuple // at the first two points
	after   flows.Tuple // at the others
	gso     bool
	frag    bool
	noID    bool
	ids     [2]uint16
	seq     [2]uint32
	icmpSeq uint16
	truth   [2]flows.FlowResult
}

const mss = 1348

func newFlow(g *generator, i int) *flow {
	f := &flow{index: i, ids: [2]uint16{uint16(g.rand.Uint32()), uint16(g.rand.Uint32())}, seq: [2]uint32{g.rand.Uint32(), g.rand.Uint32()}}
	six := g.chance(g.cfg.IPv6)
	src, dst := netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + i%200)}), netip.AddrFrom4([4]byte{10, 244, 2, byte(2 + i%199)})
	if six {
		src = netip.AddrFrom16([16]byte{0: 0xfd, 7: 1, 14: byte(i >> 8), 15: byte(i)})
		dst = netip.AddrFrom16([16]byte{0: 0xfd, 7: 2, 14: byte(i >> 8), 15: byte(i)})
	}
	f.before = flows.Tuple{Proto: protoTCP, Src: src, Dst: dst, SrcPort: 10000 + uint16(i), DstPort: 8080}
	switch k := i % 20; {
	case k == 19 && !six:
		f.before.Proto, f.before.DstPort = protoICMP, f.before.SrcPort
	case k >= 13:
		f.before.Proto, f.before.DstPort = protoUDP, 53
		f.noID = !six && g.chance(g.cfg.NoID)
		f.frag = g.cfg.Fragments && !six && !f.noID && k == 14
	case k < 4:
		f.gso = g.cfg.GSO
	}
	f.after = f.before
	if f.before.Proto != protoICMP && !f.frag && !six && g.chance(g.cfg.NAT) {
		f.before.Dst, f.before.DstPort = netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + i%250)}), 80
	}
	f.truth[0].Tuple = f.before
	f.truth[1].Tuple, f.truth[1].Backward = f.after.Reverse(), true
	if f.before != f.after {
		f.truth[0].NAT = []flows.Tuple{f.after}
		f.truth[1].NAT = []flows.Tuple{f.before.Reverse()}
	}
	return f
}

func way(backward bool) int {
	if backward {
		return 1
	}
	return 0
}

func (f *flow) side(backward bool) *flows.FlowResult { return &f.truth[way(backward)] }

func (f *flow) nextID(backward bool) uint16 {
	if f.noID {
		return 0
	}
	id := &f.ids[way(backward)]
	if *id++; *id == 0 {
		*id = 1
	}
	return *id
}

// tuple gives the addresses at a point.
func (f *flow) tuple(point int, backward bool) flows.Tuple {
	t := f.after
	if point < wirePoint {
		t = f.before
	}
	if backward {
		return t.Reverse()
	}
	return t
}

// send sends the next packet of the flow, or several.
func (f *flow) send(g *generator) {
	p := packet{flow: f, backward: g.rand.IntN(2) == 0, stamp: uint32(g.sent)}
	if f.before.Proto == protoICMP {
		p.backward = f.icmpSeq%2 == 1
		p.icmpSeq = f.icmpSeq / 2
		f.icmpSeq++
	}
	w := way(p.backward)
	if f.gso && g.rand.IntN(3) == 0 {
		g.burst(&p)
		return
	}
	size := [12]int{64, 64, 64, 64, 64, 64, 64, 512, 512, 512, 512, 1400}[g.rand.IntN(12)]
	header := etherLen + 20 + tcpLen
	if f.before.Src.Is6() {
		header += 20
	}
	if f.before.Proto != protoTCP {
		header -= tcpLen - udpLen
	}
	p.payload = g.bytes(max(size-header, 0))
	if f.frag {
		p.payload = g.bytes(2000 + g.rand.IntN(900))
	}
	p.id = f.nextID(p.backward)
	p.seq, p.ack = f.seq[w], f.seq[1-w]
	f.seq[w] += uint32(len(p.payload))
	if g.faults {
		p.fault = g.fault(&p)
	}
	if f.before.Proto == protoTCP && len(p.payload) > 0 && g.faults && g.chance(g.cfg.Retransmit) {
		g.again = append(g.again, resend{g.now + 20_000_000, p})
	}
	g.send(&p)
}
