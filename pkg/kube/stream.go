package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// streamer opens a session with the agent in a pod.
type streamer func(ctx context.Context, namespace, pod string) (io.ReadWriteCloser, error)

// Exec opens sessions by exec, over a websocket, or over SPDY where the API server or a proxy on the way does not
// speak that.
func Exec(config *rest.Config, c *Client) streamer {
	return func(_ context.Context, namespace, pod string) (io.ReadWriteCloser, error) {
		u := at(c.groups[podKind.group].Post(), podKind, namespace).Name(pod).SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{
				Container: containerName, Command: []string{binary, "agent"}, Stdin: true, Stdout: true, Stderr: true,
			}, params()).URL()
		ws, err := remotecommand.NewWebSocketExecutor(config, "GET", u.String())
		if err != nil {
			return nil, err
		}
		spdy, err := remotecommand.NewSPDYExecutor(config, "POST", u)
		if err != nil {
			return nil, err
		}
		ex, err := remotecommand.NewFallbackExecutor(ws, spdy, func(err error) bool {
			return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
		})
		if err != nil {
			return nil, err
		}
		return start(ex), nil
	}
}

// execStream is one session.
type execStream struct {
	in     *io.PipeWriter // to the agent
	out    *io.PipeReader // from it
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	said strings.Builder // on standard error
	err  error           // how the session ended
}

// maxSaid bounds what is kept of an agent's standard error.
const maxSaid = 4 << 10

// start runs an exec whose life is that of the stream, not that of the call that opened it.
func start(ex remotecommand.Executor) *execStream {
	ctx, cancel := context.WithCancel(context.Background())
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := &execStream{in: inW, out: outR, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		err := ex.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: inR, Stdout: outW, Stderr: (*said)(s)})
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		_ = inR.CloseWithError(io.ErrClosedPipe)
		_ = outW.CloseWithError(io.EOF)
	}()
	return s
}

func (s *execStream) Read(b []byte) (int, error)  { return s.out.Read(b) }
func (s *execStream) Write(b []byte) (int, error) { return s.in.Write(b) }

// streamGrace is how long an agent may take to end after its input did.
const streamGrace = 300 * time.Millisecond

// Close ends the session: its input first, then all of it. Its error is why it failed, where it did by itself.
func (s *execStream) Close() error {
	ended := false
	select {
	case <-s.done:
		ended = true
	default:
	}
	_ = s.in.Close()
	go func() { _, _ = io.Copy(io.Discard, s.out) }() // what nobody reads must not hold the end up
	select {
	case <-s.done:
	case <-time.After(streamGrace):
	}
	s.cancel()
	_ = s.out.Close()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !ended || s.err == nil || errors.Is(s.err, context.Canceled):
		return nil
	case s.said.Len() > 0:
		return fmt.Errorf("%w: %s", s.err, strings.ToValidUTF8(strings.TrimSpace(s.said.String()), "?"))
	default:
		return s.err
	}
}

// said takes what the agent says on standard error.
type said execStream

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said.Write(b[:min(len(b), max(0, maxSaid-s.said.Len()))])
	return len(b), nil
}
