package agent

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// parkPoll is how often a parked agent looks for sessions.
const parkPoll = 500 * time.Millisecond

// Park waits, and does nothing: it keeps an agent's pod alive for the sessions that come by exec. It returns when no
// session has been for a while: first is how long to wait for the first one, next for another. 0 is for ever. Without
// a path no session can be seen, and first is all that it waits.
func Park(ctx context.Context, path string, first, next time.Duration) error {
	if path == "" {
		return wait(ctx, first)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("park: %w", err)
	}
	defer f.Close()
	since, most := time.Now(), first
	tick := time.NewTicker(parkPoll)
	defer tick.Stop()
	for {
		if locked(f) {
			since, most = time.Now(), next
		}
		if most > 0 && time.Since(since) > most {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	<-ctx.Done()
	return nil
}

// locked reports whether a session holds the file.
func locked(f *os.File) bool {
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return true
	}
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return false
}

// Session holds the file that Park looks at, until the process ends or the function is called.
func Session(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
