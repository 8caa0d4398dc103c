//go:build !linux

package agent

import (
	"context"
	"errors"
	"time"
)

// Park returns errors.ErrUnsupported: agents are for Linux nodes.
func Park(context.Context, string, time.Duration, time.Duration) error { return errors.ErrUnsupported }

// Session returns errors.ErrUnsupported.
func Session(string) (func(), error) { return nil, errors.ErrUnsupported }
