package netns

import "fmt"

// ID identifies a network namespace on one machine while it exists: device and inode of its nsfs
// file (namespaces(7)). It is comparable; the zero value is "unknown".
type ID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// String gives the form of readlink /proc/PID/ns/net.
func (id ID) String() string { return fmt.Sprintf("net:[%d]", id.Ino) }

// IsZero reports whether the namespace is unknown.
func (id ID) IsZero() bool { return id == ID{} }
