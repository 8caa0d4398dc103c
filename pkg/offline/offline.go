// Package offline makes a case of what people have in hand after an incident: outputs of commands, pasted into
// files, and captures of tcpdump, one a point. trace.Judge then judges it as it judges a live trace.
//
// What nobody listed or captured stays unknown. The package reads files and asks no kernel.
package offline

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/ether"
	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/listing"
	"github.com/podtrace/podtrace/pkg/probe"
	"github.com/podtrace/podtrace/pkg/report"
	"github.com/podtrace/podtrace/pkg/resolve"
	"github.com/podtrace/podtrace/pkg/tables"
	"github.com/podtrace/podtrace/pkg/trace"
)

// Request says what there is and what is asked.
type Request struct {
	// Paths are files and folders. In a folder the way to a file says where it was taken: NODE/FILE on a node,
	// NODE/NAMESPACE/POD/FILE in a pod; a capture is named after its interface, NODE/cni0.pcap.
	Paths []string
	// Points give captures their place: NODE/INTERFACE=FILE, NODE/POD/INTERFACE=FILE or
	// NODE/NAMESPACE/POD/INTERFACE=FILE.
	Points      []string
	Source      string
	Destination string
	Namespace   string
	// Inventory are the objects; nil: what the listings say of them.
	Inventory *inventory.Inventory
	// Probe is what the tables are asked about; nil: what most packets from source to destination are, and
	// without captures ICMP.
	Probe   *probe.Spec
	Version string
}

// PlaceError says that nothing tells where a capture was taken.
type PlaceError struct{ Path, Why string }

// Error names the file and the reason.
func (e *PlaceError) Error() string { return fmt.Sprintf("capture %q: %s", e.Path, e.Why) }

// Hint says what to do.
func (e *PlaceError) Hint() string {
	return "say where it was taken with --point NODE/INTERFACE=FILE or NODE/NAMESPACE/POD/INTERFACE=FILE"
}

// Judge judges what there is. Beside the findings of the case the report notes what the listings show and no trace
// would ask for, and from which files the points are.
func Judge(q Request) (*report.Report, error) {
	c, l, from, err := read(q)
	if err != nil {
		return nil, err
	}
	r := trace.Judge(c)
	for _, f := range l.Leftovers {
		r.Findings = append(r.Findings, report.Finding{
			Cause: "fdb-leftover", Severity: report.SeverityNote, Node: f.Node, Interface: f.Interface,
			Summary:  "a row of a VTEP that is gone: no neighbour entry of " + f.Interface + " leads to its MAC, and no node announces it",
			Evidence: []string{f.Entry, "listed in " + f.String()},
		})
	}
	if r.Capture != nil {
		for i := range r.Capture.Points {
			r.Capture.Points[i].Source = from[i]
		}
	}
	return r, nil
}

// read makes the case. It gives what each point was read from.
func read(q Request) (*trace.Case, *listing.Listing, map[int]string, error) {
	m, err := Sort(q.Paths, q.Points)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(m.Listings) == 0 {
		return nil, nil, nil, errors.New("there is no listing: without tables nothing says which way a packet should go")
	}
	l := listing.Parse(m.Listings)
	for _, n := range l.Snapshot.Netns { // as a kernel lists them
		slices.SortStableFunc(n.Links, func(a, b tables.Link) int { return cmp.Compare(a.Index, b.Index) })
	}
	c := &trace.Case{Inventory: l.Inventory, Snapshot: l.Snapshot, Version: q.Version, Incomplete: unread(l)}
	if q.Inventory != nil {
		c.Inventory = q.Inventory
	}
	if err := ends(c, q); err != nil {
		return nil, nil, nil, err
	}
	from, err := wire(c, q.Probe, m.Captures)
	return c, l, from, err
}

// wire reads the captures into the case, and sets the flow that the tables are asked about.
func wire(c *trace.Case, spec *probe.Spec, captures []Source) (map[int]string, error) {
	var recordings []*recording
	budget := maxFrames
	for _, s := range captures {
		r, err := readCapture(s.Path, s.At, budget, concerns(c))
		if err != nil {
			return nil, err
		}
		budget -= len(r.packets)
		recordings = append(recordings, r)
	}
	c.Flow = flow(c, spec, recordings)
	if len(recordings) == 0 {
		return nil, nil
	}
	w := newWays(c)
	w.locate(c, recordings)
	o, from, err := observe(c, recordings, w)
	if o == nil || err != nil {
		return nil, err
	}
	c.Observed = o
	c.Sent.Watching, c.Probe = true, &report.Probe{Protocol: probe.None}
	return from, nil
}

// concerns says of a frame whether it may be of the path: it holds an address of one of the ends, or resolves one.
// What other pods send is not kept.
func concerns(c *trace.Case) func(data []byte) bool {
	var addrs [][]byte
	for _, ip := range slices.Concat(c.Source.IPs, c.Destination.IPs) {
		addrs = append(addrs, ip.AsSlice())
	}
	return func(data []byte) bool {
		const typeAt, nextHeaderAt = 12, 14 + 6
		if len(data) > nextHeaderAt {
			switch t := binary.BigEndian.Uint16(data[typeAt:]); {
			case t == ether.TypeARP, t == ether.TypeIPv6 && data[nextHeaderAt] == forward.ProtoICMPv6:
				return true
			}
		}
		return slices.ContainsFunc(addrs, func(a []byte) bool { return bytes.Contains(data, a) })
	}
}

// How many lines that were not understood are quoted, and how many notes.
const mostUnread, mostNotes = 5, 20

