package inventory

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// EndpointKind says what an endpoint is, by the words of a report.
type EndpointKind string

// The kinds of endpoint.
const (
	KindPod     EndpointKind = "Pod"
	KindNode    EndpointKind = "Node"
	KindService EndpointKind = "Service"
	KindAddress EndpointKind = "Address" // an IP address that is no object's
)

// Endpoint is one end of a path, as a person named it.
type Endpoint struct {
	Kind        EndpointKind
	Namespace   string // "" for nodes and addresses
	Name        string // "" for addresses
	IPs         []netip.Addr
	Node        string // of a pod: where it runs; of a node: itself; "" when not known
	HostNetwork bool   // a pod in its node's namespace

	Pod         *Pod  // also of a node's port: the pod whose hostPort it is
	NodeObj     *Node // the node that Node names, nil when the inventory has none
	Service     *Service
	ServicePort *ServicePort // of "svc/NAME:PORT", nil without a port; of a hostPort, with no Service
	Port        uint16       // that was named with it, 0: none
	Host        *Host        // of an address outside of the cluster: the machine, nil when it is not known
	Deployment  string       // of "deploy/NAME": the name, for which Pod stands
}

// IP is the endpoint's primary address; invalid when it has none.
func (e Endpoint) IP() netip.Addr {
	if len(e.IPs) == 0 {
		return netip.Addr{}
	}
	return e.IPs[0]
}

// String gives a form that Lookup takes.
func (e Endpoint) String() string {
	switch e.Kind {
	case KindPod:
		return e.Namespace + "/" + e.Name
	case KindNode:
		return "node/" + e.Name + e.portSuffix()
	case KindService:
		return "svc/" + e.Name + e.portSuffix()
	default:
		return e.IP().String() + e.portSuffix()
	}
}

func (e Endpoint) portSuffix() string {
	if e.Port == 0 {
		return ""
	}
	return ":" + strconv.Itoa(int(e.Port))
}

// readyPod is the kind of what a deployment does not have.
const readyPod = "ready pod of deployment"

// NotFoundError says that there is no object of that name.
type NotFoundError struct {
	Arg       string // as it was given
	Kind      string // "pod", "deployment with a pod", "service", "node", "port of service \"web\""
	Namespace string // where it was looked for; "" for all or none
	Close     []string
}

// Error says what was looked for and where.
func (e *NotFoundError) Error() string {
	if e.Namespace == "" {
		return fmt.Sprintf("no %s %q", e.Kind, e.Arg)
	}
	return fmt.Sprintf("no %s %q in namespace %q", e.Kind, e.Arg, e.Namespace)
}

// Hint lists names that are close, or says how endpoints are written.
func (e *NotFoundError) Hint() string {
	if len(e.Close) > 0 {
		return "did you mean " + strings.Join(e.Close, ", ") + "?"
	}
	if e.Kind == readyPod {
		return "kubectl get pods shows what they wait for; a pod that is not ready can be named itself"
	}
	return "an endpoint is " + forms + "; -n gives the namespace"
}

// AmbiguousError says that a name stands for several objects.
type AmbiguousError struct {
	Arg        string
	Candidates []string // in the form that Lookup takes
}

// Error says how many.
func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q is ambiguous: %d objects have that name", e.Arg, len(e.Candidates))
}

// Hint lists them.
func (e *AmbiguousError) Hint() string { return "say which: " + strings.Join(e.Candidates, ", ") }

// ErrSyntax is wrapped by errors about the form of an endpoint's name.
var ErrSyntax = errors.New("want " + forms)

const forms = "POD, NAMESPACE/POD, pod/POD, deploy/NAME, svc/NAME[:PORT], node/NAME[:NODEPORT] or an IP address[:PORT]"

