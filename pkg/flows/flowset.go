package flows

// flow is one tuple. Tuples that are translations of each other are one flow: root is the one that the
// others go by.
type flow struct {
	raw      raw
	hash     uint64
	root     uint32
	mss      uint32 // largest segment that a larger frame was seen to consist of, in bytes; 0: none
	votes    int32  // sightings that speak for the direction forward, less those for backward
	complete uint64 // packets seen at all points
	seen     [MaxPoints]uint32
	ttl      [MaxPoints]uint8 // of the last packet
	ends     [2]sent          // at the first and at the last point
}

// sent follows the sequence numbers at one end.
type sent struct {
	next    uint32 // behind the highest that was seen
	began   bool
	repeats uint32 // segments below it
}

// flowset finds flows by the hash of their tuple. Index 0 stands for all flows beyond the limit.
type flowset struct {
	flows []flow
	slots []uint64 // hash of the flow in the upper 32 bits, its index + 1 in the lower
	limit int
	// members are the translations of a root.
	members map[uint32][]uint32
}

func newFlowset(limit int) *flowset {
	f := &flowset{limit: limit, slots: make([]uint64, 1<<10), members: map[uint32][]uint32{}}
	f.flows = append(f.flows, flow{})
	return f
}

// find gives the index of a flow, 0 if it is not known.
func (f *flowset) find(hash uint64) uint32 {
	mask := uint64(len(f.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		v := f.slots[i&mask]
		if v == 0 {
			return 0
		}
		if v>>32 == hash>>32 {
			if n := uint32(v) - 1; f.flows[n].hash == hash {
				return n
			}
		}
	}
}

// add makes a flow known, and reports whether it was not before. Beyond the limit it stays unknown.
func (f *flowset) add(n named) (uint32, bool) {
	if i := f.find(n.hash); i != 0 {
		return i, false
	}
	if len(f.flows) > f.limit {
		return 0, false
	}
	if len(f.flows) >= len(f.slots)/2 {
		old := f.slots
		f.slots = make([]uint64, 2*len(old))
		for _, v := range old {
			if v != 0 {
				f.place(v, f.flows[uint32(v)-1].hash)
			}
		}
	}
	i := uint32(len(f.flows))
	f.flows = append(f.flows, flow{raw: n.raw, hash: n.hash, root: i})
	f.place(n.hash&^0xffffffff|uint64(i+1), n.hash)
	return i, true
}

func (f *flowset) place(v, hash uint64) {
	mask := uint64(len(f.slots) - 1)
	i := hash & mask
	for f.slots[i] != 0 {
		i = (i + 1) & mask
	}
	f.slots[i] = v
}

// link makes down a translation of up: from now on they are one flow.
func (f *flowset) link(up, down uint32) {
	up, down = f.flows[up].root, f.flows[down].root
	if up == down || up == 0 || down == 0 {
		return
	}
	moved := append(f.members[down], down)
	delete(f.members, down)
	for _, i := range moved {
		f.flows[i].root = up
	}
	f.members[up] = append(f.members[up], moved...)
	u, d := &f.flows[up], &f.flows[down]
	u.complete += d.complete
	u.mss = max(u.mss, d.mss)
	d.complete = 0
}

// group calls fn with the flow and with its translations.
func (f *flowset) group(root uint32, fn func(*flow)) {
	fn(&f.flows[root])
	for _, i := range f.members[root] {
		fn(&f.flows[i])
	}
}

// flowKey is what an identity is combined with, so that packets of different flows have different keys.
func flowKey(root uint32) uint64 { return uint64(root) * 0x9e3779b97f4a7c15 }
