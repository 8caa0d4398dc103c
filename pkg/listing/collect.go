package listing

import (
	"fmt"
	"strconv"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netfilter"
	"github.com/podtrace/podtrace/pkg/tables"
)

// collector gathers what the outputs of all inputs say, each still on its own.
type collector struct {
	names   *interner
	blocks  []*facts
	kube    kubeFacts
	unread  []Line
	dropped int // unread lines beyond maxUnread
	notes   []string

	leftovers []Leftover
}

func (c *collector) note(format string, args ...any) {
	if len(c.notes) < maxUnread {
		c.notes = append(c.notes, fmt.Sprintf(format, args...))
	}
}

func quote(s string) string {
	if len(s) > maxNoteLength {
		s = s[:maxNoteLength]
	}
	return strconv.Quote(s)
}

func (c *collector) notUnderstood(at Origin, text, why string) {
	if len(c.unread) >= maxUnread {
		c.dropped++
		return
	}
	c.unread = append(c.unread, Line{Origin: at, Text: text, Why: why})
}

// interner gives every device name a negative number, which stands for the interface until the listings of
// a namespace have said its index.
type interner struct {
	ids   map[string]tables.Ifindex
	names []string
}

func newInterner() *interner { return &interner{ids: make(map[string]tables.Ifindex)} }

// dev numbers a name; "" and what is one too many are 0, none.
func (n *interner) dev(name string) tables.Ifindex {
	if id, ok := n.ids[name]; ok || name == "" || len(n.names) >= maxNames {
		return id
	}
	n.names = append(n.names, name)
	id := tables.Ifindex(-len(n.names))
	n.ids[name] = id
	return id
}

// name is the reverse of dev; "" for an index that is a real one.
func (n *interner) name(id tables.Ifindex) string {
	if id >= 0 || int(-id) > len(n.names) {
		return ""
	}
	return n.names[-id-1]
}

// quality orders sources of the same table: the better one is believed.
type quality int

const (
	fromNetTools quality = iota // the ioctl view: no policy, no states
	fromText
	fromJSON
)

// Ways of entering a namespace that do not say whose it is.
const (
	byPID       = "pid "
	byContainer = "container "
	byName      = "netns "
)

// facts is what one output says.
type facts struct {
	Output
	said    bool
	quality quality

	links   []linkFact
	addrs   []fact[tables.Addr]
	rules   []fact[tables.Rule]
	routes  []fact[tables.Route]
	neighs  []fact[tables.Neigh]
	fdb     []fact[tables.FDB]
	nexthop []fact[nexthopFact]
	macs    []bridgeMAC
	sysctls map[string]string

	tables []netfilter.Table
	conns  []netfilter.Entry
	ipvs   []tables.VirtualServer
	ipsets []netfilter.IPSet
	nfSeen []string // which backends were listed whole

	covers []coverage
	cut    []Origin // where the text leaves something out
}

// fact is a row and where it stands.
type fact[T any] struct {
	at Origin
	v  T
}

// nexthopFact is a nexthop object with the weights of a group.
type nexthopFact struct {
	tables.Nexthop
	weights []int
}

// linkFact is what one output says of one interface. set adds it to what others said.
type linkFact struct {
	at      Origin
	name    string
	index   tables.Ifindex // 0: not listed
	set     func(*tables.Link)
	detail  bool           // ip -d: the kind and what belongs to it are listed
	parent  tables.Ifindex // of "@NAME", a device of this namespace by name
	lower   tables.Ifindex // "dev" of a vxlan, by name
	master  tables.Ifindex // by name
	away    string         // "@ifN": the netnsid or the name of the namespace that N is in; "?" when not listed
	slave   bool           // the state of the bridge port is listed
	isBr    bool           // named as a bridge
	portNo  uint16
	iflink  tables.Ifindex // /sys/class/net/DEV/iflink
	ethtool bool
}

// bridgeMAC is a row of brctl showmacs: it knows ports by number.
type bridgeMAC struct {
	at     Origin
	bridge string
	port   uint16
	row    tables.FDB
}

// Names of tables in Incomplete; the same as the reader of a live kernel uses.
const (
	tabLinks     = "links"
	tabAddrs     = "addresses"
	tabRules     = "rules"
	tabRoutes    = "routes"
	tabNeighs    = "neighbours"
	tabFDB       = "fdb"
	tabFilters   = "tc filters"
	tabSysctls   = "proc"
	tabNetfilter = "netfilter"
	tabConns     = "conntrack"
)

// coverage says that an output shows a table whole, or the part of it that key names: a device, "4/254" for
// the IPv4 routes of table main, "4" for the IPv4 rules.
type coverage struct {
	table, key string
}

func (f *facts) cover(table, key string) { f.covers = append(f.covers, coverage{table, key}) }

// kubeFacts is what kubectl's outputs say.
type kubeFacts struct {
	inv        inventory.Inventory
	leases     []leaseFact
	nodeIPs    map[string]string // node → address, of kubectl describe
	containers map[string]string // container id → NAMESPACE/POD
	pids       map[string]string // process id → container id
}

// leaseFact is a flannel lease whose node the fragment does not name.
type leaseFact struct {
	at    Origin
	lease inventory.Lease
}
