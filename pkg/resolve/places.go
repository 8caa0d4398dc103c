// Package resolve says where endpoints live: which network namespaces of this machine to read for
// them, and then, from the snapshot alone, the way from a pod's interface over its other end on the
// node (IFLA_LINK, IFLA_LINK_NETNSID; "ethtool -S" as the second witness) to the bridge and its port.
//
// Nothing is found by its name: a pod's interface is the one that has the pod's address.
package resolve

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/podtrace/podtrace/pkg/inventory"
	"github.com/podtrace/podtrace/pkg/netns"
	"github.com/podtrace/podtrace/pkg/tables"
)

// Causes of a PlaceError beside those of package netns (fs.ErrNotExist, fs.ErrPermission as a
// *netns.PermissionError, netns.ErrNotNetns).
var (
	ErrNotRunning   = errors.New("not running")
	ErrNotScheduled = errors.New("not scheduled to a node yet")
	ErrUnknownNode  = errors.New("not among the cluster's objects")
	ErrNoPlace      = errors.New("its network namespace is not said")
	ErrNoProcess    = errors.New("no process of it is on this machine")
	ErrShared       = errors.New("two objects lead to one network namespace")
	ErrProcessGone  = errors.New("the process ended meanwhile")
	ErrNoNamespace  = errors.New("is no pod and no node: it lives in no network namespace")
)

// PlaceError says why an object's network namespace cannot be read.
type PlaceError struct {
	Object string // "pod \"shop/cart\"", "node \"edge-7\""
	Err    error
	hint   string
}

// Error gives object and cause.
func (e *PlaceError) Error() string { return e.Object + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *PlaceError) Unwrap() error { return e.Err }

// Hint says what to do next.
func (e *PlaceError) Hint() string {
	var perm *netns.PermissionError
	switch {
	case e.hint != "":
		return e.hint
	case errors.As(e.Err, &perm):
		return "run it as root, or give it " + perm.Capability
	case errors.Is(e.Err, ErrNoProcess):
		return "its containers may have ended meanwhile, or run in a virtual machine of their own (Kata), where no namespace of the node is theirs"
	case errors.Is(e.Err, fs.ErrNotExist):
		return "ip netns list shows the namespaces that have a name; was it made again since the objects were written?"
	default:
		return "the annotations " + inventory.AnnotationNetns + " and " + inventory.AnnotationPID + " say where a namespace is"
	}
}

// Want is a network namespace that the tables of a path are read from: whose it is, and what is known of its place.
type Want struct {
	Object string          `json:"object"` // whose it is, in errors: "pod \"shop/cart\""
	Node   string          `json:"node"`   // tables.Netns.Node
	Name   string          `json:"name"`   // tables.Netns.Name
	Place  inventory.Place `json:"place"`
	// UID is that of the pod whose Place is not said: its processes lead there.
	UID string `json:"uid,omitempty"`
}

// Wants lists the namespaces of a path between the endpoints, each once: each pod's own and that of its node, and
// those of the endpoints behind a service. The first endpoint has to live in a namespace: ErrNoNamespace.
func Wants(inv *inventory.Inventory, eps ...inventory.Endpoint) ([]Want, error) {
	l := &lister{inv: inv, have: make(map[string]bool)}
	if err := l.endpoints(eps); err != nil {
		return nil, err
	}
	return l.wants, nil
}

// lister collects what is wanted.
type lister struct {
	inv   *inventory.Inventory
	wants []Want
	have  map[string]bool // objects that are listed
}

func (l *lister) add(w Want) {
	if !l.have[w.Object] {
		l.have[w.Object] = true
		l.wants = append(l.wants, w)
	}
}

