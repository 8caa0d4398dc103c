package flows

import (
	"cmp"
	"math/bits"
	"slices"
)

// leftover is a packet that not all points saw under this identity. Before it is called lost, it is
// held against the others: its addresses may have been translated, its bytes may have travelled in
// larger or smaller frames, it may be a fragment, or late.
type leftover struct {
	id     uint64 // without the flow
	first  int64  // ns, by the clock of the first point
	flow   uint32 // the tuple's own; see correlator.root
	seq    uint32
	length uint32 // payload, bytes
	flags  uint16
	mask   uint16
	sum    uint16
	gone   bool // is accounted for
	stay   bool // younger than a window: others may come
}

// leftovers are two generations, as the tables are: what belongs together may be let go one rotation
// apart.
type leftovers struct {
	list []leftover // those of the last rotation first, then the new ones
	next []leftover // the buffer of the next rotation

	bytes  sweeper
	votes  map[[2]uint32]int
	linked bool // a translation was found
}

func (l *leftovers) add(e *entry) {
	l.list = append(l.list, leftover{
		id: e.id(), first: e.first, flow: e.flow, seq: e.seq, length: e.length(),
		flags: e.flags(), mask: e.mask, sum: e.sum, stay: true,
	})
}

// root gives the flow that x belongs to by now.
func (c *correlator) root(x *leftover) uint32 { return c.flows.flows[x.flow].root }

// settle accounts for the leftovers that have waited a rotation.
func (c *correlator) settle() {
	l := &c.left
	if len(l.list) == 0 {
		return
	}
	c.join()
	c.reassemble()
	c.stretch()
	l.next = l.next[:0]
	for i := range l.list {
		x := &l.list[i]
		switch {
		case x.gone:
		case x.stay:
			x.stay = false
			l.next = append(l.next, *x)
		default:
			c.alone(x)
		}
	}
	l.list, l.next = l.next, l.list
}

// alone accounts for a leftover that belongs to nothing else.
func (c *correlator) alone(x *leftover) {
	if x.flags&sightData != 0 {
		c.data(c.root(x), x.mask, x.first, x.length, x.flags)
		return
	}
	c.account(c.root(x), x.mask, x.first, 1, x.flags)
}

// data accounts for TCP data that the points of mask saw, in segments. If those of the flow are not
// known yet, it may be a super-packet of which no point saw the segments: then its length is noted.
func (c *correlator) data(root uint32, mask uint16, first int64, length uint32, flags uint16) {
	const smallest = 536 // bytes, RFC 9293 section 3.7.1
	mss := c.flows.flows[root].mss
	if mss != 0 || mask == c.all || root == 0 || flags&entryMulti != 0 || length <= smallest {
		c.account(root, mask, first, segments(length, mss), flags)
		return
	}
	c.note(event{flow: root, kind: eventSeen, mask: mask, covered: c.covered(first), length: length}, 1)
}

// segments is how many segments of at most mss bytes carry n bytes; an mss of 0 says nothing.
func segments(n, mss uint32) uint64 {
	if mss == 0 || n <= mss {
		return 1
	}
	return (uint64(n) + uint64(mss) - 1) / uint64(mss)
}

// account counts n packets that the points of mask saw.
func (c *correlator) account(root uint32, mask uint16, first int64, n uint64, flags uint16) {
	switch {
	case mask == c.all:
		c.flows.flows[root].complete += n
	case root == 0:
		c.note(event{kind: eventUnclear}, n)
	case flags&entryMulti != 0:
		c.note(event{flow: root, kind: eventTwin, mask: mask}, n)
	default:
		c.note(event{flow: root, kind: eventSeen, mask: mask, covered: c.covered(first)}, n)
	}
}

// covered gives the points whose capture would have seen a packet that was first seen at t, wherever it
// came from: it had begun as long before as packets need, and went on for as long after.
func (c *correlator) covered(t int64) uint16 {
	mask := uint16(0)
	for p := range c.points {
		if c.started[p] && c.begin[p] <= t-c.transit && (!c.over[p] || t <= c.end[p]-c.transit) {
			mask |= 1 << p
		}
	}
	return mask
}

