package decode

// The 64-bit FNV-1a parameters (RFC 9923). hash/fnv would do the same behind an interface; the
// decoder's hot path allocates nothing.
const (
	fnvOffset uint64 = 0xcbf29ce484222325
	fnvPrime  uint64 = 0x100000001b3
)

// PayloadHash is the FNV-1a hash of the first limit bytes of the innermost layer 4 payload of the
// frame that Decode read into f from the same data; a payload shorter than that is hashed whole. It
// depends on the bytes alone, so sightings of one packet at points with different encapsulation
// meet. 0 means unknown: fewer bytes were captured than the comparison needs.
func PayloadHash(data []byte, f *Frame, limit int) uint64 {
	n := min(limit, f.Flow().PayloadLen)
	if n < 0 || f.PayloadEnd > len(data) || f.PayloadEnd-f.PayloadOff < n {
		return 0
	}
	hash := fnvOffset
	for _, b := range data[f.PayloadOff : f.PayloadOff+n] {
		hash = (hash ^ uint64(b)) * fnvPrime
	}
	return max(hash, 1)
}
