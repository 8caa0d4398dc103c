package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// UserNamespaceError says that a lab without root cannot be: why, and what would allow it.
type UserNamespaceError struct {
	Setting string // what forbids it: "user.max_user_namespaces is 0"
	Remedy  string // a command, or empty
	Err     error
}

// Error is the whole message.
func (e *UserNamespaceError) Error() string {
	return fmt.Sprintf("a lab without root needs user namespaces, and %s: %v", e.Setting, e.Err)
}

// Hint says what to do.
func (e *UserNamespaceError) Hint() string {
	if e.Remedy == "" {
		return "run podtrace as root"
	}
	return "run podtrace as root, or allow user namespaces: " + e.Remedy
}

// Unwrap gives the errno.
func (e *UserNamespaceError) Unwrap() error { return e.Err }

// settings forbid user namespaces where they have the bad value: namespaces(7), and those of Debian
// and of Ubuntu's AppArmor.
var settings = []struct{ name, bad, good string }{
	{"user.max_user_namespaces", "0", "15000"},
	{"user.max_net_namespaces", "0", "15000"},
	{"user.max_mnt_namespaces", "0", "15000"},
	{"kernel.unprivileged_userns_clone", "0", "1"},
	{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
}

// userNamespaceError explains why the resident could not be started; proc is where procfs is.
func userNamespaceError(proc string, err error) error {
	for _, s := range settings {
		text, readErr := os.ReadFile(filepath.Join(proc, "sys", strings.ReplaceAll(s.name, ".", "/")))
		if readErr == nil && strings.TrimSpace(string(text)) == s.bad {
			return &UserNamespaceError{
				Setting: s.name + " is " + s.bad,
				Remedy:  "sudo sysctl -w " + s.name + "=" + s.good,
				Err:     err,
			}
		}
	}
	if _, statErr := os.Stat(filepath.Join(proc, "self/ns/user")); statErr != nil {
		return &UserNamespaceError{Setting: "the kernel was built without them", Err: err}
	}
	status, _ := os.ReadFile(filepath.Join(proc, "self/status"))
	if strings.Contains(string(status), "\nSeccomp:\t2") {
		return &UserNamespaceError{Setting: "a seccomp filter, as container runtimes set it, is in force here", Err: err}
	}
	return &UserNamespaceError{Setting: "the kernel refuses them", Err: err}
}
