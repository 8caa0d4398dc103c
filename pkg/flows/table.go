package flows

// entry is a packet that was seen at some points, and may yet be seen at others. 32 bytes: two fit a
// cache line. The zero value is a free slot.
type entry struct {
	key   uint64 // identity, combined with the flow (flowKey)
	first int64  // time of the first sighting in ns, by the clock of the first point
	flow  uint32 // index of the flow that the key was made with
	seq   uint32
	bits  uint32 // payload length, 20 bits; flags, 8 bits; number among those that look the same, 4 bits
	mask  uint16 // points that saw it
	sum   uint16
}

const (
	lengthBits = 20
	maxLength  = 1<<lengthBits - 1
	repeatBits = lengthBits + 8
)

func (e *entry) length() uint32 { return e.bits & maxLength }
func (e *entry) flags() uint16  { return uint16(e.bits >> lengthBits & 0xff) }

// id gives the identity without the flow, the same for all packets that look the same.
func (e *entry) id() uint64 {
	return e.key - uint64(e.bits>>repeatBits)*repeatKey ^ flowKey(e.flow)
}

// table is a hash table of entries with linear probing. It is emptied as a whole.
type table struct {
	slots []entry
	count int
}

// minSlots is the size that a table starts with: 64 KiB.
const minSlots = 1 << 11

func newTable() *table { return &table{slots: make([]entry, minSlots)} }

// find gives the entry of the packet, nil if there is none. Packets with one key are told apart by
// their checksums, where both have one.
func (t *table) find(key uint64, s *sighting) *entry {
	mask := uint64(len(t.slots) - 1)
	for i := key & mask; ; i = (i + 1) & mask {
		e := &t.slots[i&mask]
		if e.mask == 0 {
			return nil
		}
		if e.key == key && (s.flags&sightSum == 0 || e.flags()&sightSum == 0 || e.sum == s.sum) {
			return e
		}
	}
}

// insert adds an entry, which must not be there. At most half of the slots are used, so that probing
// ends soon.
func (t *table) insert(e entry) {
	if t.count >= len(t.slots)/2 {
		t.grow()
	}
	t.count++
	t.put(e)
}

func (t *table) put(e entry) {
	mask := uint64(len(t.slots) - 1)
	i := e.key & mask
	for t.slots[i].mask != 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = e
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]entry, 2*len(old))
	for i := range old {
		if old[i].mask != 0 {
			t.put(old[i])
		}
	}
}

// clear empties the table and keeps its memory.
func (t *table) clear() {
	clear(t.slots)
	t.count = 0
}
