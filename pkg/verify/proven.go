package verify

import (
	"github.com/podtrace/podtrace/pkg/correlate"
	"github.com/podtrace/podtrace/pkg/decode"
)

// Reached is how many packets got to the end of the leg: seen there, or, where nothing could have seen them,
// answered.
func (l *Leg) Reached() int { return max(l.Arrived, l.Proven) }

// Blind is the first of the hops at the leg's end that have no tap, as where the captures are of one node; -1 where
// the end has one.
func (l *Leg) Blind() int {
	for i := len(l.Hops) - 1; i >= 0; i-- {
		if !l.Hops[i].untapped {
			if i == len(l.Hops)-1 {
				return -1
			}
			return i + 1
		}
	}
	return -1
}

// prove counts the packets whose arrival the other direction proves, where the end of this one has no tap: an echo
// reply answers its request, a TCP segment acknowledges the bytes before its number. Of other protocols an answer
// does not say to what. What the far end's kernel sends is taken for an answer only where all of it came back whole.
func (l *Leg) prove(back *Leg) {
	if l.Arrived > 0 || l.Journeys == 0 || l.Blind() < 0 || l.Last != l.Blind()-1 || back.Journeys == 0 || len(back.Foreign) > 0 {
		return
	}
	if back.Arrived != back.Journeys && back.Blind() < 0 {
		return
	}
	for i := range l.js {
		j := &l.js[i]
		if l.sawAll(j) && (j.Retransmission == 0 || j.Key.Len == 0) && answered(j, l.js, back.js) {
			l.Proven++
		}
	}
}

// sawAll reports whether the last hop with a tap saw the packet.
func (l *Leg) sawAll(j *correlate.Journey) bool {
	h := &l.Hops[l.Last]
	for k := range h.Sightings {
		for i := range j.Sightings {
			if j.Sightings[i].Time == h.Sightings[k].Time && j.Sightings[i].Point == h.Sightings[k].Point {
				return true
			}
		}
	}
	return false
}

// answered reports whether one of the packets of the other direction answers j. A TCP segment without data is
// acknowledged by none; it counts as arrived where the data of its direction did.
func answered(j *correlate.Journey, all, back []correlate.Journey) bool {
	switch j.Key.Proto {
	case decode.ProtoICMP, decode.ProtoICMPv6:
		for i := range back {
			if back[i].Key.EchoID == j.Key.EchoID && back[i].Key.Seq == j.Key.Seq {
				return true
			}
		}
		return false
	case decode.ProtoTCP:
		if j.Key.Len > 0 {
			return acknowledged(j, back)
		}
		for i := range all {
			if all[i].Key.Len > 0 && !acknowledged(&all[i], back) {
				return false
			}
		}
		return true
	default:
		return len(back) >= len(all)
	}
}

// acknowledged: a number behind the segment's last, modulo 2^32 (RFC 9293 section 3.4).
func acknowledged(j *correlate.Journey, back []correlate.Journey) bool {
	end := j.Key.Seq + j.Key.Len
	for i := range back {
		for k := range back[i].Sightings {
			f := back[i].Sightings[k].Frame.Flow()
			if f.TCPFlags&decode.TCPAck != 0 && int32(f.TCPAck-end) >= 0 {
				return true
			}
		}
	}
	return false
}
