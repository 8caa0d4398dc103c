package vxlan

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name    string
		in      []byte
		want    Header
		payload []byte
	}{
		{
			name: "plain",
			in: []byte{
				0x08,       // I
				0x00,       // no D, no A
				0x00, 0x00, // reserved
				0x00, 0x00, 0x01, // VNI
				0x00, // reserved
				0xaa, // payload
			},
			want:    Header{VNI: 1},
			payload: []byte{0xaa},
		},
		{
			name: "group policy, everything set",
			in: []byte{
				0x88,       // G, I
				0x48,       // D, A
				0x00, 0x64, // group 100
				0x2d, 0xc6, 0xc1, // VNI 3000001
				0x00,
			},
			want:    Header{VNI: 3000001, Group: 100, GroupPolicy: true, DontLearn: true, Applied: true},
			payload: []byte{},
		},
		{
			name: "A is 0x08 of byte 1, not 0x80",
			in: []byte{
				0x88,
				0x80, // a reserved bit
				0x00, 0x00,
				0x00, 0x00, 0x00,
				0x00,
			},
			want:    Header{GroupPolicy: true, Reserved: [3]byte{0, 0x80, 0}},
			payload: []byte{},
		},
		{
			name: "reserved bits",
			in: []byte{
				0x7f,       // all but G
				0xb7,       // all but D and A
				0xff, 0xff, // the group field without G
				0xff, 0xff, 0xff, // the highest VNI
				0xff,
			},
			want:    Header{VNI: 1<<24 - 1, Group: 0xffff, Reserved: [3]byte{0x77, 0xb7, 0xff}},
			payload: []byte{},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, payload, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("header (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.payload, payload); d != "" {
				t.Errorf("payload (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.in[:HeaderLen], got.AppendTo(nil)); d != "" {
				t.Errorf("encoded again (-want +got):\n%s", d)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		kind error
		text string
	}{
		{"empty", nil, ErrTruncated, "vxlan header, byte 0: the header has 8 bytes: truncated"},
		{"seven bytes", make([]byte, 7), ErrTruncated, "vxlan header, byte 7: the header has 8 bytes: truncated"},
		{"no I flag", []byte{0x80, 0, 0, 0, 0, 0, 1, 0}, ErrMalformed, "vxlan header, byte 0: the I flag is not set: malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, rest, err := Parse(tt.in)
			var e *Error
			if !errors.Is(err, tt.kind) || !errors.As(err, &e) || err.Error() != tt.text {
				t.Errorf("error %v, want %q", err, tt.text)
			}
			if h != (Header{}) || rest != nil {
				t.Errorf("got %+v and %d bytes beside the error", h, len(rest))
			}
		})
	}
}

func TestFlags(t *testing.T) {
	if got := (Header{VNI: 7}).Flags(); got != 0x0800 {
		t.Errorf("plain flags %#04x, want 0x0800", got)
	}
	if got := (Header{GroupPolicy: true, DontLearn: true, Applied: true}).Flags(); got != 0x8848 {
		t.Errorf("group policy flags %#04x, want 0x8848", got)
	}
}

func FuzzVXLAN(f *testing.F) {
	f.Add([]byte{0x08, 0, 0, 0, 0, 0, 1, 0})
	f.Add([]byte{0x88, 0x48, 0, 100, 0x2d, 0xc6, 0xc1, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := Parse(b)
		if err != nil {
			if h != (Header{}) || rest != nil {
				t.Fatalf("an error beside %+v", h)
			}
			return
		}
		if got := append(h.AppendTo(nil), rest...); !bytes.Equal(got, b) {
			t.Fatalf("parsed %x, wrote %x", b, got)
		}
	})
}
