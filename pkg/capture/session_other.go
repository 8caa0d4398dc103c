//go:build !linux

package capture

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Session is a running capture; on this system there is none.
type Session struct{}

// Open returns errors.ErrUnsupported.
func Open(context.Context, Config) (*Session, error) {
	return nil, fmt.Errorf("capture needs Linux: %w", errors.ErrUnsupported)
}

// ArmDuration is 0.
func (s *Session) ArmDuration() time.Duration { return 0 }

// BindSpan is 0.
func (s *Session) BindSpan() time.Duration { return 0 }

// Stats gives nothing.
func (s *Session) Stats() []PointStats { return nil }

// Start does nothing.
func (s *Session) Start() {}

// Stop gives an empty result.
func (s *Session) Stop() Result { return Result{} }
