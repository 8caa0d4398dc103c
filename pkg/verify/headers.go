package verify

import (
	"slices"
	"strconv"
	"strings"

	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/forward"
)

// field is one header field: what the tables lead to, and how to read it from a frame.
type field struct {
	name string
	want string
	got  func(f *decode.Frame) string
}

// unrecorded reports whether the capture did not keep the field: the destination address of a cooked one.
func (f *field) unrecorded(fr *decode.Frame) bool {
	switch f.name {
	case "outer.ethDst":
		return fr.Outer.NoEthDst
	case "ethDst":
		return fr.Flow().NoEthDst
	default:
		return false
	}
}

// headerChecks compares every header that the tables determine, in all sightings. A field passes when
// it does in each of them; the first that differs is shown.
func (h *Hop) headerChecks(shift int) []Check {
	var out []Check
	for _, f := range h.fields(shift) {
		if f.want == "" {
			continue
		}
		if s := h.stepFor(f.name); s != nil && s.Kind == forward.StepNeigh && s.Neigh == nil {
			continue // a guess who answers: the wire knows better
		}
		c := Check{
			Name: f.name, OK: true, Expected: f.want, Observed: f.want, Source: FromTables,
			Node: h.Node, Interface: h.Interface, Step: h.stepFor(f.name),
		}
		compared := false
		for i := range h.Sightings {
			fr := &h.Sightings[i].Frame
			if f.unrecorded(fr) {
				continue
			}
			compared = true
			if got := f.got(fr); got != f.want {
				c.OK, c.Observed = false, got
				break
			}
		}
		if compared {
			out = append(out, c)
		}
	}
	return out
}

// stepFor finds the entry that decided a field, the latest one before this hop.
func (h *Hop) stepFor(name string) *forward.Step {
	for i := len(h.Steps) - 1; i >= 0; i-- {
		s := &h.Steps[i]
		field := name
		if h.Frame.Outer != nil && s.Kind == forward.StepNeigh && s.Ifindex == h.Ifindex {
			field = strings.TrimPrefix(name, "outer.") // the neighbour of the uplink is the outer frame's
			if field == name {
				continue
			}
		}
		if slices.Contains(s.Fields, field) {
			return s
		}
	}
	return nil
}

func (h *Hop) fields(shift int) []field {
	e := h.Frame
	fs := []field{{"encapsulation", encapName(e.Outer != nil, e.Outer != nil && e.Outer.Bare), func(f *decode.Frame) string {
		return encapName(f.HasVXLAN || f.HasIPUDP, f.HasIPUDP)
	}}}
	inner := func(f *decode.Frame) *decode.Headers { return f.Flow() }
	fs = append(fs, headerFields("", &e.Headers, inner, shift)...)
	if e.Outer == nil {
		return fs
	}
	outer := func(f *decode.Frame) *decode.Headers { return &f.Outer }
	fs = append(fs, headerFields("outer.", &e.Outer.Headers, outer, 0)...)
	if e.Outer.Bare {
		return fs
	}
	return append(fs, field{"vni", strconv.Itoa(int(e.Outer.VNI)), func(f *decode.Frame) string {
		return strconv.Itoa(int(f.VXLAN.VNI))
	}})
}

func encapName(encapsulated, bare bool) string {
	switch {
	case bare:
		return "ip in udp"
	case encapsulated:
		return "vxlan"
	default:
		return "none"
	}
}

// headerFields lists one frame's fields; what the tables leave open has no expectation.
func headerFields(prefix string, e *forward.Headers, at func(*decode.Frame) *decode.Headers, shift int) []field {
	known := func(bit forward.Field, s string) string {
		if e.Any&bit != 0 {
			return ""
		}
		return s
	}
	src, dst := known(forward.FieldEthSrc, macString(e.EthSrc)), known(forward.FieldEthDst, macString(e.EthDst))
	if e.NoEth {
		src, dst = "", ""
	}
	ports := e.Proto == forward.ProtoTCP || e.Proto == forward.ProtoUDP
	return []field{
		{prefix + "ethSrc", src, func(f *decode.Frame) string { return macString(at(f).EthSrc) }},
		{prefix + "ethDst", dst, func(f *decode.Frame) string { return macString(at(f).EthDst) }},
		{prefix + "ipSrc", known(forward.FieldSrc, addrString(e.Src)), func(f *decode.Frame) string { return addrString(at(f).Src) }},
		{prefix + "ipDst", known(forward.FieldDst, addrString(e.Dst)), func(f *decode.Frame) string { return addrString(at(f).Dst) }},
		{prefix + "proto", strconv.Itoa(int(e.Proto)), func(f *decode.Frame) string { return strconv.Itoa(int(at(f).Proto)) }},
		{prefix + "srcPort", known(forward.FieldSrcPort, portString(ports, e.SrcPort)), func(f *decode.Frame) string { return portString(true, at(f).SrcPort) }},
		{prefix + "dstPort", known(forward.FieldDstPort, portString(ports, e.DstPort)), func(f *decode.Frame) string { return portString(true, at(f).DstPort) }},
		{prefix + "ttl", known(forward.FieldTTL, ttlString(int(e.TTL)-shift)), func(f *decode.Frame) string { return ttlString(int(at(f).TTL)) }},
	}
}

func portString(has bool, port uint16) string {
	if !has || port == 0 {
		return ""
	}
	return strconv.Itoa(int(port))
}

func ttlString(ttl int) string {
	if ttl <= 0 {
		return ""
	}
	return strconv.Itoa(ttl)
}
