package flows

// drift follows how the clocks of neighbouring points part. For each pair of points it knows the mean
// difference of times, of packets in either direction: half the sum is the error of the clocks, where
// the network is as fast in one direction as in the other.
type drift struct {
	sum   [MaxPoints][2]int64 // ns at point i less ns at point i-1, of packets forward and backward
	count [MaxPoints][2]int64
}

// minSamples is how many packets each way make a mean.
const minSamples = 64

// add takes the difference of the corrected times of one packet at a point and at the one before it.
func (d *drift) add(point int, forward bool, ns int64) {
	way := 1
	if forward {
		way = 0
	}
	d.sum[point][way] += ns
	d.count[point][way]++
}

// correct moves the offsets by a quarter of the error, so that one bad window does no harm, and starts
// to count anew.
func (d *drift) correct(offset *[MaxPoints]int64, points int) {
	shift := int64(0)
	for i := 1; i < points; i++ {
		if d.count[i][0] >= minSamples && d.count[i][1] >= minSamples {
			shift -= (d.sum[i][0]/d.count[i][0] + d.sum[i][1]/d.count[i][1]) / 8
		}
		offset[i] += shift
	}
	*d = drift{}
}
