package capture

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ring is one packet socket with its TPACKET_V3 receive ring: blocks that the kernel fills and
// hands over whole, when full or when the retire timeout is up.
type ring struct {
	fd        int
	mem       []byte
	blockSize int
	blocks    int
	next      int    // the block that the kernel hands over next
	vnet      bool   // a struct virtio_net_hdr stands in front of each frame
	tagged    []byte // a frame with its VLAN tag put back
}

// Layout of struct tpacket_block_desc and struct tpacket3_hdr (linux/if_packet.h), in native byte
// order; a struct sockaddr_ll follows the header.
const (
	blockStatus = 8  // block_status, u32
	blockCount  = 12 // num_pkts, u32
	blockFirst  = 16 // offset_to_first_pkt, u32

	hdrNext    = 0  // tp_next_offset, u32
	hdrSec     = 4  // tp_sec, u32
	hdrNsec    = 8  // tp_nsec, u32
	hdrSnap    = 12 // tp_snaplen, u32: bytes kept
	hdrLen     = 16 // tp_len, u32: bytes of the frame
	hdrStatus  = 20 // tp_status, u32
	hdrMAC     = 24 // tp_mac, u16: offset of the frame from the header
	hdrTCI     = 32 // tp_vlan_tci, u32
	hdrTPID    = 36 // tp_vlan_tpid, u16
	hdrHatype  = 56 // sll_hatype, u16
	hdrPkttype = 58 // sll_pkttype, u8

	minBlock  = 64 << 10
	frameSize = 2048 // for the kernel's bookkeeping alone: frames of TPACKET_V3 have no fixed size
)

// openSocket makes a packet socket in the namespace of the calling thread. Its protocol is 0: with
// any other it would at once receive from every interface, before it has a filter or is bound.
func openSocket() (int, error) {
	return unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// setup attaches the filter and makes the ring. The kernel waits for an RCU grace period in it.
func (r *ring) setup(filter []bpf.RawInstruction, snap, bytes int, retire time.Duration) (op string, err error) {
	if err := r.attach(filter); err != nil {
		return "attach filter", err
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return "ask for TPACKET_V3 (Linux 3.2)", err
	}
	if saysGSO() {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return "ask for segment sizes", err
		}
		r.vnet = true
	}
	r.blockSize, r.blocks = geometry(snap, bytes)
	req := unix.TpacketReq3{
		Block_size:     uint32(r.blockSize),
		Block_nr:       uint32(r.blocks),
		Frame_size:     frameSize,
		Frame_nr:       uint32(r.blockSize / frameSize * r.blocks),
		Retire_blk_tov: uint32(retire.Milliseconds()),
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return "make ring", err
	}
	r.mem, err = unix.Mmap(r.fd, 0, r.blockSize*r.blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return "map ring", err
	}
	return "", nil
}

// geometry gives blocks that hold a frame of snap bytes, and how many make up the wanted size.
func geometry(snap, bytes int) (blockSize, blocks int) {
	page := os.Getpagesize()
	blockSize = page
	for blockSize < minBlock && blockSize*4 < bytes {
		blockSize *= 2
	}
	const overhead = 256 // of the block, the frame's header and the alignment
	for blockSize < snap+overhead {
		blockSize *= 2
	}
	return blockSize, max(2, (bytes+blockSize-1)/blockSize)
}

// attach sets the socket's filter, in place of an earlier one.
func (r *ring) attach(filter []bpf.RawInstruction) error {
	if len(filter) == 0 || len(filter) > unix.BPF_MAXINSNS {
		return fmt.Errorf("filter of %d instructions: %w", len(filter), unix.EINVAL)
	}
	code := make([]unix.SockFilter, len(filter))
	for i, in := range filter {
		code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	return unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
}

// bind arms the tap.
func (r *ring) bind(ifindex int) error {
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)) // sll_protocol is in network byte order
	return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex})
}

// pendingError takes the socket's error: ENETDOWN when the interface is or went down or vanished.
func (r *ring) pendingError() error {
	errno, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// up reports whether an interface of that name and index is up, in the socket's namespace.
func (r *ring) up(name string, ifindex int) bool {
	ifr, err := unix.NewIfreq(name)
	if err != nil || unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, ifr) != nil || int(ifr.Uint32()) != ifindex {
		return false
	}
	return unix.IoctlIfreq(r.fd, unix.SIOCGIFFLAGS, ifr) == nil && ifr.Uint16()&unix.IFF_UP != 0
}

