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
	ErrRemote       = errors.New("not on this machine, and going there by ssh is not supported yet")
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
	case errors.Is(e.Err, fs.ErrNotExist):
		return "ip netns list shows the namespaces that have a name; was it made again since the objects were written?"
	default:
		return "the annotations " + inventory.AnnotationNetns + " and " + inventory.AnnotationPID + " say where a namespace is"
	}
}

// Places opens the namespaces that the tables of a path between the endpoints are read from: each
// pod's own and that of its node, and those of all endpoints behind a service. The caller closes them with the
// function returned, which is never nil. The first endpoint has to live in a namespace: ErrNoNamespace.
func Places(inv *inventory.Inventory, eps ...inventory.Endpoint) ([]tables.Source, func() error, error) {
	return open(inv, eps, false)
}

// AllPlaces is Places with the namespaces of every other node of the inventory that is on this
// machine, for paths that cross a third node.
func AllPlaces(inv *inventory.Inventory, eps ...inventory.Endpoint) ([]tables.Source, func() error, error) {
	return open(inv, eps, true)
}

func open(inv *inventory.Inventory, eps []inventory.Endpoint, all bool) ([]tables.Source, func() error, error) {
	o := &opener{inv: inv, byID: make(map[netns.ID]string), have: make(map[string]bool)}
	err := o.endpoints(eps)
	if err == nil && all {
		err = o.otherNodes()
	}
	if err != nil {
		return nil, func() error { return nil }, errors.Join(err, o.close())
	}
	return o.sources, o.close, nil
}

// opener collects open namespaces.
type opener struct {
	inv     *inventory.Inventory
	sources []tables.Source
	byID    map[netns.ID]string // the object that a namespace was opened for
	have    map[string]bool     // objects that are open
}

func (o *opener) close() error {
	var errs []error
	for _, s := range o.sources {
		errs = append(errs, s.Netns.Close())
	}
	o.sources = nil
	return errors.Join(errs...)
}

func (o *opener) endpoints(eps []inventory.Endpoint) error {
	for i, e := range eps {
		var err error
		switch e.Kind {
		case inventory.KindPod:
			err = o.pod(e.Pod)
		case inventory.KindNode:
			err = o.node(e.Name)
		case inventory.KindAddress:
			if err = o.host(e.Host); e.Host == nil && i == 0 {
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
			err = o.backends(o.inv.Backends(e.Service, e.ServicePort))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// host opens a machine outside of the cluster, if it is known.
func (o *opener) host(h *inventory.Host) error {
	if h == nil {
		return nil
	}
	object := fmt.Sprintf("host %q", h.Name)
	if h.IsZero() {
		return &PlaceError{Object: object, Err: ErrNoPlace}
	}
	return o.open(object, h.Place, tables.Source{Node: h.Name, Name: tables.HostName})
}

// backends opens the pods that a service may send to, and the nodes of others.
func (o *opener) backends(bs []inventory.Backend) error {
	for _, b := range bs {
		var err error
		switch {
		case b.Pod != nil:
			err = o.pod(b.Pod)
		case b.Node != "":
			err = o.node(b.Node)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// otherNodes leaves out what is not here.
func (o *opener) otherNodes() error {
	for i := range o.inv.Nodes {
		n := &o.inv.Nodes[i]
		if n.Via != "" || n.IsZero() {
			continue
		}
		err := o.node(n.Name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrProcessGone) {
			return err
		}
	}
	return nil
}

func (o *opener) pod(p *inventory.Pod) error {
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
	if err := o.node(p.Node); err != nil {
		return err
	}
	if p.HostNetwork { // its namespace is the node's
		return nil
	}
	if p.IsZero() {
		return &PlaceError{Object: object, Err: ErrNoPlace}
	}
	return o.open(object, p.Place, tables.Source{Node: p.Node, Name: p.Key()})
}

func (o *opener) node(name string) error {
	object := fmt.Sprintf("node %q", name)
	n := o.inv.Node(name)
	switch {
	case n == nil:
		return &PlaceError{Object: object, Err: ErrUnknownNode, hint: "the file has to hold the Node objects too: kubectl get nodes,pods -A -o yaml"}
	case n.Via != "":
		return &PlaceError{
			Object: object, Err: fmt.Errorf("reached by %q: %w", n.Via, ErrRemote),
			hint: "run podtrace on that node, or choose endpoints on this machine",
		}
	}
	return o.open(object, n.Place, tables.Source{Node: name, Name: tables.HostName})
}

// open opens the namespace of one object once.
func (o *opener) open(object string, p inventory.Place, s tables.Source) error {
	if o.have[object] {
		return nil
	}
	h, exec, err := openPlace(p)
	if err != nil {
		return &PlaceError{Object: object, Err: err}
	}
	if other, ok := o.byID[h.ID()]; ok {
		err := fmt.Errorf("%w: that of %s too (%s)", ErrShared, other, h.ID())
		return errors.Join(&PlaceError{Object: object, Err: err}, h.Close())
	}
	o.have[object], o.byID[h.ID()] = true, object
	s.Netns, s.Exec = h, exec
	o.sources = append(o.sources, s)
	return nil
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
