package trace

import (
	"slices"
	"strconv"
	"time"

	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/diagnose"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/verify"
)

// assemble puts the judgement into the report's own types, which are a contract.
func assemble(c *Case, p plan, far verify.End, path verify.Result, fs []diagnose.Finding, v diagnose.Verdict) *report.Report {
	r := &report.Report{
		APIVersion: report.APIVersion, Kind: report.Kind, Generated: taken(c), Version: c.Version,
		Source:      endpoint(c.Source, c.Flow.Src.String()),
		Destination: endpoint(c.Destination, c.Flow.Dst.String()),
		Datapath:    datapath(c, p, far, path), Probe: c.Probe,
		Legs:     []report.Leg{leg(&path.Request), leg(&path.Reply)},
		Findings: []report.Finding{},
		Verdict: report.Verdict{
			Status: string(v.Status), Cause: v.Cause, Leg: v.Leg, Node: v.Node, Interface: v.Interface,
			Summary: v.Summary, Remedy: v.Remedy,
		},
		Incomplete: incomplete(c),
	}
	for _, f := range fs {
		r.Findings = append(r.Findings, report.Finding{
			Cause: f.Cause, Leg: f.Leg, Node: f.Node, Interface: f.Interface, Severity: string(f.Severity),
			Summary: f.Summary, Evidence: append([]string{}, f.Evidence...), Remedy: f.Remedy,
		})
	}
	r.Capture = captured(c)
	if path.HasSkew && r.Capture != nil {
		ns := path.Skew.Nanoseconds()
		r.Capture.ClockSkewNanos = &ns
	}
	for _, t := range c.Witness.Contrast {
		r.Contrast = append(r.Contrast, report.Contrast(t))
	}
	if s := c.Sized; s != nil {
		r.Size = &report.Size{
			Bytes: s.Size.Bytes, Sent: s.Size.Sent, Answered: s.Size.Answered, PMTU: s.Size.PMTU,
			Passes: s.Size.Passes, Fails: s.Size.Fails,
		}
	}
	if o := c.Opinion; o != nil {
		r.Kernel = &report.Kernel{Asked: o.Asked, Differs: []report.Difference{}}
		for _, d := range o.Differs {
			r.Kernel.Differs = append(r.Kernel.Differs, report.Difference(d))
		}
	}
	return r
}

// taken is when the snapshot was taken: a report of the same files is the same report.
func taken(c *Case) time.Time {
	if len(c.Snapshot.Netns) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(c.Snapshot.Netns, func(a, b *tables.Netns) int { return a.Taken.Compare(b.Taken) }).Taken
}

func endpoint(e inventory.Endpoint, ip string) report.Endpoint {
	return report.Endpoint{Kind: string(e.Kind), Namespace: e.Namespace, Name: e.Name, IP: ip, Node: e.Node}
}

func captured(c *Case) *report.Capture {
	if c.Observed == nil {
		return nil
	}
	out := &report.Capture{Points: []report.Point{}, Packets: len(c.Observed.Frames), ArmNanos: c.Observed.ArmNs}
	per := make(map[int]int)
	for i := range c.Observed.Frames {
		per[c.Observed.Frames[i].Point]++
	}
	for _, p := range c.Observed.Points {
		rp := report.Point{
			Node: p.Node, Netns: p.Name, Interface: p.Interface, Ifindex: int(p.Ifindex),
			Packets: per[p.ID], KernelDrops: int(p.Stats.Drops),
		}
		if p.Stats.Err != nil {
			rp.Error = p.Stats.Err.Error()
		}
		out.KernelDrops += rp.KernelDrops
		out.Points = append(out.Points, rp)
	}
	return out
}

func leg(l *verify.Leg) report.Leg {
	out := report.Leg{Name: l.Name, Hops: []report.Hop{}}
	for i := range l.Hops {
		out.Hops = append(out.Hops, hop(i, &l.Hops[i]))
	}
	return out
}

// untimed says why a latency is missing, or is that of some packets alone.
const untimed = "latency not known for all packets: their times here and at the hop before were not taken in the same way, " +
	"for some process has turned on SO_TIMESTAMP (ping does)"

// spreadFrom is how many packets make a distribution.
const spreadFrom = 10

func hop(i int, h *verify.Hop) report.Hop {
	out := report.Hop{
		Index: i + 1, Node: h.Node, Netns: h.Name, Interface: h.Interface, Ifindex: int(h.Ifindex),
		Direction: h.Dir.String(), State: string(h.State), Note: h.Note, Packets: h.Seen, Checks: []report.Check{},
	}
	if l := h.Latency; l.Packets > 0 {
		ns := l.P50.Nanoseconds()
		out.LatencyNanos = &ns
		if l.Packets >= spreadFrom {
			out.Latency = &report.Latency{
				Packets: l.Packets, MinNanos: l.Min.Nanoseconds(), P50Nanos: l.P50.Nanoseconds(), P90Nanos: l.P90.Nanoseconds(),
				P99Nanos: l.P99.Nanoseconds(), MaxNanos: l.Max.Nanoseconds(),
			}
		}
	}
	if h.Untimed > 0 {
		out.LatencyNote = untimed
	}
	out.Lost, out.Reordered, out.Duplicates = h.Lost, h.Reordered, h.Repeated
	if h.Expected {
		out.Expected = expectedHeaders(&h.Frame)
	}
	if len(h.Sightings) > 0 {
		out.Observed = observedHeaders(&h.Sightings[0].Frame)
	}
	for k := range h.Checks {
		out.Checks = append(out.Checks, check(&h.Checks[k]))
	}
	return out
}

