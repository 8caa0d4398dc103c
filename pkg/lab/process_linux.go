package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process identifies a process for good: its PID may be given to another, but not with the same
// start time.
type process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // field 22 of proc_pid_stat(5), clock ticks after boot
}

// identifyProcess reads the start time of a process.
func identifyProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The name, in parentheses, may hold blanks and parentheses: count from the last of these. The
	// fields after it begin with the third, the state.
	i := bytes.LastIndexByte(text, ')')
	fields := bytes.Fields(text[i+1:])
	const state, start = 0, 22 - 3
	if len(fields) <= start {
		return process{}, fmt.Errorf("stat of process %d: %d fields", pid, len(fields))
	}
	if c := fields[state][0]; c == 'Z' || c == 'X' {
		return process{}, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	ticks, err := strconv.ParseUint(string(fields[start]), 10, 64)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: ticks}, nil
}

// alive reports whether the very process still runs.
func (p process) alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := identifyProcess(p.PID)
	return err == nil && now == p
}

// end asks the process to end, and kills it if it has not after patience. It returns when the
// process is gone.
func (p process) end(patience time.Duration) error {
	if p.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.alive() { // from here on the descriptor is that of the right process, or of a dead one
		return nil
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", p.PID, err)
		}
		if waitPidfd(fd, patience) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", p.PID)
}

// waitPidfd reports whether the process ended in time: then its descriptor is readable.
func waitPidfd(fd int, patience time.Duration) bool {
	deadline := time.Now().Add(patience)
	for {
		left := max(time.Until(deadline), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}
