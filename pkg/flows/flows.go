// Package flows compares capture files taken at the points of one path, packet by packet, in bounded
// memory whatever their size: which packets of which flow went through, between which two points
// others were lost, and which were rewritten wrongly.
//
// It is the streaming relative of pkg/correlate. That one knows one flow and keeps all its frames;
// this one knows no flow beforehand, keeps none, and judges by counts. A packet is known again by what
// no rewrite on a path changes (see identity), within a window of time. What cannot be told apart is
// counted as ambiguous, what a capture could not have seen is counted as under way: neither is called
// lost.
package flows

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// MaxPoints is how many points a path may have.
const MaxPoints = 16

// Point is one capture point: a file, or one interface of a file.
type Point struct {
	Name string // for people; empty: the path
	Path string
	// Interface is the number of the interface in the file, from 1; 0 takes all.
	Interface int
	// Ifindex takes the packets of one interface of a cooked capture of version 2 (-i any); 0 takes all.
	Ifindex uint32
	// VXLANPort is the UDP destination port of encapsulated frames, in host byte order; 0: what the
	// frames show. VNI is the network they must carry; 0: the one that most carry.
	VXLANPort uint16
	VNI       uint32
}

// Takes reports whether a packet of the file is of the point.
func (p *Point) Takes(rec *pcapfile.Record) bool {
	return (p.Interface == 0 || rec.Interface == p.Interface-1) && (p.Ifindex == 0 || p.Ifindex == rec.Ifindex())
}

// Translation is one pair of NAT: packets that are Before at one point are After at later ones. Zero
// ports fit any.
type Translation struct{ Before, After Tuple }

// Config says what to compare. The zero value of every field but Points is the default.
type Config struct {
	// Points are in the order of the path, unless FindOrder is set: then hop limits and times decide.
	Points    []Point
	FindOrder bool
	// Translations are NAT pairs that are known. NoLearning says that there are no others: any other
	// change of addresses is wrong.
	Translations []Translation
	NoLearning   bool
	// Window is how long a packet may take from its first point to its last; 0: as measured, between
	// MinWindow and MaxWindow.
	Window time.Duration
	// MaxFlows bounds the flows told apart (default 65536); packets of further ones are counted
	// together.
	MaxFlows int
	// MaxPending bounds the packets under way (default 262144) that are remembered.
	MaxPending int
	// TempDir is where files that are not in order of time are sorted; empty: the system's.
	TempDir string
}

// Bounds of the window, unless Config says otherwise.
const (
	MinWindow = 25 * time.Millisecond
	MaxWindow = 2 * time.Second

	defaultFlows   = 1 << 16
	defaultPending = 1 << 18
)

// Result is what the files say. Points are in the order of the path.
type Result struct {
	Points []PointResult `json:"points"`
	Flows  []FlowResult  `json:"flows"` // by tuple
	// Window is the longest that was used, in nanoseconds.
	Window time.Duration `json:"window"`
	// WindowShort says that more packets were under way than are remembered: a slow packet may have
	// been taken for a lost one.
	WindowShort bool `json:"windowShort,omitempty"`
}

// PointResult is what one point saw.
type PointResult struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"` // on the wire
	Other   uint64 `json:"other"` // neither IPv4 nor IPv6, or without a whole IP header
	// VXLAN counts encapsulated packets; VXLANPort is their UDP port, VNI what most of them carry.
	VXLAN     uint64 `json:"vxlan,omitempty"`
	VXLANPort uint16 `json:"vxlanPort,omitempty"`
	VNI       uint32 `json:"vni,omitempty"`
	// Partial counts checksums that the sender left to the hardware, Corrupt those that are wrong.
	Partial   uint64 `json:"partial,omitempty"`
	Corrupt   uint64 `json:"corrupt,omitempty"`
	Fragments uint64 `json:"fragments,omitempty"`
	Truncated uint64 `json:"truncated,omitempty"` // cut by the snap length
	Drops     uint64 `json:"drops,omitempty"`     // lost by the capture itself
	// First and Last are the times of the first and the last packet, ns since the epoch by the clock
	// of the point. Offset is added to them to get the clock of the first point.
	First  int64         `json:"first"`
	Last   int64         `json:"last"`
	Offset time.Duration `json:"offset"`
	// Unsorted: the file was not in order of time, and was sorted.
	Unsorted bool             `json:"unsorted,omitempty"`
	Damage   *pcapfile.Damage `json:"-"`
}

