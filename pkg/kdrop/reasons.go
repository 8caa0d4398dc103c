package kdrop

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A reason's upper half is its subsystem (enum skb_drop_reason_subsys, Linux 6.4), 0 for the core's own.
const subsysShift = 16

const corePrefix = "SKB_DROP_REASON_"

// reasons are the names of the running kernel.
type reasons struct {
	names  map[uint32]string // by number, without prefix
	subsys map[uint32]string // by number: "OPENVSWITCH"
	rxSk   bool              // the tracepoint tells the receiving socket too
	// Reasons that the BPF program does not report, noReason if the kernel has none such: a packet
	// that did its work, and a packet tap's own copy.
	consumed, tapped uint32
}

// noReason is no value of enum skb_drop_reason.
const noReason = ^uint32(0)

const unspecified = "NOT_SPECIFIED"

func (r *reasons) name(code uint32) string {
	if s, ok := r.names[code]; ok {
		return s
	}
	if s, ok := r.subsys[code>>subsysShift]; ok && code>>subsysShift != 0 {
		return fmt.Sprintf("%s(%d)", s, code&(1<<subsysShift-1))
	}
	return fmt.Sprintf("REASON(%d)", code)
}

// parseFormat reads the names of the core's reasons from the format file of skb:kfree_skb in tracefs: the pairs of its
// __print_symbolic, { 2, "NO_SOCKET" }.
func parseFormat(b []byte) map[uint32]string {
	printSymbolic := regexp.MustCompile(`\{\s*(\d{1,10}|0x[0-9a-fA-F]{1,8})\s*,\s*"(\w{1,64})"\s*\}`)
	out := make(map[uint32]string)
	for _, m := range printSymbolic.FindAllSubmatch(b, -1) {
		if n, err := strconv.ParseUint(string(m[1]), 0, 32); err == nil {
			out[uint32(n)] = strings.TrimPrefix(string(m[2]), corePrefix)
		}
	}
	return out
}
