//go:build !linux

package counters

import (
	"context"
	"errors"
	"fmt"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Read returns errors.ErrUnsupported.
func Read(context.Context, *netns.Handle) (*Snapshot, error) {
	return nil, fmt.Errorf("counters need Linux: %w", errors.ErrUnsupported)
}
