// Package node is where a trace touches kernels. A Node is one kernel, as a trace needs it: open namespaces, read
// their tables, watch interfaces, send the probe, ask and count. Local is the kernel of this machine; package agent
// has one that speaks for another machine. An Edge is all Nodes of a path, so that nothing above it knows
// how many there are or where.
//
// Values go in and out, nothing that lives on one machine only: namespaces by identity, not by descriptor.
package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"

	"github.com/podtrace/podtrace/pkg/capture"
	"github.com/podtrace/podtrace/pkg/counters"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/kdrop"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Node is one kernel. Its methods may be called side by side. An error that is a *LostError means that the node is
// out of reach and stays so.
type Node interface {
	// Machine says whose kernel it is and how its clock stands.
	Machine() Machine
	// Open opens namespaces, each once, and gives their identities in that order. They stay open until Close.
	Open(ctx context.Context, wants []resolve.Want) ([]netns.ID, error)
	// Read takes the tables of every open namespace, in the order in which they were opened, with the tracked
	// connections that are wanted.
	Read(ctx context.Context, conns netfilter.ReadOptions) (*tables.Snapshot, error)
	// Ask puts lookups to the kernel of an open namespace; the answers run along the questions.
	Ask(ctx context.Context, ns netns.ID, qs []Question) ([]Answer, error)
	// Counters reads the counters of every open namespace. One that could not be read is left out.
	Counters(ctx context.Context) ([]*counters.Snapshot, error)
	// Rules reads what the rules of an open namespace have counted.
	Rules(ctx context.Context, ns netns.ID) ([]netfilter.RuleCounter, error)
	// Capture arms all taps: when it returns they watch.
	Capture(ctx context.Context, cfg CaptureConfig) (Capture, error)
	// Stream arms all taps and hands on what they see.
	Stream(ctx context.Context, cfg CaptureConfig, sink Sink) (Stream, error)
	// WatchDrops watches what the kernel drops, in all of its namespaces.
	WatchDrops(ctx context.Context, cfg kdrop.Config) (Drops, error)
	// Prepare opens the sockets of a probe in an open namespace.
	Prepare(ctx context.Context, ns netns.ID, p Probe) (Prober, error)
	// Close ends everything and closes the namespaces.
	Close() error
}

// Machine is a kernel and its clock.
type Machine struct {
	// Boot tells kernels apart: their /proc/sys/kernel/random/boot_id. "": not known.
	Boot string
	// Ahead is how far its clock is ahead of this program's, as far as that could be measured.
	Ahead time.Duration
}

// LostError says that a node went out of reach, or never was in it.
type LostError struct {
	Node string // name of the cluster's node, "" where it is not known
	Err  error
}

// Error gives node and cause.
func (e *LostError) Error() string {
	if e.Node == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("node %q: %v", e.Node, e.Err)
}

// Unwrap gives the cause.
func (e *LostError) Unwrap() error { return e.Err }

// Question is one lookup.
type Question struct {
	Kind  string               `json:"kind"` // AskRoute, AskNeigh or AskFDB
	Route tables.RouteQuestion `json:"route,omitzero"`
	Dev   tables.Ifindex       `json:"dev,omitempty"` // of a neighbour or an FDB row
	IP    netip.Addr           `json:"ip,omitzero"`   // of a neighbour
	MAC   ether.MAC            `json:"mac,omitzero"`  // of an FDB row
}

// Kinds of Question.
const (
	AskRoute = "route"
	AskNeigh = "neigh"
	AskFDB   = "fdb"
)

// Answer is the kernel's word: the entry that was asked for, or the text of its error.
type Answer struct {
	Route tables.Route `json:"route,omitzero"`
	Neigh tables.Neigh `json:"neigh,omitzero"`
	FDB   tables.FDB   `json:"fdb,omitzero"`
	Err   string       `json:"err,omitempty"`
}

// Tap is one interface to watch.
type Tap struct {
	ID        int                  `json:"id"` // the caller's: Frame.Point and PointStats.ID carry it back
	Netns     netns.ID             `json:"netns"`
	Ifindex   int                  `json:"ifindex"`
	Interface string               `json:"interface"` // the name that the index is expected to have
	Filter    []bpf.RawInstruction `json:"filter"`
}

// CaptureConfig says what to capture; see capture.Config.
type CaptureConfig struct {
	Taps    []Tap `json:"taps"`
	SnapLen int   `json:"snapLen,omitempty"` // bytes of a frame that are kept; 0: headers only
	Budget  int   `json:"-"`                 // bytes of frames that are kept in all; 0: much
	// MaxTotal bounds the frames of all taps of a node; the capture is over with the last that fits. 0: no bound.
	MaxTotal int            `json:"maxTotal,omitempty"`
	Engine   capture.Engine `json:"engine,omitempty"`
}

// Capture is a running capture.
type Capture interface {
	// ArmDuration is how long it took until the last tap was armed.
	ArmDuration() time.Duration
	// Idle is how long ago the newest frame was read; the age of the capture where there is none yet.
	Idle(ctx context.Context) (time.Duration, error)
	// Stop ends the capture and gives all of it. It has to be called in any case.
	Stop(ctx context.Context) (capture.Result, error)
}

// Drops watches what a kernel drops.
type Drops interface {
	// Take gives what was dropped since the last time, and how many reports were lost meanwhile.
	Take(ctx context.Context) (drops []kdrop.Drop, lost int, err error)
	// Stop gives the rest, and ends it.
	Stop(ctx context.Context) (drops []kdrop.Drop, lost int, err error)
	Close() error
}

// Probe is what to send.
type Probe struct {
	Spec    probe.Spec    `json:"spec"`
	Src     netip.Addr    `json:"src,omitzero"` // invalid: the kernel chooses
	Dst     netip.Addr    `json:"dst"`
	Options probe.Options `json:"options"`
}

// Prober is a probe that is ready to be sent.
type Prober interface {
	Flow() probe.Flow
	// Run sends; the end of ctx ends it early. What went wrong stands in the result.
	Run(ctx context.Context, count int, interval, timeout time.Duration) probe.Result
	Close() error
}
