package lab

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Where the default lab lives, and the environment variables that choose another one.
const (
	DefaultPrefix   = "podtrace-"
	DefaultStateDir = "/run/podtrace/lab"

	// EnvPrefix and EnvStateDir give Options their defaults, so that every command of one shell
	// can be pointed at a second lab.
	EnvPrefix   = "PODTRACE_LAB_PREFIX"
	EnvStateDir = "PODTRACE_LAB_DIR"
)

// netnsDir is where ip-netns(8) keeps named namespaces.
const netnsDir = "/run/netns"

var (
	// ErrNotUp is returned for what needs a running lab when there is none.
	ErrNotUp = errors.New("the lab is not up")
	// ErrNoFault is returned by Break and Mend for an id that Faults does not list.
	ErrNoFault = errors.New("no such fault")
	// ErrNoName is returned for a node or pod that the lab does not have.
	ErrNoName = errors.New("no such node or pod in the lab")
	// ErrOther is returned by Up where a lab of another Spec is up.
	ErrOther = errors.New("another lab is up")
	// ErrUnfit is returned by Break for a fault that the datapath of the lab cannot have.
	ErrUnfit = errors.New("the lab's datapath cannot have this fault")
)

// Options chooses a lab. The zero value is the default one.
type Options struct {
	// Prefix begins the names of the namespaces under /run/netns; empty: $PODTRACE_LAB_PREFIX,
	// else DefaultPrefix.
	Prefix string
	// StateDir holds cluster.yaml, the lock and the server's pid, and belongs to the lab alone;
	// empty: $PODTRACE_LAB_DIR, else DefaultStateDir.
	StateDir string
	// Server is the command that ends up in Serve; empty: this executable with "lab", "serve".
	Server []string
	// Spec is what Up builds. The others know it from the lab that is up.
	Spec Spec
}

// withDefaults fills in what is unset.
func (o Options) withDefaults() Options {
	o.Prefix = firstOf(o.Prefix, os.Getenv(EnvPrefix), DefaultPrefix)
	o.StateDir = firstOf(o.StateDir, os.Getenv(EnvStateDir), DefaultStateDir)
	return o
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// InventoryPath is the file that Up writes and that "podtrace -f" takes: a kind: List of Node, Pod,
// Service and EndpointSlice objects with the annotations that say where their namespaces are.
func (o Options) InventoryPath() string {
	return filepath.Join(o.withDefaults().StateDir, "cluster.yaml")
}

// netnsPath is the path of the namespace of a node, a pod or the switch.
func (o Options) netnsPath(name string) string {
	return filepath.Join(netnsDir, o.withDefaults().Prefix+name)
}

// State is what Status reports.
type State struct {
	Up         bool        `json:"up"`        // everything that Up makes is there
	Spec       Spec        `json:"spec"`      // what it was built of
	Inventory  string      `json:"inventory"` // path of cluster.yaml
	Namespaces []Namespace `json:"namespaces"`
	ServerPID  int         `json:"serverPID,omitempty"` // 0: the server is not running
	Broken     []Broken    `json:"broken,omitempty"`    // faults put in by Break, oldest first
	Problems   []string    `json:"problems,omitempty"`  // why Up is false, if anything of the lab is there at all
}

// Namespace is one node, pod or a part of the network between the nodes.
type Namespace struct {
	Name    string `json:"name"`           // "node1", "coffee-1": what Exec takes
	Kind    string `json:"kind"`           // "node", "pod", "switch", "router" or "client"
	Node    string `json:"node,omitempty"` // of a pod: the node it runs on
	IP      string `json:"ip,omitempty"`   // node address or pod address
	Path    string `json:"path"`           // "/run/netns/podtrace-node1"
	Present bool   `json:"present"`
}

// Broken is a fault that is in the lab now.
type Broken struct {
	ID   string `json:"id"`
	Node string `json:"node"` // where the damage was done
}

// Fault is one way in which Break can damage the lab. The ids are those of the fault catalogue.
type Fault struct {
	ID        string   `json:"id"`
	Summary   string   `json:"summary"`   // what is done, in a line
	Node      string   `json:"node"`      // where it is put unless another node is asked for
	Datapaths []string `json:"datapaths"` // the labs that can have it; "services" is one with services
	// From and To are a path that shows the fault on Node: pods, nodes, "client", or a service.
	From string `json:"from"`
	To   string `json:"to"`
	// Leg is the direction of From → To that breaks with the fault on Node: "request" or "reply", and,
	// between pods, then it is the other one with the fault on the other node; "both"; "large" where only
	// packets of the pods' MTU are lost; or "none".
	Leg string `json:"leg"`
}

// Stdio is what a command run by Exec or Enter is given.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}
