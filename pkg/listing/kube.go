package listing

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
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
	restarted = regexp.MustCompile(`(\d+) \(\S+ ago\)`)
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
	w := wordsOf(restarted.ReplaceAllString(text, "$1"))
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

// kubeYAML gathers the lines of objects in YAML.
type kubeYAML struct {
	*block
	first line
	text  bytes.Buffer
}

var yamlLine = regexp.MustCompile(`^(\s+\S|[\w".$/-]+:(\s|$)|- |---|#|[}\]])`)

func (p *kubeYAML) line(l line) bool {
	if !yamlLine.MatchString(l.text) || p.text.Len() > maxDocument {
		return false
	}
	if p.text.Len() == 0 {
		p.first = l
	}
	p.text.WriteString(l.text)
	p.text.WriteByte('\n')
	return true
}

// blank lines may be part of a text in YAML.
func (p *kubeYAML) blank() { p.text.WriteByte('\n') }

func (p *kubeYAML) end() {
	if p.first.no > 0 {
		p.objects(p.first, p.text.Bytes())
	}
}

// objects reads Kubernetes objects with the inventory's own reader.
func (b *block) objects(l line, text []byte) {
	inv, err := inventory.Parse(bytes.NewReader(text))
	if err != nil {
		if !errors.Is(err, inventory.ErrNoObjects) {
			b.unread(l, err.Error())
		}
		return
	}
	k := &b.col.kube
	k.inv.Nodes = append(k.inv.Nodes, inv.Nodes...)
	k.inv.Pods = append(k.inv.Pods, inv.Pods...)
	k.inv.Services = append(k.inv.Services, inv.Services...)
	k.inv.EndpointSlices = append(k.inv.EndpointSlices, inv.EndpointSlices...)
	k.inv.Notes = append(k.inv.Notes, inv.Notes...)
}

// kubeText reads what is printed for people: kubectl describe pod, the lines that grep left of an object,
// the process id of docker inspect.
type kubeText struct {
	*block
	row   func(p *kubeText, l line, text string) bool
	pod   inventory.Pod
	lease map[string]string
	node  string
}

func newKubeText(b *block) *kubeText {
	rows := map[string]func(*kubeText, line, string) bool{
		kindDescribe: (*kubeText).describe, kindFragment: (*kubeText).fragment, kindPID: (*kubeText).pid,
	}
	return &kubeText{block: b, row: rows[b.Kind], lease: make(map[string]string)}
}

func (p *kubeText) line(l line) bool { return p.row(p, l, strings.TrimSpace(l.text)) }

var field = regexp.MustCompile(`^([A-Z][\w -]*):\s*(.*)$`)

// describe takes everything: of the many fields few name the pod, its node and its containers.
func (p *kubeText) describe(_ line, text string) bool {
	if strings.HasPrefix(text, "#") {
		return false
	}
	m := field.FindStringSubmatch(text)
	if m == nil {
		return !p.blank || p.pod.Name != "" && strings.Contains(text, "=") || strings.Contains(text, " ")
	}
	k := &p.col.kube
	switch v := m[2]; m[1] {
	case "Name":
		p.pod.Name = cmp.Or(p.pod.Name, v)
	case "Namespace":
		p.pod.Namespace = v
	case "Status":
		p.pod.Phase = cmp.Or(p.pod.Phase, v)
	case "Node":
		name, ip, _ := strings.Cut(v, "/")
		p.pod.Node = name
		if k.nodeIPs == nil {
			k.nodeIPs = make(map[string]string)
		}
		k.nodeIPs[name] = ip
	case "IP":
		if ip := parseIP(v); ip.IsValid() && len(p.pod.IPs) == 0 {
			p.pod.IPs = []netip.Addr{ip}
		}
	case "Container ID":
		if _, id, ok := strings.Cut(v, "://"); ok {
			if k.containers == nil {
				k.containers = make(map[string]string)
			}
			k.containers[id] = p.pod.Key()
		}
	case "Ready":
		p.pod.Ready = v == "True"
	}
	return true
}

var (
	flannelRow = regexp.MustCompile(`^"?(flannel\.alpha\.coreos\.com/[\w-]+)"?:\s*(.*?),?$`)
	fragmentOf = regexp.MustCompile(`^"?[\w./-]+"?:(\s|$)|^[{}\]\[-]`)
)

// fragment reads what grep -A left of kubectl get nodes -o yaml: flannel's annotations of one node after
// the other, with "--" between them. Which node it is they say by its public address alone.
func (p *kubeText) fragment(l line, text string) bool {
	if text == "--" {
		p.flush(l)
		return true
	}
	if strings.HasPrefix(text, `{"apiVersion"`) { // last-applied-configuration: the object with its name
		p.objects(l, []byte(text))
		return true
	}
	if m := flannelRow.FindStringSubmatch(text); m != nil {
		v := strings.Trim(m[2], `"'`)
		if strings.HasPrefix(m[2], `"`) {
			_ = json.Unmarshal([]byte(m[2]), &v)
		}
		if _, again := p.lease[m[1]]; again { // grep without separators
			p.flush(l)
		}
		p.lease[m[1]] = v
		return true
	}
	if v, ok := strings.CutPrefix(text, "name: "); ok {
		p.node = v
		return true
	}
	return fragmentOf.MatchString(text)
}

// flush gives the annotations that belong together to the inventory's own reader.
func (p *kubeText) flush(l line) {
	if len(p.lease) > 0 {
		n := map[string]any{
			"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": cmp.Or(p.node, "unnamed"), "annotations": p.lease},
		}
		if b, err := json.Marshal(n); err == nil {
			p.keepLease(l, b)
		}
	}
	p.lease, p.node = make(map[string]string), ""
}

func (p *kubeText) keepLease(l line, object []byte) {
	inv, err := inventory.Parse(bytes.NewReader(object))
	if err != nil {
		p.unread(l, err.Error())
		return
	}
	k := &p.col.kube
	if p.node != "" {
		k.inv.Nodes = append(k.inv.Nodes, inv.Nodes[0])
		return
	}
	k.leases = append(k.leases, leaseFact{at: p.at(l), lease: inv.Nodes[0].Flannel})
}

var pidRow = regexp.MustCompile(`^(?:"Pid":\s*)?(\d+),?$`)

// pid reads docker inspect -f {{.State.Pid}} ID.
func (p *kubeText) pid(_ line, text string) bool {
	m := pidRow.FindStringSubmatch(text)
	if m == nil || len(p.args) == 0 {
		return m != nil
	}
	k := &p.col.kube
	if k.pids == nil {
		k.pids = make(map[string]string)
	}
	k.pids[m[1]] = p.args[len(p.args)-1]
	return true
}

func (p *kubeText) end() {
	switch {
	case p.Kind == kindFragment:
		p.flush(line{no: p.Line})
	case p.Kind == kindDescribe && p.pod.Name != "" && p.pod.Namespace != "":
		p.col.kube.inv.Pods = append(p.col.kube.inv.Pods, p.pod)
	}
}
