package lab

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct {
	cmd, data uint32
}

// offloads are the commands that read and set an offload, in the order in which they can be turned
// off: segmentation needs the checksum.
var offloads = []struct{ get, set uint32 }{
	{unix.ETHTOOL_GTSO, unix.ETHTOOL_STSO},
	{unix.ETHTOOL_GGSO, unix.ETHTOOL_SGSO},
	{unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM},
}

// setOffloads turns the offloads of the veths and VXLAN devices off or on.
func (s *space) setOffloads(p *plan, have linkSet) error {
	fd := -1
	err := s.netns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, l := range p.links {
		if have[l.name] == nil || l.kind != kindVeth && l.kind != kindVXLAN {
			continue
		}
		if err := setOffload(fd, l.name, !l.noOffload); err != nil {
			return fmt.Errorf("offloads of %q: %w", l.name, err)
		}
	}
	return nil
}

// setOffload sets those that are not as they should be.
func setOffload(fd int, name string, on bool) error {
	list, want := slices.Clone(offloads), uint32(0)
	if on {
		slices.Reverse(list)
		want = 1
	}
	for _, o := range list {
		v := ethtoolValue{cmd: o.get}
		if err := ethtool(fd, name, &v); err != nil {
			return err
		}
		if v.data == want {
			continue
		}
		v = ethtoolValue{cmd: o.set, data: want}
		if err := ethtool(fd, name, &v); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return nil
}

// ethtool is the SIOCETHTOOL ioctl, for which x/sys has no general wrapper.
func ethtool(fd int, name string, v *ethtoolValue) error {
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	ifr.data = unsafe.Pointer(v)
	var pin runtime.Pinner
	pin.Pin(v)
	defer pin.Unpin()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return errno
	}
	return nil
}
