package tables

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netns"
)

// Asker asks a kernel single questions, as "ip route get", "ip neigh get" and "bridge fdb get" do: its own
// word on what it would do, beside the tables that it showed.
type Asker struct{ conn *rtnl }

// OpenAsker opens a socket in a namespace.
func OpenAsker(h *netns.Handle) (*Asker, error) {
	a := &Asker{}
	err := h.Do(func() (err error) {
		a.conn, err = openRTNL()
		return err
	})
	return a, err
}

// Close closes the socket.
func (a *Asker) Close() error { return a.conn.Close() }

// Attributes of a route question that golang.org/x/sys/unix does not have (linux/rtnetlink.h).
const (
	rtaIPProto = 27
	rtaSport   = 28
	rtaDport   = 29

	rtmFFibMatch = 0x2000 // answer with the entry of the table instead of a clone of it
)

// Route is the entry by which the kernel would send a packet (RTM_GETROUTE). Its error is the errno of the
// lookup: unix.ENETUNREACH without a route, unix.EXDEV for a source that the reverse path filter refuses. In
// IPv6 only table, type and next hop tell the entry: the kernel names the destination instead of the prefix.
func (a *Asker) Route(q RouteQuestion) (Route, error) {
	req := make([]byte, unix.SizeofRtMsg)
	req[0], req[1], req[3] = unix.AF_INET, uint8(q.Dst.BitLen()), q.TOS
	if q.Dst.Is6() {
		req[0] = unix.AF_INET6 // with RTM_F_FIB_MATCH it takes another way through the tables than packets do
	} else {
		binary.NativeEndian.PutUint32(req[8:], unix.RTM_F_LOOKUP_TABLE|rtmFFibMatch)
	}
	req = append(req, attr(unix.RTA_DST, q.Dst.AsSlice())...)
	if q.Src.IsValid() {
		req[2] = uint8(q.Src.BitLen())
		req = append(req, attr(unix.RTA_SRC, q.Src.AsSlice())...)
	}
	for _, n := range []struct {
		typ uint16
		v   uint32
	}{{unix.RTA_IIF, uint32(q.IIF)}, {unix.RTA_OIF, uint32(q.OIF)}, {unix.RTA_MARK, q.Mark}} {
		if n.v != 0 {
			req = append(req, attrU32(n.typ, n.v)...)
		}
	}
	if q.Proto != 0 {
		req = append(req, attr(rtaIPProto, []byte{q.Proto})...)
	}
	if q.SPort != 0 || q.DPort != 0 {
		req = append(req, attr(rtaSport, binary.BigEndian.AppendUint16(nil, q.SPort))...)
		req = append(req, attr(rtaDport, binary.BigEndian.AppendUint16(nil, q.DPort))...)
	}
	return one(a.conn, unix.RTM_GETROUTE, req, parseRoute)
}

// Neigh is the entry for an address (RTM_GETNEIGH); the error is unix.ENOENT when there is none.
func (a *Asker) Neigh(dev Ifindex, ip netip.Addr) (Neigh, error) {
	family := uint8(unix.AF_INET)
	if ip.Is6() {
		family = unix.AF_INET6
	}
	req := header(family, sizeofNdMsg)
	binary.NativeEndian.PutUint32(req[4:], uint32(dev))
	return one(a.conn, unix.RTM_GETNEIGH, append(req, attr(unix.NDA_DST, ip.AsSlice())...), parseNeigh)
}

// FDB is the row of a vxlan device, or of a bridge, for a MAC (RTM_GETNEIGH of AF_BRIDGE); the error is
// unix.ENOENT when there is none.
func (a *Asker) FDB(dev Ifindex, bridge bool, mac ether.MAC, vlan uint16) (FDB, error) {
	req := header(unix.AF_BRIDGE, sizeofNdMsg)
	if bridge {
		req[10] = unix.NTF_MASTER
		req = append(req, attrU32(unix.NDA_MASTER, uint32(dev))...)
	} else {
		req[10] = unix.NTF_SELF
		binary.NativeEndian.PutUint32(req[4:], uint32(dev))
	}
	req = append(req, attr(unix.NDA_LLADDR, mac[:])...)
	if vlan != 0 {
		req = append(req, attr(unix.NDA_VLAN, binary.NativeEndian.AppendUint16(nil, vlan))...)
	}
	return one(a.conn, unix.RTM_GETNEIGH, req, parseFDB)
}

// one asks for one entry.
func one[T any](c *rtnl, typ uint16, req []byte, parse func([]byte) (T, bool)) (T, error) {
	var out T
	found := false
	err := c.get(typ, req, func(m message) {
		if v, ok := parse(m.data); ok {
			out, found = v, true
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("no entry in the answer: %w", unix.ENOENT)
	}
	return out, err
}

// attr encodes one attribute, padded.
func attr(typ uint16, v []byte) []byte {
	b := make([]byte, align4(unix.SizeofNlAttr+len(v)))
	binary.NativeEndian.PutUint16(b, uint16(unix.SizeofNlAttr+len(v)))
	binary.NativeEndian.PutUint16(b[2:], typ)
	copy(b[unix.SizeofNlAttr:], v)
	return b
}
