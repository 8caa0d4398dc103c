package agent

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

// TestParkWithoutSessions: where sessions can't be seen, it waits for as long as it was told.
func TestParkWithoutSessions(t *testing.T) {
	begin := time.Now()
	if err := Park(t.Context(), "", 50*time.Millisecond, 0); err != nil || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Park(ctx, "", 0, 0); err != nil {
		t.Errorf("for ever, and cancelled: %v", err)
	}
}

// TestPark: a parked agent ends when nobody comes, not while somebody is there, and soon after the last has gone.
func TestPark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "session")
	begin := time.Now()
	if err := Park(t.Context(), path, time.Millisecond, time.Hour); err != nil || time.Since(begin) > 5*time.Second {
		t.Errorf("nobody came: %v after %s", err, time.Since(begin))
	}
	end1, err := Session(path)
	if err != nil {
		t.Fatal(err)
	}
	end2, err := Session(path) // two at a time
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Park(context.Background(), path, time.Millisecond, time.Millisecond) }()
	end1()
	select {
	case err := <-done:
		t.Fatalf("ended with a session there: %v", err)
	case <-time.After(3 * parkPoll):
	}
	end2()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("goes on without a session")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Park(ctx, path, 0, 0); err != nil {
		t.Error(err)
	}
}
