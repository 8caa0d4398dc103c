package captures

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/podtrace/podtrace/pkg/decode"
	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/flows"
	"github.com/podtrace/podtrace/pkg/pcapfile"
)

// Conclusion is what the frames of a point say of its place.
type Conclusion struct {
	Point string `json:"point"`
	// Node is the node's address on the network between the nodes, where encapsulated frames show it.
	Node string `json:"node,omitempty"`
	// Place says in words where on the path the point is.
	Place string `json:"place"`
	// TTL and addresses are those of the path's packets there, the inner ones of an encapsulated frame.
	TTL          uint8      `json:"ttl,omitempty"`
	EthSrc       string     `json:"ethSrc,omitempty"`
	EthDst       string     `json:"ethDst,omitempty"`
	Encapsulated bool       `json:"encapsulated,omitempty"`
	OuterSrc     netip.Addr `json:"outerSrc,omitzero"`
	OuterDst     netip.Addr `json:"outerDst,omitzero"`
	VNI          uint32     `json:"vni,omitempty"`

	seen     bool
	src, dst ether.MAC
}

// looked is how many packets of a file are looked at for one of the flow.
const looked = 200_000

// conclude finds out about the points from the busiest flow that got through, or that should have.
func (r *Report) conclude(points []flows.Point) {
	f := busiest(r.Flows)
	if f == nil {
		for i := range r.Points {
			r.Conclusions = append(r.Conclusions, Conclusion{Point: r.Points[i].Name, Place: "unknown: no flow passes it"})
		}
		return
	}
	r.Path = f.Tuple.String()
	tuples := append([]flows.Tuple{f.Tuple}, f.NAT...)
	for i := range r.Points {
		p := points[slices.IndexFunc(points, func(p flows.Point) bool { return p.Name == r.Points[i].Name })]
		c := look(p, r.Points[i].VXLANPort, tuples)
		c.Point = p.Name
		r.Conclusions = append(r.Conclusions, c)
	}
	along := make([]*Conclusion, len(r.Conclusions))
	for i := range r.Conclusions {
		along[i] = &r.Conclusions[i]
	}
	if f.Backward {
		slices.Reverse(along)
	}
	place(along)
}

// busiest is the flow with most packets, forward ones first: its path is told from the first point to the last.
func busiest(fs []flows.FlowResult) *flows.FlowResult {
	var best *flows.FlowResult
	weight := func(f *flows.FlowResult) uint64 {
		lost, _ := Losses(f)
		return f.Complete + lost
	}
	for i := range fs {
		f := &fs[i]
		if !f.Tuple.Src.IsValid() || weight(f) == 0 {
			continue
		}
		if best == nil || best.Backward && !f.Backward || best.Backward == f.Backward && weight(f) > weight(best) {
			best = f
		}
	}
	return best
}

// look finds the first packet of the flow at a point.
func look(p flows.Point, port uint16, tuples []flows.Tuple) (c Conclusion) {
	r, err := pcapfile.Open(p.Path)
	if err != nil {
		return c // it was read a moment ago
	}
	defer r.Close() //nolint:errcheck // only read
	d := decode.Decoder{VXLANPorts: []uint16{port}}
	var rec pcapfile.Record
	var h decode.Frame
	for range looked {
		if err := r.Next(&rec); errors.Is(err, io.EOF) {
			break
		}
		if !p.Takes(&rec) || !decoded(&d, &rec, &h) {
			continue
		}
		if slices.ContainsFunc(tuples, func(t flows.Tuple) bool { return of(h.Flow(), t) }) {
			c.take(&h)
			break
		}
	}
	return c
}

// decoded decodes a packet by its link type; false for one without an IP packet that podtrace reads.
func decoded(d *decode.Decoder, rec *pcapfile.Record, h *decode.Frame) bool {
	if rec.LinkType == pcapfile.LinkEthernet {
		d.Decode(rec.Data, rec.OrigLen, h)
		return true
	}
	_, off, ok := rec.LinkType.Payload(rec.Data)
	if ok {
		d.DecodeIP(rec.Data[off:], rec.OrigLen-off, h)
	}
	return ok
}

// of reports whether a packet is of the flow.
func of(h *decode.Headers, t flows.Tuple) bool {
	if !h.HasIP || h.Proto != t.Proto || h.Src != t.Src || h.Dst != t.Dst {
		return false
	}
	ports := h.Proto == decode.ProtoTCP || h.Proto == decode.ProtoUDP
	return !ports || h.SrcPort == t.SrcPort && h.DstPort == t.DstPort
}

func (c *Conclusion) take(h *decode.Frame) {
	in := h.Flow()
	c.seen, c.TTL, c.src, c.dst = true, in.TTL, in.EthSrc, in.EthDst
	if !c.src.IsZero() || !c.dst.IsZero() {
		c.EthSrc, c.EthDst = c.src.String(), c.dst.String()
	}
	if h.HasVXLAN {
		c.Encapsulated, c.OuterSrc, c.OuterDst, c.VNI = true, h.Outer.Src, h.Outer.Dst, h.VXLAN.VNI
	}
}

// place says of each point, in the order of travel, where it is: before or behind the network between the nodes, which
// encapsulated frames show, and before or behind a router, which the TTL shows.
func place(cs []*Conclusion) {
	first := slices.IndexFunc(cs, func(c *Conclusion) bool { return c.Encapsulated })
	last := first
	for i, c := range cs {
		if c.Encapsulated {
			last = i
		}
	}
	for i, c := range cs {
		switch {
		case !c.seen:
			c.Place = "unknown: it shows no packet of the path"
		case first < 0:
			c.Place = unrouted(cs, i)
		case c.Encapsulated:
			c.wire(cs, i, first, last)
		case i < first:
			c.Node = cs[first].OuterSrc.String()
			c.Place = beside(c, cs[first], "before its routing: pod, veth or bridge", "its tunnel device")
		case i > last:
			c.Node = cs[last].OuterDst.String()
			c.Place = beside(c, cs[last], "behind its routing: bridge, veth or pod", "its tunnel device")
		default:
			c.Place = "between two encapsulated points, and itself not encapsulated"
		}
	}
}

// beside tells the tunnel device, where the frame is the one that is encapsulated, from what is further off.
func beside(c, tunnel *Conclusion, far, near string) string {
	if c.TTL == tunnel.TTL && c.src == tunnel.src {
		return near
	}
	return far
}

// wire: encapsulated frames. Of two such points the first is the sender's, the last the receiver's.
func (c *Conclusion) wire(cs []*Conclusion, i, first, last int) {
	c.Place = fmt.Sprintf("network between the nodes, %s to %s, VNI %d", c.OuterSrc, c.OuterDst, c.VNI)
	switch {
	case first != last && i == first, first == last && i == len(cs)-1 && i > 0:
		c.Node = c.OuterSrc.String()
	case first != last && i == last, first == last && i == 0 && len(cs) > 1:
		c.Node = c.OuterDst.String()
	}
}

// unrouted: without encapsulation only the TTL and the addresses of the link tell points apart.
func unrouted(cs []*Conclusion, i int) string {
	for k := i - 1; k >= 0; k-- {
		b := cs[k]
		switch {
		case !b.seen:
			continue
		case b.TTL > cs[i].TTL:
			return fmt.Sprintf("%d routers behind %s", b.TTL-cs[i].TTL, b.Point)
		case b.src == cs[i].src && b.dst == cs[i].dst:
			return "on one link with " + b.Point
		default:
			return "behind " + b.Point + ", on another link"
		}
	}
	return "first on the path"
}