func check(c *verify.Check) report.Check {
	out := report.Check{Name: c.Name, OK: c.OK, Expected: c.Expected, Observed: c.Observed, Source: string(c.Source)}
	if c.Step != nil {
		out.Table, out.Entry, out.Command = string(c.Step.Kind), c.Step.Entry, c.Step.Command
	}
	return out
}

func expectedHeaders(f *forward.Frame) *report.Headers {
	h := f.Headers
	out := &report.Headers{Proto: protoName(h.Proto), TTL: h.TTL}
	if h.Any&forward.FieldTTL != 0 {
		out.TTL = 0
	}
	out.EthSrc, out.EthDst = expectedMACs(&h)
	out.IPSrc, out.IPDst = expectedIPs(&h)
	if hasPorts(h.Proto) {
		out.SrcPort, out.DstPort = expectedPorts(&h)
	}
	if f.Outer == nil {
		return out
	}
	o := &report.Outer{Kind: outerKind(f.Outer.Bare), VNI: uint32(f.Outer.VNI), TTL: f.Outer.TTL, DstPort: f.Outer.DstPort}
	if f.Outer.Any&forward.FieldTTL != 0 {
		o.TTL = 0
	}
	o.EthSrc, o.EthDst = expectedMACs(&f.Outer.Headers)
	o.IPSrc, o.IPDst = expectedIPs(&f.Outer.Headers)
	out.Outer = o
	return out
}

func expectedMACs(h *forward.Headers) (src, dst string) {
	if h.NoEth {
		return "", ""
	}
	if h.Any&forward.FieldEthSrc == 0 && !h.EthSrc.IsZero() {
		src = h.EthSrc.String()
	}
	if h.Any&forward.FieldEthDst == 0 && !h.EthDst.IsZero() {
		dst = h.EthDst.String()
	}
	return src, dst
}

func expectedIPs(h *forward.Headers) (src, dst string) {
	if h.Any&forward.FieldSrc == 0 && h.Src.IsValid() {
		src = h.Src.String()
	}
	if h.Any&forward.FieldDst == 0 && h.Dst.IsValid() {
		dst = h.Dst.String()
	}
	return src, dst
}

func outerKind(bare bool) string {
	if bare {
		return "udp"
	}
	return ""
}

func expectedPorts(h *forward.Headers) (src, dst uint16) {
	if h.Any&forward.FieldSrcPort == 0 {
		src = h.SrcPort
	}
	if h.Any&forward.FieldDstPort == 0 {
		dst = h.DstPort
	}
	return src, dst
}

func observedHeaders(f *decode.Frame) *report.Headers {
	h := f.Flow()
	out := &report.Headers{Proto: protoName(h.Proto), TTL: h.TTL, SrcPort: h.SrcPort, DstPort: h.DstPort}
	out.EthSrc, out.EthDst, out.IPSrc, out.IPDst = observedAddrs(h)
	if !f.HasVXLAN && !f.HasIPUDP {
		return out
	}
	o := &report.Outer{Kind: outerKind(f.HasIPUDP), VNI: f.VXLAN.VNI, TTL: f.Outer.TTL, SrcPort: f.Outer.SrcPort, DstPort: f.Outer.DstPort}
	o.EthSrc, o.EthDst, o.IPSrc, o.IPDst = observedAddrs(&f.Outer)
	out.Outer = o
	return out
}

func observedAddrs(h *decode.Headers) (ethSrc, ethDst, src, dst string) {
	if !h.EthSrc.IsZero() {
		ethSrc = h.EthSrc.String()
	}
	if !h.EthDst.IsZero() {
		ethDst = h.EthDst.String()
	}
	if h.Src.IsValid() {
		src = h.Src.String()
	}
	if h.Dst.IsValid() {
		dst = h.Dst.String()
	}
	return ethSrc, ethDst, src, dst
}

func hasPorts(p uint8) bool { return p == forward.ProtoTCP || p == forward.ProtoUDP }

func protoName(p uint8) string {
	switch p {
	case forward.ProtoICMP:
		return "icmp"
	case forward.ProtoTCP:
		return "tcp"
	case forward.ProtoUDP:
		return "udp"
	case forward.ProtoICMPv6:
		return "icmp6"
	case 0:
		return ""
	default:
		return strconv.Itoa(int(p))
	}
}
