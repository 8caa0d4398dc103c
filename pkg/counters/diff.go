package counters

import (
	"maps"
	"slices"
)

// Delta is a counter that moved.
type Delta struct {
	Key    Key    `json:"key"`
	Before uint64 `json:"before"`
	After  uint64 `json:"after"`
	// N is by how much. It is negative for levels only (a count of entries that fell).
	N int64 `json:"n"`
	// Reset: the counter began anew in between, because its device was made (again) or somebody
	// cleared it. N is what it counted since then; what it counted before that is not known.
	Reset bool `json:"reset,omitzero"`
}

// Diff gives what moved from one reading of a namespace to a later one, in the order of Keys. A
// device that is gone has no deltas.
func Diff(before, after *Snapshot) []Delta {
	keys := make(map[Key]bool, len(after.Values))
	for k := range before.Values {
		keys[k] = true
	}
	for k := range after.Values {
		keys[k] = true
	}
	var out []Delta
	for _, k := range slices.SortedFunc(maps.Keys(keys), Key.Compare) {
		if _, there := after.Devices[k.Device]; k.Device != "" && !there {
			continue
		}
		fresh := k.Device != "" && before.Devices[k.Device] != after.Devices[k.Device]
		if d := delta(k, before.Values[k], after.Values[k], fresh); d.N != 0 || d.Reset {
			out = append(out, d)
		}
	}
	return out
}

// delta compares two values. fresh: the device is not the one of before.
func delta(k Key, before, after uint64, fresh bool) Delta {
	d := Delta{Key: k, Before: before, After: after}
	switch {
	case k.level():
		d.N = int64(after - before)
	case fresh:
		d.N, d.Reset = int64(after), after != 0
	case k.narrow() && int32(uint32(after-before)) >= 0:
		d.N = int64(uint32(after - before)) // right across a wrap, also that of one CPU in a sum
	case after < before: // 64 bits do not wrap in a lifetime
		d.N, d.Reset = int64(after), true
	default:
		d.N = int64(after - before)
	}
	return d
}

// narrow reports whether the kernel counts in 32 bits.
func (k Key) narrow() bool {
	switch k.Kind {
	case Conntrack, Qdisc, Class, Softnet:
		return true
	default:
		return false
	}
}

// level reports whether it is a state and no counter: it may fall, and is no reset then.
func (k Key) level() bool {
	switch k.Kind {
	case Conntrack:
		return k.Name == "count" || k.Name == "max"
	case Neigh:
		return hasSuffix(k.Name, ".entries", ".gc_thresh1", ".gc_thresh2", ".gc_thresh3")
	case Qdisc, Class:
		return hasSuffix(k.Name, ".qlen", ".backlog")
	case Proto:
		return levels[k.Name]
	default:
		return false
	}
}
