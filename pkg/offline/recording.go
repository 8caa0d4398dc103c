package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/pcapfile"
	"github.com/podtrace/podtrace/pkg/tables"
)

const (
	snapLen    = 512   // bytes kept of a frame: all headers, and what tells payloads apart
	arphrdNone = 65534 // the hardware type of devices whose frames start at the IP header
)

// recording is one capture file, read.
type recording struct {
	path string
	at   string // NODE/…/INTERFACE; "": nobody said
	why  string // how the place is known, where nobody said it

	packets    []packet
	interfaces []pcapfile.Interface
	cooked     uint8 // versions of cooked headers in it, as bits 1 and 2
	damage     *pcapfile.Damage
	unread     int  // packets of link types that say nothing
	others     span // when packets of others passed: the capture ran then
}

// packet is one frame, and what the file says of it beside.
type packet struct {
	frame   capture.Frame
	flags   uint32 // epb_flags
	iface   int    // index in interfaces
	ifindex uint32 // of a cooked header of version 2, else 0
}

// readCapture reads a file up to its end or its damage, and keeps the frames that concern the path. budget is how many
// of these may still come.
func readCapture(path, at string, budget int, concerns func([]byte) bool) (*recording, error) {
	f, err := pcapfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	r := &recording{path: path, at: at}
	var rec pcapfile.Record
	for {
		if err := f.Next(&rec); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		p := packet{flags: rec.Flags, iface: rec.Interface, frame: capture.Frame{
			Time: time.Unix(0, rec.Time).UTC(), WireLen: max(rec.OrigLen, len(rec.Data)),
		}}
		if !p.fill(&rec, r) {
			r.unread++
			continue
		}
		if !concerns(p.frame.Data) {
			r.saw(&p)
			continue
		}
		if len(r.packets) == budget {
			return nil, fmt.Errorf("capture %q: more than %d frames of all captures: filter them to the two ends", path, maxFrames)
		}
		r.packets = append(r.packets, p)
	}
	r.interfaces, r.damage = f.Interfaces(), f.Damage()
	return r, nil
}

// fill sets data, hardware type and direction by the link type; false for one that podtrace does not read.
func (p *packet) fill(rec *pcapfile.Record, r *recording) bool {
	data := rec.Data[:min(len(rec.Data), snapLen)]
	switch rec.LinkType {
	case pcapfile.LinkEthernet:
		p.frame.HWType, p.frame.Data = 1, bytes.Clone(data)
		return true
	case pcapfile.LinkSLL, pcapfile.LinkSLL2:
		return p.cooked(rec, data, r)
	default:
		_, off, ok := rec.LinkType.Payload(data)
		if !ok {
			return false
		}
		p.frame.HWType, p.frame.Data = arphrdNone, bytes.Clone(data[off:])
		p.frame.WireLen -= off
		return true
	}
}

// Fields of cooked headers (LINKTYPE_LINUX_SLL and _SLL2).
const (
	sllType, sllAddrLen, sllAddr = 0, 4, 6
	sll2Type, sll2Len, sllAddr2  = 10, 11, 12
	sllOutgoing, sllOtherHost    = 4, 3
	epbIn, epbOut                = 1, 2
)

// cooked makes an Ethernet frame of a cooked one. Its destination address was not captured.
func (p *packet) cooked(rec *pcapfile.Record, b []byte, r *recording) bool {
	l := rec.LinkType
	proto, off, ok := l.Payload(b)
	if !ok {
		return false
	}
	kind, addrLen, addr := binary.BigEndian.Uint16(b[sllType:]), int(binary.BigEndian.Uint16(b[sllAddrLen:])), b[sllAddr:]
	r.cooked |= 1
	if l == pcapfile.LinkSLL2 {
		kind, addrLen, addr = uint16(b[sll2Type]), int(b[sll2Len]), b[sllAddr2:]
		p.ifindex = rec.Ifindex()
		r.cooked |= 2
	}
	p.flags = p.flags&^3 | epbIn
	if kind == sllOutgoing {
		p.flags = p.flags&^3 | epbOut
	}
	p.frame.OtherHost = kind == sllOtherHost
	p.frame.HWType = capture.HWCooked
	src := ether.MAC{}
	if addrLen == len(src) {
		src = ether.MAC(addr[:len(src)])
	}
	head := append(make([]byte, len(src), ether.HeaderLen+len(b)-off), src[:]...)
	p.frame.Data = append(binary.BigEndian.AppendUint16(head, proto), b[off:]...)
	p.frame.WireLen += ether.HeaderLen - off
	return true
}

// severalInterfaces reports whether the frames may be of more than one interface.
func (r *recording) severalInterfaces() bool {
	return r.cooked&2 != 0 && r.indexes() > 1 || len(r.named()) > 1
}

// knowsInterfaces reports whether each frame says which interface it passed.
func (r *recording) knowsInterfaces() bool { return r.cooked&2 != 0 || len(r.named()) > 0 }

// whyNot says why the interfaces of a file can't be known; "" where nothing is peculiar.
func (r *recording) whyNot() string {
	if r.cooked == 1 {
		return "; a cooked capture of version 1 (-i any) does not say which interface a packet passed: capture with -y LINUX_SLL2, or with -i INTERFACE"
	}
	return ""
}

// saw takes note of a packet that is not kept.
func (r *recording) saw(p *packet) { r.others.add(p.frame.Time.UnixNano()) }

func (r *recording) indexes() int {
	seen := make(map[uint32]bool)
	for i := range r.packets {
		seen[r.packets[i].ifindex] = true
	}
	return len(seen)
}

// named are the names of interfaces in a pcapng file; "any" is the name of none.
func (r *recording) named() map[string]bool {
	out := make(map[string]bool)
	for _, f := range r.interfaces {
		if f.Name != "" && f.Name != "any" {
			out[f.Name] = true
		}
	}
	return out
}

// interfaceOf finds the interface that a packet passed, nil where the namespace has none such, and what it is called.
func (r *recording) interfaceOf(ns *tables.Netns, p *packet) (*tables.Link, string) {
	if p.ifindex != 0 {
		return ns.Link(tables.Ifindex(p.ifindex)), fmt.Sprintf("interface %d", p.ifindex)
	}
	name := r.interfaces[p.iface].Name
	return ns.LinkByName(name), fmt.Sprintf("interface %q", name)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
