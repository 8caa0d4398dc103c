package netns

import "errors"

// ErrNotNetns is returned by Open for a file that exists and is no network namespace.
var ErrNotNetns = errors.New("not a network namespace")

// PermissionError says that the kernel refused an operation on a namespace and which capability
// (capabilities(7)) allows it. It unwraps to the errno.
type PermissionError struct {
	Op         string // what was being done: "open netns \"/run/netns/x\""
	Capability string // "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"
	Err        error
}

// Error gives the operation, the cause and the capability that is missing.
func (e *PermissionError) Error() string {
	return e.Op + ": " + e.Err.Error() + " (needs " + e.Capability + ")"
}

// Hint says what to do next.
func (e *PermissionError) Hint() string {
	return "run podtrace as root, or give it " + e.Capability
}

// Unwrap gives the errno.
func (e *PermissionError) Unwrap() error { return e.Err }
