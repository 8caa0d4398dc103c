package capture

import (
	"sync"

	"github.com/podtrace/podtrace/pkg/netns"
)

// Reserve is rings that are made before it is known for which interfaces: the kernel takes an RCU grace period for a
// ring (20 to 40 ms), in which the tables can be read that say where to tap. A ring of the reserve belongs to no
// interface, and its filter passes nothing.
type Reserve struct {
	cfg   Config
	ready sync.WaitGroup // for the rings
	gone  sync.WaitGroup // for the closing of those that nobody took
	mu    sync.Mutex
	rings map[*netns.Handle][]ring
}

// NewReserve begins to make so many rings in each namespace, of the size and snap length that cfg says. What fails is
// left out: Open makes what is missing. The namespaces have to stay open until Close returns.
func NewReserve(cfg Config, want map[*netns.Handle]int) *Reserve {
	r := &Reserve{cfg: cfg.withDefaults(), rings: map[*netns.Handle][]ring{}}
	for h, n := range want {
		r.ready.Go(func() { r.fill(h, n) })
	}
	return r
}

func (r *Reserve) fill(h *netns.Handle, n int) {
	rings := make([]ring, 0, n)
	_ = h.Do(func() error {
		for range n {
			fd, err := openSocket()
			if err != nil {
				return err
			}
			rings = append(rings, ring{fd: fd})
		}
		return nil
	})
	var wg sync.WaitGroup
	for i := range rings {
		wg.Go(func() {
			if _, err := rings[i].setup(rejectAll, r.cfg.SnapLen, r.cfg.RingBytes, r.cfg.RetireTimeout); err != nil {
				rings[i].close()
				rings[i].fd = -1
			}
		})
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range rings {
		if rings[i].fd >= 0 {
			r.rings[h] = append(r.rings[h], rings[i])
		}
	}
}

// take gives a ring of a namespace, if there is one of the right size.
func (r *Reserve) take(h *netns.Handle, cfg Config) (ring, bool) {
	if r == nil || r.cfg.SnapLen != cfg.SnapLen || r.cfg.RingBytes != cfg.RingBytes || r.cfg.RetireTimeout != cfg.RetireTimeout {
		return ring{}, false
	}
	r.ready.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.rings[h]
	if len(left) == 0 {
		return ring{}, false
	}
	r.rings[h] = left[1:]
	return left[0], true
}

// drop begins to close the rings that are left.
func (r *Reserve) drop() {
	if r == nil {
		return
	}
	r.ready.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for h, rings := range r.rings {
		for i := range rings {
			r.gone.Go(rings[i].close)
		}
		delete(r.rings, h)
	}
}

// Close closes the rings that nobody took. It may be called more than once.
func (r *Reserve) Close() {
	if r != nil {
		r.drop()
		r.gone.Wait()
	}
}
