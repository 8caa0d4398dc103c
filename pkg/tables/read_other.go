//go:build !linux

package tables

import (
	"context"
	"errors"
	"fmt"
)

// Read returns errors.ErrUnsupported: rtnetlink is Linux's.
func Read(context.Context, []Source) (*Snapshot, error) {
	return nil, fmt.Errorf("reading kernel tables needs Linux: %w", errors.ErrUnsupported)
}
