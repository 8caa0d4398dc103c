//go:build !linux

package capture

import "github.com/podtrace/podtrace/pkg/netns"

// Reserve is rings that are made ahead; on this system there are none.
type Reserve struct{}

// NewReserve gives an empty one.
func NewReserve(Config, map[*netns.Handle]int) *Reserve { return nil }

// Close does nothing.
func (r *Reserve) Close() {}
