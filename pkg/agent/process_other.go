//go:build !unix

package agent

import "os/exec"

// apart does nothing: there are no process groups of a terminal.
func apart(*exec.Cmd) {}
