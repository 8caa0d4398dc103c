//go:build unix

package agent

import (
	"os/exec"
	"syscall"
)

// apart keeps a program out of the terminal's foreground group.
func apart(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
