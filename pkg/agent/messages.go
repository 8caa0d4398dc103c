package agent

import (
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/node"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
)

// hello is what the ends say to each other first.
type hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"` // of podtrace
	Boot     string `json:"boot,omitempty"`
	Clock    int64  `json:"clock,omitempty"` // ns since the epoch, of the far end
}

// request is an operation and what it is about.
type request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

// The operations.
const (
	opClock       = "clock"
	opOpen        = "open"
	opRead        = "read"
	opAsk         = "ask"
	opCounters    = "counters"
	opRules       = "rules"
	opCapture     = "capture"
	opCaptureIdle = "capture-idle"
	opCaptureStop = "capture-stop"
	opStream      = "stream"
	opStreamPull  = "stream-pull"
	opStreamStop  = "stream-stop"
	opDrops       = "drops"
	opDropsTake   = "drops-take"
	opDropsStop   = "drops-stop"
	opDropsClose  = "drops-close"
	opPrepare     = "prepare"
	opRun         = "run"
	opProbeClose  = "probe-close"
)

// problem is an error on its way.
type problem struct {
	Msg  string `json:"msg"`
	Hint string `json:"hint,omitempty"`
}

// RemoteError is an error that the far end met.
type RemoteError struct {
	Msg  string
	hint string
	ctx  error // why the near end cancelled the request, if it did
}

// Error gives the far end's words.
func (e *RemoteError) Error() string { return e.Msg }

// Unwrap gives the reason of the near end's own having cancelled it.
func (e *RemoteError) Unwrap() error { return e.ctx }

// Hint says what to do next, "" where the far end had no word on it.
func (e *RemoteError) Hint() string { return e.hint }

func fromError(err error) problem {
	p := problem{Msg: err.Error()}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		p.Hint = h.Hint()
	}
	return p
}

type (
	none struct{}

	openArgs struct {
		Wants []resolve.Want `json:"wants"`
	}
	askArgs struct {
		Netns     netns.ID        `json:"netns"`
		Questions []node.Question `json:"questions"`
	}
	netnsArgs struct {
		Netns netns.ID `json:"netns"`
	}
	// handle is the far end's number of something that goes on: a capture, a watch, a probe.
	handle struct {
		Handle uint32 `json:"handle"`
	}
	armed struct {
		Handle uint32        `json:"handle"`
		Arm    time.Duration `json:"arm"`
	}
	idle struct {
		Idle time.Duration `json:"idle"`
	}
	// captured is the result of a capture; its frames came before it, as parts.
	captured struct {
		Points []pointStats `json:"points"`
		Cut    time.Time    `json:"cut,omitzero"`
	}
	dropped struct {
		Drops []kdrop.Drop `json:"drops"`
		Lost  int          `json:"lost"`
		Err   string       `json:"err,omitempty"` // the drops stand, and are not all
	}
	prepareArgs struct {
		Netns netns.ID   `json:"netns"`
		Probe node.Probe `json:"probe"`
	}
	prepared struct {
		Handle uint32 `json:"handle"`
		Flow   flow   `json:"flow"`
	}
	runArgs struct {
		Handle   uint32        `json:"handle"`
		Count    int           `json:"count"`
		Interval time.Duration `json:"interval"`
		Timeout  time.Duration `json:"timeout"`
	}
)

// flow is probe.Flow.
type flow struct {
	Proto   uint8      `json:"proto"`
	Src     netip.Addr `json:"src,omitzero"`
	Dst     netip.Addr `json:"dst,omitzero"`
	SrcPort uint16     `json:"srcPort"`
	DstPort uint16     `json:"dstPort"`
	Marker  [8]byte    `json:"marker"`
}

// pointStats is capture.PointStats with its error in words.
type pointStats struct {
	ID          int    `json:"id"`
	Packets     uint64 `json:"packets"`
	Drops       uint64 `json:"drops"`
	Overflow    uint64 `json:"overflow,omitempty"`
	After       uint64 `json:"after,omitempty"`
	FreezeQueue uint64 `json:"freezeQueue,omitempty"`
	Truncated   int    `json:"truncated,omitempty"`
	Err         string `json:"err,omitempty"`
	Flapped     bool   `json:"flapped,omitempty"`
}

func fromStats(s capture.PointStats) pointStats {
	out := pointStats{ID: s.ID, Packets: s.Packets, Drops: s.Drops, Overflow: s.Overflow, After: s.After, FreezeQueue: s.FreezeQueue, Truncated: s.Truncated, Flapped: s.Flapped}
	if s.Err != nil {
		out.Err = s.Err.Error()
	}
	return out
}

func (s pointStats) stats() capture.PointStats {
	out := capture.PointStats{ID: s.ID, Packets: s.Packets, Drops: s.Drops, Overflow: s.Overflow, After: s.After, FreezeQueue: s.FreezeQueue, Truncated: s.Truncated, Flapped: s.Flapped}
	if s.Err != "" {
		out.Err = errors.New(s.Err)
	}
	return out
}

var _ = flow(probe.Flow{}) // the two have the same fields
