package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podtrace/podtrace/pkg/lab/serve"
	"github.com/podtrace/podtrace/pkg/netns"
)

// envServer tells Serve that it was started by Up and has the files of that handshake.
const envServer = "PODTRACE_LAB_SERVER"

// envResident is the PID of the process that keeps the user namespace of a lab without root. When
// that ends, so does the server.
const envResident = "PODTRACE_LAB_RESIDENT"

// maxWait is how long one poll of a process lasts.
const maxWait = time.Hour

// The files that the server is started with, after the standard three.
const (
	fdGo    = 3 + iota // read end: "go" once the server is on record, end of file if Up has died
	fdReady            // write end: "ok" or an error, once the sockets are open
	fdLock             // the lab's lock, held with Up's until the server is on record
)

// startServer starts the process that serves the pods and waits until it does.
//
// A crash between starting a process and writing its PID down would leave one that nobody knows of.
// So the server does nothing before it is told that it is on record, ends if that never comes, and
// holds the lab's lock until then: whoever gets the lock next finds it recorded or gone.
func startServer(ctx context.Context, o Options, r *record, lockFile *os.File) error {
	goRead, goWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer goRead.Close()
	defer goWrite.Close()
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyRead.Close()
	defer readyWrite.Close()
	logFile, err := os.OpenFile(o.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()

	cmd, err := serverCommand(o)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{goRead, readyWrite, lockFile}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the server of the pods: %w", err)
	}
	_ = readyWrite.Close() // so that its end is the server's end
	go func() { _ = cmd.Wait() }()
	if r.Server, err = identifyProcess(cmd.Process.Pid); err != nil {
		return fmt.Errorf("start the server of the pods: %w", err)
	}
	if err := writeRecord(o, *r); err != nil {
		return err
	}
	if _, err := goWrite.WriteString("go"); err != nil {
		return fmt.Errorf("start the server of the pods: %w", err)
	}
	return awaitReady(ctx, readyRead)
}

func serverCommand(o Options) (*exec.Cmd, error) {
	argv := o.Server
	if len(argv) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		argv = []string{self, "lab", "serve"}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), envServer+"=1", EnvPrefix+"="+o.Prefix, EnvStateDir+"="+o.StateDir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's Ctrl-C is not for it
	return cmd, nil
}

// awaitReady reads the server's answer.
func awaitReady(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	defer stop()
	answer, err := io.ReadAll(f)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case string(answer) == "ok":
		return nil
	case len(answer) == 0:
		return errors.New("the server of the pods ended at once")
	}
	return fmt.Errorf("server of the pods: %s", answer)
}

// Serve runs HTTP on port 8080 and echo on port 7 in every pod and node and in the machine outside, and flannel's UDP proxies where
// the lab has them, until ctx is done. Up starts it as
// a process of its own; it is of no use otherwise.
func Serve(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if os.Getenv(envServer) == residentServer {
		return reside(ctx)
	}
	ready := io.WriteCloser(nopCloser{io.Discard})
	if os.Getenv(envServer) == "1" {
		if err := awaitGo(); err != nil {
			return err
		}
		ready = os.NewFile(fdReady, "ready")
	}
	pods, proxies, err := openAll(o)
	if err != nil {
		_, _ = io.WriteString(ready, err.Error())
		return errors.Join(err, ready.Close())
	}
	_, err = io.WriteString(ready, "ok")
	if err := errors.Join(err, ready.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if pid, err := strconv.Atoi(os.Getenv(envResident)); err == nil {
		go func() {
			waitProcess(pid)
			cancel()
		}()
	}
	return serve.Run(ctx, pods, proxies)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// awaitGo waits until Up has put this process on record, and lets go of the lock.
func awaitGo() error {
	for _, fd := range []int{fdReady, fdLock} { // not for children
		unix.CloseOnExec(fd)
	}
	f := os.NewFile(fdGo, "go")
	defer f.Close()
	word, err := bufio.NewReader(f).Peek(2)
	_ = unix.Close(fdLock)
	if err != nil || string(word) != "go" {
		return errors.New("the command that started this server is gone")
	}
	return nil
}

// waitProcess returns when the process has ended.
func waitProcess(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for !waitPidfd(fd, maxWait) {
		continue
	}
}

// openAll opens the sockets of all pods, nodes and proxies.
func openAll(o Options) (pods []serve.Pod, proxies []serve.Proxy, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, p := range pods {
			_ = p.Close()
		}
		for _, p := range proxies {
			_ = p.Close()
		}
	}()
	r, err := readRecord(o)
	if err != nil {
		return nil, nil, err
	}
	c := newCluster(r.spec())
	for _, name := range c.serving() {
		for _, is6 := range c.families() {
			p, err := openPod(o, name, is6)
			if err != nil {
				return pods, proxies, fmt.Errorf("open the sockets of %q: %w", name, err)
			}
			pods = append(pods, p)
		}
	}
	if c.spec.Datapath != FlannelUDP {
		return pods, nil, nil
	}
	for _, n := range c.nodes {
		p, err := openProxy(o, c, n)
		if err != nil {
			return pods, proxies, fmt.Errorf("open the proxy of %q: %w", n.name, err)
		}
		proxies = append(proxies, p)
	}
	return pods, proxies, nil
}

// serving are the namespaces that something answers in.
func (c *cluster) serving() []string {
	var names []string
	for _, n := range c.nodes {
		names = append(names, n.name)
	}
	for _, p := range c.pods {
		names = append(names, p.name)
	}
	if c.hasClient() {
		names = append(names, clientName)
	}
	return names
}

func openPod(o Options, name string, is6 bool) (s serve.Pod, err error) {
	h, err := netns.Open(o.netnsPath(name))
	if err != nil {
		return s, err
	}
	defer h.Close()
	// The wildcard address: it does not matter what becomes of the pod's own.
	tcp, udp, any := "tcp4", "udp4", "0.0.0.0:"
	if is6 {
		tcp, udp, any = "tcp6", "udp6", "[::]:"
	}
	s.Name = name
	err = h.Do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false) // Go's default; the handshake should be the plain one
		if s.HTTP, err = lc.Listen(context.Background(), tcp, any+strconv.Itoa(httpPort)); err != nil {
			return err
		}
		if s.TCP, err = lc.Listen(context.Background(), tcp, any+strconv.Itoa(echoPort)); err != nil {
			return errors.Join(err, s.HTTP.Close())
		}
		if s.UDP, err = lc.ListenPacket(context.Background(), udp, any+strconv.Itoa(echoPort)); err != nil {
			return errors.Join(err, s.HTTP.Close(), s.TCP.Close())
		}
		return nil
	})
	return s, err
}

// openProxy opens a proxy's socket. The namespace stays open, as the device is looked for there again
// when it was made anew.
func openProxy(o Options, c *cluster, n node) (p serve.Proxy, err error) {
	h, err := netns.Open(o.netnsPath(n.name))
	if err != nil {
		return p, err
	}
	err = h.Do(func() (err error) {
		var lc net.ListenConfig
		p.UDP, err = lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(n.ip(), udpPort).String())
		return err
	})
	if err != nil {
		return p, errors.Join(err, h.Close())
	}
	p.Open = func() (io.ReadWriteCloser, error) { return openTUN(h, tunName) }
	p.Route = func(dst netip.Addr) (netip.AddrPort, bool) {
		i := slices.IndexFunc(c.nodes, func(m node) bool { return m.name != n.name && m.podCIDR().Contains(dst) })
		if i < 0 {
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(c.nodes[i].ip(), udpPort), true
	}
	return p, nil
}
