package agent

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// A connection whose packets are dropped ends by nothing that its two ends would notice: a laptop that sleeps, a firewall
// that forgot it. So the near end says every aliveEvery that it is there, the far end answers, and each takes the other for
// gone when no byte at all has come for its time of silence.
const (
	aliveEvery  = 3 * time.Second
	nearSilence = 15 * time.Second
	farSilence  = 30 * time.Second
)

// errSilent says that the other end is out of reach without a word.
var errSilent = errors.New("nothing has come from the other end for too long: the connection is gone")

// hearing counts what comes.
type hearing struct {
	r     io.Reader
	reads atomic.Uint64
}

func (h *hearing) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	if n > 0 {
		h.reads.Add(1)
	}
	return n, err
}

// silence returns when nothing has come for so long, or with done. It counts seconds that this program lived through: that
// it was stopped itself meanwhile is not the other's silence.
func (h *hearing) silence(done <-chan struct{}, most time.Duration) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var quiet time.Duration
	for last := h.reads.Load(); quiet < most; {
		select {
		case <-done:
			return nil
		case <-tick.C:
		}
		now := h.reads.Load()
		if quiet += time.Second; now != last {
			quiet, last = 0, now
		}
	}
	return errSilent
}
