package kdrop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/podtrace/podtrace/pkg/ether"
)

// Bits of kfreeEvent.Flags, as in bpf/kdrop.c.
const (
	flagInner  = 1
	flagQuoted = 2
	flagNeigh  = 4
	flagMAC    = 8
)

// parseEvent reads one record of the ring: struct event of bpf/kdrop.c, in the machine's byte order.
func parseEvent(b []byte) (*kfreeEvent, error) {
	var e kfreeEvent
	if _, err := binary.Decode(b, binary.NativeEndian, &e); err != nil {
		return nil, fmt.Errorf("event of %d bytes: %w", len(b), err)
	}
	return &e, nil
}

// drop makes the value of an event. boot is the wall clock's time at which CLOCK_BOOTTIME was 0.
func (e *kfreeEvent) drop(r *reasons, boot time.Time) Drop {
	name := r.name(e.Reason)
	device, _, _ := bytes.Cut(e.Dev[:], []byte{0})
	d := Drop{
		Time: boot.Add(time.Duration(e.Time)), Reason: name, ReasonCode: e.Reason, Unspecified: name == unspecified,
		Ifindex: int(e.Ifindex), Device: string(device), InIfindex: int(e.Iif), NetnsInode: uint64(e.Netns),
		Flow: int(e.Flow &^ reverseBit), Reverse: e.Flow&reverseBit != 0,
		Neighbour: e.Flags&flagNeigh != 0, Inner: e.Flags&flagInner != 0, Quoted: e.Flags&flagQuoted != 0,
		Offset: ether.HeaderLen + int(e.Offset), Length: int(e.Len),
	}
	d.Frame = make([]byte, ether.HeaderLen, ether.HeaderLen+len(e.Packet))
	if e.Flags&flagMAC != 0 {
		copy(d.Frame, e.Mac[:12])
	}
	binary.NativeEndian.PutUint16(d.Frame[12:], e.Protocol) // in network byte order, as it came
	d.Frame = append(d.Frame, e.Packet[:min(int(e.Caplen), len(e.Packet))]...)
	return d
}
