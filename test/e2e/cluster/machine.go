package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// spec is what process 1 of a machine is told, as a file.
type spec struct {
	Name        string
	Dir         string // of the machine on the host: upper, work, root, var, log
	Bin         string
	Hierarchies []hierarchy
	Processes   []process
}

// process is a program that process 1 starts, and starts again whenever it ends.
type process struct {
	Name string
	Args []string
	Env  []string
	Once bool // must succeed once, not run all the time
}

// marker is argument 0 of a process that is to become a machine.
const marker = "podtrace-e2e-machine"

// start makes a machine: its process, its cable to the switch, its programs.
func (c *Cluster) start(ctx context.Context, name string, groups []hierarchy, procs []process) error {
	dir := c.path(name)
	for _, d := range []string{"upper", "work", "root", "log", "var/kubelet", "var/containerd"} {
		if err := os.MkdirAll(c.path(name, d), 0o755); err != nil {
			return err
		}
	}
	text, err := json.Marshal(spec{Name: name, Dir: dir, Bin: c.Bin, Hierarchies: groups, Processes: procs})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path(name, "spec.json"), text, 0o600); err != nil {
		return err
	}
	release, err := c.spawn(name)
	if err != nil {
		return fmt.Errorf("machine %q: %w", name, err)
	}
	defer release.Close()
	if err := c.cable(ctx, name); err != nil {
		return fmt.Errorf("cable of %q: %w", name, err)
	}
	_, err = release.Write([]byte("\n"))
	return err
}

// spawn starts the process and waits until its namespaces and mounts stand. A byte to the returned pipe lets it
// go on; closed without one, it ends.
func (c *Cluster) spawn(name string) (*os.File, error) {
	goRead, goWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer goRead.Close()
	statusRead, statusWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer statusRead.Close()
	log, err := os.Create(c.path(name, "log", "init.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{marker, c.path(name, "spec.json")},
		Env: []string{"PATH=" + nodePath, "HOME=/root"}, Stdout: log, Stderr: log,
		ExtraFiles: []*os.File{goRead, statusWrite},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET},
	}
	err = cmd.Start()
	_ = statusWrite.Close()
	if err != nil {
		return nil, errors.Join(err, goWrite.Close())
	}
	go func() { _ = cmd.Wait() }() // so that it leaves no zombie if Down is called by the same process
	status, err := io.ReadAll(statusRead)
	if err == nil && string(status) != "ok" {
		err = fmt.Errorf("set up: %q, and in %s", status, log.Name())
	}
	if err == nil {
		err = os.WriteFile(c.path(name, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, goWrite.Close())
	}
	return goWrite, nil
}

// cable connects a machine: control gets the switch, a node a veth pair to it.
func (c *Cluster) cable(ctx context.Context, name string) error {
	pid, err := c.PID(name)
	if err != nil {
		return err
	}
	if name == Control {
		return c.script(ctx, name, "ip link add br0 type bridge", "ip addr add "+apiServer+"/24 dev br0", "ip link set br0 up")
	}
	control, err := c.PID(Control)
	if err != nil {
		return err
	}
	var i int
	if _, err := fmt.Sscanf(name, "node%d", &i); err != nil {
		return err
	}
	// made from within control: no device is the host's own, not even for a moment
	if err := c.script(ctx, Control,
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", name, pid),
		fmt.Sprintf("ip link set %s master br0 up", name)); err != nil {
		return fmt.Errorf("from process %d: %w", control, err)
	}
	return c.script(ctx, name,
		fmt.Sprintf("ip addr add %s/24 dev eth0", nodeAddr(i-1)), "ip link set eth0 up", "ip route add default via "+apiServer)
}

// script runs commands in a machine's network namespace, with the host's processes and files in view.
func (c *Cluster) script(ctx context.Context, machine string, commands ...string) error {
	pid, err := c.PID(machine)
	if err != nil {
		return err
	}
	for _, line := range commands {
		args := append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", pid), "--"}, strings.Fields(line)...)
		if out, err := exec.CommandContext(ctx, "nsenter", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