// join puts together what has the same identity and was seen at different points: late sightings, and
// packets whose addresses changed on the way.
func (c *correlator) join() {
	list := c.left.list
	slices.SortFunc(list, func(x, y leftover) int {
		return cmp.Or(cmp.Compare(x.id, y.id), cmp.Compare(x.first, y.first), cmp.Compare(x.flow, y.flow), cmp.Compare(x.mask, y.mask))
	})
	for c.left.linked = true; c.left.linked; { // a new translation joins packets that came before it
		c.left.linked = false
		c.pairs()
	}
}

// pairs tries all pairs with the same identity.
func (c *correlator) pairs() {
	const most = 64 // packets that look the same; beyond, nothing can be told from them
	list := c.left.list
	for from := 0; from < len(list); {
		to := from + 1
		for to < len(list) && list[to].id == list[from].id {
			to++
		}
		for i := from; i < min(to, from+most); i++ {
			for j := i + 1; j < min(to, from+most); j++ {
				c.pair(&list[i], &list[j])
			}
		}
		from = to
	}
}

// pair joins x and y if both are sightings of one packet.
func (c *correlator) pair(x, y *leftover) {
	if x.gone || y.gone || x.mask&y.mask != 0 || x.flags&y.flags&sightSum != 0 && x.sum != y.sum {
		return
	}
	up, down := c.root(x), c.root(y)
	switch {
	case up == 0 || down == 0:
		return
	case up == down:
	case !apart(x.mask, y.mask):
		return
	case c.rewritten(up, down, y.mask):
		c.note(event{flow: up, kind: eventAddress, other: y.flow, mask: y.mask}, 1)
	case c.rewritten(down, up, x.mask):
		c.note(event{flow: down, kind: eventAddress, other: x.flow, mask: x.mask}, 1)
		x.flow = y.flow
	case !c.translated(x, y):
		return
	case c.root(x) != c.root(y):
		// Not often enough yet; it may turn out to be a translation later.
		c.note(event{flow: x.flow, kind: eventPair, other: y.flow, mask: x.mask | y.mask, covered: c.covered(x.first)}, 1)
		x.gone, y.gone = true, true
		return
	}
	x.mask |= y.mask
	x.flags |= y.flags & entryMulti
	x.stay = x.stay && y.stay
	y.gone = true
	if x.mask == c.all && x.flags&sightFrag == 0 {
		c.flows.flows[c.root(x)].complete++
		x.gone = true
	}
}

// apart reports whether all points of one mask come before all points of the other.
func apart(a, b uint16) bool {
	return bits.Len16(a) <= bits.TrailingZeros16(b) || bits.Len16(b) <= bits.TrailingZeros16(a)
}

// rewritten reports whether packets of flow up that are of flow down at the points of mask are wrong
// there: because no translation is allowed, or because most packets of up go by those points as they
// are.
func (c *correlator) rewritten(up, down uint32, mask uint16) bool {
	if c.cfg.NoLearning {
		return true
	}
	point := bits.TrailingZeros16(mask)
	var same, other uint32
	c.flows.group(up, func(f *flow) { same += f.seen[point] })
	c.flows.group(down, func(f *flow) { other += f.seen[point] })
	return same > other
}

// translated reports whether the flow of y may be that of x after translation, and links them if that
// is sure: what is rare enough to be no accident is believed at once, other identities must agree more
// often.
func (c *correlator) translated(x, y *leftover) bool {
	up, down := c.root(x), c.root(y)
	u, d := &c.flows.flows[x.flow].raw, &c.flows.flows[y.flow].raw
	if u.proto != d.proto || (x.flags|y.flags)&sightFrag != 0 {
		return false
	}
	need := 3
	if u.src == d.src && u.srcPort == d.srcPort || u.dst == d.dst && u.dstPort == d.dstPort {
		need = 2 // one end is the same, as it is for services and masquerade
	}
	if u.proto == protoTCP {
		need--
	}
	votes := c.left.votes
	if votes == nil || len(votes) > maxEvents {
		votes = map[[2]uint32]int{}
		c.left.votes = votes
	}
	pair := [2]uint32{min(up, down), max(up, down)}
	if votes[pair]++; votes[pair] >= need {
		delete(votes, pair)
		c.flows.link(up, down)
		c.left.linked = true
	}
	return true
}
