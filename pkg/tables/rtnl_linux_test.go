package tables

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// nlmsg encodes one message of the answer to request 1.
func nlmsg(typ, flags uint16, seq uint32, data ...byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, 64)
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(data)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b = append(b, data...)
	return append(b, make([]byte, align4(len(b))-len(b))...)
}

func TestMessages(t *testing.T) {
	done := []byte{0, 0, 0, 0}
	eperm := []byte{0xff, 0xff, 0xff, 0xff}
	cat := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	entry := nlmsg(unix.RTM_NEWROUTE, unix.NLM_F_MULTI, 1, 2)
	tests := []struct {
		name       string
		in         []byte
		seen       int
		done, intr bool
		err        error
	}{
		{"entries", cat(entry, entry), 2, false, false, nil},
		{"the end", cat(entry, nlmsg(unix.NLMSG_DONE, unix.NLM_F_MULTI, 1, done...)), 1, true, false, nil},
		{"interrupted at an entry", nlmsg(unix.RTM_NEWROUTE, unix.NLM_F_DUMP_INTR, 1, 2), 1, false, true, nil},
		{"interrupted at the end alone", cat(entry, nlmsg(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 1, done...)), 1, true, true, nil},
		{"refused", nlmsg(unix.NLMSG_ERROR, 0, 1, eperm...), 0, true, false, unix.EPERM},
		{"failed at the end", nlmsg(unix.NLMSG_DONE, 0, 1, eperm...), 0, true, false, unix.EPERM},
		{"of an earlier request", nlmsg(unix.RTM_NEWROUTE, 0, 9, 2), 0, false, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &rtnl{seq: 1}
			seen := 0
			gotDone, intr, err := c.messages(tt.in, func(message) { seen++ })
			if seen != tt.seen || gotDone != tt.done || intr != tt.intr || !errors.Is(err, tt.err) {
				t.Errorf("messages = %d seen, done %v, interrupted %v, %v", seen, gotDone, intr, err)
			}
		})
	}
	c := &rtnl{seq: 1}
	long := nlmsg(unix.RTM_NEWROUTE, 0, 1, 2)
	long[0] = 200
	if _, _, err := c.messages(long, func(message) {}); err == nil {
		t.Error("a message longer than its datagram is no error")
	}
}

// FuzzParse feeds the parsers what no kernel sends: they may misread it, never panic.
func FuzzParse(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Add(append(make([]byte, unix.SizeofRtMsg), attrU32(unix.RTA_OIF, 1)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseLink(b, make(map[string]string))
		parseAddr(b)
		parseNeigh(b)
		parseFDB(b)
		parseRoute(b)
		parseRule(b)
		parseNexthop(b)
		parsePortVLANs(b)
		parseFilter(b, "")
		parseXDP(b)
		parseVXLAN(b)
		parseLinkInfo(&Link{Kind: "bridge"}, b)
		snmp := make(map[string]uint64)
		parseSNMP(b, snmp)
		parseSNMP6(b, snmp)
	})
}
