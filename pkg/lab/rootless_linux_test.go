package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envCommand makes the test binary the program "podtrace lab ...", as far as the lab goes.
const envCommand = "LAB_TEST_COMMAND"

func command() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	stdio := Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	handled, exit, err := Enter(ctx, os.Args, os.Args[2] == "up", stdio)
	if !handled && err == nil {
		switch os.Args[2] {
		case "up":
			err = Up(ctx, Options{Server: []string{"/proc/self/exe"}})
		case "down":
			err = Down(ctx, Options{})
		case "exec":
			exit, err = Exec(ctx, Options{}, os.Args[3], os.Args[4:], stdio)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "podtrace: error:", err)
		return 2
	}
	return exit
}

const nobody = 65534

// user is a user without rights with a folder of its own.
type user struct {
	binary, runtimeDir, stateDir string
}

func newUser(t *testing.T) user {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	dir, err := os.MkdirTemp("", "podtrace-user") // t.TempDir is below folders that are root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	u := user{
		binary: filepath.Join(dir, "podtrace"), runtimeDir: filepath.Join(dir, "run"),
		stateDir: filepath.Join("/run", filepath.Base(dir), "lab"), // on the tmpfs that only the user's processes see
	}
	self, err := os.ReadFile(os.Args[0])
	err = errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(u.binary, self, 0o755), //nolint:gosec // others must run it
		os.Mkdir(u.runtimeDir, 0o700), os.Chown(u.runtimeDir, nobody, nobody))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = u.cmd("down").Run()
		if left := u.processes(); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
		if left, _ := filepath.Glob(u.runtimeDir + "/*"); len(left) > 0 {
			t.Errorf("files left: %q", left)
		}
	})
	return u
}

func (u user) cmd(argv ...string) *exec.Cmd {
	cmd := exec.Command(u.binary)
	cmd.Args = append([]string{"podtrace", "lab"}, argv...)
	cmd.Env = append(os.Environ(), envCommand+"=1", "XDG_RUNTIME_DIR="+u.runtimeDir, EnvStateDir+"="+u.stateDir, EnvPrefix+"=podtrace-tu-",
		"GORACE=atexit_sleep_ms=0") // the race detector sleeps a second at the end of every process
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

// run gives standard output, standard error and the exit status.
func (u user) run(t *testing.T, in io.Reader, argv ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := u.cmd(argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// processes are those that run the user's binary.
func (u user) processes() (list []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && exe == u.binary {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(l), "cmdline"))
			list = append(list, filepath.Dir(l)+" "+string(cmdline))
		}
	}
	return list
}

// up brings the user's lab up. It skips the test where the kernel forbids them, and fails it in CI.
func (u user) up(t *testing.T) {
	t.Helper()
	_, errs, status := u.run(t, nil, "up")
	if strings.Contains(errs, "needs user namespaces") && os.Getenv("CI") != "true" {
		t.Skip(errs)
	}
	if status != 0 {
		t.Fatalf("up: status %d\n%s", status, errs)
	}
	if !strings.Contains(errs, "podtrace: running inside the user namespace of the lab") {
		t.Errorf("up does not say where it runs: %q", errs)
	}
}

func TestRootless(t *testing.T) {
	host := hostState(t)
	u := newUser(t)
	start := time.Now()
	u.up(t)
	t.Logf("up in %v", time.Since(start))
	if n := len(u.processes()); n != 2 {
		t.Errorf("%d processes, want the resident and the server: %q", n, u.processes())
	}
	u.up(t)
	out, errs, status := u.run(t, nil, "exec", "coffee-1", "sh", "-c", "ping -c1 -W2 10.244.2.40 && id -u && ls /run/netns")
	if status != 0 || !strings.Contains(out, "\n0\n") || !strings.Contains(out, "podtrace-tu-switch") {
		t.Errorf("exec: status %d\n%s%s", status, out, errs)
	}
	if out, _, status = u.run(t, strings.NewReader("hello"), "exec", "node1", "sh", "-c", "cat; exit 9"); out != "hello" || status != 9 {
		t.Errorf("exec: %q, status %d, want hello and 9", out, status)
	}
	if _, errs, status = u.run(t, nil, "exec", "node9", "true"); status != 2 || !strings.Contains(errs, "no such node") {
		t.Errorf("exec in node9: status %d, %q", status, errs)
	}
	if _, err := os.Stat(u.stateDir); err == nil {
		t.Error("the lab of a user is on the host's /run")
	}
	if _, errs, status = u.run(t, nil, "down"); status != 0 {
		t.Errorf("down: status %d, %q", status, errs)
	}
	if left := u.processes(); len(left) > 0 {
		t.Errorf("after down: %q", left)
	}
	if got := hostState(t); got != host {
		t.Errorf("the host's own network changed:\n%s\nwas\n%s", got, host)
	}
	if _, errs, status = u.run(t, nil, "down"); status != 0 {
		t.Errorf("second down: status %d, %q", status, errs)
	}
}

