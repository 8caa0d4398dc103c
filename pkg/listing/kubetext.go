package listing

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"

	"github.com/podtrace/podtrace/pkg/inventory"
)

// kubeYAML gathers the lines of objects in YAML.
type kubeYAML struct {
	*block
	first line
	text  bytes.Buffer
}

var yamlLine = lazy(`^(\s+\S|[\w".$/-]+:(\s|$)|- |---|#|[}\]])`)

func (p *kubeYAML) line(l line) bool {
	if !yamlLine().MatchString(l.text) || p.text.Len() > maxDocument {
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

var field = lazy(`^([A-Z][\w -]*):\s*(.*)$`)

// describe takes everything: of the many fields few name the pod, its node and its containers.
func (p *kubeText) describe(_ line, text string) bool {
	if strings.HasPrefix(text, "#") {
		return false
	}
	m := field().FindStringSubmatch(text)
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
	flannelRow = lazy(`^"?(flannel\.alpha\.coreos\.com/[\w-]+)"?:\s*(.*?),?$`)
	fragmentOf = lazy(`^"?[\w./-]+"?:(\s|$)|^[{}\]\[-]`)
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
	if m := flannelRow().FindStringSubmatch(text); m != nil {
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
	return fragmentOf().MatchString(text)
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

var pidRow = lazy(`^(?:"Pid":\s*)?(\d+),?$`)

// pid reads docker inspect -f {{.State.Pid}} ID.
func (p *kubeText) pid(_ line, text string) bool {
	m := pidRow().FindStringSubmatch(text)
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