// Lookup finds what arg stands for: POD, NAMESPACE/POD, pod/POD, deploy/NAME (a ready pod of it),
// svc/NAME[:PORT], node/NAME[:NODEPORT] or an IP address[:PORT]. A bare pod name is one of namespace, or of the only
// namespace that has it.
func (inv *Inventory) Lookup(arg, namespace string) (Endpoint, error) {
	if namespace == "" {
		namespace = defaultNamespace
	}
	if ip, err := netip.ParseAddr(arg); err == nil && ip.Zone() == "" {
		return inv.lookupIP(ip.Unmap(), 0), nil
	}
	if a, err := netip.ParseAddrPort(arg); err == nil && a.Addr().Zone() == "" && a.Port() != 0 {
		return inv.lookupIP(a.Addr().Unmap(), a.Port()), nil
	}
	kind, name, slashed := strings.Cut(arg, "/")
	if !slashed {
		kind, name = "pod", arg
	}
	if name == "" || kind == "" || strings.Contains(name, "/") {
		return Endpoint{}, fmt.Errorf("endpoint %q: %w", arg, ErrSyntax)
	}
	switch kind {
	case "pod", "pods", "po":
		return inv.lookupPod(name, namespace)
	case "deploy", "deployment", "deployments":
		return inv.lookupDeployment(name, namespace)
	case "svc", "service", "services":
		return inv.lookupService(name, namespace)
	case "node", "nodes", "no":
		return inv.lookupNode(name)
	default:
		if p := inv.Pod(kind, name); p != nil {
			return inv.podEndpoint(p), nil
		}
		return Endpoint{}, &NotFoundError{Arg: name, Kind: "pod", Namespace: kind, Close: inv.closePods(name)}
	}
}

func (inv *Inventory) podEndpoint(p *Pod) Endpoint {
	return Endpoint{
		Kind: KindPod, Namespace: p.Namespace, Name: p.Name, IPs: p.IPs, Node: p.Node, HostNetwork: p.HostNetwork,
		Pod: p, NodeObj: inv.Node(p.Node),
	}
}

func nodeEndpoint(n *Node) Endpoint {
	ips := n.InternalIPs
	if len(ips) == 0 && n.Flannel.PublicIP.IsValid() {
		ips = []netip.Addr{n.Flannel.PublicIP}
	}
	return Endpoint{Kind: KindNode, Name: n.Name, IPs: ips, Node: n.Name, NodeObj: n}
}

// lookupIP never fails: an address that is no object's is an endpoint too. The address that was
// asked for comes first. A port of a service, or a node's port that one has, leads to the service.
func (inv *Inventory) lookupIP(ip netip.Addr, port uint16) Endpoint {
	e := Endpoint{Kind: KindAddress, IPs: []netip.Addr{ip}, Host: inv.hostByIP(ip)}
	if e.Host != nil {
		e.Name = e.Host.Name
	}
	if p := inv.PodByIP(ip); p != nil {
		e = inv.podEndpoint(p)
	} else if n := inv.NodeByIP(ip); n != nil {
		e = nodeEndpoint(n)
	} else if s := inv.serviceByIP(ip); s != nil {
		e = Endpoint{Kind: KindService, Namespace: s.Namespace, Name: s.Name, IPs: s.ClusterIPs, Service: s}
	}
	ips := []netip.Addr{ip}
	for _, a := range e.IPs {
		if a != ip {
			ips = append(ips, a)
		}
	}
	e.IPs, e.Port = ips, port
	return inv.atNodePort(e, "")
}

func (inv *Inventory) hostByIP(ip netip.Addr) *Host {
	for i := range inv.Hosts {
		if slices.Contains(inv.Hosts[i].IPs, ip) {
			return &inv.Hosts[i]
		}
	}
	return nil
}

// atNodePort completes a node's port: by whose it is, a service's or a pod's that declares it as its hostPort.
func (inv *Inventory) atNodePort(e Endpoint, proto string) Endpoint {
	if e.Kind != KindNode || e.Port == 0 {
		return e
	}
	e.Pod = nil
	if e.Service, e.ServicePort = inv.serviceByNodePort(e.Port, proto); e.ServicePort == nil {
		e.Pod, e.ServicePort = inv.podByHostPort(e.Node, e.Port, proto)
	}
	return e
}

// podByHostPort finds the pod of a node that has one of the node's ports. A pod on the host network needs none.
func (inv *Inventory) podByHostPort(node string, port uint16, proto string) (*Pod, *ServicePort) {
	for i := range inv.Pods {
		p := &inv.Pods[i]
		if p.Node != node || p.HostNetwork || !p.Running() || len(p.IPs) == 0 {
			continue
		}
		for _, c := range p.Ports {
			if c.HostPort == port && (proto == "" || c.Proto == proto) {
				return p, &ServicePort{Name: c.Name, Proto: c.Proto, Port: c.Port, NodePort: port}
			}
		}
	}
	return nil, nil
}

// serviceByNodePort finds who has a node port; proto "" is any.
func (inv *Inventory) serviceByNodePort(port uint16, proto string) (*Service, *ServicePort) {
	for i := range inv.Services {
		s := &inv.Services[i]
		for k := range s.Ports {
			if p := &s.Ports[k]; p.NodePort == port && (proto == "" || p.Proto == proto) {
				return s, p
			}
		}
	}
	return nil, nil
}

