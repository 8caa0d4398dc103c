package tables

import (
	"golang.org/x/sys/unix"
)

const sizeofNdMsg = 12 // struct ndmsg

// Numbers of linux/neighbour.h that golang.org/x/sys/unix does not have.
const (
	ntfSticky = 1 << 6
	ndaNHID   = 13
)

// parseNeigh reads an entry of the ARP or ND cache (linux/neighbour.h).
func parseNeigh(b []byte) (Neigh, bool) {
	if len(b) < sizeofNdMsg || (b[0] != unix.AF_INET && b[0] != unix.AF_INET6) {
		return Neigh{}, false
	}
	flags := b[10]
	n := Neigh{
		Index: index(b[4:]), State: NeighState(u16(b[8:])),
		Router: flags&unix.NTF_ROUTER != 0, Proxy: flags&unix.NTF_PROXY != 0, ExtLrn: flags&unix.NTF_EXT_LEARNED != 0,
	}
	for t, v := range attrs(b[sizeofNdMsg:]) {
		switch t {
		case unix.NDA_DST:
			n.IP = ip(v)
		case unix.NDA_LLADDR:
			n.MAC = mac(v)
		}
	}
	return n, n.IP.IsValid()
}

// parseFDB reads a row of a forwarding database: the same message in family AF_BRIDGE.
func parseFDB(b []byte) (FDB, bool) {
	if len(b) < sizeofNdMsg || b[0] != unix.AF_BRIDGE {
		return FDB{}, false
	}
	flags := b[10]
	f := FDB{
		Index: index(b[4:]), State: NeighState(u16(b[8:])),
		Sticky: flags&ntfSticky != 0, ExtLrn: flags&unix.NTF_EXT_LEARNED != 0,
	}
	for t, v := range attrs(b[sizeofNdMsg:]) {
		parseFDBAttr(&f, t, v)
	}
	// br_fdb.c: only a row with BR_FDB_LOCAL is permanent in a bridge.
	f.Local = f.Master != 0 && f.State&NUDPermanent != 0
	return f, true
}

func parseFDBAttr(f *FDB, t uint16, v []byte) {
	switch t {
	case unix.NDA_LLADDR:
		f.MAC = mac(v)
	case unix.NDA_MASTER:
		f.Master = index(v)
	case unix.NDA_VLAN:
		f.VLAN = u16(v)
	case unix.NDA_DST:
		f.Dst = ip(v)
	case unix.NDA_PORT:
		f.Port = be16(v)
	case unix.NDA_VNI:
		f.VNI = VNI(u32(v))
	case unix.NDA_SRC_VNI:
		f.SrcVNI = VNI(u32(v))
	case unix.NDA_IFINDEX:
		f.Via = index(v)
	case ndaNHID:
		f.NHID = u32(v)
	case unix.NDA_CACHEINFO: // confirmed, used, updated, refcnt
		f.Updated = u32(after(v, 8)) / userHZ
	}
}