// drain calls f with each frame (header and what follows) of the blocks that the kernel has handed
// over, and gives the blocks back. It ends after one round, so that a flooded ring cannot keep
// others waiting. The bytes are valid during the call only.
func (r *ring) drain(f func(hdr []byte)) {
	for range r.blocks {
		block := r.mem[r.next*r.blockSize : (r.next+1)*r.blockSize]
		status := (*uint32)(unsafe.Pointer(&block[blockStatus])) // aligned: blocks are whole pages
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return
		}
		walk(block, f)
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		r.next = (r.next + 1) % r.blocks
	}
}

// walk calls f with each frame of a block.
func walk(block []byte, f func(hdr []byte)) {
	off := binary.NativeEndian.Uint32(block[blockFirst:])
	for range binary.NativeEndian.Uint32(block[blockCount:]) {
		hdr := block[off:]
		f(hdr)
		off += binary.NativeEndian.Uint32(hdr[hdrNext:])
	}
}

// close frees the ring and the socket. The kernel waits for RCU grace periods in it.
func (r *ring) close() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
		r.mem = nil
	}
	_ = unix.Close(r.fd)
}

// timeOf gives a frame's time.
func timeOf(hdr []byte) time.Time {
	ne := binary.NativeEndian
	return time.Unix(int64(ne.Uint32(hdr[hdrSec:])), int64(ne.Uint32(hdr[hdrNsec:]))).UTC()
}

// frame reads a frame out of the ring, at most snap bytes of it. Its data is valid until the block goes back to
// the kernel, and until the next call.
func (r *ring) frame(hdr []byte, snap int, f *Frame) {
	ne := binary.NativeEndian
	status := ne.Uint32(hdr[hdrStatus:])
	start := int(ne.Uint16(hdr[hdrMAC:]))
	raw := hdr[start : start+int(ne.Uint32(hdr[hdrSnap:]))]
	*f = Frame{
		Time:         timeOf(hdr),
		OtherHost:    hdr[hdrPkttype] == unix.PACKET_OTHERHOST,
		HWType:       ne.Uint16(hdr[hdrHatype:]),
		WireLen:      int(ne.Uint32(hdr[hdrLen:])),
		CsumNotReady: status&unix.TP_STATUS_CSUMNOTREADY != 0,
		CsumValid:    status&unix.TP_STATUS_CSUM_VALID != 0,
		GSO:          status&unix.TP_STATUS_GSO_TCP != 0,
		Stamp:        stampOf(status),
	}
	if hdr[hdrPkttype] == unix.PACKET_OUTGOING {
		f.Dir = Out
	}
	if r.vnet {
		vnet := hdr[start-vnetLen : start]
		if vnet[1] != 0 { // gso_type; gso_size is little-endian only for those who ask for it
			f.GSOSize = ne.Uint16(vnet[4:])
		}
	}
	if status&unix.TP_STATUS_VLAN_VALID == 0 {
		f.Data = raw[:min(len(raw), snap)]
		return
	}
	tpid := uint16(unix.ETH_P_8021Q)
	if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = ne.Uint16(hdr[hdrTPID:])
	}
	r.tagged = retag(r.tagged[:0], raw, tpid, uint16(ne.Uint32(hdr[hdrTCI:])))
	f.Data = r.tagged[:min(len(r.tagged), snap)]
	f.WireLen += vlanLen
}

// vnetLen is the size of struct virtio_net_hdr (linux/virtio_net.h): flags u8, gso_type u8, hdr_len u16,
// gso_size u16, csum_start u16, csum_offset u16.
const vnetLen = 10

// saysGSO reports whether the kernel can put a virtio header before every frame. One before 6.2 has none for a
// super-packet of UDP, and would drop that instead.
var saysGSO = sync.OnceValue(func() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 6 || major == 6 && minor >= 2
})

// stampOf says by the status of a frame who took its time (TP_STATUS_TS_* of linux/if_packet.h).
func stampOf(status uint32) Stamp {
	switch {
	case status&(unix.TP_STATUS_TS_RAW_HARDWARE|unix.TP_STATUS_TS_SYS_HARDWARE) != 0:
		return StampDevice
	case status&unix.TP_STATUS_TS_SOFTWARE != 0:
		return StampStack
	}
	return StampTap
}

// retag appends a frame with a VLAN tag put back behind the addresses.
func retag(out, raw []byte, tpid, tci uint16) []byte {
	const addrs = 12
	at := min(addrs, len(raw))
	out = append(out, raw[:at]...)
	out = binary.BigEndian.AppendUint16(out, tpid)
	out = binary.BigEndian.AppendUint16(out, tci)
	return append(out, raw[at:]...)
}
