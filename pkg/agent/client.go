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

// Client is the kernel of a far end. Once the stream breaks, every call is a *node.LostError.
type Client struct {
	*codec
	stream  io.ReadWriteCloser
	machine node.Machine

	mu      sync.Mutex
	pending map[uint32]*pending
	next    uint32
	broken  error         // why the stream is of no use any more
	done    chan struct{} // closed with it
}

// pending is a request without a response.
type pending struct {
	part func([]byte) error
	end  chan frame // of one response; closed when the stream broke
}

// Times to wait.
const (
	greetTimeout = 15 * time.Second
	callTimeout  = 60 * time.Second // for what takes milliseconds: the other end is stuck, or the way to it
	cancelGrace  = 2 * time.Second  // for the response to a request that was cancelled
)

// maxVersion bounds what is repeated of a version, in bytes.
const maxVersion = 64

// VersionError says that the two ends are of different versions.
type VersionError struct{ Near, Far string }

// Error gives both.
func (e *VersionError) Error() string {
	if e.Near == e.Far {
		return fmt.Sprintf("the agent is another build of podtrace %q, which speaks another protocol", e.Near)
	}
	return fmt.Sprintf("the agent is podtrace %q, and this is %q", e.Far, e.Near)
}

// Hint says how to make them one.
func (e *VersionError) Hint() string {
	return "use the same version at both ends: an image of this one (--image), or the same binary on the node"
}

// New greets the far end of a stream and gives its kernel. version is podtrace's, which both ends have to be of. On an
// error the stream is closed.
func New(ctx context.Context, stream io.ReadWriteCloser, version string) (*Client, error) {
	c := &Client{stream: stream, pending: make(map[uint32]*pending), done: make(chan struct{})}
	var err error
	if c.codec, err = newCodec(stream, stream, maxResponse); err != nil {
		return nil, errors.Join(err, stream.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() }) // ends a read that waits
	h, err := c.greet(version)
	if !stop() && err != nil {
		err = fmt.Errorf("no agent answers: %w", context.Cause(ctx))
	}
	if err != nil {
		end := stream.Close()
		if _, ok := errors.AsType[*VersionError](err); end != nil && !ok {
			err = end // what ssh said tells more than that its output ended
		}
		return nil, err
	}
	go c.listen()
	go c.watch()
	go c.beat()
	c.machine = node.Machine{Boot: h.Boot}
	if h.Boot == "" || h.Boot != node.BootID() {
		if c.machine.Ahead, err = c.measure(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (c *Client) greet(version string) (hello, error) {
	if err := awaitPreamble(c.r); err != nil {
		return hello{}, fmt.Errorf("wait for the agent: %w", err)
	}
	b, err := json.Marshal(hello{Protocol: Protocol, Version: version})
	if err != nil {
		return hello{}, err
	}
	if err := c.write(frame{kindHello, 0, b}); err != nil {
		return hello{}, fmt.Errorf("greet the agent: %w", err)
	}
	f, err := c.read()
	if err != nil {
		return hello{}, fmt.Errorf("greet the agent: %w", err)
	}
	var h hello
	if f.kind != kindHello {
		return hello{}, fmt.Errorf("greet the agent: message of kind %d", f.kind)
	}
	if err := safejson.Unmarshal("greeting", f.data, &h); err != nil {
		return hello{}, err
	}
	if h.Protocol != Protocol || h.Version != version {
		return hello{}, &VersionError{Near: version, Far: h.Version[:min(len(h.Version), maxVersion)]}
	}
	return h, nil
}

// measure finds how far the far clock is ahead: of a few exchanges the fastest tells it best.
func (c *Client) measure(ctx context.Context) (time.Duration, error) {
	const exchanges = 4
	best, ahead := time.Duration(-1), time.Duration(0)
	for range exchanges {
		var far int64
		begin := time.Now()
		if err := c.call(ctx, opClock, nil, &far, nil); err != nil {
			return 0, err
		}
		took := time.Since(begin)
		if best < 0 || took < best {
			best, ahead = took, time.Duration(far-begin.UnixNano())-took/2
		}
	}
	return ahead, nil
}

// listen hands responses to those who wait for them.
func (c *Client) listen() {
	for {
		f, err := c.read()
		if err == nil {
			err = c.take(f)
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the agent ended")
			}
			c.fail(err)
			return
		}
	}
}

// beat says that this end is there.
func (c *Client) beat() {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
			if c.write(frame{kind: kindAlive}) != nil {
				return // listen says why
			}
		}
	}
}

