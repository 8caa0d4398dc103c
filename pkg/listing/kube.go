package listing

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/podtrace/podtrace/pkg/inventory"
)

// kubeKind tells what kubectl prints.
func kubeKind(c command, o listOptions) (string, []string, listOptions) {
	args := c.words[1:]
	switch {
	case slices.Contains(args, "describe"):
		if slices.ContainsFunc(args, func(a string) bool { return object(strings.SplitN(a, "/", 2)[0], "pods") && len(a) > 1 }) {
			return kindDescribe, args, o
		}
	case slices.Contains(args, "get"):
		format := outputFormat(args)
		switch {
		case format != "yaml" && format != "json" && format != "" && format != "wide":
			return "", nil, o
		case format == "" || format == "wide":
			return kindKube, args, o
		case o.limited:
			return kindFragment, args, o
		default:
			return kindKubeYAML, args, o
		}
	}
	return "", nil, o
}

func outputFormat(args []string) string {
	for i, a := range args {
		switch {
		case (a == "-o" || a == "--output") && i+1 < len(args):
			return args[i+1]
		case strings.HasPrefix(a, "--output="):
			return strings.TrimPrefix(a, "--output=")
		case strings.HasPrefix(a, "-o") && len(a) > 2:
			return strings.TrimPrefix(a[2:], "=")
		}
	}
	return ""
}

// kubeTable reads the tables of kubectl get, by the headings of their columns.
type kubeTable struct {
	*block
	cols map[string]int
	what string
}

// Some cells and headings hold spaces.
var (
	restarted = lazy(`(\d+) \(\S+ ago\)`)
	headings  = strings.NewReplacer("NOMINATED NODE", "NOMINATED-NODE", "READINESS GATES", "READINESS-GATES")
)

func (p *kubeTable) line(l line) bool {
	text := strings.TrimSpace(l.text)
	if strings.HasPrefix(text, "NAME ") || strings.HasPrefix(text, "NAMESPACE ") {
		p.header(wordsOf(headings.Replace(text)))
		return true
	}
	if p.cols == nil {
		return strings.HasPrefix(text, "No resources found")
	}
	w := wordsOf(restarted().ReplaceAllString(text, "$1"))
	if len(w) < min(len(p.cols), 3) {
		return false
	}
	switch p.what {
	case "pod":
		return p.pod(w)
	case "node":
		return p.node(w)
	case "service":
		return p.service(w)
	case "endpoints":
		return p.endpoints(w)
	}
	return true
}

func (p *kubeTable) header(w words) {
	p.cols = make(map[string]int)
	for i, h := range w {
		p.cols[h] = i
	}
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(n string) bool { _, ok := p.cols[n]; return !ok })
	}
	switch {
	case has("READY", "STATUS", "RESTARTS"):
		p.what = "pod"
	case has("STATUS", "ROLES"):
		p.what = "node"
	case has("CLUSTER-IP"):
		p.what = "service"
	case has("ENDPOINTS"):
		p.what = "endpoints"
	}
}

func (p *kubeTable) col(w words, name string) string {
	i, ok := p.cols[name]
	if !ok || i >= len(w) || w[i] == "<none>" {
		return ""
	}
	return w[i]
}

// namespace is the column's, else the one of -n, else default.
func (p *kubeTable) namespace(w words) string {
	for i, a := range p.args {
		switch {
		case (a == "-n" || a == "--namespace") && i+1 < len(p.args):
			return p.args[i+1]
		case strings.HasPrefix(a, "--namespace="):
			return strings.TrimPrefix(a, "--namespace=")
		}
	}
	return cmp.Or(p.col(w, "NAMESPACE"), "default")
}

func (p *kubeTable) pod(w words) bool {
	ready, all, ok := strings.Cut(p.col(w, "READY"), "/")
	if !ok {
		return false
	}
	status := p.col(w, "STATUS")
	pod := inventory.Pod{Namespace: p.namespace(w), Name: p.col(w, "NAME"), Node: p.col(w, "NODE"), Ready: ready == all, Phase: phase(status)}
	if ip := parseIP(p.col(w, "IP")); ip.IsValid() {
		pod.IPs = []netip.Addr{ip}
	}
	p.kube().inv.Pods = append(p.kube().inv.Pods, pod)
	return true
}

// phase: STATUS is the phase, or why a container waits.
func phase(status string) string {
	switch status {
	case "Pending", "Running", "Failed":
		return status
	case "Completed", "Succeeded":
		return "Succeeded"
	case "ContainerCreating", "PodInitializing", "Init:0/1":
		return "Pending"
	case "Error", "Evicted":
		return "Failed"
	default:
		return "Running"
	}
}

func (p *kubeTable) kube() *kubeFacts { return &p.page.col.kube }

func (p *kubeTable) node(w words) bool {
	n := inventory.Node{Name: p.col(w, "NAME"), Ready: strings.HasPrefix(p.col(w, "STATUS"), "Ready")}
	if ip := parseIP(p.col(w, "INTERNAL-IP")); ip.IsValid() {
		n.InternalIPs = []netip.Addr{ip}
	}
	k := p.kube()
	k.inv.Nodes = append(k.inv.Nodes, n)
	return true
}

func (p *kubeTable) service(w words) bool {
	s := inventory.Service{Namespace: p.namespace(w), Name: p.col(w, "NAME"), Type: p.col(w, "TYPE")}
	for ip := range strings.SplitSeq(p.col(w, "CLUSTER-IP"), ",") {
		if a := parseIP(ip); a.IsValid() {
			s.ClusterIPs = append(s.ClusterIPs, a)
		}
	}
	s.Headless = p.col(w, "CLUSTER-IP") == "None"
	for port := range strings.SplitSeq(p.col(w, "PORT(S)"), ",") {
		num, proto, ok := strings.Cut(port, "/")
		if !ok {
			continue
		}
		num, node, _ := strings.Cut(num, ":")
		s.Ports = append(s.Ports, inventory.ServicePort{Proto: proto, Port: number[uint16](num), NodePort: number[uint16](node)})
	}
	k := p.kube()
	k.inv.Services = append(k.inv.Services, s)
	return true
}

// endpoints reads get endpoints and get endpointslices. The addresses of a table may be cut ("+ 2 more…").
func (p *kubeTable) endpoints(w words) bool {
	name := p.col(w, "NAME")
	sl := inventory.EndpointSlice{Namespace: p.namespace(w), Name: name, Service: name}
	if _, ok := p.cols["ADDRESSTYPE"]; ok { // NAME is the service's and five characters
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			sl.Service = name[:i]
		}
		sl.Ports = append(sl.Ports, inventory.SlicePort{Proto: "TCP", Port: number[uint16](p.col(w, "PORTS"))})
	}
	for a := range strings.SplitSeq(p.col(w, "ENDPOINTS"), ",") {
		ip := parseIP(a)
		if ap, err := netip.ParseAddrPort(a); err == nil {
			ip = ap.Addr()
			port := inventory.SlicePort{Proto: "TCP", Port: ap.Port()}
			if !slices.Contains(sl.Ports, port) {
				sl.Ports = append(sl.Ports, port)
			}
		}
		if ip.IsValid() {
			sl.Endpoints = append(sl.Endpoints, inventory.SliceEndpoint{IPs: []netip.Addr{ip}, Ready: true, Serving: true})
		}
	}
	k := p.kube()
	k.inv.EndpointSlices = append(k.inv.EndpointSlices, sl)
	return true
}

func (p *kubeTable) end() {}
