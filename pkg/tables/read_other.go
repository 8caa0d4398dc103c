//go:build !linux

package tables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/netns"
)

// Read returns errors.ErrUnsupported: rtnetlink is Linux's.
func Read(context.Context, []Source) (*Snapshot, error) {
	return nil, fmt.Errorf("reading kernel tables needs Linux: %w", errors.ErrUnsupported)
}

// Asker asks a kernel single questions.
type Asker struct{}

// OpenAsker returns errors.ErrUnsupported: rtnetlink is Linux's.
func OpenAsker(*netns.Handle) (*Asker, error) {
	return nil, fmt.Errorf("asking a kernel needs Linux: %w", errors.ErrUnsupported)
}

// Close does nothing.
func (*Asker) Close() error { return nil }

// Route returns errors.ErrUnsupported.
func (*Asker) Route(RouteQuestion) (Route, error) { return Route{}, errors.ErrUnsupported }

// Neigh returns errors.ErrUnsupported.
func (*Asker) Neigh(Ifindex, netip.Addr) (Neigh, error) { return Neigh{}, errors.ErrUnsupported }

// FDB returns errors.ErrUnsupported.
func (*Asker) FDB(Ifindex, bool, ether.MAC, uint16) (FDB, error) { return FDB{}, errors.ErrUnsupported }
