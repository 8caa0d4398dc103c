package capture

import (
	"errors"
	"fmt"
	"time"
)

// Engine is what takes the frames.
type Engine string

// The engines.
const (
	EngineRing Engine = "ring" // podtrace's own
	// EnginePcap is libpcap's, in a binary built with the tag libpcap: a second opinion. It does not know
	// OtherHost, CsumNotReady, CsumValid, GSO, GSOSize and Stamp.
	EnginePcap Engine = "pcap"
)

// engine is a Session's work, done by another than the rings.
type engine interface {
	start()
	stop() Result
	stats() []PointStats
	span() time.Duration
}

// BuildError says that this binary lacks what was asked for.
type BuildError struct{ What string }

// Error names it.
func (e *BuildError) Error() string {
	return e.What + " needs libpcap, which this binary is built without"
}

// Hint says what to do next.
func (e *BuildError) Hint() string {
	return "build one with it: CGO_ENABLED=1 go build -tags libpcap ./cmd/podtrace (Debian: apt-get install libpcap-dev)"
}

// Unwrap gives errors.ErrUnsupported.
func (e *BuildError) Unwrap() error { return errors.ErrUnsupported }

// CheckEngine reports whether this binary has an engine of that name.
func CheckEngine(e Engine) error {
	switch e {
	case "", EngineRing:
		return nil
	case EnginePcap:
		if !hasPcap {
			return &BuildError{`engine "pcap"`}
		}
		return nil
	}
	return fmt.Errorf("%q is none of ring, pcap", string(e))
}
