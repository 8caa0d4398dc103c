//go:build !linux

package netfilter

import (
	"errors"
	"net/netip"

	"github.com/podtrace/podtrace/pkg/netns"
)

// ReadOptions bounds what is read.
type ReadOptions struct {
	Addrs []netip.Addr
}

// Read needs Linux.
func Read(*netns.Handle, ReadOptions) (*Ruleset, error) { return nil, errors.ErrUnsupported }