// FlowResult is one direction of one flow. Every packet is in exactly one of Complete, Lost, Underway,
// Ambiguous and Elsewhere; the other counts are beside them. Packets of TCP that offloads merge or cut
// are counted in the smallest pieces that were seen, fragments as whole datagrams.
type FlowResult struct {
	Tuple Tuple `json:"tuple"` // at the first point of its direction
	// Backward flows go from the last point to the first.
	Backward bool    `json:"backward,omitempty"`
	NAT      []Tuple `json:"nat,omitempty"` // what the tuple is translated to on the way
	Complete uint64  `json:"complete"`
	Lost     []Loss  `json:"lost,omitempty"`
	// Underway were on the path when a capture began or ended.
	Underway uint64 `json:"underway,omitempty"`
	// Ambiguous may be lost, or may be other packets that look the same, or may have been lost by the
	// captures themselves.
	Ambiguous uint64 `json:"ambiguous,omitempty"`
	// Elsewhere were seen between the ends only, of a flow that neither end ever saw.
	Elsewhere uint64    `json:"elsewhere,omitempty"`
	Rewrites  []Rewrite `json:"rewrites,omitempty"`
	Missed    []Count   `json:"missed,omitempty"` // not seen at a point, but before and after it
	// Duplicates are frames that a point saw again, Corrupt those with a wrong checksum.
	Duplicates []Count `json:"duplicates,omitempty"`
	Corrupt    []Count `json:"corrupt,omitempty"`
	// Retransmissions are TCP segments whose bytes had been sent before, at the first point.
	Retransmissions uint64 `json:"retransmissions,omitempty"`
}

// Loss is packets that From was the last to see. To is the next point that would have seen them.
type Loss struct {
	From    int    `json:"from"`
	To      int    `json:"to"`
	Packets uint64 `json:"packets"`
}

// Rewrite is packets that were changed wrongly: they carry another VNI at Point than the others, or
// addresses or ports that are no translation of the flow's.
type Rewrite struct {
	Point   int    `json:"point"` // the first that saw it
	VNI     uint32 `json:"vni,omitempty"`
	Tuple   *Tuple `json:"tuple,omitempty"`
	Packets uint64 `json:"packets"`
}

// Count is a number of packets at a point.
type Count struct {
	Point   int    `json:"point"`
	Packets uint64 `json:"packets"`
}

// Run compares the files. Damaged files are used up to the damage and say so in the result; it fails
// if one cannot be opened.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if n := len(cfg.Points); n < 2 || n > MaxPoints {
		return nil, fmt.Errorf("compare %d capture points: between 2 and %d can be", n, MaxPoints)
	}
	if cfg.MaxFlows <= 0 {
		cfg.MaxFlows = defaultFlows
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = defaultPending
	}
	plan, err := survey(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for range len(cfg.Points) + 1 {
		res, err := runOnce(ctx, cfg, plan)
		var unsorted *unsortedError
		if !errors.As(err, &unsorted) {
			return res, err
		}
		plan.unsorted[unsorted.point] = true
	}
	return nil, errors.New("compare captures: a sorted file is not sorted") // never: each is sorted once
}

// unsortedError asks for another run in which the file of a point is sorted.
type unsortedError struct{ point int }

func (e *unsortedError) Error() string {
	return fmt.Sprintf("point %d is not in order of time", e.point)
}

// runOnce reads all files once.
func runOnce(ctx context.Context, cfg Config, plan *plan) (*Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	sources, err := openSources(ctx, cfg, plan)
	defer func() {
		cancel()
		for _, s := range sources {
			s.wait()
		}
	}()
	if err != nil {
		return nil, err
	}
	c := newCorrelator(cfg, plan)
	m := merger{sources: sources, c: c}
	if err := m.run(ctx); err != nil {
		return nil, err
	}
	c.finish(sources)
	return c.result(sources), nil
}
