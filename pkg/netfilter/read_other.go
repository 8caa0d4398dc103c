//go:build !linux

package netfilter

import (
	"errors"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Read needs Linux.
func Read(*netns.Handle, ReadOptions) (*Ruleset, error) { return nil, errors.ErrUnsupported }
