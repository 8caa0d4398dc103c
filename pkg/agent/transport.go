package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Process is the stream to a program's standard input and output.
type Process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.ReadCloser
	said tail
	once sync.Once
	end  error
}

// Start runs a program that speaks as an agent, or leads to one.
func Start(argv ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(argv[0], argv[1:]...)}
	p.cmd.Stderr = &p.said
	apart(p.cmd) // an interrupt at the terminal is ours to handle: the agent is still needed for what it saw
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// Read reads what the program says.
func (p *Process) Read(b []byte) (int, error) { return p.out.Read(b) }

// Write writes to it.
func (p *Process) Write(b []byte) (int, error) { return p.in.Write(b) }

// processGrace is how long a program may take to end after its input did.
const processGrace = 2 * time.Second

// Close ends the program, gently at first. Its error is what the program said last, where it failed.
func (p *Process) Close() error {
	p.once.Do(func() {
		_ = p.in.Close()
		timer := time.AfterFunc(processGrace, func() { _ = p.cmd.Process.Kill() })
		defer timer.Stop()
		err := p.cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
			p.end = fmt.Errorf("%s: %s", p.cmd.Args[0], strings.TrimPrefix(p.said.last(exit.Error()), p.cmd.Args[0]+": "))
		}
	})
	return p.end
}

// Kill ends the program at once.
func (p *Process) Kill() error { return p.cmd.Process.Kill() }

// tail keeps the end of what a program says on standard error.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const maxTail = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-maxTail):]
	return len(b), nil
}

// last is the last line that says something.
func (t *tail) last(none string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	if s := strings.TrimSpace(lines[len(lines)-1]); s != "" {
		return strings.ToValidUTF8(s, "?")
	}
	return none
}

// DefaultCommand is what is run at the far end of an ssh connection.
const DefaultCommand = "podtrace agent"

// SSHCommand is the user's own ssh client on its way to an agent: ssh://[USER@]HOST[:PORT]. It asks for no password,
// for nobody can answer. command is what the node's shell is told; "" is DefaultCommand.
func SSHCommand(target, command string) ([]string, error) {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "ssh" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("way to a node %.80q: want ssh://[USER@]HOST[:PORT]", target)
	}
	dest := u.Hostname()
	if u.User != nil {
		if _, has := u.User.Password(); has {
			return nil, fmt.Errorf("way to a node %.80q: a password has no place here", u.Redacted())
		}
		dest = u.User.Username() + "@" + dest
	}
	if strings.HasPrefix(dest, "-") || strings.ContainsFunc(dest, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("way to a node %.80q: not a name of a host", target)
	}
	argv := []string{"ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"}
	if u.Port() != "" {
		argv = append(argv, "-p", u.Port())
	}
	if command == "" {
		command = DefaultCommand
	}
	return append(argv, "--", dest, command), nil
}

// Dial starts a program and greets the agent that it leads to.
func Dial(ctx context.Context, version string, argv ...string) (*Client, error) {
	p, err := Start(argv...)
	if err != nil {
		return nil, err
	}
	return New(ctx, p, version)
}
