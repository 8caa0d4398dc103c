package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/safejson"
)

// Bounds of what one near end may ask for.
const (
	maxParallel  = 16   // requests at a time; further ones wait in the stream
	maxHandles   = 64   // captures, watches and probes that go on
	maxWants     = 1024 // namespaces
	maxTaps      = 512  // of one capture
	maxQuestions = 4096 // of one request
)

// maxKept bounds the bytes of frames that a far end keeps for one capture.
const maxKept = 64 << 20

// Serve is the far end: it does on n what the near end asks for, until the stream ends, and closes n. version is
// podtrace's. The end of the stream is no error.
func Serve(ctx context.Context, r io.Reader, w io.Writer, n node.Node, version string) error {
	defer n.Close() //nolint:errcheck // descriptors that were only read
	if _, err := io.WriteString(w, preamble); err != nil {
		return err
	}
	c, err := newCodec(r, w, maxRequest)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{
		codec: c, node: n, slots: make(chan struct{}, maxParallel), alive: make(chan struct{}, 1),
		running: make(map[uint32]context.CancelFunc), handles: make(map[uint32]ender),
	}
	err = s.serve(ctx, version)
	cancel()
	if errors.Is(err, errSilent) {
		s.endAll()
		return err // without its requests: who writes to nobody waits for ever
	}
	s.wg.Wait()
	s.endAll()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// serve greets and takes requests until the stream ends, or is silent.
func (s *server) serve(ctx context.Context, version string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() {
		err := s.greet(version)
		if err == nil {
			err = s.loop(ctx)
		}
		ended <- err
	}()
	go func() {
		if err := s.heard.silence(ctx.Done(), farSilence); err != nil {
			ended <- err
		}
	}()
	go s.answer(ctx)
	return <-ended
}

// answer tells the near end that this one is there. It is not the loop that does: a slow stream must not keep that from
// hearing.
func (s *server) answer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.alive:
			if s.write(frame{kind: kindAlive}) != nil {
				return
			}
		}
	}
}

// ender is something that goes on, and how it ends.
type ender struct {
	what any
	end  func()
}

type server struct {
	*codec
	node  node.Node
	slots chan struct{}
	alive chan struct{} // an answer is due
	wg    sync.WaitGroup

	mu      sync.Mutex
	running map[uint32]context.CancelFunc // requests
	handles map[uint32]ender
	next    uint32
}

func (s *server) greet(version string) error {
	f, err := s.read()
	if err != nil {
		return err
	}
	var h hello
	if f.kind != kindHello {
		return fmt.Errorf("message of kind %d before the greeting", f.kind)
	}
	if err := safejson.Unmarshal("greeting", f.data, &h); err != nil {
		return err
	}
	return s.send(kindHello, 0, hello{Protocol: Protocol, Version: version, Boot: s.node.Machine().Boot, Clock: time.Now().UnixNano()})
}

func (s *server) send(k kind, id uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(frame{k, id, b})
}

// loop takes requests until the stream ends.
func (s *server) loop(ctx context.Context) error {
	for {
		f, err := s.read()
		if err != nil {
			return err
		}
		switch f.kind {
		case kindCancel:
			s.mu.Lock()
			if end := s.running[f.id]; end != nil {
				end()
			}
			s.mu.Unlock()
		case kindAlive:
			select {
			case s.alive <- struct{}{}:
			default: // one is due already
			}
		case kindRequest:
			s.slots <- struct{}{}
			if err := s.start(ctx, f); err != nil {
				return err
			}
		default:
			return fmt.Errorf("message of kind %d", f.kind)
		}
	}
}

func (s *server) start(ctx context.Context, f frame) error {
	var q request
	if err := safejson.Unmarshal("request", f.data, &q); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	if s.running[f.id] != nil {
		s.mu.Unlock()
		cancel()
		return fmt.Errorf("two requests of number %d", f.id)
	}
	s.running[f.id] = cancel
	s.mu.Unlock()
	s.wg.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.running, f.id)
			s.mu.Unlock()
			cancel()
			<-s.slots
		}()
		out, err := s.do(ctx, f.id, q)
		if err == nil {
			err = s.send(kindResponse, f.id, out)
		} else {
			err = s.send(kindError, f.id, fromError(err))
		}
		_ = err // a stream that is gone ends the loop as well
	})
	return nil
}

// keep remembers something that goes on. end is called when the near end is gone.
func (s *server) keep(what any, end func()) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.handles) == maxHandles {
		return 0, fmt.Errorf("more than %d captures and probes at a time", maxHandles)
	}
	s.next++
	s.handles[s.next] = ender{what, end}
	return s.next, nil
}

// kept finds it again, as a T.
func kept[T any](s *server, id uint32) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.handles[id].what.(T)
	if !ok {
		return v, fmt.Errorf("nothing of number %d goes on", id)
	}
	return v, nil
}

func (s *server) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, id)
}

func (s *server) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.handles {
		h.end()
	}
}