// ForProto is the endpoint as a packet of a protocol ("TCP", "UDP") means it: a service may have one port for
// each. Where no port was named it takes the only one of that protocol. The service's port is nil where none fits.
func (inv *Inventory) ForProto(e Endpoint, proto string) Endpoint {
	switch e.Kind {
	case KindNode:
		return inv.atNodePort(e, proto)
	case KindService:
		var fit []*ServicePort
		for i := range e.Service.Ports {
			if p := &e.Service.Ports[i]; p.Proto == proto && (p.Port == e.Port || e.Port == 0) {
				fit = append(fit, p)
			}
		}
		e.ServicePort = nil
		if len(fit) == 1 {
			e.ServicePort, e.Port = fit[0], fit[0].Port
		}
	case KindPod, KindAddress:
	}
	return e
}

// Backend is where a service sends packets of one of its ports.
type Backend struct {
	IP   netip.Addr
	Port uint16
	Node string // "" when not said
	Pod  *Pod   // nil when it is no pod's
}

// Behind is where packets to an endpoint with a ServicePort may rightly go: the service's backends, or the pod whose
// hostPort it is.
func (inv *Inventory) Behind(e Endpoint) []Backend {
	switch {
	case e.ServicePort == nil:
		return nil
	case e.Service != nil:
		return inv.Backends(e.Service, e.ServicePort)
	case e.Pod == nil:
		return nil
	}
	var out []Backend
	for _, ip := range e.Pod.IPs {
		out = append(out, Backend{IP: ip, Port: e.ServicePort.Port, Node: e.Node, Pod: e.Pod})
	}
	return out
}

// Backends are the endpoints behind a port of a service: the ready ones, or where there is none those that still serve
// while they terminate, as kube-proxy has it, for each family of addresses by itself.
func (inv *Inventory) Backends(s *Service, port *ServicePort) []Backend {
	var ready, ending [2][]Backend
	for i := range inv.EndpointSlices {
		es := &inv.EndpointSlices[i]
		if es.Namespace != s.Namespace || es.Service != s.Name {
			continue
		}
		at := slices.IndexFunc(es.Ports, func(p SlicePort) bool { return p.Name == port.Name && p.Proto == port.Proto })
		if at < 0 {
			continue
		}
		for _, e := range es.Endpoints {
			for _, ip := range e.IPs {
				b, family := Backend{IP: ip, Port: es.Ports[at].Port, Node: e.Node, Pod: inv.PodByIP(ip)}, 0
				if ip.Is6() {
					family = 1
				}
				switch {
				case e.Ready:
					ready[family] = append(ready[family], b)
				case e.Serving && e.Terminating:
					ending[family] = append(ending[family], b)
				}
			}
		}
	}
	var out []Backend
	for family := range ready {
		if len(ready[family]) == 0 {
			ready[family] = ending[family]
		}
		out = append(out, ready[family]...)
	}
	return out
}

func (inv *Inventory) serviceByIP(ip netip.Addr) *Service {
	for i := range inv.Services {
		s := &inv.Services[i]
		if slices.Contains(s.ClusterIPs, ip) || slices.Contains(s.ExternalIPs, ip) || slices.Contains(s.LoadBalancerIPs, ip) {
			return s
		}
	}
	return nil
}

func (inv *Inventory) lookupPod(name, namespace string) (Endpoint, error) {
	if p := inv.Pod(namespace, name); p != nil {
		return inv.podEndpoint(p), nil
	}
	var found []*Pod
	for i := range inv.Pods {
		if inv.Pods[i].Name == name {
			found = append(found, &inv.Pods[i])
		}
	}
	switch len(found) {
	case 0:
		return Endpoint{}, &NotFoundError{Arg: name, Kind: "pod", Close: inv.closePods(name)}
	case 1:
		return inv.podEndpoint(found[0]), nil
	default:
		e := &AmbiguousError{Arg: name}
		for _, p := range found {
			e.Candidates = append(e.Candidates, p.Key())
		}
		return Endpoint{}, e
	}
}