// watch ends everything when the far end is silent. It never writes: a write may be what waits.
func (c *Client) watch() {
	if err := c.heard.silence(c.done, nearSilence); err != nil {
		c.fail(err)
	}
}

func (c *Client) take(f frame) error {
	if f.kind == kindAlive {
		return nil
	}
	c.mu.Lock()
	p := c.pending[f.id]
	if f.kind != kindPart {
		delete(c.pending, f.id)
	}
	c.mu.Unlock()
	switch {
	case p == nil:
		return fmt.Errorf("the agent answers request %d, which waits for nothing", f.id)
	case f.kind == kindPart && p.part != nil:
		return p.part(f.data)
	case f.kind == kindResponse, f.kind == kindError:
		p.end <- f
		return nil
	default:
		return fmt.Errorf("the agent sends a message of kind %d", f.kind)
	}
}

// fail ends everything that waits.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.broken == nil {
		c.broken = err
		close(c.done)
	}
	c.pending = make(map[uint32]*pending)
	c.mu.Unlock()
	_ = c.stream.Close()
}

func (c *Client) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &node.LostError{Err: c.broken}
}

// call runs one request. part takes what comes before the response. The end of ctx asks the far end to be quick
// about it: its response still counts.
func (c *Client) call(ctx context.Context, op string, args, result any, part func([]byte) error) error {
	return c.callFor(ctx, callTimeout, op, args, result, part)
}

func (c *Client) callFor(ctx context.Context, most time.Duration, op string, args, result any, part func([]byte) error) error {
	q := request{Op: op}
	var err error
	if args != nil {
		if q.Args, err = json.Marshal(args); err != nil {
			return err
		}
	}
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	p := &pending{part: part, end: make(chan frame, 1)}
	c.mu.Lock()
	if c.broken != nil {
		c.mu.Unlock()
		return c.lost()
	}
	c.next++
	id := c.next
	c.pending[id] = p
	c.mu.Unlock()
	if err := c.write(frame{kindRequest, id, b}); err != nil {
		c.fail(fmt.Errorf("the way to the agent broke: %w", err))
		return c.lost()
	}
	return c.await(ctx, most, id, p, op, result)
}

func (c *Client) await(ctx context.Context, most time.Duration, id uint32, p *pending, op string, result any) error {
	timer := time.NewTimer(most)
	defer timer.Stop()
	cancelled := ctx.Done()
	for {
		select {
		case f := <-p.end:
			if f.kind == kindError {
				var e problem
				if err := safejson.Unmarshal("error of the agent", f.data, &e); err != nil {
					return err
				}
				return &RemoteError{Msg: e.Msg, hint: e.Hint, ctx: ctx.Err()}
			}
			return safejson.Unmarshal(op, f.data, result)
		case <-c.done:
			return c.lost()
		case <-cancelled:
			cancelled = nil
			timer.Reset(cancelGrace)
			if err := c.write(frame{kind: kindCancel, id: id}); err != nil {
				c.fail(fmt.Errorf("the way to the agent broke: %w", err))
			}
		case <-timer.C:
			c.fail(fmt.Errorf("the agent did not answer %q in time", op))
			return errors.Join(ctx.Err(), c.lost())
		}
	}
}

// Close ends the far end with its stream.
func (c *Client) Close() error {
	c.fail(errors.New("closed"))
	return nil
}
