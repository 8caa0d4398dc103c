package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Exit statuses of a shell for a command that cannot be run.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the number of the signal
)

// Exec runs a command inside one of the namespaces that Names lists, as "ip netns exec" does:
// with a /sys of that namespace, which brctl(8) and others read. It gives the command's exit
// status, or 128 and the signal's number. When ctx is done the command gets SIGTERM.
func Exec(ctx context.Context, o Options, name string, argv []string, stdio Stdio) (int, error) {
	o = o.withDefaults()
	if !slices.Contains(Names(o), name) {
		return 0, fmt.Errorf("%q: %w", name, ErrNoName)
	}
	if len(argv) == 0 {
		return 0, errors.New("no command")
	}
	h, err := netns.Open(o.netnsPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrNotUp
	}
	if err != nil {
		return 0, err
	}
	defer h.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := startInside(h, cmd); err != nil {
		return exitOf(err), err
	}
	return waitExit(cmd)
}

// startInside starts a command in a namespace, and in a mount namespace of its own where /sys shows
// that network namespace. A child inherits both from the thread that forks it.
func startInside(h *netns.Handle, cmd *exec.Cmd) error {
	return h.Do(func() error {
		// A thread cannot leave a mount namespace for its old one while it shares the rest with
		// others; it is locked once more than Do unlocks it, and so ends with its goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare the mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "none", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("detach the mount namespace: %w", err)
		}
		// Where /sys cannot be mounted (some containers) it stays the host's.
		_ = unix.Mount("lab", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		return cmd.Start()
	})
}

// exitOf is the status that a shell gives for an error of starting a command.
func exitOf(err error) int {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	case errors.Is(err, fs.ErrPermission):
		return exitNotExecutable
	}
	return 0
}

// waitExit waits for a command and gives its exit status as a shell would.
func waitExit(cmd *exec.Cmd) (int, error) {
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && cmd.ProcessState == nil {
		return 0, err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return exitSignal + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// Names lists what Exec takes: nodes, pods, and what is between them. Where no lab is up they are those
// of the default one.
func Names(o Options) []string {
	r, _ := readRecord(o.withDefaults())
	var names []string
	for _, p := range newCluster(r.spec()).plans() {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}