func (l *lister) endpoints(eps []inventory.Endpoint) error {
	for i, e := range eps {
		var err error
		switch e.Kind {
		case inventory.KindPod:
			err = l.pod(e.Pod)
		case inventory.KindNode:
			err = l.node(e.Name)
		case inventory.KindAddress:
			if err = l.host(e.Host); e.Host == nil && i == 0 {
				err = &PlaceError{
					Object: fmt.Sprintf("address %q", e.String()), Err: ErrNoNamespace,
					hint: "name a pod or a node to send from, or describe the machine as \"kind: Host\" of podtrace.dev/v1",
				}
			}
		case inventory.KindService:
			if i == 0 {
				err = &PlaceError{
					Object: fmt.Sprintf("service %q", e.String()), Err: ErrNoNamespace, hint: "name a pod behind it, or a node",
				}
			}
		}
		if err == nil && e.ServicePort != nil {
			err = l.backends(l.inv.Backends(e.Service, e.ServicePort))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// host is a machine outside of the cluster, if it is known.
func (l *lister) host(h *inventory.Host) error {
	if h == nil {
		return nil
	}
	object := fmt.Sprintf("host %q", h.Name)
	if h.IsZero() {
		return &PlaceError{Object: object, Err: ErrNoPlace}
	}
	l.add(Want{Object: object, Node: h.Name, Name: tables.HostName, Place: h.Place})
	return nil
}

// backends are the pods that a service may send to, and the nodes of others. Of a service with many, those on the
// first few nodes alone: nobody's whole cluster is opened for one path.
func (l *lister) backends(bs []inventory.Backend) error {
	for _, b := range Near(bs) {
		var err error
		switch {
		case b.Pod != nil:
			err = l.pod(b.Pod)
		case b.Node != "":
			err = l.node(b.Node)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Bounds of what is opened for one service.
const (
	mostBackendNodes = 8
	mostBackends     = 64
)

// Near are the endpoints of a service whose namespaces are read: all of them, unless they are on many nodes.
func Near(bs []inventory.Backend) (out []inventory.Backend) {
	nodes := make(map[string]bool)
	for _, b := range bs {
		node := b.Node
		if b.Pod != nil {
			node = b.Pod.Node
		}
		if len(out) == mostBackends || !nodes[node] && len(nodes) == mostBackendNodes {
			continue
		}
		nodes[node] = true
		out = append(out, b)
	}
	return out
}

func (l *lister) pod(p *inventory.Pod) error {
	object := fmt.Sprintf("pod %q", p.Key())
	switch {
	case !p.Running():
		return &PlaceError{
			Object: object, Err: fmt.Errorf("%w: its phase is %q", ErrNotRunning, p.Phase),
			hint: "only a running pod has a network namespace",
		}
	case p.Node == "":
		return &PlaceError{Object: object, Err: ErrNotScheduled, hint: "spec.nodeName says which node a pod runs on"}
	}
	if err := l.node(p.Node); err != nil {
		return err
	}
	if p.HostNetwork { // its namespace is the node's
		return nil
	}
	if p.IsZero() && p.UID == "" {
		return &PlaceError{Object: object, Err: ErrNoPlace}
	}
	l.add(Want{Object: object, Node: p.Node, Name: p.Key(), Place: p.Place, UID: p.UID})
	return nil
}

func (l *lister) node(name string) error {
	object := fmt.Sprintf("node %q", name)
	n := l.inv.Node(name)
	if n == nil {
		return &PlaceError{Object: object, Err: ErrUnknownNode, hint: "the file has to hold the Node objects too: kubectl get nodes,pods -A -o yaml"}
	}
	l.add(Want{Object: object, Node: name, Name: tables.HostName, Place: n.Place})
	return nil
}

// Namespaces are open namespaces of this machine. The zero value has none open.
type Namespaces struct {
	sources []tables.Source
	byID    map[netns.ID]string // the object that a namespace was opened for
	have    map[string]netns.ID // objects that are open
}

// Sources are the open namespaces, in the order in which they were opened.
func (o *Namespaces) Sources() []tables.Source { return o.sources }

// Close closes all of them.
func (o *Namespaces) Close() error {
	var errs []error
	for _, s := range o.sources {
		errs = append(errs, s.Netns.Close())
	}
	*o = Namespaces{}
	return errors.Join(errs...)
}

// Open opens what is wanted and not open yet, and gives the identity of each. What was opened before an error stays
// open until Close.
func (o *Namespaces) Open(wants []Want) ([]netns.ID, error) {
	if o.byID == nil {
		o.byID, o.have = make(map[netns.ID]string), make(map[string]netns.ID)
	}
	ids := make([]netns.ID, len(wants))
	for i, w := range wants {
		if id, ok := o.have[w.Object]; ok {
			ids[i] = id
			continue
		}
		h, exec, err := openWant(w)
		if err != nil {
			return nil, &PlaceError{Object: w.Object, Err: err}
		}
		if other, ok := o.byID[h.ID()]; ok {
			err := fmt.Errorf("%w: that of %s too (%s)", ErrShared, other, h.ID())
			return nil, errors.Join(&PlaceError{Object: w.Object, Err: err}, h.Close())
		}
		ids[i] = h.ID()
		o.have[w.Object], o.byID[h.ID()] = h.ID(), w.Object
		o.sources = append(o.sources, tables.Source{Netns: h, Node: w.Node, Name: w.Name, Exec: exec})
	}
	return ids, nil
}

func openWant(w Want) (*netns.Handle, string, error) {
	if w.Place.IsZero() && w.UID != "" {
		pid, h, err := openPod(procDir, w.UID)
		return h, fmt.Sprintf("nsenter --net=/proc/%d/ns/net", pid), err
	}
	return openPlace(w.Place)
}

// openPlace opens a namespace and says what to put before a command to run it there. A place that
// is not said is podtrace's own namespace.
func openPlace(p inventory.Place) (*netns.Handle, string, error) {
	switch {
	case p.PID != 0:
		h, err := openProcess(p.PID)
		return h, fmt.Sprintf("nsenter --net=/proc/%d/ns/net", p.PID), err
	case p.Netns != "":
		h, err := netns.Open(p.Netns)
		return h, enterCommand(p.Netns), err
	default:
		h, err := netns.Current()
		return h, "", err
	}
}

// openProcess opens the namespace of a process and then makes sure that the process is still there
// and still in it: its id may be another's by the time that it is opened.
func openProcess(pid int) (*netns.Handle, error) {
	h, err := netns.OpenPID(pid)
	if err != nil {
		return nil, err
	}
	again, err := netns.OpenPID(pid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("process %d: %w", pid, ErrProcessGone), h.Close())
	}
	same := again.ID() == h.ID()
	_ = again.Close()
	if !same {
		return nil, errors.Join(fmt.Errorf("process %d: %w", pid, ErrProcessGone), h.Close())
	}
	return h, nil
}

// netnsDirs are where ip-netns(8) keeps namespaces by name.
var netnsDirs = []string{"/run/netns", "/var/run/netns"}

// enterCommand is how a person runs a command in the namespace at path.
func enterCommand(path string) string {
	dir, name := filepath.Split(filepath.Clean(path))
	for _, d := range netnsDirs {
		if filepath.Clean(dir) == d {
			return "ip netns exec " + shellWord(name)
		}
	}
	return "nsenter --net=" + shellWord(path)
}

// shellWord quotes what a shell would not take as it stands.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	for _, r := range s {
		if !plain(r) {
			return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
		}
	}
	return s
}
