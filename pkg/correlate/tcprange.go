package correlate

import (
	"cmp"
	"slices"
)

// bucketBits is the size of a bucket of sequence numbers as a power of two: 64 KiB, so that a
// super-packet is in two or three and a bucket holds few segments.
const bucketBits = 16

// overlap reports whether two ranges of sequence numbers share one, modulo 2^32. Ranges are far
// shorter than 2^31.
func overlap(a, aLen, b, bLen uint32) bool { return b-a < aLen || a-b < bLen }

// contains reports whether range a covers all of range b.
func contains(a, aLen, b, bLen uint32) bool {
	return b-a <= aLen && uint64(b-a)+uint64(bLen) <= uint64(aLen)
}

// addRange is add for TCP segments with data, SYN or FIN. A sighting within the range of a journey is
// part of it; one that covers journeys (a super-packet seen after its segments, because clocks of
// nodes differ) makes them one; one that straddles journeys (GRO merged the end of one and the start
// of the next) is part of each.
func (b *builder) addRange(i int, k Key, begin bool) bool {
	known := b.overlapping(k)
	chosen := b.choose(known, i, k)
	if len(chosen) == 0 {
		if !begin {
			return false
		}
		repeated := 0
		for _, j := range known {
			repeated = max(repeated, j.repeated+1)
		}
		b.place(b.begin(k, i, repeated))
		return true
	}
	if !slices.ContainsFunc(chosen, func(j *journey) bool {
		return !contains(k.Seq, k.Len, j.key.Seq, j.key.Len)
	}) {
		b.merge(chosen, k)
	}
	for _, j := range chosen {
		if j.into == nil {
			b.see(j, i)
		}
	}
	return true
}

// overlapping gives the journeys whose ranges meet that of k, the latest first.
func (b *builder) overlapping(k Key) []*journey {
	var out []*journey
	for bucket := range buckets(k) {
		for _, j := range b.byRange[bucket] {
			if j.into == nil && overlap(k.Seq, k.Len, j.key.Seq, j.key.Len) && !slices.Contains(out, j) {
				out = append(out, j)
			}
		}
	}
	slices.SortFunc(out, func(x, y *journey) int { return cmp.Compare(y.order, x.order) })
	return out
}

// buckets yields the buckets that the range of k is in.
func buckets(k Key) func(yield func(uint32) bool) {
	return func(yield func(uint32) bool) {
		last := (k.Seq + k.Len - 1) >> bucketBits
		for bucket := k.Seq >> bucketBits; yield(bucket) && bucket != last; {
			bucket = (bucket + 1) & (1<<(32-bucketBits) - 1)
		}
	}
}

// choose gives the journeys that sighting i is part of: one transmission of each byte. The same range
// with the same identification is the surest, then the latest.
func (b *builder) choose(known []*journey, i int, k Key) []*journey {
	var chosen []*journey
	take := func(j *journey) {
		for _, c := range chosen {
			if overlap(c.key.Seq, c.key.Len, j.key.Seq, j.key.Len) {
				return
			}
		}
		chosen = append(chosen, j)
	}
	var maybe []*journey
	for _, j := range known {
		switch b.fitsRange(j, i, k) {
		case fitSure:
			take(j)
		case fitMaybe:
			maybe = append(maybe, j)
		default:
		}
	}
	for _, j := range maybe {
		take(j)
	}
	return chosen
}

type fit uint8

const (
	fitNot fit = iota
	fitMaybe
	fitSure
)

// fitsRange says whether sighting i, of range k, can be of the transmission j. The acknowledgement is
// the same in all segments of a super-packet (GRO merges no others), and no rewrite changes it.
func (b *builder) fitsRange(j *journey, i int, k Key) fit {
	if j.key.Ack != k.Ack {
		return fitNot
	}
	s := &b.all[i]
	h := s.Frame.Flow()
	best := fitMaybe
	for _, n := range j.sighted {
		q := &b.all[n]
		g := q.Frame.Flow()
		same := g.TCPSeq == k.Seq && seqLen(g) == k.Len
		id, other := packetID(h), packetID(g)
		switch known := id != 0 && other != 0; {
		case same && known && id != other:
			return fitNot // sent anew
		case same && known:
			best = fitSure
		case q.Point != s.Point || q.Dir != s.Dir || !overlap(g.TCPSeq, seqLen(g), k.Seq, k.Len):
		case !same || h.TTL >= g.TTL:
			return fitNot // these bytes were here before, and not as this frame in circles
		}
	}
	return best
}

// merge makes one journey of those that range k covers, and gives it that range.
func (b *builder) merge(covered []*journey, k Key) {
	first := slices.MinFunc(covered, func(x, y *journey) int { return cmp.Compare(x.order, y.order) })
	for _, j := range covered {
		if j != first {
			first.sighted = append(first.sighted, j.sighted...)
			first.repeated = min(first.repeated, j.repeated)
			j.into = first
		}
	}
	if first.key != k {
		first.key = k
		b.place(first)
	}
}

// place enters j into the buckets of its range.
func (b *builder) place(j *journey) {
	for bucket := range buckets(j.key) {
		if !slices.Contains(b.byRange[bucket], j) {
			b.byRange[bucket] = append(b.byRange[bucket], j)
		}
	}
}
