package realcni

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// api is as much of a Kubernetes API server as flanneld's kube subnet manager talks to: nodes are listed, watched, read,
// and patched in their annotations. It stands in for etcd where flanneld with etcd can't do it: IPv6 alone, and the
// annotations by which an administrator says a node's public address.
type api struct {
	mu      sync.Mutex
	nodes   map[string]object
	log     []event // of all changes; its length is the resource version
	changed chan struct{}
}

// event is one of a watch.
type event struct {
	Type   string `json:"type"`
	Object object `json:"object"`
}

// startAPI serves the nodes in the network of the control plane's machine.
func (w *world) startAPI() {
	w.api = &api{nodes: map[string]object{}, changed: make(chan struct{})}
	for _, n := range w.nodes {
		annotations := map[string]string{}
		if n.public != "" {
			annotations[flannelPrefix+"public-ip-overwrite"] = n.public
		}
		cidrs := w.cidrs(n)
		w.api.put(n.name, object{
			"apiVersion": "v1", "kind": "Node", "metadata": object{"name": n.name, "annotations": annotations},
			"spec": object{"podCIDR": cidrs[0], "podCIDRs": cidrs},
		})
	}
	for subnet, attrs := range w.cfg.others {
		w.api.put("other-"+subnet, other(subnet, attrs, w.must))
	}
	var l net.Listener
	w.must(within(controlNS, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(w.cfg.control(), "8080"))
		return err
	}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/nodes", w.api.list)
	mux.HandleFunc("GET /api/v1/nodes/{name}", w.api.get)
	mux.HandleFunc("PATCH /api/v1/nodes/{name}/status", w.api.patch)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }() // until it is closed
	w.t.Cleanup(func() { _ = server.Close() })
}

// other is a member that is not run: etcd's value of its lease, as a node.
func other(subnet, attrs string, must func(error)) object {
	var l lease
	must(json.Unmarshal([]byte(attrs), &l))
	cidr := strings.Replace(subnet, "-", "/", 1)
	return object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": object{"name": "other-" + subnet, "annotations": map[string]string{
			flannelPrefix + "kube-subnet-manager": "true", flannelPrefix + "backend-type": l.BackendType,
			flannelPrefix + "public-ip": l.PublicIP, flannelPrefix + "backend-data": string(l.BackendData),
		}},
		"spec": object{"podCIDR": cidr, "podCIDRs": []string{cidr}},
	}
}

// put keeps a copy of a node as its newest version.
func (a *api) put(name string, node object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	typ := "MODIFIED"
	if a.nodes[name] == nil {
		typ = "ADDED"
	}
	meta := maps.Clone(node["metadata"].(object))
	meta["resourceVersion"] = strconv.Itoa(len(a.log) + 1)
	node = maps.Clone(node)
	node["metadata"] = meta
	a.nodes[name] = node
	a.log = append(a.log, event{typ, node})
	close(a.changed)
	a.changed = make(chan struct{})
}

// annotations are those of a node now; nil where there is no such node.
func (a *api) annotations(name string) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.nodes[name]; n != nil {
		return n["metadata"].(object)["annotations"].(map[string]string)
	}
	return nil
}

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case q.Get("sendInitialEvents") != "":
		http.Error(w, "no streaming lists", http.StatusBadRequest) // the client then lists and watches
	case q.Get("watch") != "":
		from, _ := strconv.Atoi(q.Get("resourceVersion"))
		a.watch(w, r, from)
	default:
		a.mu.Lock()
		defer a.mu.Unlock()
		var items []object
		for _, name := range slices.Sorted(maps.Keys(a.nodes)) {
			items = append(items, a.nodes[name])
		}
		answer(w, object{"apiVersion": "v1", "kind": "NodeList", "metadata": object{"resourceVersion": strconv.Itoa(len(a.log))}, "items": items})
	}
}

// watch sends what comes after a resource version until the client has enough.
func (a *api) watch(w http.ResponseWriter, r *http.Request, from int) {
	w.Header().Set("Content-Type", "application/json")
	for {
		a.mu.Lock()
		events, changed := a.log[min(max(from, 0), len(a.log)):], a.changed
		from = len(a.log)
		a.mu.Unlock()
		for _, e := range events {
			if json.NewEncoder(w).Encode(e) != nil {
				return
			}
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (a *api) get(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	n := a.nodes[r.PathValue("name")]
	a.mu.Unlock()
	if n == nil {
		http.NotFound(w, r)
		return
	}
	answer(w, n)
}

// patch takes annotations over, which is all of a node that flanneld changes and anybody here reads.
func (a *api) patch(w http.ResponseWriter, r *http.Request) {
	var change struct {
		Metadata struct{ Annotations map[string]string }
	}
	name := r.PathValue("name")
	annotations := a.annotations(name)
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&change); err != nil || annotations == nil {
		http.Error(w, fmt.Sprintf("node %q: %v", name, err), http.StatusBadRequest)
		return
	}
	annotations = maps.Clone(annotations)
	maps.Copy(annotations, change.Metadata.Annotations)
	a.mu.Lock()
	node := maps.Clone(a.nodes[name])
	a.mu.Unlock()
	node["metadata"] = object{"name": name, "annotations": annotations}
	a.put(name, node)
	a.get(w, r)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is gone, if not
}

// leaseFrom is a lease as the annotations of a node say it.
func leaseFrom(annotations map[string]string) lease {
	raw := func(key string) json.RawMessage {
		if text := annotations[flannelPrefix+key]; strings.TrimSpace(text) != "" {
			return json.RawMessage(text)
		}
		return nil
	}
	return lease{
		PublicIP: annotations[flannelPrefix+"public-ip"], PublicIPv6: annotations[flannelPrefix+"public-ipv6"],
		BackendType: annotations[flannelPrefix+"backend-type"], BackendData: raw("backend-data"), BackendV6Data: raw("backend-v6-data"),
	}
}
