//go:build !linux

package netns

import (
	"errors"
	"fmt"
)

var errLinux = fmt.Errorf("network namespaces need Linux: %w", errors.ErrUnsupported)

// Handle is an open network namespace; on this system there are none.
type Handle struct{}

// Open returns errors.ErrUnsupported.
func Open(string) (*Handle, error) { return nil, errLinux }

// OpenPID returns errors.ErrUnsupported.
func OpenPID(int) (*Handle, error) { return nil, errLinux }

// Current returns errors.ErrUnsupported.
func Current() (*Handle, error) { return nil, errLinux }

// New returns errors.ErrUnsupported.
func New() (*Handle, error) { return nil, errLinux }

// ID is unknown.
func (h *Handle) ID() ID { return ID{} }

// Path is empty.
func (h *Handle) Path() string { return "" }

// Fd is no descriptor.
func (h *Handle) Fd() int { return -1 }

// Close does nothing.
func (h *Handle) Close() error { return nil }

// Do returns errors.ErrUnsupported without calling f.
func (h *Handle) Do(func() error) error { return errLinux }
