package lab

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestCrash kills Up and Down at random moments: whatever they leave, the next command clears.
func TestCrash(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	for i := range rounds {
		o := testOptions(t)
		if i%4 == 3 {
			killed(t, o, rng, envDown, Up) // a crash of Down
		} else {
			killed(t, o, rng, envUp, nil)
		}
		if i%2 == 0 { // the next Up builds a working lab from the remains
			if err := Up(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if _, status, err := try(t, o, "coffee-1", "ping", "-c1", "-W2", "10.244.2.40"); status != 0 || err != nil {
				t.Errorf("ping after a crash: status %d, %v", status, err)
			}
		}
		if err := Down(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, o)
	}
}

// killed runs Up or Down in a process of its own and kills it in the middle.
func killed(t *testing.T, o Options, rng *rand.Rand, env string, before func(context.Context, Options) error) {
	t.Helper()
	limit := 90 * time.Millisecond // a bit more than Up takes with the race detector
	if before != nil {
		if err := before(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		limit = 30 * time.Millisecond
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env+"=1", EnvPrefix+"="+o.Prefix, EnvStateDir+"="+o.StateDir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rng.Int64N(int64(limit))))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func TestConcurrent(t *testing.T) {
	o := testOptions(t)
	done := make(chan error)
	const each = 4
	for range each {
		go func() { done <- Up(t.Context(), o) }()
		go func() { done <- Down(t.Context(), o) }()
	}
	for range 2 * each {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if s, err := Status(t.Context(), o); err != nil || !s.Up {
		t.Errorf("Status = %+v, %v", s, err)
	}
}

// TestServerGone: a lab without its server is not up, and the next Up makes a whole one.
func TestServerGone(t *testing.T) {
	o := up(t)
	s, err := Status(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := os.FindProcess(s.ServerPID); err != nil || p.Kill() != nil {
		t.Fatal(err)
	}
	for alive := true; alive; time.Sleep(time.Millisecond) {
		_, err := identifyProcess(s.ServerPID)
		alive = err == nil
	}
	if Running(o) {
		t.Error("still up without its server")
	}
	if err := Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if !Running(o) {
		t.Error("not up again")
	}
}
