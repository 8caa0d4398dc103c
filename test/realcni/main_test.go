// Package realcni traces pods that no line of podtrace made: real flanneld with etcd, the CNI plugins flannel, bridge,
// host-local and loopback. It also holds the bundled lab against them (compare_test.go).
//
// All of it happens in a mount, PID and network namespace of its own, where /run and /var/lib/cni are empty and private:
// when the test process ends, however it ends, the kernel ends every process in there, and with them go the network
// namespaces. Nothing is left behind.
package realcni

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What the outer process tells the one in the sandbox.
const (
	envInside   = "REALCNI_INSIDE"
	envPodtrace = "REALCNI_PODTRACE"
	envFlanneld = "REALCNI_FLANNELD"
	envPlugin   = "REALCNI_PLUGIN"
	envServe    = "REALCNI_SERVE" // the process is a pod's server
)

// pluginDir is where Debian has the reference plugins.
const pluginDir = "/usr/lib/cni"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envServe) != "":
		serve()
	case os.Getenv(envInside) != "":
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "realcni:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	default:
		os.Exit(outside())
	}
}

// outside sees to what the tests need and runs them in the sandbox.
func outside() int {
	if missing := lacking(); len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "realcni: needs %s; hack/realcni installs what is missing\n", strings.Join(missing, ", "))
		if os.Getenv("CI") != "" {
			return 1
		}
		return 0
	}
	env, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "realcni:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(append(os.Environ(), env...), envInside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL,
	}
	// The signal is sent when the thread that made the process ends: this one is main's and ends last.
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "realcni:", err)
		return 1
	}
	return 0
}

// lacking names what is not there.
func lacking() []string {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, command := range []string{"etcd", "ip", "bridge", "nft", "iptables", "ip6tables"} {
		if _, err := exec.LookPath(command); err != nil {
			missing = append(missing, command)
		}
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join(pluginDir, plugin)); err != nil {
			missing = append(missing, "the CNI plugin "+plugin)
		}
	}
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		missing = append(missing, "br_netfilter") // flanneld ends without it
	}
	return missing
}

// build builds podtrace from the repository, and flanneld and the flannel plugin from their modules.
func build() (env []string, err error) {
	podtrace, err := filepath.Abs("../../bin/realcni/podtrace")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "build", "-C", "../..", "-trimpath", "-o", podtrace, "./cmd/podtrace")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build podtrace: %w\n%s", err, out)
	}
	flanneld, err := tool(".", "github.com/flannel-io/flannel")
	if err != nil {
		return nil, err
	}
	plugin, err := tool("plugin", "github.com/containernetworking/plugins/plugins/meta/flannel")
	if err != nil {
		return nil, err
	}
	return []string{envPodtrace + "=" + podtrace, envFlanneld + "=" + flanneld, envPlugin + "=" + plugin}, nil
}

// tool builds a tool of the module in dir and gives its path in Go's build cache.
func tool(dir, name string) (string, error) {
	cmd := exec.Command("go", "tool", "-n", name)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, &errs)
	}
	return strings.TrimSpace(string(out)), nil
}

// furnish mounts what the sandbox has of its own.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib/cni"} {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			continue // then nobody can find anything there either: all paths are given to the plugins
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	const tmp = "/run/tmp" // not /tmp itself: the test binary is there
	if err := errors.Join(os.Mkdir("/run/netns", 0o755), os.Mkdir(tmp, 0o755), os.Setenv("TMPDIR", tmp)); err != nil {
		return err
	}
	_, err := sh("ip link set lo up")
	return err
}

// sh runs a script and gives what it printed.
func sh(script string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command("/bin/bash", "-euc", script)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", script, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
