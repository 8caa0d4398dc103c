package lab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

const tunPath = "/dev/net/tun"

// makeTUN makes a persistent TUN device in the calling thread's namespace, so that addresses and
// routes can hang on it before a proxy reads from it.
func makeTUN(name string) error {
	f, err := attachTUN(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make TUN device %q persistent: %w", name, err)
	}
	return nil
}

// attachTUN opens the device, making it if need be, in the calling thread's namespace. Each read and
// write is one IP packet (IFF_NO_PI).
func attachTUN(name string) (*os.File, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s (flannel's UDP backend needs it, and root where its mode says so): %w", tunPath, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("attach to TUN device %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil //nolint:gosec // a descriptor
}

// openTUN attaches to a device of another namespace.
func openTUN(h *netns.Handle, name string) (f *os.File, err error) {
	err = h.Do(func() error {
		f, err = attachTUN(name)
		return err
	})
	return f, err
}
