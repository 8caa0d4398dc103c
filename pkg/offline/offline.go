// Package offline makes a case of what people have in hand after an incident: outputs of commands, pasted into
// files, and captures of tcpdump, one a point. trace.Judge then judges it as it judges a live trace.
//
// What nobody listed or captured stays unknown. The package reads files and asks no kernel.
package offline

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/forward"
	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/listing"
	"github.com/podtrace/podtrace/pkg/pcapfile"
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

// source is one capture file and its place.
type source struct {
	path string
	at   string // NODE/…/INTERFACE
}

// maxFiles bounds a folder that was named by mistake.
const maxFiles = 10_000

// IsCapture reports whether a file is a capture.
func IsCapture(path string) (bool, error) {
	r, err := pcapfile.Open(path)
	switch {
	case errors.Is(err, pcapfile.ErrFormat):
		return false, nil
	case err != nil:
		return false, err
	}
	if d := r.Damage(); d != nil && len(r.Interfaces()) == 0 { // a few bytes of anything
		return false, r.Close()
	}
	return true, r.Close()
}

// Read makes the case.
func Read(q Request) (*trace.Case, error) {
	inputs, captures, err := sort(q.Paths)
	if err != nil {
		return nil, err
	}
	for _, p := range q.Points {
		at, path, ok := strings.Cut(p, "=")
		if !ok || at == "" || path == "" {
			return nil, fmt.Errorf("point %q is not NODE/INTERFACE=FILE", p)
		}
		captures = append(captures, source{path: path, at: at})
	}
	if len(inputs) == 0 {
		return nil, errors.New("there is no listing: without tables nothing says which way a packet should go")
	}
	l := listing.Parse(inputs)
	for _, n := range l.Snapshot.Netns { // as a kernel lists them
		slices.SortStableFunc(n.Links, func(a, b tables.Link) int { return cmp.Compare(a.Index, b.Index) })
	}
	c := &trace.Case{Inventory: l.Inventory, Snapshot: l.Snapshot, Version: q.Version, Incomplete: unread(l)}
	if q.Inventory != nil {
		c.Inventory = q.Inventory
	}
	if err := ends(c, q); err != nil {
		return nil, err
	}
	if len(captures) > 0 {
		if c.Observed, err = observe(c, captures); err != nil {
			return nil, err
		}
		c.Sent.Watching, c.Probe = true, &report.Probe{Protocol: probe.None}
	}
	c.Flow = flow(c, q.Probe)
	return c, nil
}

// sort tells captures from listings.
func sort(paths []string) (inputs []listing.Input, captures []source, err error) {
	for _, root := range paths {
		fi, err := os.Stat(root)
		if err != nil {
			return nil, nil, err
		}
		if !fi.IsDir() {
			if err := sortFile(root, filepath.Base(root), &inputs, &captures); err != nil {
				return nil, nil, err
			}
			continue
		}
		n := 0
		err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
				return err
			}
			if n++; n > maxFiles {
				return fmt.Errorf("%q: more than %d files", root, maxFiles)
			}
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			return sortFile(p, filepath.ToSlash(rel), &inputs, &captures)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return inputs, captures, nil
}

// sortFile takes one file, with its path in the folder that was named.
func sortFile(path, rel string, inputs *[]listing.Input, captures *[]source) error {
	is, err := IsCapture(path)
	if err != nil {
		return err
	}
	dirs := strings.Split(rel, "/")
	if is {
		at := ""
		if len(dirs) == 2 || len(dirs) == 4 {
			at = stem(rel)
		}
		*captures = append(*captures, source{path: path, at: at})
		return nil
	}
	in, err := listing.ReadPath(path)
	if err != nil {
		return err
	}
	for i := range in {
		in[i].File = rel
		switch len(dirs) {
		case 2:
			in[i].Node = dirs[0]
		case 4:
			in[i].Node, in[i].Netns = dirs[0], dirs[1]+"/"+dirs[2]
		}
	}
	*inputs = append(*inputs, in...)
	return nil
}

// stem takes the endings of a capture's name off, and no others: interfaces have dots in their names.
func stem(name string) string {
	for _, ext := range []string{".gz", ".zst", ".pcap", ".pcapng", ".cap", ".dump"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

// mostUnread is how many lines that were not understood are quoted.
const mostUnread = 5

// unread says what of the listings could not be used.
func unread(l *listing.Listing) (out []string) {
	for i, n := range l.NotUnderstood {
		if i == mostUnread {
			out = append(out, fmt.Sprintf("%d more lines were not understood", len(l.NotUnderstood)-i))
			break
		}
		out = append(out, fmt.Sprintf("%s: not understood: %q", n.Origin, n.Text))
	}
	return out
}

// ends finds both ends in the tables.
func ends(c *trace.Case, q Request) (err error) {
	if c.Source, err = c.Inventory.Lookup(q.Source, q.Namespace); err != nil {
		return err
	}
	if c.Destination, err = c.Inventory.Lookup(q.Destination, q.Namespace); err != nil {
		return err
	}
	if c.From, err = resolve.Locate(c.Snapshot, c.Inventory, c.Source); err != nil {
		return err
	}
	c.To, err = resolve.Locate(c.Snapshot, c.Inventory, c.Destination)
	return err
}

// flow is the packet that the tables are asked about.
func flow(c *trace.Case, spec *probe.Spec) forward.Flow {
	f := forward.Flow{Dst: c.Destination.IP()}
	for _, ip := range c.Source.IPs {
		if c.Source.Kind != inventory.KindNode && ip.Is6() == f.Dst.Is6() && !f.Src.IsValid() {
			f.Src = ip
		}
	}
	switch {
	case spec != nil:
		f.Proto, f.DstPort = protocol(*spec, f.Dst.Is6()), spec.Port
	case c.Observed != nil:
		f.Proto, f.DstPort = commonest(c, f)
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
	if c.Observed == nil && f.ICMPType == 0 {
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

// place finds the namespace and the interface that NODE/…/INTERFACE names.
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
	for i := range found.Links {
		if found.Links[i].Name == dev {
			return found, &found.Links[i], nil
		}
	}
	return nil, nil, fmt.Errorf("no listing of %q of node %q shows an interface %q", found.Name, node, dev)
}
