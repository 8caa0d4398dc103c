package correlate

import (
	"slices"

	"github.com/podtrace/podtrace/pkg/decode"
)

// leg is the way of travel of one packet.
type leg uint8

const (
	legNone leg = iota
	legRequest
	legReply
)

// legOf says which leg the headers belong to, by addresses; ports and echo types decide where the
// addresses allow both. sure says that the ports (the echo id) are the flow's: translation may change
// one of two ports, but frames with neither prove themselves by joining a journey.
func (f *Flow) legOf(h *decode.Headers) (l leg, sure bool) {
	if !h.HasIP || f.Proto != 0 && h.Proto != f.Proto {
		return legNone, false
	}
	srcA, srcB := slices.Contains(f.A, h.Src), slices.Contains(f.B, h.Src)
	dstA, dstB := slices.Contains(f.A, h.Dst), slices.Contains(f.B, h.Dst)
	request, reply := srcA || dstB, srcB || dstA
	if request && reply {
		switch full := srcA && dstB; {
		case full != (srcB && dstA):
			request, reply = full, !full
		default:
			request = f.isRequest(h)
			reply = !request
		}
	}
	switch {
	case request:
		return legRequest, f.portsFit(h, legRequest)
	case reply:
		return legReply, f.portsFit(h, legReply)
	}
	return legNone, false
}

// isRequest decides where the ends share addresses.
func (f *Flow) isRequest(h *decode.Headers) bool {
	if h.IsEcho() {
		return h.ICMPType == decode.ICMPEchoRequest || h.ICMPType == decode.ICMPv6EchoRequest
	}
	return f.portsFit(h, legRequest) || !f.portsFit(h, legReply)
}

// portsFit reports whether at least one of the ports that the flow names is there, or it names none.
func (f *Flow) portsFit(h *decode.Headers, l leg) bool {
	if h.Proto == decode.ProtoICMP || h.Proto == decode.ProtoICMPv6 {
		return f.APort == 0 || h.ICMPID == f.APort
	}
	a, b := h.SrcPort, h.DstPort
	if l == legReply {
		a, b = b, a
	}
	if f.APort == 0 && f.BPort == 0 {
		return true
	}
	return f.APort != 0 && a == f.APort || f.BPort != 0 && b == f.BPort
}

// quotedBy reports whether the frame is an ICMP error about the flow, or about a tunnel packet that
// carries it.
func (f *Flow) quotedBy(frame *decode.Frame) bool {
	return frame.HasQuoted && f.isAbout(&frame.Quoted) ||
		frame.HasQuotedInner && f.isAbout(&frame.QuotedInner)
}

// isAbout reports whether quoted headers are the flow's; a quoted fragment has no ports to compare.
func (f *Flow) isAbout(quoted *decode.Headers) bool {
	l, sure := f.legOf(quoted)
	return l != legNone && (sure || !quoted.HasL4)
}
