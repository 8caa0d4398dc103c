package captures

import (
	"net/netip"

	"github.com/podtrace/podtrace/pkg/flows"
)

// sampled is how many packets of a point are looked at for the addresses that it shares with others.
const sampled = 300

// apart tells the points of one path from those that show nothing of it: captures belong together that have an address
// in common, of the traffic itself. The largest group is the path; without one of two points, all are.
func apart(points []flows.Point) (path, others []flows.Point) {
	group := make([]int, len(points))
	first := make(map[netip.Addr]int) // group of an address
	for i := range group {
		group[i] = i
	}
	join := func(a, b int) {
		for i := range group {
			if group[i] == b {
				group[i] = a
			}
		}
	}
	weight := make([]int, len(points))
	for i, p := range points {
		for a, n := range addresses(p) {
			weight[i] += n
			if k, ok := first[a]; ok {
				join(group[k], group[i])
			} else {
				first[a] = i
			}
		}
	}
	best, most := -1, 0
	for i := range points {
		size, packets := 0, 0
		for k := range points {
			if group[k] == i {
				size++
				packets += weight[k]
			}
		}
		if size >= 2 && packets > 0 && size*1_000_000+packets > most {
			best, most = i, size*1_000_000+packets
		}
	}
	for i, p := range points {
		if best < 0 || group[i] == best {
			path = append(path, p)
		} else {
			others = append(others, p)
		}
	}
	return path, others
}

// addresses counts the unicast addresses of a point's packets, the inner ones of encapsulated frames.
func addresses(p flows.Point) map[netip.Addr]int {
	out := make(map[netip.Addr]int)
	_ = p.Tuples(sampled, func(t flows.Tuple) { // whoever reads the file next says what is wrong with it
		for _, a := range []netip.Addr{t.Src, t.Dst} {
			if !a.IsMulticast() && !a.IsUnspecified() && a != broadcast {
				out[a]++
			}
		}
	})
	return out
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
