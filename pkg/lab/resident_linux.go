package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// residentServer is the value of envServer that makes Serve the resident.
const residentServer = "resident"

// The files that the resident is started with, after the standard three.
const (
	fdResidentReady = 3 + iota // as fdReady
	fdListener                 // the listening socket
	fdFolder                   // the folder that the socket is in
)

// firstOrder is how long the resident waits for the command that it was started for.
const firstOrder = 10 * time.Second

// resident keeps the user namespace and runs commands in it.
type resident struct {
	listener *net.UnixListener
	folder   *os.File

	mu     sync.Mutex
	active int  // commands that run
	ending bool // no more of them
}

// reside runs commands inside this process's namespaces until the lab is down.
func reside(ctx context.Context) error {
	ready := os.NewFile(fdResidentReady, "ready")
	r, err := newResident()
	if err != nil {
		_, _ = io.WriteString(ready, err.Error())
		return errors.Join(err, ready.Close())
	}
	if _, err := io.WriteString(ready, "ok"); err != nil {
		return err
	}
	if err := ready.Close(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, r.end)()
	idle := time.AfterFunc(firstOrder, func() { r.endIfIdle(Options{}) })
	defer idle.Stop()
	return r.serve()
}

func newResident() (*resident, error) {
	for _, fd := range []int{fdResidentReady, fdListener, fdFolder} {
		unix.CloseOnExec(fd)
	}
	f := os.NewFile(fdListener, "listener")
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	listener.SetUnlinkOnClose(false) // by fdFolder instead
	if err := replaceRun(); err != nil {
		return nil, err
	}
	return &resident{listener: listener, folder: os.NewFile(fdFolder, "folder")}, nil
}

// serve runs a command for each connection, and returns when there will be none any more.
func (r *resident) serve() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := r.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer conn.Close() //nolint:errcheck // the talk is over
			r.handle(conn)
		})
	}
}

// handle runs one command.
func (r *resident) handle(conn *net.UnixConn) {
	if !fromUs(conn) || !r.begin() {
		return
	}
	o, files, err := receiveOrder(conn, 3)
	answer := reply{PID: os.Getpid()}
	if err == nil {
		answer.Exit, err = r.run(conn, o, files)
	}
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		answer.Error = err.Error()
	}
	answer.Ending = r.finish(optionsOf(o.Env))
	_ = json.NewEncoder(conn).Encode(answer)
}

// fromUs reports whether the other end runs as the user whom this namespace is for.
func fromUs(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return ctlErr == nil && err == nil && int(cred.Uid) == os.Geteuid()
}

// run starts the same program again with the order's arguments and passes signals on. A caller that
// hangs up has died: its command is told to end.
func (r *resident) run(conn *net.UnixConn, o order, files []*os.File) (int, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Dir = o.Argv, o.Dir
	cmd.Env = append(slices.DeleteFunc(o.Env, isServerEnv), envResident+"="+strconv.Itoa(os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() { // ends with the connection
		for sig := make([]byte, 1); ; {
			if _, err := conn.Read(sig); err != nil {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				return
			}
			_ = cmd.Process.Signal(syscall.Signal(sig[0]))
		}
	}()
	return waitExit(cmd)
}

func isServerEnv(v string) bool { return strings.HasPrefix(v, envServer+"=") }

// optionsOf gives the lab that a command with this environment is about.
func optionsOf(env []string) Options {
	var o Options
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, EnvPrefix+"="); ok {
			o.Prefix = value
		}
		if value, ok := strings.CutPrefix(v, EnvStateDir+"="); ok {
			o.StateDir = value
		}
	}
	return o.withDefaults()
}

func (r *resident) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return false
	}
	r.active++
	return true
}

// finish counts a command off and reports whether it was the last: nothing runs and the lab is down.
func (r *resident) finish(o Options) bool {
	r.mu.Lock()
	r.active--
	r.mu.Unlock()
	return r.endIfIdle(o)
}

func (r *resident) endIfIdle(o Options) bool {
	_, err := os.Stat(o.withDefaults().recordPath())
	r.mu.Lock()
	idle := r.active == 0 && errors.Is(err, os.ErrNotExist)
	r.mu.Unlock()
	if idle {
		r.end()
	}
	return idle
}

// end stops listening, so that the process ends with the last command.
func (r *resident) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return
	}
	r.ending = true
	_ = unix.Unlinkat(int(r.folder.Fd()), socketName, 0)
	_ = r.listener.Close()
}

// replaceRun mounts a tmpfs of this mount namespace on /run, where namespaces are named and the
// lab's state is, and puts everything else that is in /run back in its place.
func replaceRun() error {
	const dir = "/run"
	if err := unix.Mount("", "/", "none", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach the mount namespace: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	kept := keepEntries(dir, entries)
	defer func() {
		for _, fd := range kept {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.Mount("podtrace", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs on %q: %w", dir, err)
	}
	for _, e := range entries {
		fd, ok := kept[e.Name()]
		if !ok {
			continue
		}
		target := filepath.Join(dir, e.Name())
		if err := makeMountPoint(target, e.IsDir()); err != nil {
			return err
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			_ = os.Remove(target) // not there is better than empty
		}
	}
	return nil
}

// keepEntries takes hold of what is in the folder, but for what the lab has its own of. What cannot
// be had is left out: nothing that podtrace needs is there.
func keepEntries(dir string, entries []os.DirEntry) map[string]int {
	kept := map[string]int{}
	for _, e := range entries {
		if e.Name() == filepath.Base(netnsDir) || e.Name() == "podtrace" || e.Type()&os.ModeSymlink != 0 {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(dir, e.Name()), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err == nil {
			kept[e.Name()] = fd
		}
	}
	return kept
}

func makeMountPoint(path string, isDir bool) error {
	if isDir {
		return os.Mkdir(path, 0o755)
	}
	return os.WriteFile(path, nil, 0o600)
}