// lookupDeployment takes the first ready pod by name, so that asking again gives the same one.
func (inv *Inventory) lookupDeployment(name, namespace string) (Endpoint, error) {
	var pods []*Pod
	var names []string
	for i := range inv.Pods {
		p := &inv.Pods[i]
		if p.Namespace != namespace || p.Owner == "" {
			continue
		}
		names = append(names, p.Owner)
		if p.Owner == name && p.Ready && p.Running() {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		slices.Sort(names)
		names = slices.DeleteFunc(slices.Compact(names), func(s string) bool { return s == name })
		return Endpoint{}, &NotFoundError{
			Arg: name, Kind: readyPod, Namespace: namespace, Close: prefixed("deploy/", closest(name, names)),
		}
	}
	e := inv.podEndpoint(slices.MinFunc(pods, func(a, b *Pod) int { return strings.Compare(a.Name, b.Name) }))
	e.Deployment = name
	return e, nil
}

func (inv *Inventory) lookupService(arg, namespace string) (Endpoint, error) {
	name, port, hasPort := strings.Cut(arg, ":")
	s := inv.Service(namespace, name)
	if s == nil {
		var names []string
		for i := range inv.Services {
			if inv.Services[i].Namespace == namespace {
				names = append(names, inv.Services[i].Name)
			}
		}
		return Endpoint{}, &NotFoundError{Arg: name, Kind: "service", Namespace: namespace, Close: prefixed("svc/", closest(name, names))}
	}
	e := Endpoint{Kind: KindService, Namespace: s.Namespace, Name: s.Name, IPs: s.ClusterIPs, Service: s}
	if s.Headless {
		e.IPs = inv.backends(s)
	}
	if !hasPort {
		return e, nil
	}
	var known []string
	for i := range s.Ports {
		p := &s.Ports[i]
		number := strconv.Itoa(int(p.Port))
		if port == number || port == p.Name && port != "" {
			e.ServicePort, e.Port = p, p.Port
			return e, nil
		}
		known = append(known, "svc/"+name+":"+number)
	}
	return Endpoint{}, &NotFoundError{Arg: port, Kind: fmt.Sprintf("port of service %q", name), Namespace: namespace, Close: known}
}

// backends gives the addresses that the name of a headless service stands for.
func (inv *Inventory) backends(s *Service) []netip.Addr {
	var out []netip.Addr
	for i := range inv.EndpointSlices {
		es := &inv.EndpointSlices[i]
		if es.Namespace != s.Namespace || es.Service != s.Name {
			continue
		}
		for _, e := range es.Endpoints {
			if e.Ready {
				out = append(out, e.IPs...)
			}
		}
	}
	return out
}

func (inv *Inventory) lookupNode(arg string) (Endpoint, error) {
	name, port, hasPort := strings.Cut(arg, ":")
	if n := inv.Node(name); n != nil {
		e := nodeEndpoint(n)
		if !hasPort {
			return e, nil
		}
		v, err := strconv.ParseUint(port, 10, 16)
		if err != nil || v == 0 {
			return Endpoint{}, fmt.Errorf("endpoint %q: port %q: %w", "node/"+arg, port, ErrSyntax)
		}
		e.Port = uint16(v)
		return inv.atNodePort(e, ""), nil
	}
	var names []string
	for i := range inv.Nodes {
		names = append(names, inv.Nodes[i].Name)
	}
	return Endpoint{}, &NotFoundError{Arg: name, Kind: "node", Close: prefixed("node/", closest(name, names))}
}

// closePods gives pods with a name like that, in all namespaces.
func (inv *Inventory) closePods(name string) []string {
	var names []string
	for i := range inv.Pods {
		names = append(names, inv.Pods[i].Name)
	}
	var out []string
	for _, c := range closest(name, names) {
		for i := range inv.Pods {
			if inv.Pods[i].Name == c && len(out) < maxClose {
				out = append(out, inv.Pods[i].Key())
			}
		}
	}
	return out
}

func prefixed(prefix string, names []string) []string {
	for i := range names {
		names[i] = prefix + names[i]
	}
	return names
}

const maxClose = 3

// closest gives up to three of names that someone who wrote name may have meant.
func closest(name string, names []string) []string {
	type scored struct {
		name string
		dist int
	}
	names = slices.Clone(names)
	slices.Sort(names)
	var list []scored
	for _, n := range slices.Compact(names) {
		d := distance(name, n)
		if strings.HasPrefix(n, name) || strings.HasPrefix(name, n) {
			d = min(d, 1)
		}
		if d <= max(1, len(name)/3) {
			list = append(list, scored{n, d})
		}
	}
	slices.SortStableFunc(list, func(a, b scored) int { return a.dist - b.dist })
	var out []string
	for _, s := range list[:min(len(list), maxClose)] {
		out = append(out, s.name)
	}
	return out
}

// distance is the Levenshtein distance: how many bytes to add, take or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
