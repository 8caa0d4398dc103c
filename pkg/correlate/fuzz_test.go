package correlate

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podtrace/podtrace/pkg/decode"
)

// sightingsFrom makes up sightings, eight bytes each, small numbers so that they collide.
func sightingsFrom(b []byte) []Sighting {
	var out []Sighting
	for ; len(b) >= 8; b = b[8:] {
		s := at(int(b[0]%3), Direction(b[0]>>4%3), int64(len(out)), ip(podA, podB, uint32(b[1]%4), b[2]))
		h := &s.Frame.Outer
		if b[0]&0x80 != 0 {
			h.Src, h.Dst = h.Dst, h.Src
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		switch b[5] % 5 {
		case 0:
			tcp(uint16(b[6]%2), 8080, uint32(int8(b[7]))*64, uint32(b[6]>>7), b[6]|decode.TCPAck, n)(&s)
		case 1:
			udp(uint16(b[6]%2), 8080, n, uint64(b[7]%3))(&s)
		case 2:
			echo(b[6]&8, uint16(b[6]%2), uint16(b[7]%4), uint64(b[7]%3))(&s)
		case 3:
			fragment(b[6]%18, uint16(b[7])*8)(&s)
		case 4:
			h.Src = netip.Addr{}
			tcp(1, 1, uint32(n), 0, b[6], int(b[7]))(&s)
		}
		out = append(out, s)
	}
	return out
}

// FuzzJourneys: every sighting is somewhere, sightings keep their order, and the order in which they
// are given does not matter.
func FuzzJourneys(f *testing.F) {
	f.Add([]byte("\x00\x01\x40\x05\xdc\x00\x18\x00\x01\x01\x3f\x05\xdc\x00\x18\x00"), uint8(6))
	f.Add([]byte("\x00\x01\x40\x00\x08\x02\x08\x01\x81\x01\x3f\x00\x08\x02\x00\x01"), uint8(1))
	f.Add([]byte("\x00\x01\x40\x05\xdc\x01\x18\x01\x00\x01\x40\x05\xdc\x03\x11\x09"), uint8(17))
	f.Fuzz(func(t *testing.T, b []byte, proto uint8) {
		in := sightingsFrom(b[:min(len(b), 1600)])
		flow := Flow{Proto: proto, A: []netip.Addr{podA}, B: []netip.Addr{podB}, APort: 1}
		r := Journeys(flow, in)
		seen := map[int64]bool{}
		for _, j := range slices.Concat(r.Request, r.Reply) {
			if !slices.IsSortedFunc(j.Sightings, func(x, y Sighting) int { return int(x.Time - y.Time) }) {
				t.Fatalf("journey %v is out of order", j.Key)
			}
			for _, s := range j.Sightings {
				seen[s.Time] = true
			}
		}
		if got := len(seen) + len(r.Errors) + len(r.Neighbours) + r.Other; got != len(in) {
			t.Fatalf("%d sightings in, %d accounted for", len(in), got)
		}
		slices.Reverse(in)
		if d := cmp.Diff(show(r.Request), show(Journeys(flow, in).Request)); d != "" {
			t.Fatalf("given backwards (-want +got):\n%s", d)
		}
	})
}
