package flows

import (
	"cmp"
	"slices"
)

// part is a leftover of which a fragmented datagram may consist: a fragment, or the whole datagram
// where some points put fragments together.
type part struct {
	hosts uint64 // addresses and protocol
	id    uint32
	root  uint32 // flow, where the ports are known
	index int32  // in the list of leftovers
	whole bool
	named bool // root is that of the ports
}

// maxParts bounds what is taken for one datagram.
const maxParts = 1 << 10

// reassemble accounts for fragments: as whole datagrams of the flow whose ports the first fragment
// carries. A point has seen the datagram if it has seen all of its bytes.
func (c *correlator) reassemble() {
	list := c.left.list
	if !slices.ContainsFunc(list, func(x leftover) bool { return x.flags&sightFrag != 0 && !x.gone }) {
		return
	}
	var parts []part
	for i := range list {
		x := &list[i]
		if x.gone || x.flow == 0 || x.flags&sightData != 0 {
			continue
		}
		f := &c.flows.flows[x.flow]
		p := part{hosts: f.hosts(), id: x.seq, root: f.root, index: int32(i), whole: x.flags&sightFrag == 0}
		p.named = p.whole || x.sum&^moreFragments == 0
		parts = append(parts, p)
	}
	// First fragments tell the flow of those that have the same addresses at the same point.
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.hosts, b.hosts), cmp.Compare(a.id, b.id), boolCompare(b.named, a.named), cmp.Compare(a.index, b.index))
	})
	for i := 1; i < len(parts); i++ {
		if p, q := &parts[i], &parts[i-1]; !p.named && p.hosts == q.hosts && p.id == q.id {
			p.root = q.root
		}
	}
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.id, b.id), cmp.Compare(a.index, b.index))
	})
	for from := 0; from < len(parts); {
		to := from + 1
		for to < len(parts) && parts[to].root == parts[from].root && parts[to].id == parts[from].id {
			to++
		}
		c.datagram(parts[from:to])
		from = to
	}
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// hosts gives a hash of the tuple without ports.
func (f *flow) hosts() uint64 {
	r := f.raw
	r.srcPort, r.dstPort = 0, 0
	return r.hash()
}

// datagram accounts for the parts of one datagram, unless none of them is a fragment, or all are young.
func (c *correlator) datagram(parts []part) {
	list := c.left.list
	fragments, wait := false, true
	for _, p := range parts {
		fragments = fragments || !p.whole
		wait = wait && list[p.index].stay
	}
	if !fragments || wait {
		return
	}
	if len(parts) > maxParts {
		for _, p := range parts {
			list[p.index].gone = true
		}
		c.note(event{flow: parts[0].root, kind: eventUnclear}, uint64(len(parts)))
		return
	}
	mask, total := uint16(0), uint32(0)
	first := list[parts[0].index].first
	for _, p := range parts {
		x := &list[p.index]
		first = min(first, x.first)
		x.gone = true
		if p.whole {
			mask |= x.mask
		} else if x.sum&moreFragments == 0 {
			total = uint32(x.sum)*8 + x.length
		}
	}
	seen := uint16(0)
	for point := range c.points {
		if c.gapless(parts, point, total) {
			seen |= 1 << point
		}
	}
	if mask |= seen; mask == 0 { // no point saw all of it: then those that saw the first part
		for _, p := range parts {
			if x := &list[p.index]; x.sum&^moreFragments == 0 {
				mask |= x.mask
			}
		}
	}
	if mask == 0 {
		c.note(event{flow: parts[0].root, kind: eventUnclear}, 1)
		return
	}
	c.account(parts[0].root, mask, first, 1, 0)
}

// gapless reports whether the fragments that a point saw are all total bytes.
func (c *correlator) gapless(parts []part, point int, total uint32) bool {
	if total == 0 {
		return false // the last fragment is nowhere
	}
	at := uint32(0)
	for range parts { // in each round another fragment joins, or none
		grown := false
		for _, p := range parts {
			x := &c.left.list[p.index]
			if p.whole || x.mask&(1<<point) == 0 {
				continue
			}
			from := uint32(x.sum&^moreFragments) * 8
			if from <= at && from+x.length > at {
				at, grown = from+x.length, true
			}
		}
		if at >= total {
			return true
		}
		if !grown {
			return false
		}
	}
	return false
}
