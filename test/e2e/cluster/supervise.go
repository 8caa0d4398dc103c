package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// nodePath is PATH on a machine.
const nodePath = "/opt/e2e:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// PIDFile gives where a machine keeps the process id, in its own numbers, of one of its programs.
func PIDFile(program string) string { return "/run/e2e/" + program + ".pid" }

// supervise is process 1 of a machine from then on: it starts the programs when the machine's cable is in, starts them
// again when they end, and reaps whatever else is orphaned.
func supervise(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	release, status := os.NewFile(3, "release"), os.NewFile(4, "status")
	_, err = status.WriteString("ok")
	if err := errors.Join(err, status.Close()); err != nil {
		return err
	}
	n, _ := release.Read(make([]byte, 1))
	if err := release.Close(); err != nil {
		return err
	}
	if n != 1 {
		return errors.New("whoever made this machine is gone")
	}
	if err := settings(s.Name); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/e2e", 0o755); err != nil {
		return err
	}
	running := map[int]process{}
	for _, p := range s.Processes {
		pid, err := p.start()
		if err != nil {
			return err
		}
		running[pid] = p
	}
	return reap(running)
}

// reap waits for children, also for those of others that ended first, and starts programs anew.
func reap(running map[int]process) error {
	again := make(chan process)
	ended := make(chan int)
	go func() {
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, 0, nil)
			switch {
			case err == nil:
				log.Printf("process %d ended: exit status %d, signal %d", pid, status.ExitStatus(), status.Signal())
				if !status.Exited() || status.ExitStatus() != 0 {
					pid = -pid
				}
				ended <- pid
			case !errors.Is(err, unix.EINTR):
				time.Sleep(50 * time.Millisecond) // no child at the moment
			}
		}
	}()
	for {
		select {
		case pid := <-ended:
			failed := pid < 0
			pid = max(pid, -pid)
			p, ok := running[pid]
			delete(running, pid)
			if ok && (failed || !p.Once) {
				log.Printf("%s ended: starting it again", p.Name)
				time.AfterFunc(300*time.Millisecond, func() { again <- p })
			}
		case p := <-again:
			pid, err := p.start()
			if err != nil {
				return err
			}
			running[pid] = p
		}
	}
}

// start runs the program with its output appended to /var/log/NAME.log.
func (p process) start() (int, error) {
	out, err := os.OpenFile("/var/log/"+p.Name+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	path, err := exec.LookPath(p.Args[0])
	if err != nil {
		return 0, fmt.Errorf("program %q: %w", p.Name, err)
	}
	// not by exec.Cmd, whose Wait would be in reap's way
	proc, err := os.StartProcess(path, p.Args, &os.ProcAttr{
		Dir: "/", Env: append(os.Environ(), p.Env...), Files: []*os.File{nil, out, out},
		Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("program %q: %w", p.Name, err)
	}
	return proc.Pid, os.WriteFile(PIDFile(p.Name), []byte(strconv.Itoa(proc.Pid)), 0o644)
}

// settings are what the administrator of a machine sets before Kubernetes comes.
func settings(name string) error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("lo: %w: %s", err, out)
	}
	sysctls := map[string]string{"net/ipv4/ip_forward": "1"}
	if name == Control {
		// only a switch: what passes it is none of its rules' business
		sysctls = map[string]string{"net/bridge/bridge-nf-call-iptables": "0", "net/bridge/bridge-nf-call-ip6tables": "0"}
	}
	for k, v := range sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", k), []byte(v), 0); err != nil {
			return err
		}
	}
	return nil
}
