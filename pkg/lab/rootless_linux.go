package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Enter runs the command line argv (argv[0] is the program's name) inside the user namespace of a
// lab without root, and reports whether it did; exit is then the command's exit status. It does
// nothing for root, nor where there is no such namespace, unless create says that it may be made:
// for "lab up". It says on stdio.Err what it does.
//
// The namespace is kept by a resident process, the lab's own for as long as the lab is up. It
// listens on a socket that only the user can reach, and is handed the command line, the
// environment, the working directory and the standard streams of each command. When ctx is done,
// the command gets SIGINT.
func Enter(ctx context.Context, argv []string, create bool, stdio Stdio) (handled bool, exit int, err error) {
	if os.Geteuid() == 0 {
		return false, 0, nil
	}
	dir := runtimeDir()
	conn, err := dialResident(dir)
	if noResident(err) {
		if !create {
			return false, 0, nil
		}
		conn, err = startResident(ctx, dir)
	}
	if err != nil {
		return true, 0, err
	}
	defer conn.Close() //nolint:errcheck // the talk is over
	if stdio.Err != nil {
		_, _ = fmt.Fprintln(stdio.Err, "podtrace: running inside the user namespace of the lab")
	}
	answer, err := runInside(ctx, conn, argv, stdio)
	if err != nil {
		return true, 0, fmt.Errorf("run inside the user namespace of the lab: %w", err)
	}
	if answer.Ending {
		waitResident(answer.PID)
		_ = os.Remove(filepath.Join(dir, lockName))
		_ = os.Remove(dir)
	}
	if answer.Error != "" {
		return true, 0, errors.New(answer.Error)
	}
	return true, answer.Exit, nil
}

const (
	socketName = "lab.sock"
	lockName   = "lock"
)

// runtimeDir is the user's own folder for the socket.
func runtimeDir() string {
	if base := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) {
		if st, err := os.Stat(base); err == nil && st.IsDir() {
			return filepath.Join(base, "podtrace")
		}
	}
	return filepath.Join(os.TempDir(), "podtrace-"+strconv.Itoa(os.Geteuid()))
}

// checkDir refuses a folder that others could have put there or can write to: what listens in it is
// handed the user's environment.
func checkDir(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.IsDir() || int(owner.Uid) != os.Geteuid() || st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("folder %q is not the user's alone (want a folder of uid %d with mode 0700)", dir, os.Geteuid())
	}
	return nil
}

func noResident(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

func dialResident(dir string) (*net.UnixConn, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, socketName), Net: "unix"})
}

// startResident starts the resident and connects to it, unless another command just has.
func startResident(ctx context.Context, dir string) (*net.UnixConn, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	lockFile, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer unlock(lockFile)
	if err := flock(ctx, lockFile); err != nil {
		return nil, err
	}
	if !isStill(lockFile, lockFile.Name()) { // a command that took the lab down has removed it
		return startResident(ctx, dir)
	}
	conn, err := dialResident(dir)
	if !noResident(err) {
		return conn, err
	}
	if err := launchResident(ctx, dir); err != nil {
		_ = os.Remove(filepath.Join(dir, socketName))
		_ = os.Remove(lockFile.Name())
		_ = os.Remove(dir)
		return nil, err
	}
	return dialResident(dir)
}

// launchResident starts the resident in its namespaces, as root there. It gets the listening socket
// and the folder as open files: in its mount namespace their paths may lead elsewhere.
func launchResident(ctx context.Context, dir string) error {
	path := filepath.Join(dir, socketName)
	_ = os.Remove(path) // of a resident that was killed
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	listener, err := l.File()
	if err != nil {
		return err
	}
	defer listener.Close()
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyRead.Close()
	defer readyWrite.Close()

	cmd, err := residentCommand()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{readyWrite, listener, folder}
	if err := cmd.Start(); err != nil {
		return userNamespaceError("/proc", err)
	}
	_ = readyWrite.Close()
	go func() { _ = cmd.Wait() }()
	err = awaitReady(ctx, readyRead)
	if err != nil && ctx.Err() == nil {
		return userNamespaceError("/proc", err)
	}
	return err
}

func residentCommand() (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "lab", "serve")
	cmd.Env = append(os.Environ(), envServer+"="+residentServer)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Setsid:      true,
	}
	return cmd, nil
}

// waitResident returns when the resident is gone, which has said that it is about to.
func waitResident(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	waitPidfd(fd, time.Second)
}

// order is what the resident is asked to run. Before it goes its length, as four bytes in network
// order, with the three standard streams attached (SCM_RIGHTS); after it one byte for each signal.
type order struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
}

// reply is what became of an order.
type reply struct {
	Exit   int    `json:"exit"`
	Error  string `json:"error,omitempty"` // the command did not start
	Ending bool   `json:"ending,omitempty"`
	PID    int    `json:"pid"` // of the resident
}

// runInside has the resident run argv and waits for it.
func runInside(ctx context.Context, conn *net.UnixConn, argv []string, stdio Stdio) (reply, error) {
	var r reply
	cwd, err := os.Getwd()
	if err != nil {
		return r, err
	}
	streams, err := openStreams(stdio)
	if err != nil {
		return r, err
	}
	defer streams.wait()
	err = sendOrder(conn, order{Argv: argv, Env: os.Environ(), Dir: cwd}, streams.files)
	streams.sent()
	if err != nil {
		return r, err
	}
	stop := context.AfterFunc(ctx, func() { _, _ = conn.Write([]byte{byte(unix.SIGINT)}) })
	defer stop()
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the process that keeps it has ended")
		}
		return r, err
	}
	return r, nil
}
