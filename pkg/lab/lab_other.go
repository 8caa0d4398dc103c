//go:build !linux

package lab

import (
	"context"
	"errors"
	"fmt"
)

var errLinux = fmt.Errorf("the lab needs Linux: %w", errors.ErrUnsupported)

// Up returns errors.ErrUnsupported.
func Up(context.Context, Options) error { return errLinux }

// Down returns errors.ErrUnsupported.
func Down(context.Context, Options) error { return errLinux }

// Running reports false.
func Running(Options) bool { return false }

// Status returns errors.ErrUnsupported.
func Status(context.Context, Options) (State, error) { return State{}, errLinux }

// Exec returns errors.ErrUnsupported.
func Exec(context.Context, Options, string, []string, Stdio) (int, error) { return 0, errLinux }

// Break returns errors.ErrUnsupported.
func Break(context.Context, Options, string, string) error { return errLinux }

// Mend returns errors.ErrUnsupported.
func Mend(context.Context, Options, ...string) error { return errLinux }

// Serve returns errors.ErrUnsupported.
func Serve(context.Context, Options) error { return errLinux }

// Enter reports that the command runs here.
func Enter(context.Context, []string, bool, Stdio) (handled bool, exit int, err error) {
	return false, 0, nil
}
