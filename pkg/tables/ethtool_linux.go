package tables

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethSSStats is ETH_SS_STATS of linux/ethtool.h: the set of names of the statistics.
const ethSSStats = 1

// ethtool asks drivers by ioctl, what "ethtool -S" shows: there is no netlink message for it.
type ethtool struct{ fd int }

// openEthtool opens a socket in the namespace of the calling thread.
func openEthtool() (ethtool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return ethtool{fd}, os.NewSyscallError("socket", err)
}

func (e ethtool) Close() error { return unix.Close(e.fd) }

// peerIndex is the statistic peer_ifindex of a veth.
func (e ethtool) peerIndex(dev string) (Ifindex, error) {
	// struct ethtool_sset_info with one u32: how many statistics there are
	info := make([]uint64, 3)
	words32(info)[0] = unix.ETHTOOL_GSSET_INFO
	info[1] = 1 << ethSSStats
	if err := e.ioctl(dev, info); err != nil {
		return 0, err
	}
	count := words32(info)[4]
	if info[1] == 0 || count == 0 || count > 1<<16 {
		return 0, errors.ErrUnsupported
	}
	// struct ethtool_gstrings: cmd, string_set, len, then names of 32 bytes
	names := make([]uint64, 2+4*count)
	words32(names)[0], words32(names)[1], words32(names)[2] = unix.ETHTOOL_GSTRINGS, ethSSStats, count
	if err := e.ioctl(dev, names); err != nil {
		return 0, err
	}
	// struct ethtool_stats: cmd, n_stats, then values of 64 bits
	stats := make([]uint64, 1+count)
	words32(stats)[0], words32(stats)[1] = unix.ETHTOOL_GSTATS, count
	if err := e.ioctl(dev, stats); err != nil {
		return 0, err
	}
	list := bytesOf(names)[12:]
	for i := range int(count) {
		if text(list[32*i:32*i+32]) == "peer_ifindex" {
			return Ifindex(stats[1+i]), nil
		}
	}
	return 0, errors.ErrUnsupported
}

// ifreq is struct ifreq with ifr_data.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

func (e ethtool) ioctl(dev string, buf []uint64) error {
	req := ifreq{data: unsafe.Pointer(&buf[0])}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return errno
	}
	return nil
}

func words32(b []uint64) []uint32 { return unsafe.Slice((*uint32)(unsafe.Pointer(&b[0])), 2*len(b)) }
func bytesOf(b []uint64) []byte   { return unsafe.Slice((*byte)(unsafe.Pointer(&b[0])), 8*len(b)) }
