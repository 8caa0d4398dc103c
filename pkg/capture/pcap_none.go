//go:build !libpcap || !linux

package capture

import (
	"context"

	"golang.org/x/net/bpf"
)

const hasPcap = false

func openPcap(context.Context, Config) (engine, error) { return nil, &BuildError{`engine "pcap"`} }

func compile(string, bool) ([]bpf.RawInstruction, error) {
	return nil, &BuildError{"a filter expression"}
}
