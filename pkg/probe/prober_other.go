//go:build !linux

package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Prober sends probes; on this system there is none.
type Prober struct{}

// Prepare returns errors.ErrUnsupported.
func Prepare(*netns.Handle, Spec, netip.Addr, netip.Addr, Options) (*Prober, error) {
	return nil, fmt.Errorf("probes need Linux: %w", errors.ErrUnsupported)
}

// Flow is empty.
func (p *Prober) Flow() Flow { return Flow{} }

// Run sends nothing.
func (p *Prober) Run(context.Context, int, time.Duration, time.Duration) Result { return Result{} }

// Close does nothing.
func (p *Prober) Close() error { return nil }
