package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/node"
)

// TestQuietSession: two ends that have nothing to say to each other stay together.
func TestQuietSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, &fake{})
		time.Sleep(time.Hour)
		if _, err := c.Counters(t.Context()); err != nil {
			t.Errorf("after an hour: %v", err)
		}
	})
}

// TestFarEndSilent: a connection that swallows everything ends what waits, and what comes later.
func TestFarEndSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() {
			w, err := newCodec(far, far, maxRequest)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(far, preamble)
			_, _ = w.read()
			b, _ := json.Marshal(hello{Protocol: Protocol, Version: "v1"})
			_ = w.write(frame{kindHello, 0, b})
			for range 4 { // clocks
				f, _ := w.read()
				_ = w.write(frame{kindResponse, f.id, []byte("1")})
			}
			_, _ = io.Copy(io.Discard, far)
		}()
		c, err := New(t.Context(), near, "v1")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err = c.Counters(t.Context())
		if lost, ok := errors.AsType[*node.LostError](err); !ok || !errors.Is(lost, errSilent) {
			t.Errorf("a call gives %v", err)
		}
		if took := time.Since(begin); took < nearSilence || took > nearSilence+2*time.Second {
			t.Errorf("that took %s", took)
		}
		if _, err := c.Counters(t.Context()); !errors.Is(err, errSilent) {
			t.Errorf("a call later gives %v", err)
		}
		synctest.Wait()
	})
}

// TestNearEndSilent: an agent whose near end is gone without a word ends what goes on, and itself.
func TestNearEndSilent(t *testing.T) {
	for name, greets := range map[string]bool{"before the greeting": false, "in the middle": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { nearEndSilent(t, greets) })
		})
	}
}

func nearEndSilent(t *testing.T, greets bool) {
	f := &fake{}
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), far, far, f, "v1") }()
	w, err := newCodec(near, near, maxResponse)
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitPreamble(w.r); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if greets {
		hi, _ := json.Marshal(hello{Protocol: Protocol, Version: "v1"})
		args, _ := json.Marshal(kdrop.Config{Flows: []kdrop.Flow{{Src: ip, Dst: ip}}})
		watch, _ := json.Marshal(request{Op: opDrops, Args: args})
		if err := errors.Join(w.write(frame{kindHello, 0, hi}), read(w), w.write(frame{kindRequest, 1, watch}), read(w)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; !errors.Is(err, errSilent) || !f.closed.Load() {
		t.Errorf("Serve = %v, kernel closed: %t", err, f.closed.Load())
	}
	if took := time.Since(begin); took < farSilence || took > farSilence+2*time.Second {
		t.Errorf("that took %s", took)
	}
	if greets && f.stopped.Load() != 1 {
		t.Error("a watch goes on")
	}
	_, _ = near.Close(), far.Close()
	synctest.Wait()
}

func read(c *codec) error {
	_, err := c.read()
	return err
}