// unread says what of the listings could not be used: lines, whole files of prose, and what contradicts itself.
func unread(l *listing.Listing) (out []string) {
	useful := make(map[string]bool)
	for _, o := range l.Outputs {
		useful[o.File] = useful[o.File] || o.Rows > 0
	}
	lines, told := 0, make(map[string]bool)
	for _, n := range l.NotUnderstood {
		switch {
		case !useful[n.File] && !told[n.File]:
			told[n.File] = true
			out = append(out, fmt.Sprintf("%s: not understood, nothing of it is used", n.File))
		case !useful[n.File]:
		case lines < mostUnread:
			lines++
			out = append(out, fmt.Sprintf("%s: not understood: %q", n.Origin, n.Text))
		default:
			lines++
		}
	}
	if lines > mostUnread {
		out = append(out, fmt.Sprintf("%d more lines were not understood", lines-mostUnread))
	}
	for i, n := range l.Notes {
		if i == mostNotes {
			out = append(out, fmt.Sprintf("%d more notes on the listings", len(l.Notes)-i))
			break
		}
		out = append(out, n)
	}
	return out
}

// ends finds both ends in the tables. Of a pod or a node that nobody listed there is the name alone: the path is
// judged as far as it goes.
func ends(c *trace.Case, q Request) (err error) {
	for _, e := range []struct {
		name string
		ep   *inventory.Endpoint
		at   *resolve.Location
	}{{q.Source, &c.Source, &c.From}, {q.Destination, &c.Destination, &c.To}} {
		if *e.ep, err = c.Inventory.Lookup(e.name, q.Namespace); err != nil {
			return err
		}
		*e.at, err = resolve.Locate(c.Snapshot, c.Inventory, *e.ep)
		if errors.Is(err, resolve.ErrNotRead) {
			*e.at, err = resolve.Location{Node: e.ep.Node}, nil
			if h := c.Snapshot.Host(e.ep.Node); h != nil {
				e.at.HostNetns = h.ID
			}
			c.Incomplete = append(c.Incomplete, fmt.Sprintf("%s: nothing of its network namespace is listed (ip addr, ip route)", e.name))
		}
		if err != nil {
			return err
		}
	}
	if c.From.PodNetns.IsZero() && c.To.PodNetns.IsZero() {
		return &endsError{q.Source, q.Destination}
	}
	return nil
}

// endsError says that neither end is in the listings.
type endsError struct{ source, destination string }

func (e *endsError) Error() string {
	return fmt.Sprintf("nothing of the network namespaces of %q and %q is listed", e.source, e.destination)
}

// Hint says what to do.
func (e *endsError) Hint() string {
	return "add what ip addr and ip route print in the pod, as NODE/NAMESPACE/POD/FILE or with the kubectl exec line before it"
}

// flow is the packet that the tables are asked about.
func flow(c *trace.Case, spec *probe.Spec, recordings []*recording) forward.Flow {
	f := forward.Flow{Dst: c.Destination.IP()}
	for _, ip := range c.Source.IPs {
		if c.Source.Kind != inventory.KindNode && ip.Is6() == f.Dst.Is6() && !f.Src.IsValid() {
			f.Src = ip
		}
	}
	switch {
	case spec != nil:
		f.Proto, f.DstPort = protocol(*spec, f.Dst.Is6()), spec.Port
	case len(recordings) > 0:
		f.Proto, f.DstPort = commonest(c, f, recordings)
	}
	if f.Proto == 0 {
		f.Proto = protocol(probe.Spec{Proto: probe.ICMP}, f.Dst.Is6())
	}
	switch f.Proto {
	case forward.ProtoTCP:
		f.TCPFlags = 0x02 // SYN
	case forward.ProtoICMP:
		f.ICMPType = 8
	case forward.ProtoICMPv6:
		f.ICMPType = 128
	}
	if len(recordings) == 0 && f.ICMPType == 0 {
		f.SrcPort = 40000 // as podtrace check asks
	}
	return f
}

func protocol(s probe.Spec, v6 bool) uint8 {
	switch s.Proto {
	case probe.TCP:
		return forward.ProtoTCP
	case probe.UDP:
		return forward.ProtoUDP
	}
	if v6 {
		return forward.ProtoICMPv6
	}
	return forward.ProtoICMP
}

// place finds the namespace and the interface that NODE/…/INTERFACE names; of an error the namespace may be there.
func place(s *tables.Snapshot, at string) (*tables.Netns, *tables.Link, error) {
	parts := strings.Split(at, "/")
	if len(parts) < 2 || len(parts) > 4 || slices.Contains(parts, "") {
		return nil, nil, fmt.Errorf("%q is not NODE/INTERFACE, NODE/POD/INTERFACE or NODE/NAMESPACE/POD/INTERFACE", at)
	}
	node, name, dev := parts[0], strings.Join(parts[1:len(parts)-1], "/"), parts[len(parts)-1]
	var found *tables.Netns
	for _, n := range s.Netns {
		is := n.Name == name || name == "" && n.Name == tables.HostName || len(parts) == 3 && strings.HasSuffix(n.Name, "/"+name)
		if n.Node != node || !is {
			continue
		}
		if found != nil {
			return nil, nil, fmt.Errorf("%q is ambiguous: %q and %q", at, found.Name, n.Name)
		}
		found = n
	}
	if found == nil {
		return nil, nil, fmt.Errorf("no listing is of the namespace of %q", at)
	}
	if l := found.LinkByName(dev); l != nil {
		return found, l, nil
	}
	return found, nil, fmt.Errorf("no listing of %q of node %q shows an interface %q", found.Name, node, dev)
}
