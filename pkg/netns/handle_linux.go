package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// threadSelf is the namespace of the calling thread. /proc/self would be that of the thread group
// leader, which need not be the thread that runs this goroutine.
const threadSelf = "/proc/thread-self/ns/net"

// Handle is an open network namespace. While it is open the namespace cannot vanish and its ID
// cannot be reused, whatever happens to the processes inside or to its name.
type Handle struct {
	file *os.File
	id   ID
	path string
}

// Open opens the namespace at path: a name made by ip-netns(8) ("/run/netns/X") or the link of a
// process ("/proc/PID/ns/net"). Errors satisfy errors.Is with fs.ErrNotExist, ErrNotNetns or
// fs.ErrPermission; the last is a *PermissionError.
func Open(path string) (*Handle, error) {
	// O_NONBLOCK: a path that turns out to be a FIFO must not block us before it is looked at.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	id, err := identify(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open netns %q: %w", path, err)
	}
	return &Handle{file: os.NewFile(uintptr(fd), path), id: id, path: path}, nil
}

// OpenPID opens the namespace of process pid. A PID may be reused at any moment: who got it from
// somewhere checks afterwards that the process is still the one that was meant.
func OpenPID(pid int) (*Handle, error) {
	return Open(fmt.Sprintf("/proc/%d/ns/net", pid))
}

// Current opens the namespace that the calling thread is in.
func Current() (*Handle, error) { return Open(threadSelf) }

// New makes a new namespace without a name; it lives as long as its Handle (and what is opened
// inside). Its loopback device is down, as in every new namespace.
func New() (*Handle, error) {
	var h *Handle
	err := onOwnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, "create netns", func() (err error) {
		h, err = Current()
		return err
	})
	if err != nil {
		return nil, err
	}
	// thread-self will soon be another namespace; our own descriptor is a path that stays true.
	h.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.Fd())
	return h, nil
}

// ID is the identity of the namespace.
func (h *Handle) ID() ID { return h.id }

// Path is the path that the namespace was opened by; for one made by New, a path under which other
// processes find it while the Handle is open.
func (h *Handle) Path() string { return h.path }

// Fd is the file descriptor, for netlink attributes that take one (IFLA_NET_NS_FD). It stays owned
// by the Handle and is valid until Close.
func (h *Handle) Fd() int { return int(h.file.Fd()) }

// Close releases the namespace. Sockets opened inside stay there and keep working.
func (h *Handle) Close() error { return h.file.Close() }

// Do runs f on a thread that is inside the namespace, and returns f's error. It is for opening
// sockets: f must not start goroutines, wait for others, lock or unlock its thread, or do anything
// that may (name resolution, HTTP). Do may be called from many goroutines at once.
func (h *Handle) Do(f func() error) error {
	return onOwnThread(h.enter, fmt.Sprintf("enter netns %q", h.path), f)
}

func (h *Handle) enter() error {
	conn, err := h.file.SyscallConn() // holds off a concurrent Close, whose descriptor might be reused
	if err != nil {
		return err
	}
	var setErr error
	if err := conn.Control(func(fd uintptr) { setErr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return os.ErrClosed // the one way in which Control fails
	}
	return setErr
}

// errExited is what Do returns when f ended its goroutine (runtime.Goexit, as t.Fatal does).
var errExited = errors.New("function left its goroutine inside a netns")

// onOwnThread changes the namespace of a fresh thread by enter, runs f and changes it back.
//
// setns(2) and unshare(2) act on one thread, so the goroutine is locked to its thread, and it is
// unlocked only once the thread is proven to be back: a goroutine that ends locked takes its thread
// with it, while an early unlock would hand a thread in a foreign namespace to any other goroutine.
func onOwnThread(enter func() error, op string, f func() error) error {
	err := errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, openErr := os.Open(threadSelf)
		if openErr != nil {
			runtime.UnlockOSThread() // nothing was changed yet
			err = fmt.Errorf("%s: %w", op, openErr)
			return
		}
		defer home.Close()
		if enterErr := enter(); enterErr != nil {
			runtime.UnlockOSThread() // a refused setns leaves the thread where it was
			err = adminError(op, enterErr)
			return
		}
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = f()
	}()
	<-done
	return err
}

// identify checks that fd is a network namespace and gives its identity.
func identify(fd int) (ID, error) {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return ID{}, err
	}
	if sfs.Type != unix.NSFS_MAGIC {
		return ID{}, ErrNotNetns
	}
	// ioctl_nsfs(2); a kernel before 4.11 does not know it, and setns(2) will judge then.
	typ, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil && typ != unix.CLONE_NEWNET {
		return ID{}, ErrNotNetns
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, err
	}
	return ID{Dev: uint64(st.Dev), Ino: st.Ino}, nil //nolint:unconvert // Dev is 32 bits wide on some architectures
}

func openError(path string, err error) error {
	op := fmt.Sprintf("open netns %q", path)
	if !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: %w", op, err)
	}
	capability := "CAP_DAC_OVERRIDE"
	if strings.HasPrefix(path, "/proc/") {
		capability = "CAP_SYS_PTRACE" // PTRACE_MODE_READ_FSCREDS, ptrace(2)
	}
	return &PermissionError{Op: op, Capability: capability, Err: err}
}

func adminError(op string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &PermissionError{Op: op, Capability: "CAP_SYS_ADMIN", Err: err}
	}
	return fmt.Errorf("%s: %w", op, err)
}
