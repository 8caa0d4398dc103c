//go:build !linux

package kdrop

// Watcher collects drops; on this system there are none to see.
type Watcher struct{}

// Open returns an *UnsupportedError.
func Open(Config) (*Watcher, error) {
	return nil, &UnsupportedError{Why: "needs Linux"}
}

// Stop gives nothing.
func (w *Watcher) Stop() ([]Drop, int, error) { return nil, 0, nil }

// Take gives nothing.
func (w *Watcher) Take() ([]Drop, int, error) { return nil, 0, nil }

// Close does nothing.
func (w *Watcher) Close() error { return nil }
