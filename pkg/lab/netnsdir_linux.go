package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// makeNetnsDir makes /run/netns as ip-netns(8) does: a mount point of its own with shared
// propagation, so that a namespace named here is seen, and can be removed, from every mount
// namespace. It reports whether the folder is new.
func makeNetnsDir() (made bool, err error) {
	err = os.Mkdir(netnsDir, 0o755)
	made = err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return made, fmt.Errorf("mount %q: %w", netnsDir, err)
	}
	return made, nil
}

// removeNetnsDir takes back what makeNetnsDir did, unless others have put namespaces there since.
func removeNetnsDir() {
	// Neither call does anything where something is left inside: EBUSY, then ENOTEMPTY.
	if left, err := os.ReadDir(netnsDir); err != nil || len(left) > 0 {
		return
	}
	_ = unix.Unmount(netnsDir, unix.UMOUNT_NOFOLLOW)
	_ = unix.Rmdir(netnsDir)
}

// addNetns makes a namespace and gives it a name.
func addNetns(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("name netns: %w", err)
	}
	_ = f.Close()
	h, err := netns.New()
	if err != nil {
		_ = os.Remove(path)
		return err
	}
	defer h.Close()
	self := fmt.Sprintf("/proc/self/fd/%d", h.Fd())
	if err := unix.Mount(self, path, "none", unix.MS_BIND, ""); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("mount netns on %q: %w", path, err)
	}
	return nil
}

// removeNetns removes a name, whatever is left of it: several mounts, one mount, a plain file.
func removeNetns(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // no mount (left)
		}
		if err != nil {
			return fmt.Errorf("unmount %q: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
