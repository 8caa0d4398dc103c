package netns

import "fmt"

// ID identifies a network namespace while it exists: device and inode of its nsfs file (namespaces(7)). It is
// comparable; the zero value is "unknown".
type ID struct {
	// Dev is the device number of nsfs, in the lower 32 bits. Where a path crosses several machines, whose numbers
	// are the same, the upper 32 bits tell the machines apart: see On.
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// String gives the form of readlink /proc/PID/ns/net.
func (id ID) String() string { return fmt.Sprintf("net:[%d]", id.Ino) }

// IsZero reports whether the namespace is unknown.
func (id ID) IsZero() bool { return id == ID{} }

// machineShift is where the number of the machine begins in Dev.
const machineShift = 32

// On is the same namespace as one of the machine with that number; 0 is the first one. The unknown stays unknown.
func (id ID) On(machine uint32) ID {
	if id.IsZero() {
		return id
	}
	return ID{Dev: id.Dev&(1<<machineShift-1) | uint64(machine)<<machineShift, Ino: id.Ino}
}

// Machine is the number of the machine whose namespace it is.
func (id ID) Machine() uint32 { return uint32(id.Dev >> machineShift) }
