package probe

import "testing"

func TestParseSpec(t *testing.T) {
	good := map[string]Spec{
		"icmp": {Proto: ICMP}, "tcp": {Proto: TCP}, "tcp:8080": {TCP, 8080},
		"udp": {Proto: UDP}, "udp:53": {UDP, 53}, "udp:65535": {UDP, 65535}, "none": {Proto: None},
	}
	for in, want := range good {
		got, err := ParseSpec(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("ParseSpec(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "ICMP", "icmp:5", "none:1", "tcp:", "tcp:0", "tcp:+5", "tcp:65536", "tcp:http", "udp:53:1", "sctp:9"} {
		if got, err := ParseSpec(in); err == nil || got != (Spec{}) {
			t.Errorf("ParseSpec(%q) = %v, %v, want an error and nothing", in, got, err)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"icmp", "tcp:8080", "udp:053", "none"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		spec, err := ParseSpec(in)
		if err != nil {
			return
		}
		if again, err := ParseSpec(spec.String()); err != nil || again != spec {
			t.Errorf("ParseSpec(%q) = %v, which reads back as %v, %v", in, spec, again, err)
		}
	})
}

func TestPayload(t *testing.T) {
	marker := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	b := make([]byte, 20)
	fillPayload(b, marker, 513)
	if got := payloadSeq(b, marker); got != 513 {
		t.Errorf("payloadSeq = %d, want 513", got)
	}
	if got := payloadSeq(b, [8]byte{9}); got != 0 {
		t.Errorf("payloadSeq of another marker = %d, want 0", got)
	}
	if got := payloadSeq(b[:11], marker); got != 0 {
		t.Errorf("payloadSeq of a cut payload = %d, want 0", got)
	}
}

// TestChecksum has the example of RFC 1071 section 3.
func TestChecksum(t *testing.T) {
	if got := checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("checksum = %#x, want %#x", got, ^uint16(0xddf2))
	}
	if got := checksum([]byte{0x01}); got != ^uint16(0x0100) {
		t.Errorf("checksum of one byte = %#x", got)
	}
}
