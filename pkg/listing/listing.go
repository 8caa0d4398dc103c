// Package listing makes tables from what people have in hand after an incident: the outputs of ip, bridge,
// brctl, route, arp, ifconfig, ethtool, tc, iptables, nft, conntrack, sysctl and kubectl, as text or as JSON,
// each in a file of its own or pasted with prompts and prose around them.
//
// What a listing does not say is not made up. A table that nobody listed is named in tables.Netns.Incomplete
// ("fdb: not listed"), and so is every default that had to be assumed. Each row remembers the file and the
// line that it came from, and a line that was not understood is reported and loses nothing but itself.
package listing

import (
	"fmt"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Bounds of what is read. Listings come from anybody.
const (
	MaxSize       = 64 << 20 // bytes of one input; the rest is left out with a note
	maxUnread     = 1000     // lines that are reported as not understood
	maxOutputs    = 100_000
	maxDocument   = 16 << 20 // bytes of one JSON or YAML document
	maxNames      = 1 << 17  // names of devices, of all namespaces together
	maxLinks      = 4096     // interfaces of one namespace
	maxNoteLength = 200      // bytes of a quoted line
)

// Input is one text, and what its holder knows of it.
type Input struct {
	File string // as it is cited
	Node string // the node that it was taken on; "": prompts in the text say
	// Netns is tables.HostName or "NAMESPACE/POD"; "": commands in the text say, else the node's own.
	Netns string
	// Command is what printed the text as a whole; "": prompts in the text say, else the shape of its lines.
	Command string
	Text    []byte
}

// Origin is the place that something was read from.
type Origin struct {
	File    string
	Line    int    // from 1
	Command string // "" where the text does not show it
}

// String gives FILE:LINE.
func (o Origin) String() string { return fmt.Sprintf("%s:%d", o.File, o.Line) }

// Line is a line that was not understood.
type Line struct {
	Origin
	Text string
	Why  string
}

// Output is one command's output that was found in the inputs.
type Output struct {
	Origin
	Node  string // as far as the text or its holder says
	Netns string // tables.HostName, "NAMESPACE/POD", or how it was entered ("pid 30510", "container dd9a0c")
	// Kind names what was read; "" for an output that holds no table that podtrace knows.
	Kind string
	Rows int
}

// Listing is what the inputs say.
type Listing struct {
	Snapshot  *tables.Snapshot
	Inventory *inventory.Inventory
	Outputs   []Output
	// NotUnderstood are lines of outputs of known commands, and unknown ones of texts without a prompt.
	NotUnderstood []Line
	// Notes say what was concluded on the way: whose namespace an output shows, what contradicts what.
	Notes []string
	// Leftovers are FDB rows of VTEPs that are gone: no fault, and easily taken for one.
	Leftovers []Leftover
	origins   map[entryKey][]Origin
}

// entryKey names a row as evidence shows it.
type entryKey struct {
	ns    tables.NetnsID
	entry string
}

// Origins says where a row was read, given as Netns.FormatRoute and its like print it. A link that several
// outputs tell of has several origins; a row that was concluded from others has theirs.
func (l *Listing) Origins(ns tables.NetnsID, entry string) []Origin {
	return l.origins[entryKey{ns, entry}]
}

// Parse reads the inputs and puts together what they say. It never fails: what can't be used is in
// NotUnderstood and Notes.
func Parse(inputs []Input) *Listing {
	c := &collector{names: newInterner()}
	for _, in := range inputs {
		if len(in.Text) > MaxSize {
			c.note("%s: only its first %d MiB are read", quote(in.File), MaxSize>>20)
			in.Text = in.Text[:MaxSize]
		}
		newPage(c, in).run()
	}
	return assemble(c)
}