func TestRootlessSignal(t *testing.T) {
	u := newUser(t)
	u.up(t)
	for _, tt := range []struct {
		sig  syscall.Signal
		want int
	}{{syscall.SIGINT, 42}, {syscall.SIGKILL, -1}} {
		cmd := u.cmd("exec", "tea-1", "sh", "-c", "trap 'exit 42' INT TERM; echo ready; while :; do sleep 0.01; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(tt.sig)
		if _, err := io.ReadAll(out); err != nil { // ends when the command inside has ended
			t.Error(err)
		}
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != tt.want {
			t.Errorf("after %v: status %d, want %d", tt.sig, got, tt.want)
		}
	}
}

// TestRootlessCrash kills the resident: the server follows, and the next Up begins anew.
func TestRootlessCrash(t *testing.T) {
	u := newUser(t)
	u.up(t)
	for _, p := range u.processes() {
		dir, _, _ := strings.Cut(p, " ")
		env, err := os.ReadFile(dir + "/environ")
		if err == nil && bytes.Contains(env, []byte(envServer+"="+residentServer)) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(u.processes()) > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if left := u.processes(); len(left) > 0 {
		t.Fatalf("processes outlive the resident: %q", left)
	}
	u.up(t)
	if _, errs, status := u.run(t, nil, "exec", "coffee-1", "ping", "-c1", "-W2", "10.244.2.40"); status != 0 {
		t.Errorf("ping: status %d, %s", status, errs)
	}
}

func TestForeignRuntimeDir(t *testing.T) {
	u := newUser(t)
	dir := filepath.Join(u.runtimeDir, "podtrace")
	if err := os.Mkdir(dir, 0o755); err != nil { // root's
		t.Fatal(err)
	}
	if _, errs, status := u.run(t, nil, "up"); status != 2 || !strings.Contains(errs, "not the user's alone") {
		t.Errorf("up: status %d, %q", status, errs)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
}

func TestUserNamespaceError(t *testing.T) {
	for _, s := range settings {
		proc := t.TempDir()
		path := filepath.Join(proc, "sys", strings.ReplaceAll(s.name, ".", "/"))
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(s.bad+"\n"), 0o644))
		if err != nil {
			t.Fatal(err)
		}
		err = userNamespaceError(proc, unix.EPERM)
		var e *UserNamespaceError
		if !errors.As(err, &e) || !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), s.name+" is "+s.bad) ||
			!strings.Contains(e.Hint(), s.name+"="+s.good) {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	proc := t.TempDir()
	err := errors.Join(os.MkdirAll(proc+"/self/ns", 0o755), os.WriteFile(proc+"/self/ns/user", nil, 0o644),
		os.WriteFile(proc+"/self/status", []byte("Name:\tx\nSeccomp:\t2\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if err := userNamespaceError(proc, unix.EPERM); !strings.Contains(err.Error(), "seccomp") {
		t.Errorf("with a seccomp filter: %v", err)
	}
}

func TestOrder(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		conns[i] = c.(*net.UnixConn)
		defer c.Close()
	}
	want := order{Argv: []string{"podtrace", strings.Repeat("x", 300<<10)}, Env: []string{"A=B"}, Dir: "/"}
	sent := make(chan error)
	go func() { sent <- sendOrder(conns[0], want, []*os.File{os.Stdin, os.Stdout, os.Stderr}) }()
	got, files, err := receiveOrder(conns[1], 3)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("received %d files and another order", len(files))
	}
	for _, f := range files {
		_ = f.Close()
	}
}
